"""Decisions at an operating point: thresholds from validation data alone, flips, their exact test, lists and groups."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import recall_score, roc_curve

from harness import Task
from harness.stats.quality import bootstrap, paired_bootstrap
from harness_metrics.decisions import (
    DECISIONS,
    YOUDEN,
    at_sensitivity,
    decision_sections,
    levels,
    mcnemar,
    youden,
)

TASK = Task(input_shape=(1,), labels=("AF", "MI"))


@dataclasses.dataclass
class Evidence:
    """What the metric reads of one model."""

    scores: Any
    targets: Any
    validation_scores: Any
    validation: Any
    records: Any
    patients: Any
    groups: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    task: Task = TASK
    before: Evidence | None = None

    @property
    def reference(self) -> Any:
        return self if self.before is None else self.before


def model(seed: int, before: Evidence | None = None, n: int = 60, m: int = 80) -> Evidence:
    """A model whose scores are somewhat higher for positives; the data are the same for every model."""
    data, random = np.random.default_rng(0), np.random.default_rng(seed)
    targets, validation = (data.random((count, 2)) < 0.4 for count in (n, m))
    scores, validation_scores = (np.clip(0.3 * t + 0.7 * random.random(t.shape), 0, 1) for t in (targets, validation))
    return Evidence(
        scores.astype(np.float32),
        targets.astype(np.float32),
        validation_scores.astype(np.float32),
        SimpleNamespace(targets=validation.astype(np.float32)),
        np.array([f"r{row}" for row in range(n)]),
        np.arange(n) // 2,
        {"sex": np.array(["f", "m", "m"] * (n // 3)), "age": np.arange(n, dtype=np.float64)},
        before=before,
    )


REFERENCE = model(1)
CANDIDATE = model(2, REFERENCE)


def decided(evidence: Evidence, column: int, threshold: float) -> Any:
    return evidence.scores[:, column].astype(float) >= threshold


# -------------------------------------------------------------------------------------------------- operating points


@pytest.mark.parametrize("least", [0.5, 0.9, 1.0])
def test_the_threshold_is_the_highest_that_finds_enough_positives(least: float) -> None:
    """By trying every score as a threshold."""
    scores, positive = CANDIDATE.validation_scores[:, 0], CANDIDATE.validation.targets[:, 0] > 0.5
    enough = [float(score) for score in scores if (scores[positive] >= score).mean() >= least]
    assert at_sensitivity(least)(scores, positive) == max(enough)


def test_youden_s_threshold_is_that_of_scikit_learn_s_curve() -> None:
    for column in (0, 1):
        scores, positive = REFERENCE.validation_scores[:, column], REFERENCE.validation.targets[:, column] > 0.5
        false, true, thresholds = roc_curve(positive, scores, drop_intermediate=False)
        assert youden(scores, positive) == thresholds[np.argmax(np.round(true - false, 12))]


def test_ties_at_the_threshold_decide_for_the_label() -> None:
    scores, positive = np.array([0.5, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
    assert at_sensitivity(0.9)(scores, positive) == youden(scores, positive) == 0.5


def test_test_data_does_not_move_the_threshold() -> None:
    other = dataclasses.replace(CANDIDATE, targets=1 - CANDIDATE.targets, scores=CANDIDATE.scores[::-1])
    one, two = DECISIONS.compute(CANDIDATE), DECISIONS.compute(other)  # type: ignore[arg-type]
    assert one["threshold_AF"] == two["threshold_AF"]
    assert one["sensitivity_AF"] != two["sensitivity_AF"]


# ------------------------------------------------------------------------------------------------------------ figures


@pytest.mark.parametrize(("metric", "prefix"), [(DECISIONS, ""), (YOUDEN, "youden_")])
def test_figures_are_those_of_scikit_learn_at_the_threshold(metric: Any, prefix: str) -> None:
    figures = metric.compute(CANDIDATE)
    assert list(figures) == [spec.name for spec in metric.specs(TASK)]
    differing = []
    for column, label in enumerate(TASK.labels):
        threshold = figures[f"{prefix}threshold_{label}"]
        truth, now = CANDIDATE.targets[:, column], decided(CANDIDATE, column, threshold)
        before = decided(REFERENCE, column, metric.compute(REFERENCE)[f"{prefix}threshold_{label}"])
        assert figures[f"{prefix}sensitivity_{label}"] == pytest.approx(recall_score(truth, now))
        assert figures[f"{prefix}specificity_{label}"] == pytest.approx(recall_score(truth, now, pos_label=0))
        assert figures[f"{prefix}to_negative_{label}"] == pytest.approx(np.mean(before & ~now))
        assert figures[f"{prefix}to_positive_{label}"] == pytest.approx(np.mean(now & ~before))
        exact = binomtest(int((before & ~now).sum()), int((before != now).sum()), 0.5).pvalue
        assert figures[f"{prefix}flips_p_{label}"] == pytest.approx(exact)
        differing.append(before != now)
    assert figures[f"{prefix}flips"] == pytest.approx(np.mean(differing))
    assert figures[f"{prefix}flips"] > 0
    mean = np.mean([figures[f"{prefix}sensitivity_{label}"] for label in TASK.labels])
    assert figures[f"{prefix}sensitivity"] == pytest.approx(mean)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (0, 1), (3, 12), (12, 3), (7, 7), (40, 61)])
def test_the_exact_test_is_scipy_s(one: int, other: int) -> None:
    exact = binomtest(one, one + other, 0.5).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(exact, rel=1e-9)


def test_a_reference_flips_nothing_against_itself() -> None:
    figures = DECISIONS.compute(REFERENCE)  # type: ignore[arg-type]
    assert figures["flips"] == figures["to_negative_AF"] == figures["to_positive_MI"] == 0
    assert figures["flips_p_AF"] == 1


def test_intervals_resample_patients_with_all_of_their_records() -> None:
    """One patient has all flips: an interval over records is narrow, the one over patients reaches from 0 far up."""
    weighted = DECISIONS.weighted(TASK)["to_positive_AF"]
    answers = np.zeros((60, 6))
    answers[:12, 4] = 1
    patients = np.r_[np.zeros(12), np.arange(1, 49)]
    by_patient = bootstrap(weighted, answers, CANDIDATE.targets, patients)
    by_record = bootstrap(weighted, answers, CANDIDATE.targets, np.arange(60))
    assert by_patient.estimate == by_record.estimate == pytest.approx(0.2)
    assert by_patient.low == 0 < 0.08 < by_record.low
    assert by_patient.high > 0.35 > by_record.high


def test_the_difference_of_a_sensitivity_is_paired_by_patient() -> None:
    answers = [DECISIONS.answers(evidence) for evidence in (REFERENCE, CANDIDATE)]  # type: ignore[arg-type]
    figures = [DECISIONS.compute(evidence) for evidence in (REFERENCE, CANDIDATE)]  # type: ignore[arg-type]
    weighted = DECISIONS.weighted(TASK)["sensitivity_AF"]
    interval = paired_bootstrap(weighted, *answers, CANDIDATE.targets, CANDIDATE.patients, repetitions=200)
    before, now = (float(values["sensitivity_AF"]) for values in figures)  # type: ignore[arg-type]
    assert interval.estimate == pytest.approx(now - before)
    assert interval.low <= interval.estimate <= interval.high


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_label_of_one_class_has_no_figures_and_no_mean(split: str) -> None:
    targets = (CANDIDATE if split == "test" else CANDIDATE.validation).targets.copy()
    targets[:, 0] = 0
    changes: Any = {"targets": targets} if split == "test" else {"validation": SimpleNamespace(targets=targets)}
    figures = DECISIONS.compute(dataclasses.replace(CANDIDATE, **changes))  # type: ignore[arg-type]
    assert figures["sensitivity_AF"] is None
    assert figures["sensitivity"] is None
    assert figures["sensitivity_MI"] is not None
    assert all(value is None or math.isfinite(value) for value in figures.values())  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------- lists and groups


def test_the_flipped_records_are_listed_by_truth_and_direction() -> None:
    details: Any = DECISIONS.details(CANDIDATE)  # type: ignore[arg-type]
    entry = details["labels"]["MI"]
    now, before = decided(CANDIDATE, 1, entry["threshold"]), decided(REFERENCE, 1, entry["reference_threshold"])
    positive = CANDIDATE.targets[:, 1] > 0.5
    expected = {
        "missed": before & ~now & positive,
        "found": now & ~before & positive,
        "alarms": now & ~before & ~positive,
        "cleared": before & ~now & ~positive,
    }
    assert entry["records"] == {name: CANDIDATE.records[rows].tolist() for name, rows in expected.items()}
    assert {name: entry[name] for name in expected} == {name: int(rows.sum()) for name, rows in expected.items()}
    assert sum(entry[name] for name in expected) > 0


def test_records_without_ids_are_listed_by_their_row() -> None:
    details: Any = DECISIONS.details(dataclasses.replace(CANDIDATE, records=None))  # type: ignore[arg-type]
    ids: Any = DECISIONS.details(CANDIDATE)  # type: ignore[arg-type]
    for label in TASK.labels:
        rows, names = (each["labels"][label]["records"] for each in (details, ids))
        assert {name: [f"r{row}" for row in rows[name]] for name in rows} == names


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_other_kinds_of_tasks_have_no_decisions(kind: Any) -> None:
    assert DECISIONS.specs(dataclasses.replace(TASK, kind=kind)) == ()


def test_groups_add_up_to_the_whole() -> None:
    details: Any = DECISIONS.details(CANDIDATE)  # type: ignore[arg-type]
    for entry in details["labels"].values():
        assert list(entry["groups"]) == ["sex", "age"]
        for parts in entry["groups"].values():
            for name in ("count", "positives", "missed", "found", "alarms", "cleared"):
                assert sum(part[name] for part in parts.values()) == entry[name]
    men = CANDIDATE.groups["sex"] == "m"
    entry = details["labels"]["AF"]
    now = decided(CANDIDATE, 0, entry["threshold"])[men]
    assert entry["groups"]["sex"]["m"]["sensitivity"] == pytest.approx(recall_score(CANDIDATE.targets[men, 0], now))


def test_the_worst_group_is_the_lowest_rate_of_the_groups_that_are_large_enough() -> None:
    details: Any = DECISIONS.details(CANDIDATE)  # type: ignore[arg-type]
    figures = DECISIONS.compute(CANDIDATE)  # type: ignore[arg-type]
    parts = [
        part for entry in details["labels"].values() for group in entry["groups"].values() for part in group.values()
    ]
    large = [part["sensitivity"] for part in parts if part["positives"] >= 10]
    assert 0 < len(large) < len(parts)
    assert figures["worst_group_sensitivity"] == pytest.approx(min(large))
    negatives = [part["specificity"] for part in parts if part["count"] - part["positives"] >= 10]
    assert figures["worst_group_specificity"] == pytest.approx(min(negatives))
    without = DECISIONS.compute(dataclasses.replace(CANDIDATE, groups={}))  # type: ignore[arg-type]
    assert without["worst_group_sensitivity"] is None


def test_many_numbers_are_divided_at_the_quartiles_and_missing_ones_are_a_group() -> None:
    ages = np.r_[np.arange(40.0), np.nan]
    parts = levels(ages)
    assert {name: int(rows.sum()) for name, rows in parts.items()} == {
        "up to 9.75": 10,
        "above 9.75": 10,
        "above 19.5": 10,
        "above 29.25": 10,
        "unknown": 1,
    }
    assert {name: int(rows.sum()) for name, rows in levels(np.array([1, 0, 1])).items()} == {"0": 1, "1": 2}
    texts = levels(np.array(["f", None, "m", np.nan, "f"], dtype=object))
    assert {name: int(rows.sum()) for name, rows in texts.items()} == {"f": 2, "m": 1, "unknown": 2}


def test_the_report_has_a_table_by_label_and_one_by_group() -> None:
    record = {"cell": "cnn-int8", "details": {"decisions": DECISIONS.details(CANDIDATE)}}  # type: ignore[arg-type]
    (section,) = decision_sections([record, {"cell": "old"}])
    by_label, by_group = section.tables
    assert [row[:2] for row in by_label.rows] == [("cnn-int8", "AF"), ("cnn-int8", "MI")]
    assert len(by_group.rows) == 2 * (2 + 4)
    assert decision_sections([{"cell": "old"}]) == []
