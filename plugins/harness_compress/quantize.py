"""Static int8 after training, as study B has it: observers, ranges, fusion, a dynamic LSTM; and what became int8."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness.contracts import Phase, Step, StepContext
from harness.errors import CellError, Unsupported, UsageError, nearest

if TYPE_CHECKING:
    import torch

SCHEMES = ("ptq-int8",)


@dataclasses.dataclass(frozen=True)
class Quantize(Step):
    """Post-training static quantization to int8 (Hołda et al. 2026, doi 10.15388/26-INFOR620).

    FBGEMM kernels; convolution, batch normalisation and ReLU fused. Weights are symmetric in [-127, 127] and per output
    channel (PerChannelMinMaxObserver), activations asymmetric per tensor with seven of eight bits, 0 to 127
    (HistogramObserver). The network goes on to its probabilities: the sigmoid's output has all eight bits, with the
    fixed scale 1/256 and zero point 0, since its range is known without calibration. LSTM and GRU: weights per tensor
    (MinMaxObserver, the same range), activations dynamic, so that their float inputs are rounded once. The study says
    nothing of LayerNorm: it runs in int8 too, with float weights, which is PyTorch's default.

    ``calibration`` is how many validation examples set the activations' ranges. ``coverage`` is the least share that
    must become int8 of the weights that multiply, and of the multiply-accumulates: each of B's networks reaches 1, and
    0.9 leaves room for one odd small layer of another network, but not for an LSTM or a branch that stayed float.

    Raises Unsupported for a network that is int8 already or that torch.fx cannot trace, CellError below ``coverage``.
    """

    name: ClassVar[str] = "quantize"
    scheme: str = "ptq-int8"
    calibration: int = 128
    coverage: float = 0.9

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UsageError(f"quantize: there is no scheme {self.scheme!r}{nearest(self.scheme, SCHEMES)}")
        if self.calibration < 1:
            raise UsageError(f"quantize: calibration={self.calibration}, but it needs at least one example")
        if not 0 <= self.coverage <= 1:
            raise UsageError(f"quantize: coverage={self.coverage} is a share, from 0 to 1")

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        import torch

        from harness_compress import _fx_int8

        if _fx_int8.is_int8(model) or getattr(model, "gives_probabilities", False):
            raise Unsupported("the network is int8 already, or gives probabilities; quantize once, and last")
        blueprint = _blueprint(model)
        network = torch.nn.Sequential(model, torch.nn.Sigmoid()).eval()
        prepared = _fx_int8.prepare(network)
        batches = torch.split(context.calibration(self.calibration), 128)
        with torch.no_grad():
            answers = [prepared(batch) for batch in batches]  # observers look and change nothing
            ranges = _fx_int8.ranges(prepared)
            int8 = _fx_int8.convert(prepared)
            pairs = zip(batches, answers, strict=True)
            difference = max(float((int8(batch) - answer).abs().max()) for batch, answer in pairs)
        self._audit(int8, context, ranges=ranges, max_probability_difference=difference)
        return _fx_int8.keep(int8, gives_probabilities=True, blueprint=blueprint)

    def fits(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        return ()

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        """The float model: its multiply-accumulates are those of the int8 one, and its parameters too, but for the
        batch normalisations that int8 folds away (B counts the same)."""
        return model

    def dump(self, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Integers, scales and zero points as dense tensors; the notes hold the float structure that made the graph."""
        from harness_compress import _fx_int8

        if not hasattr(model, "blueprint"):
            raise CellError("a step after quantize replaced the int8 network, so it must define dump() and restore()")
        tensors, state = _fx_int8.dump_state(model)
        return tensors, {"blueprint": model.blueprint, "state": state}

    def restore(
        self, fresh: torch.nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]
    ) -> torch.nn.Module:
        """Replay the quantization of the float structure without calibration, then load the state: bit for bit."""
        import torch

        from harness import structure
        from harness_compress import _fx_int8

        blueprint = notes["blueprint"]
        state = blueprint["state"].items()
        zeros = {name: torch.zeros(shape, dtype=getattr(torch, kind)) for name, (kind, shape) in state}
        network = torch.nn.Sequential(structure.restore(fresh, zeros, blueprint["structure"]), torch.nn.Sigmoid())
        int8 = _fx_int8.convert(_fx_int8.prepare(network))
        _fx_int8.load_state(int8, tensors, notes["state"])
        return _fx_int8.keep(int8, gives_probabilities=True, blueprint=blueprint)

    def _audit(self, int8: torch.nn.Module, context: StepContext, **facts: Any) -> None:
        """Report what became int8; CellError when it is less than the recipe declares."""
        from harness.operations import count
        from harness_compress._fx_int8 import ENGINE

        operations = count(int8, context.example)
        weights, macs = operations.share("int8")
        context.report(
            engine=ENGINE,
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


def _blueprint(model: torch.nn.Module) -> dict[str, Any]:
    """All that is needed to build a float network of this structure, its numbers aside."""
    from harness import structure

    tensors, notes = structure.dump(model)
    state = {name: [str(value.dtype).removeprefix("torch."), list(value.shape)] for name, value in tensors.items()}
    return {"structure": notes, "state": state}
