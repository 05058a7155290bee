"""Means and differences with their intervals: Student's t over seeds, Welch's for two groups of runs."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

LEVEL = 0.95
#: For "the same within a margin": two one-sided tests at 5 % (Schuirmann 1987, doi:10.1007/BF01068419).
SAME_LEVEL = 0.90


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure with its interval at ``level``; without bounds where there is none, which ``method`` then explains.

    ``count`` is of how many seeds it is the mean, ``spread`` the standard deviation over them. ``over`` says what the
    interval is over: "seeds", or of one seed "processes" or "patients"; "" where there is none.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int = 1
    over: str = ""
    spread: float | None = None
    method: str = ""
    level: float = LEVEL


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean with its standard error and the degrees of freedom of that; no error (None) where none is known."""

    value: float
    error: float | None = None
    freedom: float = math.inf

    def bounds(self, level: float = LEVEL) -> tuple[float | None, float | None]:
        """Student's interval."""
        if self.error is None:
            return None, None
        half = quantile(level, self.freedom) * self.error
        return self.value - half, self.value + half


def quantile(level: float, freedom: float) -> float:
    """Half the width of a central interval of Student's t, in standard errors."""
    from scipy import special  # scipy.stats takes seconds to import, for the same numbers

    share = (1 + level) / 2
    return float(special.stdtrit(freedom, share) if math.isfinite(freedom) else special.ndtri(share))


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of independent values; of one value it has no error."""
    if len(values) < 2:
        return Mean(values[0])
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Mean(statistics.fmean(values), error, len(values) - 1)


def of_interval(value: float, low: float | None, high: float | None, freedom: float = math.inf) -> Mean:
    """The mean whose interval at 95 % this is, taken as symmetric."""
    if low is None or high is None:
        return Mean(value)
    return Mean(value, (high - low) / 2 / quantile(LEVEL, freedom), freedom)


def less(one: Mean, other: Mean) -> Mean:
    """The difference of two independent means: Welch's standard error and degrees of freedom."""
    return _summed(one.value - other.value, [one, other])


def average(means: Sequence[Mean]) -> Mean:
    """The mean of independent means, each of the same weight."""
    summed = _summed(sum(mean.value for mean in means), means)
    error = None if summed.error is None else summed.error / len(means)
    return Mean(summed.value / len(means), error, summed.freedom)


def _summed(value: float, terms: Sequence[Mean]) -> Mean:
    errors = [term.error for term in terms if term.error is not None]
    if len(errors) < len(terms):
        return Mean(value)
    square = sum(error**2 for error in errors)
    shares = sum(error**4 / term.freedom for error, term in zip(errors, terms, strict=True))
    return Mean(value, math.sqrt(square), square**2 / shares if shares > 0 else math.inf)


def from_published(value: float, spread: float, runs: int) -> Mean:
    """The mean that a study published with the standard deviation of its runs."""
    return Mean(value, spread / math.sqrt(runs), runs - 1)


def one_more_run(value: float, spread: float, runs: int) -> Mean:
    """A single run as if it scattered as the study's runs did: with their deviation, of which they are the only sign.

    Less `from_published`'s mean it is Student's prediction interval of one more run of the study.
    """
    return Mean(value, spread, runs - 1)
