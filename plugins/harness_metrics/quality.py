"""How good the deployed file's answers on the test part are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from harness import Evidence, Figure, Metric, Task


class Quality(Metric):
    """AUROC: the macro average over the labels, and each label's.

    A label without positives or without negatives has none (None), and then there is no macro average either: one
    over the other labels would be another figure under the same name.
    """

    name: ClassVar[str] = "quality"
    about: ClassVar[str] = "area under the ROC curve on the test part, macro average and per label"

    def figures(self, task: Task) -> tuple[Figure, ...]:
        names = ("auroc", *(f"auroc_{label}" for label in task.labels))
        return tuple(Figure(name, better="higher", digits=4) for name in names)

    def compute(self, evidence: Evidence) -> Mapping[str, float | None]:
        from harness.quality import auroc

        areas = auroc(evidence.scores, evidence.targets)
        values = [float(areas.mean()), *map(float, areas)]
        return {
            figure.name: value if math.isfinite(value) else None
            for figure, value in zip(self.figures(evidence.task), values, strict=True)
        }
