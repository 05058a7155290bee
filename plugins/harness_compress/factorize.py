"""Factorize weights of linear layers and convolutions by singular value decomposition (low rank).

After Xue, Li and Gong, "Restructuring of deep neural network acoustic models with singular value decomposition"
(Interspeech 2013), for linear layers, and Zhang, Zou, He and Sun, "Accelerating very deep convolutional networks for
classification and detection" (TPAMI 2016, arXiv:1505.06798), for convolutions: the same kernels with fewer filters, and
a convolution of size 1 after them. (Their nonlinear reconstruction is not used: the fine-tuning takes its place.)
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.api import Phase, Step, StepContext
from harness.errors import Unsupported, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Factorize(Step):
    """Replace each linear layer, Conv1d and Conv2d by two layers of a lower rank, and fine-tune.

    The weight, as the matrix (outputs, inputs * kernel), becomes the nearest one in the Frobenius norm. ``by="rank"``
    keeps the share ``keep`` of its full rank, at least 1; ``"energy"`` the least rank with the share ``keep`` of the
    sum of squared singular values, so that layers differ. ``finetune=False`` leaves the training out; ``precision`` is
    the arithmetic of the fine-tuning.

    Shapes, parameters, bytes and multiply-accumulates all fall. A layer stays as it is where two layers would have no
    fewer weights, and a grouped convolution does; the fact ``left`` names each with the reason, ``ranks`` the rank and
    the full rank of the others, ``error`` what the weights lost, relative to their norm.

    Raises Unsupported for a network in which no layer becomes smaller.
    """

    name: ClassVar[str] = "factorize"
    keep: float = 0.25
    by: Literal["rank", "energy"] = "rank"
    finetune: bool = True
    precision: Literal["float32", "bfloat16"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.keep, bool) or not isinstance(self.keep, int | float) or not 0 < self.keep <= 1:
            raise UsageError(f"factorize(keep={self.keep!r}): give a share, above 0 and at most 1")
        if self.by not in ("rank", "energy"):
            raise UsageError(f"factorize(by={self.by!r}): choose 'rank' or 'energy'")
        if not isinstance(self.finetune, bool):
            raise UsageError(f"factorize(finetune={self.finetune!r}): choose True or False")
        if self.precision not in (None, "float32", "bfloat16"):
            raise UsageError(f"factorize(precision={self.precision!r}): choose 'float32' or 'bfloat16'")

    @classmethod
    def examples(cls) -> Sequence[Factorize]:
        return [cls(), cls(0.5, "energy", finetune=False)]

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        if not self.finetune:
            return ()
        return [("finetune", {} if self.precision is None else {"precision": self.precision})]

    def apply(self, model: nn.Module, context: StepContext) -> nn.Module:
        model, facts = self._factorized(model, context.example)
        context.report(**facts)
        for phase, changes in self.trainings():
            model = context.fit(model, phase, **changes)
        return model

    def preview(self, model: nn.Module, example: Tensor) -> nn.Module | None:
        """Return the shape; None by energy, where the ranks depend on the trained weights."""
        return self._factorized(model, example)[0] if self.by == "rank" else None

    def rank(self, singular: Tensor) -> int:
        """Return the rank for a matrix with these singular values, in descending order."""
        if self.by == "rank":
            return max(1, round(self.keep * len(singular)))
        energy = singular.square().cumsum(0)
        return min(len(singular), 1 + int((energy < self.keep * energy[-1] * (1 - 1e-12)).sum()))

    def _factorized(self, model: nn.Module, example: Tensor) -> tuple[nn.Module, dict[str, Any]]:
        from torch import nn

        from harness_compress._layers import own_layers, replace, runs

        model = copy.deepcopy(model)
        before = sum(parameter.numel() for parameter in model.parameters())
        new: dict[str, nn.Module] = {}
        ranks: dict[str, list[int]] = {}
        errors: dict[str, float] = {}
        left: dict[str, str] = {}
        for path, layer, reason in own_layers(model):
            if type(layer) not in (nn.Linear, nn.Conv1d, nn.Conv2d):
                reason = reason or f"{type(layer).__name__} is not a known layer"
            elif getattr(layer, "groups", 1) > 1:
                reason = reason or f"its convolution has {layer.groups} groups"
            elif reason is None:
                u, s, v = svd(layer.get_parameter("weight"))
                rank = self.rank(s)
                if rank * (len(u) + v.shape[1]) < len(u) * v.shape[1]:
                    new[path], ranks[path] = _pair(layer, u, s, v, rank), [rank, len(s)]
                    errors[path] = float((s[rank:].square().sum() / s.square().sum().clamp_min(1e-300)).sqrt())
                    continue
                reason = f"at rank {rank} of {len(s)} two layers have no fewer weights"
            left[path] = reason
        if not new:
            reasons = "; ".join(f"{path or 'it'}: {reason}" for path, reason in left.items())
            raise Unsupported(
                f"factorize: no layer of {type(model).__name__} becomes smaller: "
                f"{reasons or 'it has no layer with weights'}"
            )
        model = replace(model, lambda path, _: new.get(path)).eval()
        device = next(model.parameters()).device
        runs(model, example.to(device), self.name)
        after = sum(parameter.numel() for parameter in model.parameters())
        sizes = {"before": before, "after": after}
        return model, {"ranks": ranks, "error": errors, "left": left, "parameters": sizes}


def svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S and V^T, float64, of a weight (outputs, ...) as a matrix.

    The largest entry of each row of V^T is positive, which LAPACK leaves to chance.
    """
    import torch

    u, s, v = torch.linalg.svd(weight.detach().double().flatten(1), full_matrices=False)
    signs = v.gather(1, v.abs().argmax(dim=1, keepdim=True)).sign()
    return (u * signs.t()).contiguous(), s, (v * signs).contiguous()


def _pair(layer: Any, u: Tensor, s: Tensor, v: Tensor, rank: int) -> nn.Module:
    """Two layers that compute as ``layer`` with the weight of this rank; each has the root of the singular values."""
    from torch import nn

    from harness.nn.structure import rebuild

    weight, root = layer.weight, s[:rank].sqrt()
    if type(layer) is nn.Linear:
        first = rebuild(layer, out_features=rank, bias=False)
        second = rebuild(layer, in_features=rank)
    else:
        ones = (1,) * (weight.dim() - 2)
        first = rebuild(layer, out_channels=rank, bias=False)
        plain = {"kernel_size": ones, "stride": ones, "dilation": ones, "padding": (0,) * len(ones)}
        second = rebuild(layer, in_channels=rank, padding_mode="zeros", **plain)
    inner = (root[:, None] * v[:rank]).to(weight).view(rank, *weight.shape[1:])
    outer = (u[:, :rank] * root).to(weight).view(len(u), rank, *(1,) * (weight.dim() - 2))
    first.load_state_dict({"weight": inner}, assign=True)
    biases = {} if layer.bias is None else {"bias": layer.bias.detach().clone()}
    second.load_state_dict({"weight": outer, **biases}, assign=True)
    return nn.Sequential(first, second)
