"""How good the deployed file's answers on the test part are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from harness import Evidence, Figure, Metric, Task, WeightedMetric


class Quality(Metric):
    """AUROC, average precision, Brier score and calibration error, macro averages over the labels; each label's AUROC.

    A label without positives or without negatives has none (None), and then there is no macro average either: one
    over the other labels would be another figure under the same name.
    """

    name: ClassVar[str] = "quality"
    about: ClassVar[str] = "on the test part: AUROC (also per label), average precision, Brier score, calibration error"

    def figures(self, task: Task) -> tuple[Figure, ...]:
        areas = tuple(Figure(f"auroc_{label}", better="higher") for label in task.labels)
        return (
            Figure("auroc", better="higher"),
            *areas,
            Figure("auprc", better="higher"),
            Figure("brier", better="lower"),
            Figure("calibration_error", better="lower"),
        )

    def weighted(self, task: Task) -> Mapping[str, WeightedMetric]:
        from harness.stats import quality

        return {
            "auroc": quality.macro_auroc,
            "auprc": quality.macro_auprc,
            "brier": quality.macro_brier,
            "calibration_error": quality.macro_calibration_error,
        }

    def compute(self, evidence: Evidence) -> Mapping[str, float | None]:
        import numpy as np

        from harness.stats.quality import auroc

        scores, targets, once = evidence.scores, evidence.targets, np.ones((len(evidence.scores), 1))
        areas = auroc(scores, targets)
        values = {f"auroc_{label}": float(area) for label, area in zip(evidence.task.labels, areas, strict=True)}
        for name, figure in self.weighted(evidence.task).items():
            values[name] = float(figure(scores, targets, once)[0])
        names = [figure.name for figure in self.figures(evidence.task)]
        return {name: values[name] if math.isfinite(values[name]) else None for name in names}
