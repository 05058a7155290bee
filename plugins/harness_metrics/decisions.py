"""Judge decisions at an operating point that validation data fix, and list those that flip against the reference.

The operating point of a label is a threshold on its score. Each model has its own, from what its deployed file answers
on the validation split: the highest threshold with a sensitivity of at least 0.9 there, or the one with the largest sum
of sensitivity and specificity (Youden, Cancer 1950;3:32-35). A score at or above the threshold decides for the label.

Flips are counted in both directions. The exact test of McNemar (Psychometrika 1947;12:153-157) asks whether one
direction is more frequent: under the null hypothesis a flip has either direction with probability 1/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness import Absent, EvalContext, Metric, MetricSpec, Section, Table, Task, WeightedMetric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

#: (validation scores (m,), positive (m,)) -> threshold.
OperatingPoint = Callable[["NDArray[Any]", "Mask"], float]
#: Groups of more distinct numbers than this, as ages, are divided at the quartiles.
LEVELS = 12
#: The worst group is sought among those with so many positives, or negatives, of a label: the rates of fewer are noise.
LEAST = 10


class Decisions(Metric):
    """Sensitivity, specificity and flipped decisions at the operating point ``at``; names begin with ``prefix``.

    For each label: ``threshold``, ``sensitivity``, ``specificity``; ``to_negative`` and ``to_positive``, the shares of
    the test records whose decision flipped against the reference; ``flips_p``, the exact McNemar test of both
    directions. ``sensitivity`` and ``specificity`` without a label are the means over labels, ``flips`` the share of
    all decisions that differ. All but thresholds and p have bootstrap intervals over patients, given the thresholds.
    The p takes records as independent; where patients have several, trust the interval.

    ``worst_group_sensitivity`` and ``worst_group_specificity`` are the lowest of any label in any group of the data
    with at least `LEAST` positives (negatives) of it. They have no interval, and no value without such a group.

    ``details`` lists the flipped records by label and truth, and repeats the figures for each group of the data.
    Figures are empty for a label without positives or without negatives, in either split. Multi-class and regression
    tasks have no such decisions, and no figures.
    """

    optional: ClassVar[bool] = True

    def __init__(self, name: str, prefix: str, at: OperatingPoint, where: str) -> None:
        """``where`` names the operating point for users."""
        self.name, self._prefix, self._at, self.where = name, prefix, at, where  # type: ignore[misc]
        self.summary = f"sensitivity, specificity and flipped decisions at {where}; optional"  # type: ignore[misc]

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        if not _has_decisions(task):
            return ()
        head, labels = self._prefix, task.labels
        return (
            MetricSpec(f"{head}sensitivity", better="higher", headline=True),
            MetricSpec(f"{head}specificity", better="higher", headline=True),
            MetricSpec(f"{head}flips", better="lower", headline=True),
            MetricSpec(f"{head}worst_group_sensitivity", better="higher"),
            MetricSpec(f"{head}worst_group_specificity", better="higher"),
            *(MetricSpec(f"{head}sensitivity_{label}", better="higher") for label in labels),
            *(MetricSpec(f"{head}specificity_{label}", better="higher") for label in labels),
            *(MetricSpec(f"{head}to_negative_{label}", better="lower") for label in labels),
            *(MetricSpec(f"{head}to_positive_{label}", better="lower") for label in labels),
            *(MetricSpec(f"{head}flips_p_{label}") for label in labels),
            *(MetricSpec(f"{head}threshold_{label}") for label in labels),
        )

    def answers(self, evidence: EvalContext) -> NDArray[np.float64]:
        """Return, side by side, (n, 3 labels): decisions, flips to negative, flips to positive; all 0 or 1."""
        import numpy as np

        now, before = (self._decisions(context) for context in (evidence, evidence.reference))
        answers = np.hstack([now, before & ~now, now & ~before]).astype(np.float64)
        undefined = np.isnan(self._thresholds(evidence)) | np.isnan(self._thresholds(evidence.reference))
        answers[:, np.tile(undefined, 3)] = np.nan
        return answers

    def weighted(self, task: Task) -> Mapping[str, WeightedMetric]:
        head, labels = self._prefix, task.labels
        count = len(labels)
        functions: dict[str, WeightedMetric] = {
            f"{head}sensitivity": _mean_of([_rate(column, positive=True) for column in range(count)]),
            f"{head}specificity": _mean_of([_rate(column, positive=False) for column in range(count)]),
            f"{head}flips": _mean_of([_share(count + column, 2 * count + column) for column in range(count)]),
        }
        for column, label in enumerate(labels):
            functions[f"{head}sensitivity_{label}"] = _rate(column, positive=True)
            functions[f"{head}specificity_{label}"] = _rate(column, positive=False)
            functions[f"{head}to_negative_{label}"] = _share(count + column)
            functions[f"{head}to_positive_{label}"] = _share(2 * count + column)
        return functions

    def compute(self, evidence: EvalContext) -> Mapping[str, float | Absent | None]:
        import numpy as np

        once = np.ones((len(evidence.targets), 1))
        answers = self.answers(evidence)
        figures: dict[str, float] = {
            name: float(function(answers, evidence.targets, once)[0])
            for name, function in self.weighted(evidence.task).items()
        }
        decided, positive = self._decisions(evidence), evidence.targets > 0.5
        figures[f"{self._prefix}worst_group_sensitivity"] = _worst(decided, positive, evidence.groups)
        figures[f"{self._prefix}worst_group_specificity"] = _worst(~decided, ~positive, evidence.groups)
        count = len(evidence.task.labels)
        for column, (label, threshold) in enumerate(zip(evidence.task.labels, self._thresholds(evidence), strict=True)):
            down, up = (answers[:, part * count + column].sum() for part in (1, 2))
            figures[f"{self._prefix}flips_p_{label}"] = mcnemar(int(down), int(up)) if down + up >= 0 else math.nan
            figures[f"{self._prefix}threshold_{label}"] = threshold
        names = [spec.name for spec in self.specs(evidence.task)]
        return {name: figures[name] if math.isfinite(figures[name]) else None for name in names}

    def details(self, evidence: EvalContext) -> Mapping[str, Any]:
        """Return for each label the thresholds, the counts, the flipped records by truth, and the counts by group."""
        import numpy as np

        now, before = (self._decisions(context) for context in (evidence, evidence.reference))
        positive = evidence.targets > 0.5
        records = np.arange(len(positive)) if evidence.records is None else evidence.records
        thresholds = zip(self._thresholds(evidence), self._thresholds(evidence.reference), strict=True)
        members = {
            name: {level: rows for level, rows in levels(values).items() if rows.any()}
            for name, values in evidence.groups.items()
        }
        labels: dict[str, Any] = {}
        for column, (label, (own, reference)) in enumerate(zip(evidence.task.labels, thresholds, strict=True)):
            columns = now[:, column], before[:, column], positive[:, column]
            labels[label] = {
                "threshold": own if math.isfinite(own) else None,
                "reference_threshold": reference if math.isfinite(reference) else None,
                **_counts(*columns),
                "records": _flipped(*columns, records),
                "groups": {
                    name: {level: _counts(*(part[rows] for part in columns)) for level, rows in parts.items()}
                    for name, parts in members.items()
                },
            }
        return {"labels": labels}

    def _thresholds(self, evidence: EvalContext) -> list[float]:
        """The thresholds of one model; NaN for a label of which the validation split has only one class."""
        scores, positive = evidence.validation_scores, evidence.validation.targets > 0.5
        return [
            self._at(column, rows) if rows.any() and not rows.all() else math.nan
            for column, rows in zip(scores.T, positive.T, strict=True)
        ]

    def _decisions(self, evidence: EvalContext) -> Mask:
        """What the deployed file decides on the test split, (n, labels)."""
        import numpy as np

        # In float64, because a float32 score may round above or below its own threshold.
        decided: Mask = evidence.scores.astype(np.float64) >= np.array(self._thresholds(evidence))
        return decided


def at_sensitivity(least: float) -> OperatingPoint:
    """Return the operating point: the highest threshold at which a share ``least`` of the positives is found."""

    def threshold(scores: NDArray[Any], positive: Mask) -> float:
        import numpy as np

        ranked = np.sort(scores[positive].astype(np.float64))[::-1]
        return float(ranked[math.ceil(least * len(ranked) - 1e-9) - 1])

    return threshold


def youden(scores: NDArray[Any], positive: Mask) -> float:
    """Return the threshold with the largest sum of sensitivity and specificity; the highest of several."""
    import numpy as np

    thresholds = np.unique(scores.astype(np.float64))[::-1]
    order = np.sort(scores[positive].astype(np.float64)), np.sort(scores[~positive].astype(np.float64))
    found, alarms = (1 - np.searchsorted(ranked, thresholds, side="left") / len(ranked) for ranked in order)
    return float(thresholds[np.argmax(np.round(found - alarms, 12))])


def mcnemar(one: int, other: int) -> float:
    """Return the two-sided p of the exact binomial test that two directions with these counts are equally frequent."""
    total, least = one + other, min(one, other)
    tail = sum(math.comb(total, k) for k in range(least + 1))
    return float(min(1.0, 2 * tail / 2**total))


def levels(values: NDArray[Any]) -> dict[str, Mask]:
    """Return the rows of each level of a group, by its name; many distinct numbers are divided at the quartiles."""
    import numpy as np

    if values.dtype.kind == "O":  # texts, of which some are missing
        values = np.array(["unknown" if value is None or value != value else str(value) for value in values])
    numeric = values.dtype.kind in "iuf"
    known = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), bool)
    distinct = np.unique(values[known])
    parts: dict[str, Mask] = {}
    if numeric and len(distinct) > LEVELS:
        bounds = np.quantile(values[known], [0.25, 0.5, 0.75])
        quarter = np.searchsorted(bounds, values, side="left")
        names = [f"up to {bounds[0]:g}", *(f"above {bound:g}" for bound in bounds)]
        parts = {name: known & (quarter == index) for index, name in enumerate(names)}
    else:
        parts = {f"{level:g}" if numeric else str(level): known & (values == level) for level in distinct}
    return parts if known.all() else parts | {"unknown": ~known}


def decision_sections(records: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return a section for each operating point: what the cells decide, what flipped, and the same by group."""
    sections = []
    for metric in (DECISIONS, YOUDEN):
        rows: list[tuple[str, ...]] = []
        groups: list[tuple[str, ...]] = []
        for record in records:
            details = (record.get("details") or {}).get(metric.name) or {"labels": {}}
            for label, entry in details["labels"].items():
                threshold = "-" if entry["threshold"] is None else f"{entry['threshold']:.4f}"
                rows.append((record["cell"], label, threshold, *_row(entry)))
                for name, parts in entry["groups"].items():
                    groups += [(record["cell"], label, f"{name} {level}", *_row(part)) for level, part in parts.items()]
        if rows:
            headers = ("records", "sensitivity", "specificity", "missed", "found", "new alarms", "cleared", "p")
            tables = [Table("By label", ("cell", "label", "threshold", *headers), tuple(rows))]
            if groups:
                tables.append(Table("By group", ("cell", "label", "group", *headers), tuple(groups)))
            sections.append(
                Section(
                    f"Decisions at {metric.where}",
                    ("Against the reference: positives missed and found, negatives newly alarmed and cleared.",),
                    tables=tuple(tables),
                    notes=(
                        "p: exact McNemar test of the two directions of flips; it takes records as independent",
                        f"the run file lists the flipped records: details.{metric.name}",
                    ),
                    name=metric.name,
                )
            )
    return sections


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    rates = ["-" if entry[name] is None else f"{entry[name]:.4f}" for name in ("sensitivity", "specificity")]
    flips = [str(entry[name]) for name in ("missed", "found", "alarms", "cleared")]
    return str(entry["count"]), *rates, *flips, f"{entry['p']:.3g}"


def _has_decisions(task: Task) -> bool:
    return task.kind in ("multilabel", "binary")


def _rate(column: int, positive: bool) -> WeightedMetric:
    """The share of the positives that are decided for, or of the negatives that are not."""

    def rate(answers: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        chosen = (targets[:, column] > 0.5) == positive
        decided = answers[chosen, column]
        return _over((decided if positive else 1 - decided) @ weights[chosen], weights[chosen].sum(axis=0))

    return rate


def _share(*columns: int) -> WeightedMetric:
    """The share of the records with a 1 in any of the columns."""

    def share(answers: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return _over(answers[:, columns].sum(axis=1) @ weights, weights.sum(axis=0))

    return share


def _mean_of(functions: Sequence[WeightedMetric]) -> WeightedMetric:
    """The mean of several figures; NaN where one is, because a mean over the others would be another figure."""

    def mean(answers: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        means: NDArray[np.float64] = np.mean([function(answers, targets, weights) for function in functions], axis=0)
        return means

    return mean


def _over(sums: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    shares: NDArray[np.float64] = np.divide(sums, totals, out=np.full(len(totals), np.nan), where=totals > 0)
    return shares


def _worst(right: Mask, chosen: Mask, groups: Mapping[str, NDArray[Any]]) -> float:
    """The lowest share of ``right`` among ``chosen``, of any column in any group with `LEAST` of them, or NaN."""
    rates = [
        float(right[rows & column, index].mean())
        for values in groups.values()
        for rows in levels(values).values()
        for index, column in enumerate(chosen.T)
        if (rows & column).sum() >= LEAST
    ]
    return min(rates, default=math.nan)


def _counts(now: Mask, before: Mask, positive: Mask) -> dict[str, Any]:
    """The figures of one label on some records, with the numbers of flips by direction and truth."""
    negative = ~positive
    found, missed = now & ~before & positive, before & ~now & positive
    alarms, cleared = now & ~before & negative, before & ~now & negative
    flips = {"missed": missed, "found": found, "alarms": alarms, "cleared": cleared}
    numbers = {name: int(rows.sum()) for name, rows in flips.items()}
    return {
        "count": len(now),
        "positives": int(positive.sum()),
        "sensitivity": float(now[positive].mean()) if positive.any() else None,
        "specificity": float((~now)[negative].mean()) if negative.any() else None,
        **numbers,
        "p": mcnemar(numbers["missed"] + numbers["cleared"], numbers["found"] + numbers["alarms"]),
    }


def _flipped(now: Mask, before: Mask, positive: Mask, records: NDArray[Any]) -> dict[str, list[Any]]:
    rows = {
        "missed": before & ~now & positive,
        "found": now & ~before & positive,
        "alarms": now & ~before & ~positive,
        "cleared": before & ~now & ~positive,
    }
    return {name: records[chosen].tolist() for name, chosen in rows.items()}


DECISIONS = Decisions("decisions", "", at_sensitivity(0.9), "a sensitivity of 0.9 on validation data")
YOUDEN = Decisions("decisions_youden", "youden_", youden, "the largest sensitivity + specificity on validation data")
