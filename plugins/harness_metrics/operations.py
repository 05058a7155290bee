"""Count what the network computes for one example."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import ClassVar

from harness import Absent, EvalContext, Metric, MetricSpec, Task

logger = logging.getLogger(f"harness.{__name__}")


class Operations(Metric):
    """Multiply-accumulates of one example, from the operators that execute (see ``harness.nn.operations``).

    ``int8_weights`` and ``int8_macs`` are the shares of weights and of multiply-accumulates in int8, as the runtime
    reports them; where it does not, they are counted in the network. What is not known is left empty, with the reason
    and a warning: all three for a network in which some operator could not be counted, the shares where an operator
    multiplies by an unknown number of weights.
    """

    name: ClassVar[str] = "operations"
    version: ClassVar[str] = "4"
    summary: ClassVar[str] = "multiply-accumulates of products, convolutions and recurrent layers for one example"

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (
            MetricSpec("macs", better="lower", digits=0, headline=True, exact=True),
            MetricSpec("int8_weights", unit="%", digits=1, exact=True, role="int8 weights"),
            MetricSpec("int8_macs", unit="%", digits=1, exact=True, role="int8 macs"),
        )

    def compute(self, evidence: EvalContext) -> Mapping[str, float | Absent | None]:
        from harness.nn.operations import count

        operations = count(evidence.model, evidence.example)
        audit, shares, reason = evidence.audit, operations.share("int8"), operations.reason
        if audit.int8_weights is not None and audit.int8_macs is not None:
            shares = audit.int8_weights, audit.int8_macs
        elif getattr(evidence.model, "quantization", None) is not None:  # the network is not what was deployed
            shares, reason = None, audit.reason
        macs = operations.macs
        if shares is not None and macs is not None:
            return {"macs": macs, "int8_weights": 100 * shares[0], "int8_macs": 100 * shares[1]}
        unknown = Absent(reason)
        empty = "int8_weights and int8_macs" if macs is not None else "macs, int8_weights and int8_macs"
        logger.warning(f"{type(evidence.model).__name__}: {empty} are left empty, because {reason}")
        return {"macs": unknown if macs is None else macs, "int8_weights": unknown, "int8_macs": unknown}
