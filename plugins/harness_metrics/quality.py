"""Measure the quality of the deployed file's answers on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness import EvalContext, Metric, MetricSpec, Task, WeightedMetric


class Quality(Metric):
    """AUROC, average precision, Brier score and calibration error, macro-averaged over the labels; AUROC per label.

    A label without positives or without negatives has no AUROC (None), and then the macro average is None too. An
    average over the other labels would be a different figure under the same name.

    scikit-learn computes the figures; the bootstrap over patients uses weighted functions of ``harness.stats`` that
    evaluate many resamples at once. Tests hold both to the same values. The calibration error comes from
    ``harness.stats`` alone: scikit-learn's calibration curve has bins that are closed on the other side.
    """

    name: ClassVar[str] = "quality"
    summary: ClassVar[str] = (
        "on the test split: AUROC (also per label), average precision, Brier score, calibration error"
    )

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (
            # Studies of compression call networks equal within half a point of AUROC.
            MetricSpec("auroc", better="higher", headline=True, gate="0.005", chance=0.5),
            *(MetricSpec(f"auroc_{label}", better="higher", chance=0.5) for label in task.labels),
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
        from sklearn.metrics import average_precision_score, mean_squared_error, roc_auc_score

        from harness.stats.quality import macro_calibration_error

        scores, positive = np.asarray(evidence.scores, np.float64), np.asarray(evidence.targets) > 0.5
        both_classes = positive.any(axis=0) & ~positive.all(axis=0)
        defined = np.atleast_1d(both_classes & np.isfinite(scores).all(axis=0))
        figures: dict[str, float | None] = dict.fromkeys(spec.name for spec in self.specs(evidence.task))
        areas = {
            label: float(roc_auc_score(positive[:, column], scores[:, column]))
            for column, label in enumerate(evidence.task.labels)
            if defined[column]
        }
        figures |= {f"auroc_{label}": area for label, area in areas.items()}
        if defined.all():
            once = np.ones((len(scores), 1))
            pairs = list(zip(positive.T, scores.T, strict=True))
            figures["auroc"] = float(np.mean(list(areas.values())))
            figures["auprc"] = float(np.mean([average_precision_score(*pair) for pair in pairs]))
            figures["brier"] = float(mean_squared_error(positive.astype(np.float64), scores))
            figures["calibration_error"] = float(macro_calibration_error(evidence.scores, evidence.targets, once)[0])
        return figures
