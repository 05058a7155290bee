"""Eight bits after training, as study B has it or as study A has it; and what of the network they really reached."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from harness.api import Phase, Step, StepContext
from harness.errors import CellError, Unsupported, UsageError, nearest

if TYPE_CHECKING:
    import torch

SCHEMES = ("ptq-int8", "uniform8")


@dataclasses.dataclass(frozen=True)
class Quantize(Step):
    """Post-training static quantization to eight bits, by one of two schemes.

    ``ptq-int8`` is that of Hołda et al. 2026 (doi 10.15388/26-INFOR620):
    FBGEMM kernels; convolution, batch normalisation and ReLU fused. Weights are symmetric in [-127, 127] and per output
    channel (PerChannelMinMaxObserver), activations asymmetric per tensor with seven of eight bits, 0 to 127
    (HistogramObserver). The network goes on to its probabilities: the sigmoid's output has all eight bits, with the
    fixed scale 1/256 and zero point 0, since its range is known without calibration. LSTM and GRU: weights per tensor
    (MinMaxObserver, the same range), activations dynamic, so that their float inputs are rounded once; so are those of
    the linear layers of a recurrent module that is not PyTorch's own (see ``_linears.AsLinears``). The study says
    nothing of LayerNorm: it runs in int8 too, with float weights, which is PyTorch's default.

    ``uniform8`` is that of Liu, Sepulveda and Zheng 2021 (doi 10.2196/20767), which they give to a network of linear
    layers: weights and activations alike uniformly from [Fmin, Fmax], the least and the largest value, to 0..255,
    asymmetric and per tensor. What they leave open: here an activation is rounded where a product reads it (a layer's
    input, with the ReLU before it done), so that the logits stay float32; biases are float32 and added to the sums;
    a range is widened to hold 0. An LSTM runs as a loop over the steps, in which the input and the state are rounded
    so and multiply integers; its gates' functions and its cell stay float. Convolutions stay float, and so do the
    operations between the products. So against ``ptq-int8`` a weight has one scale for its tensor, an activation
    eight bits instead of seven and its whole range, and nothing is fused. The fact ``engine`` says what multiplied:
    ``fbgemm``, or ``int32`` on a processor where that would saturate (without VNNI): the same integers in 32 bits.

    ``calibration`` is how many validation examples set the activations' ranges; of a small data set, MIMIC-III's demo
    for one, all there are, and the fact ``calibrated_on`` says how many those were. ``coverage`` is the least share
    that must become int8 of the weights that multiply, and of the multiply-accumulates: each of B's networks reaches 1,
    and 0.9 leaves room for one odd small layer of another network, but not for an LSTM or a branch that stayed float.
    Products that are written as functions of bare parameters are in neither share: the fact ``uncounted`` names these.

    Raises Unsupported for a network that is int8 already, or of which the scheme can do nothing (``ptq-int8``: one
    that torch.fx cannot trace; ``uniform8``: one without linear and LSTM layers), CellError below ``coverage``.
    """

    name: ClassVar[str] = "quantize"
    scheme: str = "ptq-int8"
    calibration: int = 128
    coverage: float = 0.9

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UsageError(f"quantize: there is no scheme {self.scheme!r}{nearest(str(self.scheme), SCHEMES)}")
        if isinstance(self.calibration, bool) or not isinstance(self.calibration, int) or self.calibration < 1:
            raise UsageError(f"quantize(calibration={self.calibration!r}): a whole number of examples, at least one")
        if isinstance(self.coverage, bool) or not isinstance(self.coverage, int | float) or not 0 <= self.coverage <= 1:
            raise UsageError(f"quantize(coverage={self.coverage!r}): a share, from 0 to 1")

    @classmethod
    def examples(cls) -> Sequence[Quantize]:
        """Either scheme; uniform8 leaves convolutions float, so that no coverage is declared."""
        return [cls(), cls("uniform8", coverage=0.0)]

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        import torch

        from harness_compress import _fx_int8

        if _fx_int8.is_int8(model) or getattr(model, "gives_probabilities", False):
            raise Unsupported("the network is int8 already, or gives probabilities; quantize once, and last")
        scheme, blueprint = _module_of(self.scheme), _blueprint(model)
        inputs = context.calibration(self.calibration)
        int8, facts = scheme.quantize(copy.deepcopy(model), torch.split(inputs, 128))
        self._audit(int8, context, calibrated_on=len(inputs), **facts)
        return scheme.keep(int8, blueprint)

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        return ()

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        """The float model: its multiply-accumulates are those of the int8 one, and its parameters too, but for the
        batch normalisations that int8 folds away (B counts the same)."""
        return model

    def dump(self, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Integers, scales and zero points as dense tensors; the notes hold the float structure that made the graph."""
        if not hasattr(model, "blueprint"):
            raise CellError("a step after quantize replaced the int8 network, so it must define dump() and restore()")
        tensors, state = _module_of(self.scheme).dump_state(model)
        return tensors, {"blueprint": model.blueprint, "state": state}

    def restore(
        self, fresh: torch.nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]
    ) -> torch.nn.Module:
        """Replay the quantization of the float structure without calibration, then load the state: bit for bit."""
        import torch

        from harness.nn import structure

        blueprint, scheme = notes["blueprint"], _module_of(self.scheme)
        state = blueprint["state"].items()
        zeros = {name: torch.zeros(shape, dtype=getattr(torch, kind)) for name, (kind, shape) in state}
        network = structure.restore(fresh, zeros, blueprint["structure"])
        return scheme.keep(scheme.restore(network, tensors, notes["state"]), blueprint)

    def _audit(self, int8: torch.nn.Module, context: StepContext, **facts: Any) -> None:
        """Report what became int8; CellError when it is less than the recipe declares."""
        from harness.nn.operations import count

        operations = count(int8, context.example)
        weights, macs = operations.share("int8")
        if uncounted := _uncounted(int8, [layer.path for layer in operations.layers]):
            facts["uncounted"] = uncounted
        context.report(
            int8_weights=weights,
            int8_macs=macs,
            layers=[dataclasses.asdict(layer) for layer in operations.layers],
            **facts,
        )
        if min(weights, macs) < self.coverage:
            left = ", ".join(f"{layer.path} ({layer.kind})" for layer in operations.layers if layer.dtype != "int8")
            raise CellError(
                f"only {weights:.1%} of the weights and {macs:.1%} of the multiply-accumulates became int8, where the "
                f"recipe declares {self.coverage:.1%}; these layers stayed float: {left or 'none that multiplies'}. "
                "Lower coverage= if that is what you want to measure"
            )


def _uncounted(model: torch.nn.Module, counted: Collection[str]) -> list[str]:
    """Float matrices outside the counted layers (by path): what they multiply, if anything, is in no count."""
    import torch

    return [
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if path not in counted and not isinstance(module, torch.nn.Embedding)
        for name, matrix in module.named_parameters(recurse=False)
        if matrix.dim() > 1 and matrix.is_floating_point()
    ]


class _Scheme(Protocol):
    """What a scheme's module gives."""

    def quantize(
        self, model: torch.nn.Module, batches: Sequence[torch.Tensor]
    ) -> tuple[torch.nn.Module, dict[str, Any]]:
        """The quantized network, calibrated on ``batches``, and facts; ``model`` gives logits and is used up."""
        ...

    def keep(self, model: Any, blueprint: Mapping[str, Any]) -> torch.nn.Module:
        """Set the attribute ``blueprint`` (and ``gives_probabilities``) so that it survives ``copy.deepcopy``."""
        ...

    def dump_state(self, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Its state as dense tensors and JSON notes."""
        ...

    def restore(
        self, network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]
    ) -> torch.nn.Module:
        """The quantized network, from a float one of the same structure (used up) and the dumped state."""
        ...


def _module_of(scheme: str) -> _Scheme:
    from harness_compress import _fx_int8, _uniform8

    schemes: dict[str, _Scheme] = {"ptq-int8": _fx_int8, "uniform8": _uniform8}
    return schemes[scheme]


def _blueprint(model: torch.nn.Module) -> dict[str, Any]:
    """All that is needed to build a float network of this structure, its numbers aside."""
    from harness.nn import structure

    tensors, notes = structure.dump(model)
    state = {name: [str(value.dtype).removeprefix("torch."), list(value.shape)] for name, value in tensors.items()}
    return {"structure": notes, "state": state}
