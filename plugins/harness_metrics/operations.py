"""Count what the network computes for one example."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import ClassVar

from harness import EvalContext, Metric, MetricSpec, Task

logger = logging.getLogger(f"harness.{__name__}")


class Operations(Metric):
    """Multiply-accumulates of one example, from the operators that execute (see ``harness.nn.operations``).

    ``int8_weights`` and ``int8_macs`` are the shares of weights and of multiply-accumulates in int8. All three are
    None, with a warning that names the operators, for a network in which some operator could not be counted.
    """

    name: ClassVar[str] = "operations"
    version: ClassVar[str] = "3"
    summary: ClassVar[str] = "multiply-accumulates of products, convolutions and recurrent layers for one example"

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (
            MetricSpec("macs", better="lower", digits=0, headline=True, exact=True),
            MetricSpec("int8_weights", unit="%", digits=1, exact=True, role="int8 weights"),
            MetricSpec("int8_macs", unit="%", digits=1, exact=True, role="int8 macs"),
        )

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        from harness.nn.operations import count

        operations = count(evidence.model, evidence.example)
        shares = operations.share("int8")
        if shares is None:
            logger.warning(
                f"{type(evidence.model).__name__}: macs, int8_weights and int8_macs are left empty, because there is "
                f"no formula for {', '.join(operations.uncounted)}"
            )
            return {"macs": None, "int8_weights": None, "int8_macs": None}
        return {"macs": operations.macs, "int8_weights": 100 * shares[0], "int8_macs": 100 * shares[1]}
