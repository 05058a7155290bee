"""Measure the latency of the deployed file for one example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness import EvalContext, Metric, MetricSpec, Task


class Latency(Metric):
    """Microseconds per call over all samples of all processes: an absolute figure of this machine, not a comparison.

    (The comparison with the reference is the paired ratio in the cell's timing.) ``latency`` is the median; study B
    reports the mean. A percentile is None if there are too few samples.
    """

    name: ClassVar[str] = "latency"
    summary: ClassVar[str] = (
        "microseconds of one inference; p90 and p99 need 64 and 662 samples, otherwise they are empty"
    )

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return tuple(
            MetricSpec(name, unit="us", better="lower", digits=1, headline=name == "latency", per_machine=True)
            for name in ("latency", "latency_mean", "latency_p90", "latency_p99")
        )

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        import numpy as np

        from harness.stats.ratios import percentile

        if evidence.samples is None:
            return dict.fromkeys(figure.name for figure in self.specs(evidence.task))
        micros = np.asarray(evidence.samples, dtype=np.float64).ravel() / 1000
        tails = {f"latency_p{percent}": percentile(micros, percent).value for percent in (90, 99)}
        return {"latency": float(np.median(micros)), "latency_mean": float(micros.mean()), **tails}
