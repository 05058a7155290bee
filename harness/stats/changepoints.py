"""Find change points: the runs from which on a series has another level, as opposed to noise and single outliers.

The package ruptures finds the optimal segments for each number of changes. This module chooses the number, because
published rules do not suit short and autocorrelated series of runs. With RSS(k) the minimal sum of squares about the
k + 1 levels of n runs, it chooses the k that minimizes

    log RSS(k) + sum over j = 1..k of log(1 + t(j)² / (n - j - 1))

This is BIC, with the penalty log(n) / n per change replaced by one that also holds for few runs: a change is added if
Student's t of the difference between its levels exceeds t(j). t(j) is the quantile at `LEVEL` divided by the n - 1
possible places. For an autocorrelation a (`AUTOCORRELATION`) it is multiplied by sqrt((1 + a) / (1 - a)), and n runs
count as n (1 - a²) / (1 + a²) in its degrees of freedom (Bartlett). The runs' own standard errors bound the noise from
below, so that runs that agree by chance do not make it vanish.
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

#: How values are compared: by their logarithms, as they are, or exactly (any difference is a change).
Scale = Literal["ratio", "plain", "exact"]

#: In fewer runs, noise cannot be distinguished from a change.
LEAST_RUNS = 5
#: A level has at least two runs: one may be an outlier, and a minimum of three would delay detection by a run.
LEAST_SEGMENT = 2
#: At most one change per this many runs: with fewer runs per level, the noise about it cannot be estimated.
RUNS_PER_CHANGE = 5
#: Nominal, set by simulation (tests/stats/test_changepoints.py): at most 5 % of flat series of 5 to 100 runs
#: have a change, with normal noise, heavy tails and outliers, or autocorrelation.
LEVEL = 0.07
#: Assumed correlation of a run with the next: a disturbance may last several runs, and few runs do not show how long.
AUTOCORRELATION = 0.4
#: Nominal probability that a regular run is winsorized.
WINSORIZED = 0.001
#: Relative; smaller differences may be rounding errors.
ROUNDING = 1e-6

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ChangePoint:
    """From run ``index`` on, the level is ``after`` instead of ``before``. A level is the median of its runs."""

    index: int
    before: float
    after: float

    @property
    def relative(self) -> float | None:
        """The relative change (0.1 is 10 % more); None if the level before was 0, or so small that this overflows."""
        share = math.inf if self.before == 0 else self.after / self.before - 1
        return share if math.isfinite(share) else None


def change_points(
    values: Sequence[float], errors: Sequence[float | None], scale: Scale, margin: float
) -> list[ChangePoint]:
    """Return the changes by more than ``margin`` (0.01 is 1 %) in a chronological series of runs.

    ``errors`` are the runs' own standard errors (of the logarithm for the scale "ratio"), None if unknown. The scale
    "exact" ignores ``errors`` and ``margin``; the other scales find no change in fewer than `LEAST_RUNS` runs.
    Raises ValueError for values that are not finite, or not positive for the scale "ratio".
    """
    raw = np.asarray(values, dtype=float)
    run_errors = np.asarray([0.0 if error is None else error for error in errors], dtype=float)
    if raw.shape != run_errors.shape or not np.isfinite(raw).all() or (scale == "ratio" and not (raw > 0).all()):
        raise ValueError("a series needs finite values (positive ones for ratios) and as many standard errors")
    if not len(raw):
        return []
    if scale == "exact":
        return _changes(raw, (np.flatnonzero(np.diff(raw)) + 1).tolist())
    if len(raw) < LEAST_RUNS:
        return []
    unit = 1.0 if scale == "ratio" else float(np.abs(raw).max()) or 1.0
    series = np.log(raw) if scale == "ratio" else raw / unit
    series, run_errors = series - np.median(series), run_errors / unit
    floor = max(_typical(run_errors[run_errors > 0]), ROUNDING)
    breaks = _segment(_winsorize(series, floor), floor)
    return _significant(raw, series, run_errors, breaks, scale, margin)


def _segment(series: Array, floor: float) -> list[int]:
    """Return where the best segments begin, except the first; ``floor`` is the least noise of a run."""
    from ruptures import KernelCPD

    runs = len(series)
    most = runs // RUNS_PER_CHANGE
    finder: Any = KernelCPD(kernel="linear", min_size=LEAST_SEGMENT).fit(series[:, None])
    finder.predict(n_bkps=most)  # also computes the segments for fewer changes
    candidates = [[], *(finder.predict(n_bkps=changes)[:-1] for changes in range(1, most + 1))]
    squares = [_log_squares(series, breaks, floor) for breaks in candidates]
    best: list[int] = candidates[int(np.argmin(squares + _penalties(runs, most)))]
    return best


@functools.cache
def _penalties(runs: int, most: int) -> Array:
    """The penalties of 0 to ``most`` changes among ``runs`` runs; the module's docstring has the formula."""
    squared = AUTOCORRELATION**2
    changes = np.arange(1, most + 1)
    freedom = runs * (1 - squared) / (1 + squared) - changes - 1
    inflation = (1 + AUTOCORRELATION) / (1 - AUTOCORRELATION)
    quantiles = stats.t.isf(LEVEL / 2 / (runs - 1), freedom)
    each = np.log1p(inflation * np.square(quantiles) / (runs - changes - 1))
    return np.concatenate([[0.0], np.cumsum(each)])


def _log_squares(series: Array, breaks: Sequence[int], floor: float) -> float:
    starts = np.asarray([0, *breaks])
    lengths = np.diff([*starts, len(series)])
    squares = np.square(series).sum() - (np.square(np.add.reduceat(series, starts)) / lengths).sum()
    return math.log(max(float(squares), (len(series) - len(starts)) * floor**2))


def _winsorize(series: Array, floor: float) -> Array:
    """Limit the distance of outliers from the median of the five runs around them, so that they form no level.

    At either end it is the median of three runs, so that two runs of a new level remain visible. The limit is a
    quantile of Student's t times a robust deviation. Its degrees of freedom are half the runs, because the deviation is
    itself an estimate.
    """
    centre = np.empty_like(series)
    centre[2:-2] = np.median(np.lib.stride_tricks.sliding_window_view(series, 5), axis=1)
    centre[:2], centre[-2:] = np.median(series[:3]), np.median(series[-3:])
    deviation = max(float(stats.median_abs_deviation(series - centre, scale="normal")), floor)
    limit = deviation * float(stats.t.isf(WINSORIZED / 2, len(series) / 2))
    return np.clip(series, centre - limit, centre + limit)


def _significant(
    raw: Array, series: Array, errors: Array, breaks: Sequence[int], scale: Scale, margin: float
) -> list[ChangePoint]:
    """Remove changes, the smallest first, until all exceed the margin and what the runs' own errors explain."""
    remaining = list(breaks)
    quantile = float(stats.norm.isf(LEVEL / 2 / (len(series) - 1)))
    while remaining:
        changes = _changes(raw, remaining)
        segments, segment_errors = np.split(series, remaining), np.split(errors, remaining)
        failing = []
        for place, change in enumerate(changes):
            shift = abs(float(segments[place + 1].mean() - segments[place].mean()))
            explained = quantile * math.hypot(
                _error_of_mean(segment_errors[place]), _error_of_mean(segment_errors[place + 1])
            )
            separated = _separated(segments[place], segments[place + 1])
            if not separated or not _exceeds(change, scale, margin) or shift <= explained:
                failing.append((shift, place))
        if not failing:
            return changes
        del remaining[min(failing)[1]]
    return []


def _separated(before: Array, after: Array) -> bool:
    """Whether most runs of each level are nearer to it than to the other; one outlier of two runs fails this."""
    old, new = np.median(before), np.median(after)
    nearer = (np.abs(before - old) < np.abs(before - new), np.abs(after - new) < np.abs(after - old))
    return all(side.mean() > 0.5 for side in nearer)


def _exceeds(change: ChangePoint, scale: Scale, margin: float) -> bool:
    if scale == "ratio":
        return abs(math.log(change.after / change.before)) > math.log1p(margin)
    return abs(change.after - change.before) > margin * abs(change.before)


def _changes(values: Array, breaks: Sequence[int]) -> list[ChangePoint]:
    levels = [float(np.median(segment)) for segment in np.split(values, breaks)]
    return [ChangePoint(index, *pair) for index, pair in zip(breaks, itertools.pairwise(levels), strict=True)]


def _typical(errors: Array) -> float:
    return float(np.sqrt(np.median(np.square(errors)))) if len(errors) else 0.0


def _error_of_mean(errors: Array) -> float:
    return float(np.sqrt(np.square(errors).sum()) / len(errors))
