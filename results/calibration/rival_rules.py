"""Apply the regression rules of other benchmark tools to our timings: one pure function per tool.

Each function gets two arms, ``baseline`` and ``current``: nanoseconds of single calls, (processes, calls), in
chronological order. The rules are taken from the tools' source. Our times are better than the tools' defaults: warmed
up, pinned to a CPU, without garbage collection, in a verified environment. They are also fewer; each docstring says
what the tool does by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Alarm = Literal["slower", "faster"]
Times: TypeAlias = NDArray[np.int64]


def pytest_benchmark(baseline: Times, current: Times) -> Alarm | None:
    """pytest-benchmark 5.3.1 with ``--benchmark-compare-fail=mean:5%``: the mean of one process grew by more than 5 %.

    Source: PercentageRegressionCheck in utils.py. The tool has no default threshold; its manual's example uses 5 %. It
    detects slowdowns only. This function uses the first process. By default the tool measures for one second.
    """
    grown = float(current[0].mean() / baseline[0].mean() * 100 - 100)
    return "slower" if grown > 5 else None


def pyperf(baseline: Times, current: Times) -> Alarm | None:
    """pyperf 2.10.0, ``compare_to``: Student's t test of all values, pooled variance, two-sided, 95 %.

    Source: is_significant in _utils.py. As by default, each process gives three values; here each value is the mean
    of a third of the process's calls. By default the tool starts 20 processes, and a value averages 0.1 s or more.
    """
    first, second = (
        np.concatenate([[part.mean() for part in np.array_split(process, 3)] for process in arm])
        for arm in (baseline, current)
    )
    if not stats.ttest_ind(first, second).pvalue <= 0.05:
        return None
    return "slower" if second.mean() > first.mean() else "faster"


def asv(baseline: Times, current: Times) -> Alarm | None:
    """asv 0.6.6, ``compare``, ``continuous``: medians differ by a factor above 1.1, and Mann and Whitney's p < 0.002.

    Source: _is_result_better in commands/compare.py and is_different in _stats.py (exact test up to 20 samples, normal
    approximation beyond). As by default, a sample is the mean of consecutive calls of about 10 ms. By default two
    processes take at most five samples each; here each process gives as many samples as its calls allow. If no p can be
    that small (fewer than seven samples in both arms), the tool compares two intervals; this function returns None.
    """
    first, second = _samples(baseline), _samples(current)
    before, after = np.median(first), np.median(second)
    exact = max(len(first), len(second)) <= 20
    test = stats.mannwhitneyu(first, second, use_continuity=False, method="exact" if exact else "asymptotic")
    if test.pvalue >= 0.002:
        return None
    if before < after / 1.1:
        return "slower"
    return "faster" if after < before / 1.1 else None


def _samples(arm: Times, nanoseconds: float = 10e6) -> NDArray[np.float64]:
    """Average consecutive calls of one process in groups of about ``nanoseconds``; drop the incomplete last group."""
    calls = arm.shape[1]
    number = min(calls, max(1, math.ceil(nanoseconds / arm.mean())))
    whole = calls // number * number
    return np.asarray(arm[:, :whole].reshape(-1, number).mean(axis=1))


#: The rules by the tables' names for them.
RULES: Mapping[str, Callable[[Times, Times], Alarm | None]] = {
    "pytest-benchmark mean:5%": pytest_benchmark,
    "pyperf compare_to": pyperf,
    "asv factor 1.1": asv,
}


def alarms(baseline: Times, current: Times) -> dict[str, Alarm | None]:
    """Apply every rule."""
    return {name: rule(baseline, current) for name, rule in RULES.items()}
