"""How much the network computes for one example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness import Evidence, Figure, Metric, Task


class Operations(Metric):
    """Multiply-accumulates of one example, recurrent layers included (``harness.operations`` has the rules)."""

    name: ClassVar[str] = "operations"
    about: ClassVar[str] = "multiply-accumulates of convolutions, linear and recurrent layers for one example"

    def figures(self, task: Task) -> tuple[Figure, ...]:
        return (Figure("macs", better="lower", digits=0),)

    def compute(self, evidence: Evidence) -> Mapping[str, float | None]:
        from harness.operations import count

        return {"macs": count(evidence.model, evidence.example).macs}
