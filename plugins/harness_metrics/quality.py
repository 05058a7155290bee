"""How good the deployed file's answers on the test split are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from harness import EvalContext, Metric, MetricSpec, Task, WeightedMetric


class Quality(Metric):
    """AUROC, average precision, Brier score and calibration error, macro averages over the labels; each label's AUROC.

    A label without positives or without negatives has none (None), and then there is no macro average either: one
    over the other labels would be another figure under the same name.
    """

    name: ClassVar[str] = "quality"
    summary: ClassVar[str] = (
        "on the test split: AUROC (also per label), average precision, Brier score, calibration error"
    )

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        areas = tuple(MetricSpec(f"auroc_{label}", better="higher") for label in task.labels)
        return (
            # Half a point of AUROC is what studies of compression call equal.
            MetricSpec("auroc", better="higher", headline=True, gate="0.005"),
            *areas,
            MetricSpec("auprc", better="higher"),
            MetricSpec("brier", better="lower"),
            MetricSpec("calibration_error", better="lower"),
        )

    def weighted(self, task: Task) -> Mapping[str, WeightedMetric]:
        from harness.stats import quality

        return {
            "auroc": quality.macro_auroc,
            "auprc": quality.macro_auprc,
            "brier": quality.macro_brier,
            "calibration_error": quality.macro_calibration_error,
        }

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        import numpy as np

        from harness.stats.quality import auroc

        scores, targets, once = evidence.scores, evidence.targets, np.ones((len(evidence.scores), 1))
        areas = auroc(scores, targets)
        values = {f"auroc_{label}": float(area) for label, area in zip(evidence.task.labels, areas, strict=True)}
        for name, figure in self.weighted(evidence.task).items():
            values[name] = float(figure(scores, targets, once)[0])
        names = [figure.name for figure in self.specs(evidence.task)]
        return {name: values[name] if math.isfinite(values[name]) else None for name in names}
