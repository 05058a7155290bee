"""How much memory a process needs that runs the deployed file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness import Evidence, Figure, Metric, Task


class Memory(Metric):
    """Megabytes (10^6 bytes) resident at the peak of inference.

    ``memory`` is what loading and running the file added to the process; ``memory_peak`` is the whole process, of which
    the interpreter and the runtime's libraries are the greater part.
    """

    name: ClassVar[str] = "memory"
    about: ClassVar[str] = "peak resident memory of inference: what the file adds, and the whole process"

    def figures(self, task: Task) -> tuple[Figure, ...]:
        return tuple(Figure(name, unit="MB", better="lower", digits=1) for name in ("memory", "memory_peak"))

    def compute(self, evidence: Evidence) -> Mapping[str, float | None]:
        peak, base = evidence.peak_memory, evidence.base_memory
        if peak is None or base is None:
            return {"memory": None, "memory_peak": None}
        return {"memory": (peak - base) / 1e6, "memory_peak": peak / 1e6}
