"""Count what the network computes for one example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness import EvalContext, Metric, MetricSpec, Task


class Operations(Metric):
    """Multiply-accumulates of one example, including recurrent layers (see ``harness.nn.operations`` for the rules).

    ``int8_weights`` and ``int8_macs`` are the shares of weights and of multiply-accumulates in int8.
    """

    name: ClassVar[str] = "operations"
    summary: ClassVar[str] = "multiply-accumulates of convolutions, linear and recurrent layers for one example"

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (
            MetricSpec("macs", better="lower", digits=0, headline=True, exact=True),
            MetricSpec("int8_weights", unit="%", digits=1, exact=True),
            MetricSpec("int8_macs", unit="%", digits=1, exact=True),
        )

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        from harness.nn.operations import count

        found = count(evidence.model, evidence.example)
        weights, macs = found.share("int8")
        return {"macs": found.macs, "int8_weights": 100 * weights, "int8_macs": 100 * macs}
