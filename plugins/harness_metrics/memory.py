"""How much memory a process needs that runs the deployed file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness import EvalContext, Metric, MetricSpec, Task


class Memory(Metric):
    """Megabytes (10^6 bytes) resident at the peak of inference, once the file is loaded: the whole process.

    The interpreter and the runtime's libraries are the greater part: ``memory_before`` was resident before the file was
    loaded. Rebuilding an int8 network in PyTorch leaves more behind than its small weights save.
    """

    name: ClassVar[str] = "memory"
    summary: ClassVar[str] = "peak resident memory of the process in inference"

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (
            # Between two processes of the same network memory differs by about a per cent.
            MetricSpec("memory", unit="MB", better="lower", digits=1, headline=True, per_machine=True, gate="10%"),
            MetricSpec("memory_before", unit="MB", digits=1, per_machine=True),
        )

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        peak, before = evidence.peak_memory, evidence.base_memory
        return {
            "memory": None if peak is None else peak / 1e6,
            "memory_before": None if before is None else before / 1e6,
        }
