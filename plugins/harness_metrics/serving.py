"""Measure what serving the deployed file takes: loading it, its first call, and the throughput of batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, get_args

from harness import Absent, CellError, EvalContext, MeasureError, Metric, MetricSpec, Task
from harness.api.metrics import ServingCounter


class Serving(Metric):
    """How fast a process loads the deployed file, answers the first time, and answers batches of 1, 8 and 64 examples.

    All are measured in a worker of the cell's profile that has imported the runtime already: figures of this machine
    without interval. ``load_time`` and ``first_call`` are medians over several loads.
    """

    name: ClassVar[str] = "serving"
    summary: ClassVar[str] = "load time, first call, and throughput at batch 1, 8 and 64; optional"
    optional: ClassVar[bool] = True

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (
            MetricSpec("load_time", unit="ms", better="lower", digits=2, per_machine=True),
            MetricSpec("first_call", unit="ms", better="lower", digits=2, per_machine=True),
            *(
                MetricSpec(
                    name, unit="1/s", better="higher", digits=0, headline=name == "throughput_8", per_machine=True
                )
                for name in ("throughput_1", "throughput_8", "throughput_64")
            ),
        )

    def compute(self, evidence: EvalContext) -> Mapping[str, float | Absent | None]:
        return {name: _measured(evidence, name) for name in get_args(ServingCounter)}


def _measured(evidence: EvalContext, counter: ServingCounter) -> float | Absent:
    try:
        return evidence.count(counter)
    except (MeasureError, CellError) as error:  # some files cannot answer a batch
        return Absent(str(error))
