"""Check the rules of other tools against hand-worked numbers and against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from rival_rules import RULES, alarms, asv, pyperf, pytest_benchmark

MS = 1_000_000


def arm(*processes: list[float], unit: int = 1000) -> NDArray[np.int64]:
    return (np.array(processes) * unit).astype(np.int64)


@pytest.mark.parametrize(
    ("current", "alarm"), [([99, 107], None), ([99, 112], "slower"), ([50, 50], None), ([105, 105], None)]
)
def test_pytest_benchmark_compares_the_means_of_the_first_processes(current: list[float], alarm: str | None) -> None:
    assert pytest_benchmark(arm([98, 102], [1, 1]), arm(current, [1000, 1000])) == alarm


@pytest.mark.parametrize(
    ("current", "alarm"),
    [
        ([13, 14, 15], "slower"),  # t = 3 / sqrt(2 / 3) = 3.67, and 2.776 is the limit with 4 degrees of freedom
        ([12, 13, 14], None),  # t = 2.45
        ([7, 8, 9], "faster"),
    ],
)
def test_pyperf_tests_three_values_a_process(current: list[float], alarm: str | None) -> None:
    assert pyperf(arm([10, 11, 12]), arm(current)) == alarm


def test_a_value_of_pyperf_is_the_mean_of_a_third_of_a_process_s_calls() -> None:
    baseline, current = arm([10, 11, 12]), arm([13, 14, 15])
    assert pyperf(arm([8, 12, 9, 13, 10, 14]), arm([13, 13, 13, 15, 15, 15])) == pyperf(baseline, current) == "slower"


times = st.integers(1, 4).flatmap(
    lambda processes: st.integers(0, 2**32 - 1).map(
        lambda seed: np.random.default_rng(seed).lognormal(13, 0.05, (processes, 9)).astype(np.int64)
    )
)


@given(times, times, st.floats(0.8, 1.25))
def test_pyperf_s_formula(baseline: NDArray[np.int64], current: NDArray[np.int64], factor: float) -> None:
    processes = min(len(baseline), len(current))
    first, second = baseline[:processes], (current[:processes] * factor).astype(np.int64)
    one, two = (each.reshape(-1, 3).mean(axis=1) for each in (first, second))
    count = len(one)
    pooled = (np.square(one - one.mean()).sum() + np.square(two - two.mean()).sum()) / (2 * count - 2)
    t = (two.mean() - one.mean()) / math.sqrt(2 * pooled / count)
    significant = abs(t) >= stats.t.ppf(0.975, 2 * count - 2)
    assert pyperf(first, second) == (("slower" if t > 0 else "faster") if significant else None)


def test_asv_needs_its_factor_and_its_test() -> None:
    baseline = arm([10.0 + 0.1 * step for step in range(7)], unit=MS)  # each call is a sample of its own
    assert asv(baseline, baseline * 12 // 10) == "slower"  # seven beyond seven: p = 2 / 3432
    assert asv(baseline * 12 // 10, baseline) == "faster"
    assert asv(baseline, baseline * 109 // 100) is None, "the medians differ by less than 10 %"
    assert asv(baseline[:, :6], baseline[:, :6] * 12 // 10) is None, "six beyond six: p = 2 / 924, above 0.002"
    overlapping = np.sort(np.concatenate([baseline[:, :2], baseline[:, 2:] * 12 // 10], axis=1))
    assert asv(baseline, overlapping) is None, "two of the seven are no slower"


def test_a_sample_of_asv_takes_about_10_ms() -> None:
    calls = np.tile([4 * MS, 6 * MS], (2, 8))  # their means are all 5 ms: by single calls they would be spread widely
    assert asv(calls, calls * 12 // 10) == "slower"
    assert asv(calls[:, :8], calls[:, :8] * 12 // 10) == "slower", "two processes with four samples each"
    assert asv(calls[:1, :8], calls[:1, :8] * 12 // 10) is None, "four samples cannot tell"
    assert asv(calls // 1000, calls // 1000 * 12 // 10) is None, "a process with less than 10 ms is one sample"


def test_asv_does_not_correct_for_continuity() -> None:
    """With 22 samples each, U = 110 has p = 0.0019, but 0.0020 and a little if it were corrected."""
    step = 0.01 * np.arange(22)
    baseline = arm(list(20 + step), unit=MS)
    assert asv(baseline, arm([*(15 + step[:5]), *(30 + step[5:])], unit=MS)) == "slower"
    assert asv(baseline, arm([*(15 + step[:6]), *(30 + step[6:])], unit=MS)) is None


@given(st.integers(0, 2**32 - 1), st.floats(1.05, 1.3))
def test_asv_s_normal_approximation(seed: int, factor: float) -> None:
    random = np.random.default_rng(seed)
    first, second = (random.lognormal(math.log(20 * MS), 0.15, (3, 10)).astype(np.int64) for _ in range(2))
    second = (second * factor).astype(np.int64)
    u = sum(int(x > y) for x in first.ravel() for y in second.ravel())
    z = (min(u, 900 - u) - 450) / math.sqrt(30 * 30 * 61 / 12)
    before, after = np.median(first), np.median(second)
    slower = 2 * stats.norm.cdf(z) < 0.002 and before < after / 1.1
    assert asv(first, second) == ("slower" if slower else None)


def test_every_rule_is_asked() -> None:
    baseline = np.random.default_rng(0).lognormal(13, 0.01, (6, 300)).astype(np.int64)
    assert alarms(baseline, baseline) == dict.fromkeys(RULES)
    assert alarms(baseline, 2 * baseline) == dict.fromkeys(RULES, "slower")
