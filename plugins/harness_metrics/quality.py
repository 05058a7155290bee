"""Measure the quality of the deployed file's answers on the test split, by the kind of task."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from harness import EvalContext, Metric, MetricSpec, Task, WeightedMetric

if TYPE_CHECKING:
    from numpy.typing import NDArray

Figures = dict[str, float | None]


class Quality(Metric):
    """The quality of the answers. The kind of task decides which figures there are, and which are the headline.

    - Multi-label and binary: AUROC (headline, also per label), average precision, Brier score and calibration error,
      macro-averaged over the labels.
    - Multi-class: top-1 accuracy (headline, also per class) and balanced accuracy (headline), log loss, Brier score and
      the calibration error of the chosen class.
    - Regression: R2 (headline, also per label where there are several) and mean absolute error (headline), root of the
      mean squared error; macro-averaged over the labels.

    A figure is None where it is undefined for one label, such as an AUROC without positives: an average over the other
    labels would be a different figure under the same name.

    scikit-learn computes the figures; the bootstrap over patients uses weighted functions of ``harness.stats`` that
    evaluate many resamples at once. Tests hold both to the same values. The calibration errors come from
    ``harness.stats`` alone: scikit-learn's calibration curve has bins that are closed on the other side.
    """

    name: ClassVar[str] = "quality"
    summary: ClassVar[str] = "on the test split: AUROC; accuracy and balanced accuracy; or R2 and mean absolute error"

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return _FIGURES[task.kind].specs(task)

    def weighted(self, task: Task) -> Mapping[str, WeightedMetric]:
        return _FIGURES[task.kind].weighted()

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        import numpy as np

        figures: Figures = dict.fromkeys(spec.name for spec in self.specs(evidence.task))
        scores, targets = np.asarray(evidence.scores), np.asarray(evidence.targets)
        return figures | _FIGURES[evidence.task.kind].compute(scores, targets, evidence.task)


class _Figures(abc.ABC):
    """The figures of one kind of task."""

    @abc.abstractmethod
    def specs(self, task: Task) -> tuple[MetricSpec, ...]: ...

    @abc.abstractmethod
    def weighted(self) -> Mapping[str, WeightedMetric]: ...

    @abc.abstractmethod
    def compute(self, scores: NDArray[Any], targets: NDArray[Any], task: Task) -> Figures:
        """Return the figures that are defined."""


class _Multilabel(_Figures):
    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (
            # Studies of compression call networks equal within half a point of AUROC.
            MetricSpec("auroc", better="higher", headline=True, gate="0.005", chance=0.5),
            *(MetricSpec(f"auroc_{label}", better="higher", chance=0.5) for label in task.labels),
            MetricSpec("auprc", better="higher"),
            MetricSpec("brier", better="lower"),
            MetricSpec("calibration_error", better="lower"),
        )

    def weighted(self) -> Mapping[str, WeightedMetric]:
        from harness.stats import quality

        return {
            "auroc": quality.macro_auroc,
            "auprc": quality.macro_auprc,
            "brier": quality.macro_brier,
            "calibration_error": quality.macro_calibration_error,
        }

    def compute(self, scores: NDArray[Any], targets: NDArray[Any], task: Task) -> Figures:
        import numpy as np
        from sklearn.metrics import average_precision_score, mean_squared_error, roc_auc_score

        from harness.stats.quality import macro_calibration_error

        positive, exact = targets > 0.5, scores.astype(np.float64)
        both_classes = positive.any(axis=0) & ~positive.all(axis=0)
        defined = np.atleast_1d(both_classes & np.isfinite(scores).all(axis=0))
        areas = {
            label: float(roc_auc_score(positive[:, column], exact[:, column]))
            for column, label in enumerate(task.labels)
            if defined[column]
        }
        figures: Figures = {f"auroc_{label}": area for label, area in areas.items()}
        if defined.all():
            once = np.ones((len(scores), 1))
            pairs = list(zip(positive.T, exact.T, strict=True))
            figures["auroc"] = float(np.mean(list(areas.values())))
            figures["auprc"] = float(np.mean([average_precision_score(*pair) for pair in pairs]))
            figures["brier"] = float(mean_squared_error(positive.astype(np.float64), exact))
            figures["calibration_error"] = float(macro_calibration_error(scores, targets, once)[0])
        return figures


class _Multiclass(_Figures):
    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        chance = 1 / len(task.labels)
        return (
            MetricSpec("accuracy", better="higher", headline=True, gate="0.005", chance=chance),
            *(MetricSpec(f"accuracy_{label}", better="higher", chance=chance) for label in task.labels),
            MetricSpec("balanced_accuracy", better="higher", headline=True, gate="0.005", chance=chance),
            MetricSpec("log_loss", better="lower"),
            MetricSpec("brier", better="lower"),
            MetricSpec("calibration_error", better="lower"),
        )

    def weighted(self) -> Mapping[str, WeightedMetric]:
        from harness.stats import quality

        return {
            "accuracy": quality.accuracy,
            "balanced_accuracy": quality.balanced_accuracy,
            "log_loss": quality.log_loss,
            "brier": quality.multiclass_brier,
            "calibration_error": quality.top_label_calibration_error,
        }

    def compute(self, scores: NDArray[Any], targets: NDArray[Any], task: Task) -> Figures:
        import numpy as np
        from sklearn.metrics import accuracy_score, recall_score

        from harness.stats import quality

        if not np.isfinite(scores).all():
            return {}
        chosen, classes = scores.argmax(axis=1), np.arange(len(task.labels))
        present = np.isin(classes, targets)
        recalls = recall_score(targets, chosen, labels=classes, average=None, zero_division=0)
        figures: Figures = {
            f"accuracy_{label}": float(recall)
            for label, recall, there in zip(task.labels, recalls, present, strict=True)
            if there
        }
        once = np.ones((len(scores), 1))
        figures["accuracy"] = float(accuracy_score(targets, chosen))
        if present.all():
            figures["balanced_accuracy"] = float(recalls.mean())
        figures["log_loss"] = float(quality.log_loss(scores, targets, once)[0])
        figures["brier"] = float(quality.multiclass_brier(scores, targets, once)[0])
        figures["calibration_error"] = float(quality.top_label_calibration_error(scores, targets, once)[0])
        return figures


class _Regression(_Figures):
    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        several = task.labels if len(task.labels) > 1 else ()
        return (
            MetricSpec("r2", better="higher", headline=True, gate="0.01", chance=0.0),
            *(MetricSpec(f"r2_{label}", better="higher", chance=0.0) for label in several),
            MetricSpec("mae", better="lower", headline=True, gate="1%"),
            *(MetricSpec(f"mae_{label}", better="lower") for label in several),
            MetricSpec("rmse", better="lower"),
        )

    def weighted(self) -> Mapping[str, WeightedMetric]:
        from harness.stats import quality

        return {
            "r2": quality.macro_r2,
            "mae": quality.macro_absolute_error,
            "rmse": quality.macro_root_squared_error,
        }

    def compute(self, scores: NDArray[Any], targets: NDArray[Any], task: Task) -> Figures:
        import numpy as np
        from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

        if not np.isfinite(scores).all():
            return {}
        scores = scores.astype(np.float64)
        varies = np.ptp(targets, axis=0) > 0
        errors = mean_absolute_error(targets, scores, multioutput="raw_values")
        figures: Figures = {"mae": float(errors.mean()), "rmse": float(root_mean_squared_error(targets, scores))}
        shares = r2_score(targets, scores, multioutput="raw_values")
        if varies.all():
            figures["r2"] = float(shares.mean())
        if len(task.labels) > 1:
            for label, error, share, defined in zip(task.labels, errors, shares, varies, strict=True):
                figures |= {f"mae_{label}": float(error), f"r2_{label}": float(share) if defined else None}
        return figures


_FIGURES: Mapping[str, _Figures] = {
    "multilabel": _Multilabel(),
    "binary": _Multilabel(),
    "multiclass": _Multiclass(),
    "regression": _Regression(),
}
