"""What the rules of other tools say of the times that we took: pure functions, one a tool.

Each is given two arms, ``baseline`` and ``current``: nanoseconds of single calls, (processes, calls), in the order of
time. The rules are the tools' own, read in their source; the times are ours, and better than those that the tools
would take by default: warmed up, pinned to a CPU, without garbage collection, in an environment that was verified.
They are also fewer, as each rule says.
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

    From PercentageRegressionCheck in its utils.py. It has no default threshold; 5 % is that of its manual's example,
    and it looks in one direction only. The first process counts here. The tool goes on calling for a second.
    """
    grown = float(current[0].mean() / baseline[0].mean() * 100 - 100)
    return "slower" if grown > 5 else None


def pyperf(baseline: Times, current: Times) -> Alarm | None:
    """pyperf 2.10.0, ``compare_to``: Student's t test of all values, pooled variance, two-sided, 95 %.

    From is_significant in its _utils.py. Three values a process, as by default, each the mean of a third of the
    process's calls. By default the tool starts 20 processes, and each value is the mean of calls for 0.1 s or more.
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

    From _is_result_better in its commands/compare.py and is_different in its _stats.py (exact up to 20 samples, beyond
    by the normal approximation). A sample is the mean of as many consecutive calls as take about 10 ms, as by default;
    by default two processes take at most five samples each, and here each takes what its calls are enough for. Where
    no p can be that small (fewer than seven samples in both arms), the tool compares two intervals; this says None.
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
    """Means of so many consecutive calls of one process that they take about ``nanoseconds``; what remains is left."""
    calls = arm.shape[1]
    number = min(calls, max(1, math.ceil(nanoseconds / arm.mean())))
    whole = calls // number * number
    return np.asarray(arm[:, :whole].reshape(-1, number).mean(axis=1))


#: The rules by the names of their tools.
RULES: Mapping[str, Callable[[Times, Times], Alarm | None]] = {
    "pytest-benchmark mean:5%": pytest_benchmark,
    "pyperf compare_to": pyperf,
    "asv factor 1.1": asv,
}


def alarms(baseline: Times, current: Times) -> dict[str, Alarm | None]:
    """What every rule says."""
    return {name: rule(baseline, current) for name, rule in RULES.items()}
