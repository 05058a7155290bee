"""Compute ratios of paired timings with intervals, minimum detectable effects, and percentiles.

The independent unit is the process: samples of different processes are never pooled.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from harness.errors import MeasureError, UsageError
from harness.stats.estimates import Mean, welch_difference

#: A percentile is reported only if at least two samples lie beyond it with this confidence.
PERCENTILE_CONFIDENCE = 0.99

#: Log ratios are rounded to this many decimals, far finer than any clock: 1 / 1.01 then lies exactly on the margin 1 %.
DECIMALS = 12

#: Times that a bootstrap resamples at once (16 bytes each); this bounds its memory.
RESAMPLED_AT_ONCE = 2_000_000


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Latency of the candidate divided by the reference's (0.5 is twice as fast), with its interval at ``level``.

    ``per_process`` holds one ratio per process. Without an interval, ``low`` and ``high`` are None and ``reason`` says
    why.
    """

    ratio: float
    low: float | None
    high: float | None
    level: float
    processes: int
    pairs: int
    per_process: tuple[float, ...]
    reason: str | None = None


def mean_log_ratio(per_process: Sequence[float], aa_runs: Sequence[Sequence[float]] = ()) -> Mean:
    """Compute the mean log ratio of one comparison, with the standard error that the A/A runs enlarge.

    Both arguments are per-process ratios; ``aa_runs`` are of a file compared with itself, in the same minutes. With P
    processes of standard deviation s, and K A/A runs whose mean log ratios are y(1) to y(K), the squared error is

        s² / P + (y(1)² + ... + y(K)²) / K

    The true y is 0, so each y² is a direct observation of the squared error that the machine gives to a ratio. It
    includes a shift that all processes of a comparison share, which s cannot show. The degrees of freedom of the sum
    are Satterthwaite's (1946, doi:10.2307/3002019), from P - 1 and K. Without A/A runs this is the error of Student's
    t test; the error is None for fewer than two processes.

    Raises MeasureError for ratios that are not positive and finite, and if there is none.
    """
    logs = np.round(log_ratios(per_process), DECIMALS)
    if not len(logs):
        raise MeasureError("a mean ratio needs at least one process")
    if len(logs) < 2:
        return Mean(float(logs[0]))
    # The mean of equal numbers need not be that number.
    centre, deviation = (float(logs[0]), 0.0) if np.ptp(logs) == 0 else (float(logs.mean()), float(logs.std(ddof=1)))
    mean = Mean(centre, deviation / math.sqrt(len(logs)), len(logs) - 1)
    shifts = [float(np.round(log_ratios(run), DECIMALS).mean()) for run in aa_runs if len(run)]
    if not shifts:
        return mean
    return welch_difference(mean, Mean(0.0, float(np.sqrt(np.mean(np.square(shifts)))), len(shifts)))


def per_process_ratios(reference: ArrayLike, candidate: ArrayLike) -> tuple[float, ...]:
    """Compute the ratio of each process, exp of the median log ratio of its pairs. Raises as `paired_ratio`."""
    return tuple(float(ratio) for ratio in np.exp(np.median(_paired_logs(reference, candidate), axis=1)))


def paired_ratio(
    reference: ArrayLike, candidate: ArrayLike, level: float = 0.95, aa_runs: Sequence[Sequence[float]] = ()
) -> Ratio:
    """Compute the ratio of paired times ``reference`` and ``candidate``, both (processes, pairs), in the same unit.

    The ratio is exp of the mean over processes of the median log ratio, with Student's t interval over processes that
    ``aa_runs`` widen (`mean_log_ratio`). The process is the unit (Kalibera and Jones, ISMM 2013,
    doi:10.1145/2464157.2464160): the samples of one process share its memory layout, so their spread does not predict
    the next process. Raises MeasureError for unpaired or empty arrays and for times that are not positive.
    """
    _check_share("level", level)
    each = per_process_ratios(reference, candidate)
    processes, pairs = np.shape(reference)
    mean = mean_log_ratio(each, aa_runs)
    low, high = (None if bound is None else math.exp(bound) for bound in mean.bounds(level))
    reason = None if processes >= 2 else "an interval over processes needs at least two processes"
    return Ratio(math.exp(mean.value), low, high, level, processes, pairs, each, reason)


def hierarchical_bootstrap(
    reference: ArrayLike, candidate: ArrayLike, level: float = 0.95, repetitions: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Compute the interval (low, high) of `paired_ratio`'s ratio by a two-stage percentile bootstrap.

    It resamples processes, then pairs within each, both with replacement (Davison and Hinkley, "Bootstrap methods and
    their application", 1997, section 3.8). Show it beside Student's interval as a check, because it does not assume a
    normal distribution. With few processes it is too narrow and covers the true ratio less often than ``level``
    (Cameron, Gelbach and Miller 2008, doi:10.1162/rest.90.3.414).
    Raises MeasureError as `paired_ratio` does, and for a single process.
    """
    _check_share("level", level)
    if repetitions < 1:
        raise UsageError(f"repetitions={repetitions}: a bootstrap needs at least 1")
    logs = _paired_logs(reference, candidate)
    processes, pairs = logs.shape
    if processes < 2:
        raise MeasureError("a bootstrap over processes needs at least two processes: time more")
    random = np.random.default_rng(seed)
    at_once = max(1, RESAMPLED_AT_ONCE // logs.size)
    means = []
    for start in range(0, repetitions, at_once):
        shape = (min(at_once, repetitions - start), processes)
        drawn = random.integers(processes, size=shape)[:, :, None], random.integers(pairs, size=(*shape, pairs))
        means.append(np.median(logs[drawn], axis=-1).mean(axis=-1))
    low, high = np.exp(np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2]))
    return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class DetectableEffect:
    """A minimum detectable effect (MDE), a relative change (0.004 is 0.4 %), with its 90 % interval."""

    value: float
    low: float
    high: float


def minimum_detectable_effect(
    per_process: Sequence[Sequence[float]],
    processes: int | None = None,
    power: float = 0.8,
    level: float = 0.95,
    around_one: bool = False,
    aa_runs: int = 0,
) -> DetectableEffect | None:
    """Compute the minimum detectable effect (MDE) of a comparison.

    A comparison of P processes finds a change of this size with probability ``power``: its interval at ``level``
    excludes 1. A verdict at a margin needs the margin in addition. The MDE is exp(d * e) - 1, where e is the standard
    error of the mean log ratio, and d the noncentrality at which the noncentral t distribution exceeds Student's
    quantile with that probability. Without A/A runs e is s / sqrt(P), with P - 1 degrees of freedom; ``aa_runs`` of
    P processes each, as noisy as the comparison, enlarge it (`mean_log_ratio`).

    s is the standard deviation of the log ratios, pooled over the comparisons. Deviations are from the mean of each
    comparison or, with ``around_one``, from 0, the true log ratio of an A/A run. The interval is that of s, by the
    chi-square distribution.

    ``per_process`` holds the per-process ratios of each A/A comparison. P is ``processes``, by default the smallest
    number of processes of any comparison that has at least two. Returns None if no comparison has two processes. Raises
    MeasureError for ratios that are not positive.
    """
    _check_share("level", level)
    _check_share("power", power)
    if processes is not None and processes < 2:
        raise UsageError(f"processes={processes}: a comparison needs at least two processes to detect a change")
    comparisons = [logs for logs in map(log_ratios, per_process) if len(logs) >= 2]
    if not comparisons:
        return None
    freedom = sum(len(logs) - (0 if around_one else 1) for logs in comparisons)
    centres = [0.0 if around_one else logs.mean() for logs in comparisons]
    squares = sum(np.square(logs - centre).sum() for logs, centre in zip(comparisons, centres, strict=True))
    planned = processes or min(map(len, comparisons))
    unit = Mean(0.0, 1 / math.sqrt(planned), planned - 1)
    if aa_runs:
        unit = welch_difference(unit, Mean(0.0, 1 / math.sqrt(planned), aa_runs))
    assert unit.error is not None
    effect = noncentrality((1 - level) / 2, power, unit.freedom) * unit.error * math.sqrt(squares / freedom)
    low, high = (math.sqrt(freedom / special.chdtri(freedom, tail)) for tail in (0.05, 0.95))
    return DetectableEffect(*(math.expm1(effect * factor) for factor in (1.0, low, high)))


@functools.lru_cache(maxsize=4096)  # takes a millisecond, and the cells of a matrix ask the same
def noncentrality(tail: float, power: float, freedom: float) -> float:
    """Compute the effect, in standard errors, that a one-sided t test at the level ``tail`` finds with this power."""
    return float(special.nctdtrinc(freedom, 1 - power, special.stdtrit(freedom, 1 - tail)))


def quotient(before: Mean, now: Mean, level: float = 0.95) -> tuple[float, float, float]:
    """Compute how a ratio changed between two runs: estimate, low and high of now / before.

    Both arguments are mean log ratios (`mean_log_ratio`). The interval is exp of Welch's t interval for their
    difference, because the runs' processes are independent and may differ in spread. Raises MeasureError for fewer than
    two processes in either run.
    """
    _check_share("level", level)
    difference = welch_difference(now, before)
    low, high = difference.bounds(level)
    if low is None or high is None:
        raise MeasureError("comparing the ratios of two runs needs at least two processes in each run")
    return math.exp(difference.value), math.exp(low), math.exp(high)


def log_ratios(per_process: Sequence[float]) -> NDArray[np.float64]:
    """Return the logarithms of one comparison's per-process ratios. Raises MeasureError unless all are positive."""
    ratios = np.asarray(per_process, dtype=float)
    if not (np.isfinite(ratios).all() and (ratios > 0).all()):
        raise MeasureError(f"a ratio of latencies must be positive and finite; these are not all: {ratios.tolist()}")
    return np.asarray(np.log(ratios))


def _paired_logs(reference: ArrayLike, candidate: ArrayLike) -> NDArray[np.float64]:
    """Check paired times and return their log ratios, (processes, pairs)."""
    base, compared = np.asarray(reference, dtype=float), np.asarray(candidate, dtype=float)
    if base.ndim != 2 or base.shape != compared.shape or base.size == 0:
        raise MeasureError(
            f"paired times need two (processes, pairs) arrays of one shape: {base.shape}, {compared.shape}"
        )
    if not (np.isfinite(base).all() and np.isfinite(compared).all() and (base > 0).all() and (compared > 0).all()):
        raise MeasureError("a timed call took zero time: the clock is too coarse for this model")
    return np.asarray(np.log(compared / base))


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise UsageError(f"{name}={value:g}: it must lie between 0 and 1 (0.95 is 95 %)")


@dataclasses.dataclass(frozen=True)
class Percentile:
    """A percentile of samples, or None with the reason."""

    value: float | None
    reason: str | None = None


def percentile(samples: ArrayLike, q: float) -> Percentile:
    """Compute the ``q``-th percentile (0 < q < 100) of ``samples``, in their unit, if there are enough samples."""
    values = np.asarray(samples, dtype=float).ravel()
    needed = samples_needed(q)
    if len(values) < needed:
        return Percentile(None, f"p{q:g} needs {needed} samples, there are {len(values)}")
    return Percentile(float(np.percentile(values, q)))


def samples_needed(q: float) -> int:
    """Return the smallest sample size with which, at 99 % confidence, two samples lie beyond the percentile ``q``.

    This is MLPerf inference's rule for a latency bound: 64, 130, 662 and 6,636 for p90, p95, p99 and p99.9.
    """
    if not 0 < q < 100:
        raise UsageError(f"percentile {q:g}: it must lie between 0 and 100")
    tail = min(q, 100 - q) / 100
    low, high = 1, 2
    while stats.binom.cdf(1, high, tail) > 1 - PERCENTILE_CONFIDENCE:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if stats.binom.cdf(1, middle, tail) > 1 - PERCENTILE_CONFIDENCE:
            low = middle
        else:
            high = middle
    return high
