"""Register the compression steps ``prune``, ``prune_quantile``, ``quantize`` and ``distill``. It loads no torch."""

from __future__ import annotations

from collections.abc import Callable

from harness import Step, hookimpl
from harness_compress.distill import Distill as distill
from harness_compress.prune import Prune as prune
from harness_compress.prune_quantile import PruneQuantile as prune_quantile
from harness_compress.quantize import Quantize as quantize

__all__ = ["distill", "prune", "prune_quantile", "quantize"]


@hookimpl
def harness_steps(register: Callable[[type[Step]], None]) -> None:
    for step in (prune, prune_quantile, quantize, distill):
        register(step)
