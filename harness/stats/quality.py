"""Compute quality metrics under many weightings of the examples at once, and bootstrap intervals over patients.

All metrics take scores (n, labels), targets and weights (n, samples), and return one value per sample. They are NaN
where they are undefined, so that the bootstrap draws such a sample again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from harness.errors import CellError

#: A metric of scores (n, labels) and targets under weights (n, samples): one value per sample, (samples,).
WeightedFunction: TypeAlias = Callable[[NDArray[Any], NDArray[Any], NDArray[np.float64]], NDArray[np.float64]]
#: Bootstrap samples evaluated at once: for a few thousand examples their weights fit into a core's cache.
CHUNK = 32
#: Number of bins of the calibration error, of equal width.
BINS = 10


@dataclasses.dataclass(frozen=True)
class BootstrapInterval:
    """A metric, or its difference candidate minus reference, with a percentile bootstrap interval.

    ``redrawn`` counts the bootstrap samples that were replaced because the metric was undefined in them.
    """

    estimate: float
    low: float
    high: float
    level: float
    repetitions: int
    patients: int
    redrawn: int


def auroc(
    scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Compute the area under the ROC curve of each label, (labels,), or (labels, samples) for ``weights`` (n, samples).

    It is the probability that a positive example scores above a negative one; ties count one half (Hanley and
    McNeil 1982, doi:10.1148/radiology.143.1.7063747). NaN for a label without positives or without negatives, and for
    scores that are not finite. ``scores`` and ``targets`` are (n, labels), targets 0 or 1.
    """
    columns = np.ones((len(scores), 1)) if weights is None else weights
    rows = [_auroc(score, target > 0.5, columns) for score, target in zip(scores.T, np.asarray(targets).T, strict=True)]
    areas: NDArray[np.float64] = np.stack(rows)
    return areas[:, 0] if weights is None else areas


def _auroc(scores: NDArray[Any], positive: NDArray[np.bool_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum for each positive the weight of the negatives below it, plus half the weight of ties."""
    if not np.isfinite(scores).all():
        return np.full(weights.shape[1], np.nan)
    order = np.argsort(scores[~positive], kind="stable")
    negatives = scores[~positive][order]
    below = np.zeros((len(negatives) + 1, weights.shape[1]))
    np.cumsum(weights[~positive][order], axis=0, out=below[1:])
    strictly = below[np.searchsorted(negatives, scores[positive], side="left")]
    or_equal = below[np.searchsorted(negatives, scores[positive], side="right")]
    gained = weights[positive]
    won = np.einsum("ns,ns->s", gained, strictly) + np.einsum("ns,ns->s", gained, or_equal)
    pairs = gained.sum(axis=0) * below[-1]
    areas = np.full(weights.shape[1], np.nan)
    np.divide(won, 2 * pairs, out=areas, where=pairs > 0)
    return areas


@overload
def macro_auroc(scores: NDArray[Any], targets: NDArray[Any]) -> float: ...
@overload
def macro_auroc(scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]: ...
def macro_auroc(
    scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64] | None = None
) -> float | NDArray[np.float64]:
    """Average the AUROC over labels. NaN if one is undefined: a mean over the others would be another metric."""
    if weights is None:
        return float(auroc(scores, targets).mean())
    means: NDArray[np.float64] = auroc(scores, targets, weights).mean(axis=0)
    return means


def macro_auprc(scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over labels the average precision: precision at each threshold weighted by gained recall; (samples,).

    Defined as scikit-learn's average_precision_score: no interpolation, and equal scores are one threshold. NaN where a
    label has no positive or no negative, as for AUROC, so that all metrics use the same samples.
    """
    return _macro(_average_precision, scores, targets, weights)


def macro_brier(scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over labels the Brier score, the mean squared difference of probability and outcome; (samples,)."""
    return _macro(_brier, scores, targets, weights)


def macro_calibration_error(
    scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average over labels the expected calibration error, |mean probability - share of positives|; (samples,).

    It uses ten bins of equal width, weighted by their examples (Naeini, Cooper and Hauskrecht, AAAI 2015; Guo et al.,
    ICML 2017, arXiv:1706.04599, for a binary outcome). Unlike the Brier score, it depends on the bins and grows with
    noise in small ones.
    """
    return _macro(_calibration_error, scores, targets, weights)


def _macro(
    metric: Callable[[NDArray[Any], NDArray[np.bool_], NDArray[np.float64]], NDArray[np.float64]],
    scores: NDArray[Any],
    targets: NDArray[Any],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Average a metric of one label over the labels; NaN in samples where a label has only one class."""
    rows = []
    for score, target in zip(scores.T, np.asarray(targets).T, strict=True):
        positive = target > 0.5
        both = (weights[positive].sum(axis=0) > 0) & (weights[~positive].sum(axis=0) > 0) & np.isfinite(score).all()
        rows.append(np.where(both, metric(score, positive, weights), np.nan))
    means: NDArray[np.float64] = np.stack(rows).mean(axis=0)
    return means


def _average_precision(
    score: NDArray[Any], positive: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    thresholds = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    selected = np.cumsum(weights[order], axis=0)[thresholds]
    true = np.cumsum(weights[order] * positive[order, None], axis=0)[thresholds]
    gained = np.diff(true, axis=0, prepend=0)
    precision = np.divide(true, selected, out=np.zeros_like(true), where=selected > 0)
    return _over((gained * precision).sum(axis=0), true[-1])


def _brier(score: NDArray[Any], positive: NDArray[np.bool_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return _over(np.square(score.astype(np.float64) - positive) @ weights, weights.sum(axis=0))


def _calibration_error(
    score: NDArray[Any], positive: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    bins = np.clip(np.nan_to_num(score) * BINS, 0, BINS - 1).astype(int)
    member = np.zeros((BINS, len(score)))
    member[bins, np.arange(len(score))] = 1
    gaps = np.abs((member * (score.astype(np.float64) - positive)) @ weights)
    return _over(gaps.sum(axis=0), weights.sum(axis=0))


# ------------------------------------------------------------------------------- multi-class: targets (n,) are indices


def accuracy(scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the top-1 accuracy: the share of examples whose highest score is that of their class. Ties go to the
    class with the lower index."""
    return _over(_correct(scores, targets) @ weights, weights.sum(axis=0))


def class_accuracies(scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the accuracy on the examples of each class, its recall: (classes, samples)."""
    correct, classes = _correct(scores, targets), range(scores.shape[1])
    member = [np.asarray(targets) == index for index in classes]
    rows = [_over(correct[rows] @ weights[rows], weights[rows].sum(axis=0)) for rows in member]
    recalls: NDArray[np.float64] = np.stack(rows)
    return recalls


def balanced_accuracy(scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the accuracy over the classes (Brodersen et al., ICPR 2010, doi:10.1109/ICPR.2010.764)."""
    means: NDArray[np.float64] = class_accuracies(scores, targets, weights).mean(axis=0)
    return means


def log_loss(scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average -log of the probability of the true class. Rows are scaled to sum to 1, as rounding may prevent that;
    probabilities are at least the float32 epsilon, as in scikit-learn."""
    finite = np.isfinite(scores).all()
    floor = float(np.finfo(np.float32).eps)
    clipped = np.clip(np.nan_to_num(scores).astype(np.float64), floor, 1 - floor)
    chosen = clipped[np.arange(len(targets)), targets] / clipped.sum(axis=1)
    return _over(-np.log(chosen) @ weights, weights.sum(axis=0)) if finite else np.full(weights.shape[1], np.nan)


def multiclass_brier(scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the squared differences of probabilities and outcome, summed over the classes (Brier 1950): 0 to 2."""
    outcome = np.eye(scores.shape[1])[np.asarray(targets)]
    return _over(np.square(scores.astype(np.float64) - outcome).sum(axis=1) @ weights, weights.sum(axis=0))


def top_label_calibration_error(
    scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the expected calibration error of the highest score, in ten bins (Guo et al., ICML 2017)."""
    confidence = np.nan_to_num(scores).max(axis=1)
    return _calibration_error(confidence, _correct(scores, targets) > 0, weights)


def _correct(scores: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    """1 for each example whose highest score is that of its class, else 0; NaN if any score is not finite."""
    if not np.isfinite(scores).all():
        return np.full(len(scores), np.nan)
    hits: NDArray[np.float64] = (scores.argmax(axis=1) == np.asarray(targets)).astype(np.float64)
    return hits


# --------------------------------------------------------------------------------------------------------- regression


def macro_absolute_error(
    scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average the mean absolute error over the labels."""
    errors = np.abs(scores.astype(np.float64) - targets).mean(axis=1)
    return _over(errors @ weights, weights.sum(axis=0))


def macro_root_squared_error(
    scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average the root of the mean squared error over the labels."""
    squares = np.square(scores.astype(np.float64) - targets)
    rows = [np.sqrt(_over(column @ weights, weights.sum(axis=0))) for column in squares.T]
    means: NDArray[np.float64] = np.stack(rows).mean(axis=0)
    return means


def macro_r2(scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the coefficient of determination over the labels: 1 - squared error / variance of the targets."""
    means: NDArray[np.float64] = r2(scores, targets, weights).mean(axis=0)
    return means


def r2(scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the coefficient of determination of each label, (labels, samples); NaN where its targets are equal."""
    rows, totals = [], weights.sum(axis=0)
    for score, target in zip(scores.astype(np.float64).T, np.asarray(targets, np.float64).T, strict=True):
        centred = target - target.mean()  # so that the difference of squares below loses no digits
        mean = _over(centred @ weights, totals)
        spread = np.square(centred) @ weights - totals * np.square(mean)
        varies = spread > 1e-12 * max(float(np.square(centred).sum()), np.finfo(np.float64).tiny)
        error = np.square(score - target) @ weights
        rows.append(1 - np.divide(error, spread, out=np.full(len(totals), np.nan), where=varies))
    shares: NDArray[np.float64] = np.stack(rows)
    return shares


# ---------------------------------------------------------------------------------------------------------- bootstrap


def _over(sums: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.divide(sums, totals, out=np.full(len(totals), np.nan), where=totals > 0)
    return shares


def bootstrap(
    metric: WeightedFunction,
    scores: NDArray[Any],
    targets: NDArray[Any],
    patients: NDArray[Any],
    repetitions: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> BootstrapInterval:
    """Compute a model's quality with a percentile interval: `paired_bootstrap` of one model."""
    return _resampled(lambda weights: metric(scores, targets, weights), targets, patients, repetitions, seed, level)


def paired_bootstrap(
    metric: WeightedFunction,
    reference_scores: NDArray[Any],
    candidate_scores: NDArray[Any],
    targets: NDArray[Any],
    patients: NDArray[Any],
    repetitions: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> BootstrapInterval:
    """Compute the candidate's quality minus the reference's, with a percentile interval.

    A cluster bootstrap (Davison and Hinkley 1997, section 3.8): patients are drawn with replacement, each with all of
    their examples, the same for both models. Scores are (n, labels), ``patients`` (n,), and targets as the metric
    wants them. A sample in which the metric is undefined is drawn again. Raises CellError if the metric is undefined on
    the examples, or in nine of ten samples.
    """

    def difference(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return metric(candidate_scores, targets, weights) - metric(reference_scores, targets, weights)

    return _resampled(difference, targets, patients, repetitions, seed, level)


def _resampled(
    metric: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    targets: NDArray[Any],
    patients: NDArray[Any],
    repetitions: int,
    seed: int,
    level: float,
) -> BootstrapInterval:
    """Bootstrap ``metric``, a function of the examples' weights (n, samples), over patients."""
    identities, member = np.unique(patients, return_inverse=True)
    estimate = float(metric(np.ones((len(targets), 1)))[0])
    if not np.isfinite(estimate):
        raise CellError(
            "the quality of reference or candidate is undefined: a label has only one class or value in the test "
            "split, or a score is not finite; use more test records, or check the model's training"
        )
    random = np.random.default_rng(seed)
    batches: list[NDArray[np.float64]] = []
    defined = drawn = 0
    while defined < repetitions:
        if drawn >= 10 * repetitions:
            raise CellError(
                f"a label is too rare for a bootstrap: {drawn - defined} of {drawn} samples have only one class or "
                "lack one; use more test records"
            )
        size = min(CHUNK, repetitions - defined)
        weights = _draw(random, len(identities), size)[member]
        values = metric(weights)
        batches.append(values[np.isfinite(values)])
        defined += len(batches[-1])
        drawn += size
    low, high = np.quantile(np.concatenate(batches), [(1 - level) / 2, (1 + level) / 2])
    return BootstrapInterval(estimate, float(low), float(high), level, repetitions, len(identities), drawn - defined)


def _draw(random: np.random.Generator, patients: int, samples: int) -> NDArray[np.float64]:
    """Draw bootstrap samples: how often each patient is in each sample, (patients, samples)."""
    drawn = random.integers(patients, size=(patients, samples))
    entries = drawn * samples + np.arange(samples)
    return np.bincount(entries.ravel(), minlength=patients * samples).reshape(patients, samples).astype(np.float64)
