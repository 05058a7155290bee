"""Combine estimates: means over seeds with Student's intervals, differences with Welch's, pooled intervals."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

LEVEL = 0.95
#: For "the same within a margin": two one-sided tests at 5 % (Schuirmann 1987, doi:10.1007/BF01068419).
SAME_LEVEL = 0.90


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its interval at ``level``; the bounds are None if it has no interval.

    ``method`` states how the interval was computed, or why it is missing. ``count`` is the number of seeds, ``spread``
    the standard deviation over them. ``over`` is what the interval covers: "seeds", or for one seed "processes" or
    "patients"; "" without an interval.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int = 1
    over: str = ""
    spread: float | None = None
    method: str = ""
    level: float = LEVEL

    def __neg__(self) -> Estimate:
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        return dataclasses.replace(self, value=-self.value, low=low, high=high)

    def text(self, digits: int, sign: str = "") -> str:
        """Format the value, and its interval in brackets, if it has one: "0.9285 [0.9210, 0.9360]"."""
        value = f"{self.value:{sign},.{digits}f}"
        if self.low is None or self.high is None:
            return value
        return f"{value} [{self.low:{sign},.{digits}f}, {self.high:{sign},.{digits}f}]"


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean with its standard error and its degrees of freedom; the error is None if it is unknown."""

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
    """The mean of independent values; the mean of one value has no error."""
    if len(values) < 2:
        return Mean(values[0])
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Mean(statistics.fmean(values), error, len(values) - 1)


def from_interval(value: float, low: float | None, high: float | None, freedom: float = math.inf) -> Mean:
    """The mean with this 95 % interval, which is assumed to be symmetric."""
    if low is None or high is None:
        return Mean(value)
    return Mean(value, (high - low) / 2 / quantile(LEVEL, freedom), freedom)


def from_deviation(value: float, deviation: float, count: int) -> Mean:
    """The mean of ``count`` values with this standard deviation."""
    return Mean(value, deviation / math.sqrt(count), count - 1)


def one_more_value(value: float, deviation: float, count: int) -> Mean:
    """A single value, assumed to have the standard deviation of ``count`` other values.

    Its difference from the mean of the others (`from_deviation`) is Student's prediction interval of one more value.
    """
    return Mean(value, deviation, count - 1)


def welch_difference(one: Mean, other: Mean) -> Mean:
    """The difference of two independent means: Welch's standard error and degrees of freedom."""
    return _summed(one.value - other.value, [one, other])


def average(means: Sequence[Mean]) -> Mean:
    """The mean of independent means, all with the same weight."""
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


# ------------------------------------------------------------------------------------------------ pooled over seeds


def pooled(estimates: Sequence[Estimate]) -> Estimate | None:
    """Pool one estimate per seed: the mean, with an interval that adds the variance over seeds to that of each seed.

    A single estimate is returned as it is. None where no value is finite.
    """
    estimates = [entry for entry in estimates if math.isfinite(entry.value)]
    if not estimates:
        return None
    if len(estimates) == 1:
        return estimates[0]
    mean = mean_of([entry.value for entry in estimates])
    halves = [(entry.high - entry.low) / 2 for entry in estimates if entry.low is not None and entry.high is not None]
    within_seed = statistics.fmean(halves) if len(halves) == len(estimates) else 0.0
    half = math.hypot(_half(mean), within_seed)
    method = f"Student's t over {len(estimates)} seeds" + (" and the interval over patients" if within_seed else "")
    return Estimate(mean.value, mean.value - half, mean.value + half, len(estimates), "seeds", None, method)


def pooled_ratio(ratios: Sequence[Estimate]) -> Estimate | None:
    """Pool one ratio per seed: the geometric mean, with Student's interval over seeds.

    A single ratio is returned as it is. None where no ratio is finite and positive.
    """
    ratios = [entry for entry in ratios if math.isfinite(entry.value) and entry.value > 0]
    if len(ratios) < 2:
        return pooled(ratios)
    mean = mean_of([math.log(entry.value) for entry in ratios])
    half = _half(mean)
    value, low, high = (math.exp(log) for log in (mean.value, mean.value - half, mean.value + half))
    return Estimate(value, low, high, len(ratios), "seeds", None, f"Student's t over {len(ratios)} seeds")


def known_mean(values: Iterable[float | None]) -> float | None:
    """The mean of the finite values; None if no value is finite."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else None


def _half(mean: Mean) -> float:
    """Half of Student's 95 % interval of a mean of several values."""
    return quantile(LEVEL, mean.freedom) * (mean.error or 0.0)
