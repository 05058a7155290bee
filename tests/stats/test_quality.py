"""Check the metrics against scikit-learn or a hand-worked example, and the bootstrap against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from harness.api import WeightedMetric
from harness.errors import CellError
from harness.stats import quality
from harness.stats.quality import (
    auroc,
    bootstrap,
    macro_auprc,
    macro_auroc,
    macro_brier,
    macro_calibration_error,
    paired_bootstrap,
)


def made(n: int, seed: int, labels: int = 2, signal: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    targets = (random.random((n, labels)) < 0.4).astype(np.float64)
    return random.standard_normal((n, labels)) + signal * targets, targets


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30).filter(
        lambda rows: len({positive for _, positive, weight in rows if weight}) == 2
    )
)
def test_ties_and_weights_agree_with_scikit_learn(rows: list[tuple[int, bool, int]]) -> None:
    scores, targets, weights = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    ours = auroc(scores[:, None], targets[:, None], weights[:, None])[0, 0]
    assert ours == pytest.approx(roc_auc_score(targets, scores, sample_weight=weights), abs=1e-12)


def test_macro_is_the_mean_of_the_labels() -> None:
    scores, targets = made(200, 0, labels=3)
    expected = [roc_auc_score(targets[:, i], scores[:, i]) for i in range(3)]
    assert auroc(scores, targets) == pytest.approx(expected)
    assert macro_auroc(scores, targets) == pytest.approx(np.mean(expected))
    # float32, as networks give it, and integer targets are the same examples
    assert macro_auroc(scores.astype(np.float32), targets.astype(int)) == pytest.approx(np.mean(expected), abs=1e-6)


def test_an_undefined_label_leaves_no_macro_average() -> None:
    scores, targets = made(20, 0)
    targets[:, 1] = 1
    areas = auroc(scores, targets)
    assert np.isfinite(areas[0])
    assert np.isnan(areas[1])
    assert np.isnan(macro_auroc(scores, targets))


def test_scores_that_are_not_finite_have_no_area() -> None:
    scores, targets = made(20, 0)
    scores[3, 0] = np.nan
    assert np.isnan(auroc(scores, targets)[0])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_weighting_an_example_twice_is_having_it_twice(seed: int) -> None:
    scores, targets = made(15, seed, labels=1)
    weights = np.random.default_rng(seed).integers(0, 3, 15)
    repeated = auroc(np.repeat(scores, weights, axis=0), np.repeat(targets, weights, axis=0))
    assert auroc(scores, targets, weights[:, None].astype(float))[:, 0] == pytest.approx(repeated, nan_ok=True)


def test_identical_scores_differ_by_exactly_nothing() -> None:
    scores, targets = made(100, 1)
    found = paired_bootstrap(macro_auroc, scores, scores.copy(), targets, np.arange(100), repetitions=100)
    assert (found.estimate, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_seed_alone_decides_the_interval() -> None:
    scores, targets = made(100, 1)
    other = scores + np.random.default_rng(2).standard_normal(scores.shape) / 3
    first, again, else_ = (
        paired_bootstrap(macro_auroc, scores, other, targets, np.arange(100), repetitions=100, seed=seed)
        for seed in (3, 3, 4)
    )
    assert first == again
    assert (first.low, first.high) != (else_.low, else_.high)
    assert first.low < first.estimate < first.high
    assert first.estimate == macro_auroc(other, targets) - macro_auroc(scores, targets)


def test_patients_not_examples_are_drawn() -> None:
    """Ten copies of each patient's record are no more evidence than one; as ten patients they would seem to be."""
    scores, targets = made(60, 5)
    other = scores + np.random.default_rng(6).standard_normal(scores.shape)
    patients = np.array([f"patient {index}" for index in range(60)])
    once = paired_bootstrap(macro_auroc, scores, other, targets, patients, repetitions=200)
    copied = [np.repeat(array, 10, axis=0) for array in (scores, other, targets)]
    clustered = paired_bootstrap(macro_auroc, *copied, np.repeat(patients, 10), repetitions=200)
    pooled = paired_bootstrap(macro_auroc, *copied, np.arange(600), repetitions=200)
    assert (clustered.low, clustered.high) == pytest.approx((once.low, once.high), abs=1e-12)
    assert clustered.patients == 60
    assert pooled.high - pooled.low < 0.6 * (clustered.high - clustered.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Two noisy readings of one signal: the true difference is 0. 90 % intervals miss it in 10 % of 100 cases."""
    missed = 0
    for seed in range(100):
        random = np.random.default_rng(1000 + seed)
        targets = (random.random((80, 1)) < 0.5).astype(float)
        signal = targets + random.standard_normal((80, 1))
        readings = [signal + random.standard_normal((80, 1)) for _ in range(2)]
        found = paired_bootstrap(macro_auroc, *readings, targets, np.arange(80), repetitions=200, level=0.9)
        missed += not found.low <= 0 <= found.high
    assert 3 <= missed <= 20  # binomial(100, 0.1): each tail beyond is below 1 %


def test_samples_with_one_class_only_are_drawn_again() -> None:
    scores, targets = made(20, 0, labels=1)
    targets[:] = 0
    targets[:2] = 1
    found = paired_bootstrap(macro_auroc, scores, -scores, targets, np.arange(20), repetitions=100)
    # A patient is missing from a sample with probability 0.36, two of them with about 0.12
    assert 2 <= found.redrawn <= 40
    assert found.repetitions == 100
    assert np.isfinite([found.low, found.high]).all()


def test_an_undefined_quality_is_said_not_guessed() -> None:
    scores, targets = made(20, 0)
    targets[:, 0] = 0
    with pytest.raises(CellError, match="only one class"):
        paired_bootstrap(macro_auroc, scores, scores, targets, np.arange(20))


def test_a_label_too_rare_to_draw_is_an_error_not_an_endless_loop() -> None:
    def hardly_ever(
        scores: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return np.where((weights == 1).all(axis=0), 0.5, np.nan)

    scores, targets = made(30, 0)
    with pytest.raises(CellError, match="too rare for a bootstrap"):
        paired_bootstrap(hardly_ever, scores, scores, targets, np.arange(30), repetitions=20)


# ------------------------------------------------------------------------------------- precision and calibration


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30).filter(
        lambda rows: len({positive for _, positive, weight in rows if weight}) == 2
    )
)
def test_average_precision_and_brier_score_agree_with_scikit_learn(rows: list[tuple[int, bool, int]]) -> None:
    scores, targets, weights = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    scores /= 4
    columns = scores[:, None], targets[:, None], weights[:, None]
    assert macro_auprc(*columns)[0] == pytest.approx(
        average_precision_score(targets, scores, sample_weight=weights), abs=1e-12
    )
    assert macro_brier(*columns)[0] == pytest.approx(
        brier_score_loss(targets, scores, sample_weight=weights), abs=1e-12
    )


def test_the_calibration_error_of_a_hand_worked_example() -> None:
    # Bin [0.2, 0.3): 0.20, 0.24 with one positive of two: |0.22 - 0.5| = 0.28. Bin [0.9, 1]: 0.9, 1.0, both positive:
    # |0.95 - 1| = 0.05. Half of the examples each: 0.165. With the first one twice: (3 * |0.64/3 - 1/3| + 0.1) / 5.
    scores, targets = np.array([[0.20], [0.24], [0.9], [1.0]]), np.array([[0], [1], [1], [1]])
    weights = np.array([[1, 2], [1, 1], [1, 1], [1, 1]], dtype=float)
    assert macro_calibration_error(scores, targets, weights) == pytest.approx([0.165, (1 - 0.64 + 0.1) / 5])


FIGURES = (macro_auroc, macro_auprc, macro_brier, macro_calibration_error)


@pytest.mark.parametrize("figure", FIGURES)
def test_each_figure_is_the_mean_over_labels_and_needs_both_classes_of_each(figure: WeightedMetric) -> None:
    scores, targets = made(60, 3)
    scores, whole = 1 / (1 + np.exp(-scores)), np.ones((60, 1))
    parts = [figure(scores[:, [i]], targets[:, [i]], whole)[0] for i in range(2)]
    assert figure(scores, targets, whole)[0] == pytest.approx(np.mean(parts))
    targets[:, 1] = 1
    assert np.isnan(figure(scores, targets, whole)[0])
    scores[0, 0] = np.nan
    assert np.isnan(figure(scores[:, [0]], targets[:, [0]], whole)[0])


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_has_an_interval_over_patients(figure: WeightedMetric) -> None:
    scores, targets = made(300, 5)
    scores = 1 / (1 + np.exp(-scores))
    alone = bootstrap(figure, scores, targets, np.arange(300) // 2)
    assert alone.low < alone.estimate < alone.high or figure is macro_calibration_error  # whose resamples are noisier
    assert alone.patients == 150
    paired = paired_bootstrap(figure, scores, scores, targets, np.arange(300) // 2)
    assert paired.estimate == paired.low == paired.high == 0


# ----------------------------------------------------------------------------------- multi-class and regression


def weighted_examples(seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Probabilities of three classes, classes, targets of two labels, and two columns of weights."""
    random = np.random.default_rng(seed)
    classes = random.integers(3, size=80)
    logits = random.normal(size=(80, 3)) + np.eye(3)[classes]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weights = np.stack([np.ones(80), random.integers(0, 4, 80)], axis=1).astype(np.float64)
    return probabilities.astype(np.float32), classes, random.normal(size=(80, 2)) + 100, weights


MULTICLASS: list[tuple[WeightedMetric, Any]] = [
    (quality.accuracy, lambda p, y, w: metrics.accuracy_score(y, p.argmax(1), sample_weight=w)),
    (quality.balanced_accuracy, lambda p, y, w: metrics.balanced_accuracy_score(y, p.argmax(1), sample_weight=w)),
    (quality.log_loss, lambda p, y, w: metrics.log_loss(y, p, sample_weight=w)),
    (quality.multiclass_brier, lambda p, y, w: np.average(((p - np.eye(3)[y]) ** 2).sum(1), weights=w)),
]
REGRESSION: list[tuple[WeightedMetric, Any]] = [
    (quality.macro_r2, lambda p, y, w: metrics.r2_score(y, p, sample_weight=w)),
    (quality.macro_absolute_error, lambda p, y, w: metrics.mean_absolute_error(y, p, sample_weight=w)),
    (quality.macro_root_squared_error, lambda p, y, w: metrics.root_mean_squared_error(y, p, sample_weight=w)),
]


@pytest.mark.parametrize(("ours", "oracle"), MULTICLASS)
def test_multiclass_metrics_are_scikit_learn_s_under_weights(ours: WeightedMetric, oracle: Any) -> None:
    probabilities, classes, _, weights = weighted_examples()
    expected = [oracle(probabilities, classes, column) for column in weights.T]
    assert ours(probabilities, classes, weights) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("ours", "oracle"), REGRESSION)
def test_regression_metrics_are_scikit_learn_s_under_weights(ours: WeightedMetric, oracle: Any) -> None:
    _, _, targets, weights = weighted_examples()
    outputs = targets + np.random.default_rng(1).normal(size=targets.shape) / 2
    expected = [oracle(outputs, targets, column) for column in weights.T]
    assert ours(outputs, targets, weights) == pytest.approx(expected)


def test_the_accuracy_of_each_class_is_its_recall() -> None:
    probabilities, classes, _, weights = weighted_examples()
    for column, recalls in zip(weights.T, quality.class_accuracies(probabilities, classes, weights).T, strict=True):
        expected = metrics.recall_score(classes, probabilities.argmax(1), average=None, sample_weight=column)
        assert recalls == pytest.approx(expected)


def test_the_calibration_error_of_the_chosen_class_by_hand() -> None:
    scores = np.array([[0.7, 0.3], [0.7, 0.3], [0.1, 0.9]])
    error = quality.top_label_calibration_error(scores, np.array([0, 1, 1]), np.ones((3, 1)))[0]
    assert error == pytest.approx((2 * abs(0.5 - 0.7) + abs(1 - 0.9)) / 3)


def test_a_sample_without_a_class_or_without_spread_is_undefined() -> None:
    probabilities, classes, targets, weights = weighted_examples()
    weights[classes == 2, 1] = 0
    assert np.isfinite(quality.balanced_accuracy(probabilities, classes, weights)).tolist() == [True, False]
    assert np.isfinite(quality.accuracy(probabilities, classes, weights)).all()
    alone = np.zeros((80, 1))
    alone[3] = 5
    assert np.isnan(quality.macro_r2(targets, targets, alone)).all()


@pytest.mark.parametrize("metric", [ours for ours, _ in (*MULTICLASS, *REGRESSION)])
def test_scores_that_are_not_finite_have_no_quality(metric: WeightedMetric) -> None:
    probabilities, classes, targets, weights = weighted_examples()
    multiclass = metric in [ours for ours, _ in MULTICLASS]
    scores = probabilities.copy() if multiclass else targets.copy()
    scores[0, 0] = np.nan
    assert np.isnan(metric(scores, classes if multiclass else targets, weights[:, :1])).all()


@pytest.mark.parametrize("metric", [ours for ours, _ in MULTICLASS])
def test_the_paired_bootstrap_takes_classes(metric: WeightedMetric) -> None:
    probabilities, classes, _, _ = weighted_examples()
    other = np.roll(probabilities, 1, axis=1)
    found = paired_bootstrap(metric, probabilities, other, classes, np.arange(80) // 2, repetitions=50)
    assert found.low <= found.estimate <= found.high
    assert found.patients == 40
