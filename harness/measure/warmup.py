"""When a model's calls have become steady: pyperf's test of two windows of calls, one after the other."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

#: Calls in a window.
WINDOW = 20
#: The later window's quartiles may differ from the earlier one's by this share.
TOLERANCE = 0.05
#: A first call beyond the third quartile by so many interquartile ranges is an outlier (Tukey).
FENCE = 1.5


def steady(earlier: Sequence[int], later: Sequence[int]) -> bool:
    """Whether two windows of times show no trend: the first call is no outlier, and the quartiles agree within 5 %.

    After ``test_calibrate_warmups`` of pyperf 2.10, whose values are means of 100 ms or more. It compares means and
    median absolute deviations too; of single calls the one is ruled by outliers, and the other differs by a quarter
    between two windows of 20 by chance alone, so the quartiles must do.
    """
    first, *others = [*earlier, *later]
    low, _, high = statistics.quantiles(others, n=4)
    if first > high + FENCE * (high - low):
        return False
    before, after = statistics.quantiles(earlier, n=4), statistics.quantiles(later, n=4)
    return all(abs(one - two) <= TOLERANCE * two for one, two in zip(before, after, strict=True))


def steady_at_the_end(times: Sequence[int]) -> bool:
    """Whether the last two windows of ``times`` are there and steady."""
    return len(times) >= 2 * WINDOW and steady(times[-2 * WINDOW : -WINDOW], times[-WINDOW:])
