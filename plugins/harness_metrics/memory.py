"""Report the memory that the deployed file needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness import EvalContext, Metric, MetricSpec, Task


class Memory(Metric):
    """What the deployed file needs, in MB (10^6 bytes), in a process that has imported and warmed all that it uses.

    ``loaded_memory`` is what loading adds: weights, and the runtime's objects around them. ``needed_memory`` adds
    the peak of activations and workspace, so it is the whole need. The input is in neither. Interpreter, libraries
    and their caches of kernels are in neither: they come before. Figures are of whole pages (4 KiB), and two
    measurements of one file differ by at most 0.07 MB (see `harness.measure.memory`). Both are None where the system
    is not Linux.

    Version 1 reported ``memory``, the peak of the whole process with its interpreter, libraries and imports.
    """

    name: ClassVar[str] = "memory"
    version: ClassVar[str] = "2"
    summary: ClassVar[str] = "memory that loading and inference need, without interpreter and libraries"

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (
            MetricSpec(
                # An amount, because 10 % of a small network's need is less than the resolution.
                "needed_memory",
                unit="MB",
                better="lower",
                digits=2,
                headline=True,
                per_machine=True,
                gate="0.25",
            ),
            MetricSpec("loaded_memory", unit="MB", better="lower", digits=2, per_machine=True),
        )

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        base, loaded, peak = evidence.base_memory, evidence.loaded_memory, evidence.peak_memory
        return {
            "needed_memory": None if base is None or peak is None else (peak - base) / 1e6,
            "loaded_memory": None if base is None or loaded is None else (loaded - base) / 1e6,
        }
