"""Register the compression steps: pruning, quantization, 16-bit types, low rank, distillation. It loads no torch."""

from __future__ import annotations

from collections.abc import Callable

from harness import Step, hookimpl
from harness_compress.distill import Distill as distill
from harness_compress.distill_outputs import DistillKD as distill_kd
from harness_compress.distill_outputs import DistillMSE as distill_mse
from harness_compress.factorize import Factorize as factorize
from harness_compress.half import Half as half
from harness_compress.prune import Prune as prune
from harness_compress.prune_nm import PruneNM as prune_nm
from harness_compress.prune_quantile import PruneQuantile as prune_quantile
from harness_compress.prune_weights import PruneWeights as prune_weights
from harness_compress.quantize import Quantize
from harness_compress.quantize_weights import QuantizeWeights as quantize_weights
from harness_compress.request import QuantizeInt8, quantize

__all__ = [
    "distill",
    "distill_kd",
    "distill_mse",
    "factorize",
    "half",
    "prune",
    "prune_nm",
    "prune_quantile",
    "prune_weights",
    "quantize",
    "quantize_weights",
]


@hookimpl
def harness_steps(register: Callable[[type[Step]], None]) -> None:
    distill.kinds = ("multilabel", "binary")  # here, because the code of its module is part of its models' keys
    for step in (
        prune,
        prune_quantile,
        prune_weights,
        prune_nm,
        Quantize,
        QuantizeInt8,
        quantize_weights,
        half,
        factorize,
        distill,
        distill_kd,
        distill_mse,
    ):
        register(step)
