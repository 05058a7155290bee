"""AUROC, and the difference of two models' quality with a paired bootstrap over patients. NumPy alone."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from harness.errors import CellError

#: Bootstrap samples evaluated at a time: their weights stay within a core's cache for a few thousand examples.
CHUNK = 32


class WeightedMetric(Protocol):
    """A quality figure under many weightings of the examples at once; NaN where it is undefined."""

    def __call__(
        self, scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64], /
    ) -> NDArray[np.float64]:
        """``scores`` and ``targets`` (n, labels), ``weights`` (n, samples) -> (samples,)."""
        ...


@dataclasses.dataclass(frozen=True)
class Interval:
    """A difference, candidate minus reference, with its percentile bootstrap interval.

    ``redrawn`` counts the samples that were drawn again because a label had only one class in them.
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
    """The area under the ROC curve of each label, (labels,), or (labels, samples) for ``weights`` (n, samples).

    It is the probability that a positive example scores above a negative one, ties counting one half (Hanley and
    McNeil 1982, doi 10.1148/radiology.143.1.7063747). NaN for a label without positives or without negatives, and for
    scores that are not finite. ``scores`` and ``targets`` are (n, labels), targets 0 or 1.
    """
    every = np.ones((len(scores), 1)) if weights is None else weights
    rows = [_auroc(score, target > 0.5, every) for score, target in zip(scores.T, np.asarray(targets).T, strict=True)]
    areas: NDArray[np.float64] = np.stack(rows)
    return areas[:, 0] if weights is None else areas


def _auroc(scores: NDArray[Any], positive: NDArray[np.bool_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each positive, the weight of the negatives below it, plus half of those that tie."""
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
    """The mean of the labels' areas; NaN when any is undefined, since a mean over the others is another figure."""
    if weights is None:
        return float(auroc(scores, targets).mean())
    means: NDArray[np.float64] = auroc(scores, targets, weights).mean(axis=0)
    return means


def paired_bootstrap(
    metric: WeightedMetric,
    reference_scores: NDArray[Any],
    candidate_scores: NDArray[Any],
    targets: NDArray[Any],
    patients: NDArray[Any],
    repetitions: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The candidate's quality minus the reference's, with a percentile interval.

    Patients are drawn with replacement, each with all of their examples, the same for both models (cluster bootstrap;
    Davison and Hinkley 1997, section 3.8). Scores and targets are (n, labels), ``patients`` (n,). A sample in which the
    metric is undefined is drawn again. Raises CellError when it is undefined on the examples themselves, or in most
    samples.
    """
    identities, member = np.unique(patients, return_inverse=True)
    whole = np.ones((len(targets), 1))
    estimate = float((metric(candidate_scores, targets, whole) - metric(reference_scores, targets, whole))[0])
    if not np.isfinite(estimate):
        raise CellError(
            "the quality of reference or candidate is undefined: a label has only one class in the test part, or a "
            "score is not finite; use more test records, or look at the model's training"
        )
    random = np.random.default_rng(seed)
    found: list[NDArray[np.float64]] = []
    have = drawn = 0
    while have < repetitions:
        if drawn >= 10 * repetitions:
            raise CellError(
                f"a label is so rare that {drawn - have} of {drawn} bootstrap samples have only one class of it; use "
                "more test records"
            )
        size = min(CHUNK, repetitions - have)
        weights = _draw(random, len(identities), size)[member]
        differences = metric(candidate_scores, targets, weights) - metric(reference_scores, targets, weights)
        found.append(differences[np.isfinite(differences)])
        have += len(found[-1])
        drawn += size
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level, repetitions, len(identities), drawn - have)


def _draw(random: np.random.Generator, patients: int, samples: int) -> NDArray[np.float64]:
    """How often each patient is in each bootstrap sample, (patients, samples)."""
    chosen = random.integers(patients, size=(patients, samples))
    cells = chosen * samples + np.arange(samples)
    return np.bincount(cells.ravel(), minlength=patients * samples).reshape(patients, samples).astype(np.float64)
