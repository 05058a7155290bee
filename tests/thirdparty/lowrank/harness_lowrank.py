"""Low-rank factorization: weight matrices as products of two thin ones, from their singular value decomposition.

After Xue, Li and Gong, "Restructuring of deep neural network acoustic models with singular value decomposition"
(Interspeech 2013), for linear layers, and Prabhavalkar et al., "On the compression of recurrent neural networks with an
application to LVCSR acoustic modeling for embedded speech recognition" (ICASSP 2016, arXiv:1603.08042), for the
ranks by energy. The weights between an LSTM's states stay whole here.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness import Step, StepContext, Unsupported, UsageError, hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn

#: A share of the energy that float32 weights cannot hold: a matrix of rank 3, stored, has rank 3.
ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class LowRank(Step):
    """Replace weight matrices by the nearest ones of a lower rank, each as two layers, and fine-tune.

    ``by`` says what ``keep`` is a share of: ``energy``, the sum of a matrix' squared singular values (it gets the
    least rank that keeps so much, so that layers differ), or ``rank``, its full rank, the lesser of its two sides.
    Where 1 - keep of the energy goes, so does (1 - keep)^0.5 of the norm. ``finetune=False`` leaves the training out.

    A linear layer becomes one without a bias, to as many units as the rank, and one from these. An LSTM gets such a
    layer before it: the input weights of all its gates, and of both its directions, are rows of one matrix. Of several
    layers in one nn.LSTM the first alone can have it, as what is between them is not to be reached. A layer stays as
    it is where two factors would have no fewer parameters, and where it shares weights, has hooks, is part of a module
    that is not the network's own, or is not simply called with one tensor (but with a first state too, for one).

    Raises Unsupported for a network in which no layer gains.
    """

    name: ClassVar[str] = "lowrank"
    by: Literal["energy", "rank"] = "energy"
    keep: float = 0.9
    finetune: bool = True

    def __post_init__(self) -> None:
        if self.by not in ("energy", "rank"):
            raise UsageError(f"lowrank(by={self.by!r}): one of 'energy', 'rank'")
        if isinstance(self.keep, bool) or not isinstance(self.keep, int | float) or not 0 < self.keep <= 1:
            raise UsageError(f"lowrank(keep={self.keep!r}): a share, above 0 and at most 1")

    @classmethod
    def examples(cls) -> Sequence[LowRank]:
        return [cls("rank", 0.25), cls("energy", 0.5, finetune=False)]

    def trainings(self) -> Sequence[tuple[Literal["finetune"], Mapping[str, Any]]]:
        return [("finetune", {})] if self.finetune else ()

    def apply(self, model: nn.Module, context: StepContext) -> nn.Module:
        model, facts = factored(model, context.example, self.rank)
        context.report(**facts)
        for phase, changes in self.trainings():
            model = context.fit(model, phase, **changes)
        return model

    def preview(self, model: nn.Module, example: Tensor) -> nn.Module | None:
        """By energy the ranks are those of the trained weights, which nobody knows before."""
        return factored(model, example, self.rank)[0] if self.by == "rank" else None

    def rank(self, singular: Tensor) -> int:
        """The rank for a matrix with these singular values, in descending order."""
        if self.by == "rank":
            return max(1, round(self.keep * len(singular)))
        energy = singular.square()
        lost = energy.sum() - energy.cumsum(0)  # at ranks 1, 2, ...
        return 1 + int((lost > max(1 - self.keep, ROUNDING) * energy.sum()).sum())


lowrank = LowRank  # as suites write it


@hookimpl
def harness_steps(register: Callable[[type[Step]], None]) -> None:
    register(LowRank)


def factored(
    model: nn.Module, example: Tensor, rank: Callable[[Tensor], int]
) -> tuple[nn.Module, dict[str, dict[str, Any]]]:
    """A copy of ``model`` whose layers have the ``rank`` that is told by a matrix' singular values; and the facts.

    ``example`` is (1, *input_shape). Raises Unsupported when no layer gains, or the network cannot run any more.
    """
    import torch

    model = copy.deepcopy(model).eval()
    example = example.to(next((weight.device for weight in model.parameters()), None))
    before, name = _parameters(model), type(model).__name__
    ranks, errors, left = {}, {}, {}
    with torch.no_grad():
        for path, (layer, reason) in _layers(model, example).items():
            if reason is None:
                u, s, v = svd(torch.cat([weight for _, weight in _input_weights(layer)]))
                r = rank(s)
                if r * (len(u) + v.shape[1]) >= len(u) * v.shape[1]:
                    reason = f"at rank {r} of {len(s)} two factors save nothing"
            if reason is not None:
                left[path] = reason
                continue
            root = s[:r].sqrt()  # half of each to either factor, so that both are of one size
            model = _put(model, path, _pair(layer, u[:, :r] * root, root[:, None] * v[:r]))
            ranks[path] = [r, len(s)]
            errors[path] = float((s[r:].square().sum() / s.square().sum().clamp_min(1e-300)).sqrt())
        if not ranks:
            reasons = "; ".join(f"{path or 'it'}: {reason}" for path, reason in left.items())
            raise Unsupported(f"lowrank: no layer of {name} gains: {reasons or 'it has no Linear and no LSTM'}")
        try:
            model(example)
        except (AttributeError, TypeError) as error:
            raise Unsupported(f"lowrank: {name} does more with its layers than to call them: {error}") from error
    sizes = {"before": before, "after": _parameters(model)}
    return model, {"ranks": ranks, "error": errors, "left": left, "parameters": sizes}


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S and V^T in float64; the largest entry of each row of V^T is positive, which the library leaves to chance."""
    import torch

    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    signs = v.gather(1, v.abs().argmax(dim=1, keepdim=True)).sign()
    return (u * signs.t()).contiguous(), s, (v * signs).contiguous()  # LAPACK's order, by columns, is not torch's


def _parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _input_weights(layer: nn.Module) -> list[tuple[str, Tensor]]:
    """By name what multiplies the input of a linear layer or of an LSTM's first layer, (rows, width) each."""
    names = ("weight", "weight_ih_l0", "weight_ih_l0_reverse")
    return [(name, weight) for name, weight in layer.named_parameters() if name in names]


def _pair(layer: nn.Module, outer: Tensor, inner: Tensor) -> nn.Module:
    """``layer`` with the product of ``outer`` (rows, rank) and ``inner`` (rank, width) as its input weights."""
    from torch import nn

    from harness.nn.structure import rebuild

    names, weights = zip(*_input_weights(layer), strict=True)
    rank, width = inner.shape
    first = nn.Linear(width, rank, bias=False, device="meta")
    first.load_state_dict({"weight": inner.to(weights[0])}, assign=True)
    second = rebuild(layer, **{"in_features" if type(layer) is nn.Linear else "input_size": rank})
    parts = [part.to(weights[0]).clone() for part in outer.chunk(len(names))]
    second.load_state_dict(layer.state_dict() | dict(zip(names, parts, strict=True)), assign=True)
    return nn.Sequential(first, second).eval()


def _put(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """The network with ``module`` at ``path``, where "" is the network itself."""
    if not path:
        return module
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, module)
    return model


def _layers(model: nn.Module, example: Tensor) -> dict[str, tuple[nn.Module, str | None]]:
    """The linear layers and LSTMs by their paths, each with the reason why it has to stay as it is, or None."""
    import torch
    from torch import nn

    from harness.nn.structure import PrunableLayer

    weights = collections.Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    found: dict[str, tuple[nn.Module, str | None]] = {}
    calls: dict[nn.Module, bool] = {}

    def visit(module: nn.Module, path: str, foreign: bool) -> None:
        if type(module) in (nn.Linear, nn.LSTM):
            reason = None
            if foreign:
                reason = "it is part of a module that is not the network's own"
            elif any(weights[id(weight)] > 1 for weight in module.parameters()):
                reason = "it shares its weights"
            elif module._forward_hooks or module._forward_pre_hooks:
                reason = "it has hooks"
            found[path] = module, reason
        own = type(module) in containers or not (
            type(module).__module__.startswith("torch.") or isinstance(module, PrunableLayer)
        )
        for name, child in module._modules.items():  # named_children() leaves out a second name
            if child is not None:
                visit(child, f"{path}.{name}" if path else name, foreign or not own)

    def called(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        simply = not kwargs and len(args) == 1 and isinstance(args[0], torch.Tensor)
        calls[layer] = simply and calls.get(layer, True)

    visit(model, "", False)
    handles = [layer.register_forward_pre_hook(called, with_kwargs=True) for layer, _ in found.values()]
    model(example)
    for handle in handles:
        handle.remove()
    odd = "it is not simply called with one tensor"
    return {path: (layer, reason or (None if calls.get(layer) else odd)) for path, (layer, reason) in found.items()}
