"""Change points: the runs from which on a figure has another level, told apart from noise and from single odd runs.

The segments are found by ruptures, exactly; how many there are is decided here, as nobody else's rule knows how short
and how correlated series of runs are. With RSS(k) the least sum of squares about k + 1 levels of n runs, k changes are
told where

    log RSS(k) + sum over j = 1..k of log(1 + t(j)² / (n - j - 1))

is least. This is BIC with its log(n) / n for each change replaced by what holds for few runs too: one change more
is taken if Student's t of the difference between its levels exceeds t(j). That is the quantile at `LEVEL`, divided by
the n - 1 places where a change can be, for runs that resemble their neighbours by `AUTOCORRELATION` (a): it is
multiplied by sqrt((1 + a) / (1 - a)), and n runs count as n (1 - a²) / (1 + a²) in its degrees of freedom (Bartlett).
The runs' own standard errors bound the noise from below, so that runs that agree by luck do not make it vanish.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

#: How a figure is compared: by its logarithm, as it is, or exactly, so that whatever differs is a change.
Scale = Literal["ratio", "plain", "exact"]

#: Of fewer runs the noise cannot be told from a change.
LEAST_RUNS = 5
#: A level is that of two runs at least: one run alone may always be odd, and three would see a change a run later.
LEAST_SEGMENT = 2
#: There is no more than a change for so many runs: with fewer a level the noise about them cannot be told.
RUNS_PER_CHANGE = 5
#: A nominal probability, set by simulation: of flat series of 5 to 100 runs then at most 5 % have a change, with normal
#: noise, with heavy tails and outliers, and with autocorrelation. (The simulation: tests/stats/test_changepoints.py.)
LEVEL = 0.07
#: Of a run with the next. Assumed: what moves a machine may last for some runs, and a few runs do not tell how long.
AUTOCORRELATION = 0.4
#: Nominal probability that a run without fault is drawn in towards its neighbours.
ODD = 0.001
#: Relative; what is nearer together than this may differ by rounding alone.
ROUNDING = 1e-6

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ChangePoint:
    """From run ``index`` on the level is ``after``; it was ``before``. Levels are the medians of their runs."""

    index: int
    before: float
    after: float

    @property
    def relative(self) -> float | None:
        """The change relative to what was before (0.1 is 10 % more); None where that was 0, or next to nothing."""
        share = math.inf if self.before == 0 else self.after / self.before - 1
        return share if math.isfinite(share) else None


def change_points(
    values: Sequence[float], errors: Sequence[float | None], scale: Scale, margin: float
) -> list[ChangePoint]:
    """The changes by more than ``margin`` (0.01 is 1 %) of a series of runs in the order of time.

    ``errors`` are the runs' own standard errors, None where not known; of the logarithm for the scale "ratio". That one
    takes positive values alone, all take finite ones; ValueError for others. The scale "exact" needs neither errors nor
    a margin nor many runs; the others find nothing in fewer than `LEAST_RUNS`.
    """
    given = np.asarray(values, dtype=float)
    own = np.asarray([0.0 if error is None else error for error in errors], dtype=float)
    if given.shape != own.shape or not np.isfinite(given).all() or (scale == "ratio" and not (given > 0).all()):
        raise ValueError("a series has finite values, positive ones for ratios, and as many standard errors")
    if not len(given):
        return []
    if scale == "exact":
        return _changes(given, (np.flatnonzero(np.diff(given)) + 1).tolist())
    if len(given) < LEAST_RUNS:
        return []
    unit = 1.0 if scale == "ratio" else float(np.abs(given).max()) or 1.0
    series = np.log(given) if scale == "ratio" else given / unit
    series, own = series - np.median(series), own / unit
    floor = max(_typical(own[own > 0]), ROUNDING)
    breaks = _segment(_draw_in(series, floor), floor)
    return _told(given, series, own, breaks, scale, margin)


def _segment(series: Array, floor: float) -> list[int]:
    """Where the best segments begin, but for the first; ``floor`` bounds the noise of a run from below."""
    from ruptures import KernelCPD

    runs = len(series)
    most = runs // RUNS_PER_CHANGE
    finder: Any = KernelCPD(kernel="linear", min_size=LEAST_SEGMENT).fit(series[:, None])
    finder.predict(n_bkps=most)  # finds those of fewer changes on the way
    candidates = [[], *(finder.predict(n_bkps=changes)[:-1] for changes in range(1, most + 1))]
    squares = [_log_squares(series, breaks, floor) for breaks in candidates]
    best: list[int] = candidates[int(np.argmin(squares + _penalties(runs, most)))]
    return best


@functools.cache
def _penalties(runs: int, most: int) -> Array:
    """What 0 to ``most`` changes among so many runs must gain, as in the first lines of this module."""
    likeness = AUTOCORRELATION**2
    changes = np.arange(1, most + 1)
    freedom = runs * (1 - likeness) / (1 + likeness) - changes - 1
    inflation = (1 + AUTOCORRELATION) / (1 - AUTOCORRELATION)
    quantiles = stats.t.isf(LEVEL / 2 / (runs - 1), freedom)
    each = np.log1p(inflation * np.square(quantiles) / (runs - changes - 1))
    return np.concatenate([[0.0], np.cumsum(each)])


def _log_squares(series: Array, breaks: Sequence[int], floor: float) -> float:
    starts = np.asarray([0, *breaks])
    lengths = np.diff([*starts, len(series)])
    squares = np.square(series).sum() - (np.square(np.add.reduceat(series, starts)) / lengths).sum()
    return math.log(max(float(squares), (len(series) - len(starts)) * floor**2))


def _draw_in(series: Array, floor: float) -> Array:
    """The series with odd runs drawn in towards the median of the five about them, so that they make no level.

    At an end it is the median of the three there, that two runs of a new level may be seen. The limit is a quantile of
    Student's t times a robust deviation; its degrees of freedom, half the runs, allow for what that is off by itself.
    """
    centre = np.empty_like(series)
    centre[2:-2] = np.median(np.lib.stride_tricks.sliding_window_view(series, 5), axis=1)
    centre[:2], centre[-2:] = np.median(series[:3]), np.median(series[-3:])
    deviation = max(float(stats.median_abs_deviation(series - centre, scale="normal")), floor)
    limit = deviation * float(stats.t.isf(ODD / 2, len(series) / 2))
    return np.clip(series, centre - limit, centre + limit)


def _told(
    given: Array, series: Array, errors: Array, breaks: Sequence[int], scale: Scale, margin: float
) -> list[ChangePoint]:
    """The changes that exceed the margin, and what the runs' own errors explain; the least other one goes first."""
    kept = list(breaks)
    quantile = float(stats.norm.isf(LEVEL / 2 / (len(series) - 1)))
    while kept:
        changes = _changes(given, kept)
        parts, own = np.split(series, kept), np.split(errors, kept)
        failing = []
        for place, change in enumerate(changes):
            shift = abs(float(parts[place + 1].mean() - parts[place].mean()))
            explained = quantile * math.hypot(_error_of_mean(own[place]), _error_of_mean(own[place + 1]))
            held = _held(parts[place], parts[place + 1])
            if not held or not _exceeds(change, scale, margin) or shift <= explained:
                failing.append((shift, place))
        if not failing:
            return changes
        del kept[min(failing)[1]]
    return []


def _held(before: Array, after: Array) -> bool:
    """Whether most runs of either level are nearer to it than to the other: of two runs one that is odd makes none."""
    old, new = np.median(before), np.median(after)
    nearer = (np.abs(before - old) < np.abs(before - new), np.abs(after - new) < np.abs(after - old))
    return all(side.mean() > 0.5 for side in nearer)


def _exceeds(change: ChangePoint, scale: Scale, margin: float) -> bool:
    if scale == "ratio":
        return abs(math.log(change.after / change.before)) > math.log1p(margin)
    return abs(change.after - change.before) > margin * abs(change.before)


def _changes(given: Array, breaks: Sequence[int]) -> list[ChangePoint]:
    levels = [float(np.median(part)) for part in np.split(given, breaks)]
    return [ChangePoint(index, *pair) for index, pair in zip(breaks, itertools.pairwise(levels), strict=True)]


def _typical(errors: Array) -> float:
    return float(np.sqrt(np.median(np.square(errors)))) if len(errors) else 0.0


def _error_of_mean(errors: Array) -> float:
    return float(np.sqrt(np.square(errors).sum()) / len(errors))
