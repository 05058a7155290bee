"""Request quantization to eight bits, which the runtime of the cell carries out when it deploys the network."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness.api import Phase, Quantization, Step, StepContext
from harness.errors import Unsupported, UsageError, nearest
from harness_compress.quantize import SCHEMES, Quantize

if TYPE_CHECKING:
    import torch

REQUEST = "int8"


@dataclasses.dataclass(frozen=True)
class QuantizeInt8(Step):
    """Request int8 of the runtime. The artefact holds the float network and the request; suites write quantize("int8").

    The artefact names the calibration examples by split, seed and row numbers, and holds none of them. The key
    determines these numbers: they follow from the data, the cell's seed and ``calibration``, the number of validation
    examples (all, where there are fewer). Each runtime quantizes in its own way, so sizes and shares in int8 are those
    of its deployed file. No step may follow.

    The deployed file must reach ``coverage``, the least share of weights and of multiply-accumulates in int8. On
    validation examples its probabilities may differ from the float network's by ``mean_difference`` on average, and a
    share ``changed`` of them by more than 0.01. Otherwise the cell fails, with the figures.
    """

    name: ClassVar[str] = "quantize_int8"
    version: ClassVar[str] = "1"
    is_final: ClassVar[bool] = True
    calibration: int = 128
    coverage: float = 0.9
    mean_difference: float = Quantization.mean_difference
    changed: float = Quantization.changed

    def __post_init__(self) -> None:
        if isinstance(self.calibration, bool) or not isinstance(self.calibration, int) or self.calibration < 1:
            raise UsageError(
                f"quantize({REQUEST!r}, calibration={self.calibration!r}): give a whole number of examples, at least 1"
            )
        for name in ("coverage", "mean_difference", "changed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise UsageError(f"quantize({REQUEST!r}, {name}={value!r}): give a number from 0 to 1")

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        if getattr(model, "gives_probabilities", False) or getattr(model, "quantization", None) is not None:
            raise Unsupported(
                "the network is quantized already, or gives probabilities: quantize once, as the last step"
            )
        rows = context.calibration_rows(self.calibration)
        network = copy.deepcopy(model)
        request = Quantization(
            split="validation",
            seed=context.seed("calibration"),
            rows=rows,
            coverage=self.coverage,
            mean_difference=self.mean_difference,
            changed=self.changed,
        )
        network.quantization = request  # type: ignore[assignment]
        context.report(calibrated_on=len(rows))
        return network

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        return ()

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        """Return the float model, which has as many multiply-accumulates as the quantized one."""
        return model


def quantize(scheme: str = "ptq-int8", calibration: int = 128, coverage: float = 0.9, **limits: float) -> Step:
    """Return the step that quantizes by a ``scheme``.

    "int8" requests it of the runtime (`QuantizeInt8`, which has ``limits``); "ptq-int8" and "uniform8" quantize the
    network with PyTorch, as studies B and A did (`Quantize`). Raises UsageError for an unknown scheme or parameter.
    """
    if scheme == REQUEST:
        return QuantizeInt8(calibration, coverage, **limits)
    if scheme not in SCHEMES:
        known = (REQUEST, *SCHEMES)
        raise UsageError(f"quantize(scheme={scheme!r}): unknown scheme{nearest(str(scheme), known)}")
    return Quantize(scheme, calibration, coverage, **limits)
