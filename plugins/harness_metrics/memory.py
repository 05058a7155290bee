"""Measure the memory of a process that runs the deployed file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness import EvalContext, Metric, MetricSpec, Task


class Memory(Metric):
    """Peak resident memory of the whole process during inference, after the file is loaded, in MB (10^6 bytes).

    Most of it is the interpreter and the runtime's libraries; ``memory_before`` is resident before the file is loaded.
    Rebuilding an int8 network in PyTorch leaves more memory allocated than its smaller weights save.
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
