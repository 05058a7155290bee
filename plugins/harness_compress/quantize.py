"""Quantize to eight bits after training, by the scheme of study B or of study A, and audit what became int8."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from harness.api import Phase, Step, StepContext
from harness.errors import CellError, Unsupported, UsageError, nearest

if TYPE_CHECKING:
    import torch

SCHEMES = ("ptq-int8", "uniform8")


@dataclasses.dataclass(frozen=True)
class Quantize(Step):
    """Post-training static quantization to eight bits, by one of two schemes.

    ``ptq-int8`` is the scheme of Hołda et al. 2026 (doi 10.15388/26-INFOR620): FBGEMM kernels, with convolution, batch
    normalisation and ReLU fused. Weights are symmetric in [-127, 127], per output channel (PerChannelMinMaxObserver).
    Activations are asymmetric, per tensor, with seven of eight bits, 0 to 127 (HistogramObserver). The network
    includes its sigmoid, whose output uses all eight bits with the fixed scale 1/256 and zero point 0, since its range
    is known without calibration. LSTM and GRU have weights per tensor (MinMaxObserver, the same range) and dynamic
    activations, so their float inputs are rounded once. The same holds for linear layers of recurrent modules that are
    not PyTorch's (see ``_linears.AsLinears``). The study does not mention LayerNorm: by PyTorch's default it runs in
    int8 with float weights. Seven bits keep the 16-bit sums of processors without VNNI from saturating on the
    calibrated range; values beyond it take up to eight. Operations whose int8 kernels are wrong (sums with a constant,
    products with a negative one, InstanceNorm of images) run in float. Every operation of the int8 network is compared
    with the float one on the values that it reads (``_kernels.check``).

    ``uniform8`` is the scheme that Liu, Sepulveda and Zheng 2021 (doi 10.2196/20767) apply to a network of linear
    layers: weights and activations uniformly from [Fmin, Fmax], the least and the largest value, to 0..255,
    asymmetric and per tensor. The paper leaves open what follows. An activation is rounded where a product reads it
    (a layer's input, after the ReLU before it), so the logits stay float32. Biases are float32 and added to the sums.
    A range is widened to contain 0. An LSTM runs as a loop over time steps that rounds input and state in this way and
    multiplies integers; gate functions and cell stay float. Convolutions and the operations between products stay
    float. Compared with ``ptq-int8``, a weight tensor has one scale, an activation has eight bits and its whole range,
    and nothing is fused. The fact ``engine`` names the kernels: ``fbgemm``, or ``int32`` (the same integers in 32 bits)
    on processors where FBGEMM would saturate (without VNNI).

    ``calibration`` is the number of validation examples that set the ranges of activations. A small data set, such as
    MIMIC-III's demo, gives all it has; the fact ``calibrated_on`` is the actual number. ``coverage`` is the least share
    of multiplying weights, and of multiply-accumulates, that must become int8. Each of B's networks reaches 1; the
    default 0.9 tolerates one small layer that stays float, but not an LSTM or a branch. Products written as functions
    count in both shares. The facts ``uncounted`` and ``unattributed`` name operators that multiply but cannot be
    counted, or by an unknown number of weights: then both shares are unknown, and only ``coverage=0`` accepts the
    network.

    Raises Unsupported for a network that is int8 already or that the scheme cannot handle (``ptq-int8``: torch.fx
    cannot trace it, or an operation is another function in int8; ``uniform8``: it has neither linear nor LSTM layers),
    and CellError below ``coverage``.
    """

    name: ClassVar[str] = "quantize"
    version: ClassVar[str] = "3"
    scheme: str = "ptq-int8"
    calibration: int = 128
    coverage: float = 0.9

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UsageError(f"quantize(scheme={self.scheme!r}): unknown scheme{nearest(str(self.scheme), SCHEMES)}")
        if isinstance(self.calibration, bool) or not isinstance(self.calibration, int) or self.calibration < 1:
            raise UsageError(f"quantize(calibration={self.calibration!r}): give a whole number of examples, at least 1")
        if isinstance(self.coverage, bool) or not isinstance(self.coverage, int | float) or not 0 <= self.coverage <= 1:
            raise UsageError(f"quantize(coverage={self.coverage!r}): give a share from 0 to 1")

    @classmethod
    def examples(cls) -> Sequence[Quantize]:
        """Return one step per scheme. uniform8 leaves convolutions float, so it declares no coverage."""
        return [cls(), cls("uniform8", coverage=0.0)]

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        import torch

        from harness_compress import _fx_int8

        if _fx_int8.is_int8(model) or getattr(model, "gives_probabilities", False):
            raise Unsupported("the network is already int8, or gives probabilities: quantize once, as the last step")
        for path, module in model.named_modules():
            if module._forward_hooks or module._forward_pre_hooks:
                raise Unsupported(
                    f"{path or 'the network'} ({type(module).__name__}) has hooks, which an int8 layer loses: remove "
                    "them first (a mask by torch.nn.utils.prune.remove, weight_norm by remove_weight_norm)"
                )
        scheme, blueprint = _module_of(self.scheme), _blueprint(model)
        inputs = context.calibration(self.calibration)
        int8, facts = scheme.quantize(copy.deepcopy(model), torch.split(inputs, 128))
        self._audit(int8, context, calibrated_on=len(inputs), **facts)
        return scheme.keep(int8, blueprint)

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        return ()

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        """Return the float model: the int8 one has as many multiply-accumulates, and as many parameters except for
        folded batch normalisations (B counts the same)."""
        return model

    def dump(self, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return integers, scales and zero points as dense tensors, and notes on the float structure."""
        if not hasattr(model, "blueprint"):
            raise CellError("a step after quantize replaced the int8 network, so it must define dump() and restore()")
        tensors, state = _module_of(self.scheme).dump_state(model)
        return tensors, {"blueprint": model.blueprint, "state": state}

    def restore(
        self, fresh: torch.nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]
    ) -> torch.nn.Module:
        """Repeat the quantization of the float structure without calibration, then load the exact state."""
        import torch

        from harness.nn import structure

        blueprint, scheme = notes["blueprint"], _module_of(self.scheme)
        state = blueprint["state"].items()
        asked = sum(math.prod(shape) for _, (_, shape) in state)
        structure.check_size(asked, sum(tensor.numel() for tensor in tensors.values()))
        zeros = {name: torch.zeros(shape, dtype=getattr(torch, kind)) for name, (kind, shape) in state}
        network = structure.restore(fresh, zeros, blueprint["structure"])
        return scheme.keep(scheme.restore(network, tensors, notes["state"]), blueprint)

    def _audit(self, int8: torch.nn.Module, context: StepContext, **facts: Any) -> None:
        """Report what became int8. Raises CellError when it is less than the recipe declares."""
        from harness.nn.operations import count

        operations = count(int8, context.example)
        shares = operations.share("int8")
        for name in ("uncounted", "unattributed"):
            if operators := getattr(operations, name):
                facts[name] = list(operators)
        context.report(
            int8_weights=shares and shares[0],
            int8_macs=shares and shares[1],
            layers=[dataclasses.asdict(layer) for layer in operations.layers],
            **facts,
        )
        if shares is None and self.coverage > 0:
            raise CellError(
                f"the share of the work that became int8 is unknown, where the recipe declares {self.coverage:.1%}: "
                f"{operations.reason}. "
                "Set coverage=0 if you want to measure this network"
            )
        if shares is not None and min(shares) < self.coverage:
            weights, macs = shares
            float_layers = [
                f"{layer.path or 'the network itself'} ({layer.kind})"
                for layer in operations.layers
                if layer.dtype != "int8"
            ]
            names = ", ".join(float_layers) or "none that multiplies"
            raise CellError(
                f"only {weights:.1%} of the weights and {macs:.1%} of the multiply-accumulates became int8, where the "
                f"recipe declares {self.coverage:.1%}; these layers stayed float: {names}. "
                "Lower coverage= if you want to measure this network"
            )


class _Scheme(Protocol):
    """The functions of a module that implements a scheme."""

    def quantize(
        self, model: torch.nn.Module, batches: Sequence[torch.Tensor]
    ) -> tuple[torch.nn.Module, dict[str, Any]]:
        """Quantize ``model`` (logits), calibrated on ``batches``; return it and facts. May change ``model``."""
        ...

    def keep(self, model: Any, blueprint: Mapping[str, Any]) -> torch.nn.Module:
        """Set the attributes ``blueprint`` and ``gives_probabilities`` such that they survive ``copy.deepcopy``."""
        ...

    def dump_state(self, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the state as dense tensors and JSON notes."""
        ...

    def restore(
        self, network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]
    ) -> torch.nn.Module:
        """Rebuild the quantized network from a float one of the same structure (may change it) and the dumped state."""
        ...


def _module_of(scheme: str) -> _Scheme:
    """Import the module of one scheme alone, because each imports much of PyTorch that the other does not use."""
    if scheme == "ptq-int8":
        from harness_compress import _fx_int8

        return _fx_int8
    from harness_compress import _uniform8

    return _uniform8


def _blueprint(model: torch.nn.Module) -> dict[str, Any]:
    """Everything needed to build a float network of this structure, except its values."""
    from harness.nn import structure

    tensors, notes = structure.dump(model)
    state = {name: [str(value.dtype).removeprefix("torch."), list(value.shape)] for name, value in tensors.items()}
    return {"structure": notes, "state": state}
