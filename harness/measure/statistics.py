"""Statistics of timings whose independent unit is the process; samples of different processes are never pooled."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from harness.errors import MeasureError, UsageError

#: With this confidence at least two samples must lie beyond a percentile before it is given.
PERCENTILE_CONFIDENCE = 0.99


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Latency of the candidate over the reference (0.5 is twice as fast) with its interval at ``level``.

    ``per_process`` has each process's own ratio. ``low`` and ``high`` are None when there is no interval, and
    ``reason`` says why.
    """

    ratio: float
    low: float | None
    high: float | None
    level: float
    processes: int
    pairs: int
    per_process: tuple[float, ...]
    reason: str | None = None


def paired_ratio(reference: ArrayLike, candidate: ArrayLike, level: float = 0.95) -> Ratio:
    """The ratio of paired times ``reference`` and ``candidate``, both (processes, pairs), in any one unit.

    exp of the mean over processes of the median log ratio, with Student's interval over the processes. The process
    is the unit (Kalibera and Jones, ISMM 2013, doi:10.1145/2464157.2464160): samples within one share its memory
    layout, so that their spread says nothing of the next process. Raises MeasureError for unpaired or empty arrays
    and for times that are not positive.
    """
    base, other = np.asarray(reference, dtype=float), np.asarray(candidate, dtype=float)
    if base.ndim != 2 or base.shape != other.shape or base.size == 0:
        raise MeasureError(f"paired times need two (processes, pairs) arrays of one shape: {base.shape}, {other.shape}")
    if not (np.isfinite(base).all() and np.isfinite(other).all() and (base > 0).all() and (other > 0).all()):
        raise MeasureError("a timed call took no time, or not a finite one: the clock is too coarse for this model")
    processes, pairs = base.shape
    medians = np.median(np.log(other / base), axis=1)
    centre = float(medians.mean())
    low = high = reason = None
    if processes < 2:
        reason = "an interval over processes needs at least two of them"
    else:
        half = float(stats.t.ppf((1 + level) / 2, processes - 1) * stats.sem(medians))
        low, high = float(np.exp(centre - half)), float(np.exp(centre + half))
    each = tuple(float(value) for value in np.exp(medians))
    return Ratio(float(np.exp(centre)), low, high, level, processes, pairs, each, reason)


@dataclasses.dataclass(frozen=True)
class Percentile:
    """A percentile of the samples, or None with the reason."""

    value: float | None
    reason: str | None = None


def percentile(samples: ArrayLike, q: float) -> Percentile:
    """The ``q``-th percentile (0 < q < 100) of ``samples``, in their unit, if they are enough to tell it."""
    values = np.asarray(samples, dtype=float).ravel()
    needed = samples_needed(q)
    if len(values) < needed:
        return Percentile(None, f"p{q:g} needs {needed} samples, there are {len(values)}")
    return Percentile(float(np.percentile(values, q)))


def samples_needed(q: float) -> int:
    """The fewest samples of which, with 99 % confidence, at least two lie beyond the ``q``-th percentile.

    MLPerf inference's rule for a latency bound: 64, 130, 662 and 6,636 for p90, p95, p99 and p99.9.
    """
    if not 0 < q < 100:
        raise UsageError(f"a percentile lies between 0 and 100, and {q:g} does not")
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
