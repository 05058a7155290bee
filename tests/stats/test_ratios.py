"""The paired ratio and the percentile rule, against hand figures, scipy's own test and laws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import optimize, stats

from harness.errors import MeasureError, UsageError
from harness.stats import ratios as statistics
from harness.stats.ratios import (
    hierarchical_bootstrap,
    log_ratios,
    mean_log_ratio,
    minimum_detectable_effect,
    noncentrality,
    paired_ratio,
    percentile,
    samples_needed,
)

times = st.floats(1.0, 1e9)


@st.composite
def paired(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    shape = draw(st.tuples(st.integers(2, 6), st.integers(1, 8)))
    return draw(hnp.arrays(float, shape, elements=times)), draw(hnp.arrays(float, shape, elements=times))


def test_by_hand() -> None:
    reference = np.full((4, 3), 100.0)
    candidate = 100 * np.exp([[0.1, 0.1, 9.0], [0.2, 0.2, 0.2], [0.3, 0.3, -9.0], [0.4, 0.4, 0.4]])
    ratio = paired_ratio(reference, candidate)
    # Medians .1 .2 .3 .4: mean .25, sd sqrt(.05 / 3), t(.975, 3) = 3.182446.
    half = 3.182446 * math.sqrt(0.05 / 3) / 2
    assert ratio.ratio == pytest.approx(math.exp(0.25))
    assert ratio.low == pytest.approx(math.exp(0.25 - half), rel=1e-6)
    assert ratio.high == pytest.approx(math.exp(0.25 + half), rel=1e-6)
    assert ratio.per_process == pytest.approx(np.exp([0.1, 0.2, 0.3, 0.4]))
    assert (ratio.processes, ratio.pairs, ratio.reason) == (4, 3, None)


def test_the_interval_is_that_of_scipy_s_t_test_over_processes() -> None:
    rng = np.random.default_rng(1)
    reference, candidate = rng.lognormal(size=(6, 100)), rng.lognormal(0.3, size=(6, 100))
    ratio = paired_ratio(reference, candidate, level=0.9)
    expected = stats.ttest_1samp(np.median(np.log(candidate / reference), axis=1), 0).confidence_interval(0.9)
    assert (ratio.low, ratio.high) == pytest.approx((np.exp(expected.low), np.exp(expected.high)))


def test_more_pairs_in_a_process_do_not_narrow_the_interval() -> None:
    reference = np.full((3, 10), 100.0)
    candidate = np.full((3, 10), 100.0) * [[1.0], [1.1], [1.2]]
    few, many = paired_ratio(reference, candidate), paired_ratio(np.tile(reference, 50), np.tile(candidate, 50))
    assert (few.low, few.high) == pytest.approx((many.low, many.high))


@given(paired())
def test_swapping_the_arms_inverts_the_ratio(arms: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    there, back = paired_ratio(*arms), paired_ratio(*arms[::-1])
    assert there.ratio * back.ratio == pytest.approx(1)
    assert there.low is not None
    assert back.high is not None
    assert math.log(there.low) == pytest.approx(-math.log(back.high), rel=1e-6, abs=1e-9)


@given(paired(), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_units_cancel_and_a_factor_comes_through(
    arms: tuple[NDArray[np.float64], NDArray[np.float64]], unit: float, factor: float
) -> None:
    reference, candidate = arms
    plain, scaled = paired_ratio(reference, candidate), paired_ratio(reference * unit, candidate * unit * factor)
    assert scaled.ratio == pytest.approx(plain.ratio * factor)


def test_one_process_gives_a_ratio_and_the_reason_why_no_interval() -> None:
    ratio = paired_ratio([[100.0, 100.0, 100.0]], [[50.0, 50.0, 70.0]])
    assert (ratio.ratio, ratio.low, ratio.high) == (pytest.approx(0.5), None, None)
    assert ratio.reason == "an interval over processes needs at least two processes"


@pytest.mark.parametrize(
    ("reference", "candidate", "text"),
    [
        ([[1.0, 2.0]], [[1.0]], "of one shape"),
        ([1.0, 2.0], [1.0, 2.0], "of one shape"),
        ([[], []], [[], []], "of one shape"),
        ([[1.0]], [[0.0]], "took zero time"),
        ([[math.nan]], [[1.0]], "took zero time"),
    ],
)
def test_what_is_not_paired_times_is_refused(reference: object, candidate: object, text: str) -> None:
    with pytest.raises(MeasureError, match=text):
        paired_ratio(reference, candidate)  # type: ignore[arg-type]
    with pytest.raises(MeasureError, match=text):
        hierarchical_bootstrap(reference, candidate)  # type: ignore[arg-type]


def test_the_bootstrap_is_that_of_two_plain_loops() -> None:
    rng = np.random.default_rng(3)
    logs = rng.normal(0, 0.02, (6, 21)) + rng.normal(0.05, 0.01, (6, 1))
    means = []
    for _ in range(4000):
        rows = [logs[process] for process in rng.integers(6, size=6)]
        means.append(np.mean([np.median(rng.choice(row, size=21)) for row in rows]))
    expected = np.exp(np.quantile(means, [0.05, 0.95]))
    found = hierarchical_bootstrap(np.full((6, 21), 100.0), 100 * np.exp(logs), level=0.9, repetitions=4000)
    # Two independent sets of 4,000: a quantile of either is good to about 3 % of the interval's width.
    assert found == pytest.approx(expected, abs=0.06 * (expected[1] - expected[0]))


def test_the_bootstrap_resamples_processes_and_not_only_pairs() -> None:
    reference = np.full((3, 10), 100.0)
    candidate = reference * [[1.0], [1.1], [1.2]]  # nothing varies within a process
    low, high = hierarchical_bootstrap(reference, candidate, level=0.99)
    assert (low, high) == pytest.approx((1.0, 1.2))  # of 27 samples of processes, the extremes are one each


def test_the_bootstrap_resamples_pairs_and_not_only_processes() -> None:
    pairs = np.tile([90.0, 110.0, 100.0], (4, 1))  # every process is like every other
    low, high = hierarchical_bootstrap(np.full((4, 3), 100.0), pairs)
    assert low < 1 < high


def test_the_bootstrap_repeats_itself_and_differs_by_seed() -> None:
    rng = np.random.default_rng(4)
    arms = rng.lognormal(size=(4, 9)), rng.lognormal(size=(4, 9))
    assert hierarchical_bootstrap(*arms) == hierarchical_bootstrap(*arms)
    assert hierarchical_bootstrap(*arms) != hierarchical_bootstrap(*arms, seed=1)
    low, high = hierarchical_bootstrap(*arms, repetitions=1)
    assert low == high


def test_a_large_bootstrap_goes_in_parts_of_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    arms = rng.lognormal(size=(4, 9)), rng.lognormal(size=(4, 9))
    whole = hierarchical_bootstrap(*arms)
    monkeypatch.setattr(statistics, "RESAMPLED_AT_ONCE", 4 * 9 * 300)  # 2,000 in six parts of 300 and one of 200
    parts = hierarchical_bootstrap(*arms)
    assert parts == pytest.approx(whole, rel=0.1)
    assert parts != whole


@given(paired(), st.floats(1e-3, 1e3))
def test_a_factor_comes_through_the_bootstrap(
    arms: tuple[NDArray[np.float64], NDArray[np.float64]], factor: float
) -> None:
    reference, candidate = arms
    low, high = hierarchical_bootstrap(reference, candidate, repetitions=50)
    assert low <= high
    scaled = hierarchical_bootstrap(reference, candidate * factor, repetitions=50)
    assert scaled == pytest.approx((low * factor, high * factor))


def test_with_six_processes_the_bootstrap_covers_too_seldom_and_student_s_interval_does_not() -> None:
    rng = np.random.default_rng(6)
    bootstrap = student = 0
    for _ in range(300):
        candidate = np.exp(rng.normal(0, 0.01, (6, 15)) + rng.normal(0, 0.02, (6, 1)))
        low, high = hierarchical_bootstrap(np.ones((6, 15)), candidate, repetitions=300)
        bootstrap += low < 1 < high
        ratio = paired_ratio(np.ones((6, 15)), candidate)
        assert ratio.low is not None
        assert ratio.high is not None
        student += ratio.low < 1 < ratio.high
    assert bootstrap / 300 < 0.93
    assert 0.92 < student / 300 < 0.98


def test_a_bootstrap_of_one_process_is_refused() -> None:
    with pytest.raises(MeasureError, match="at least two"):
        hierarchical_bootstrap([[100.0, 110.0]], [[50.0, 60.0]])


def test_a_wrong_level_or_number_is_an_error() -> None:
    arms = np.ones((2, 3)), np.ones((2, 3))
    with pytest.raises(UsageError, match="level=95: it must lie between 0 and 1"):
        paired_ratio(*arms, level=95)
    with pytest.raises(UsageError, match="level="):
        hierarchical_bootstrap(*arms, level=0)
    with pytest.raises(UsageError, match="repetitions=0: a bootstrap needs at least 1"):
        hierarchical_bootstrap(*arms, repetitions=0)
    with pytest.raises(UsageError, match="power="):
        minimum_detectable_effect([[1.0, 1.1]], power=1)
    with pytest.raises(UsageError, match="at least two processes"):
        minimum_detectable_effect([[1.0, 1.1]], processes=1)


def effect_of(*arguments: Any, **options: Any) -> float:
    """The minimum detectable effect, which must be known."""
    effect = minimum_detectable_effect(*arguments, **options)
    assert effect is not None
    return effect.value


def scipy_noncentrality(tail: float, power: float, freedom: float) -> float:
    """The noncentrality by scipy.stats, which computes it in another way than scipy.special."""
    limit = stats.t.isf(tail, freedom)
    return float(optimize.brentq(lambda effect: stats.nct.sf(limit, freedom, effect) - power, 0, 100))


@pytest.mark.parametrize("freedom", [1, 2, 2.7, 5, 11, 40])
@pytest.mark.parametrize(("tail", "power"), [(0.025, 0.8), (0.05, 0.8), (0.0125, 0.9)])
def test_the_noncentrality_is_that_of_scipy_s_noncentral_t(freedom: float, tail: float, power: float) -> None:
    assert noncentrality(tail, power, freedom) == pytest.approx(scipy_noncentrality(tail, power, freedom), rel=1e-4)


def test_the_smallest_change_by_hand() -> None:
    # Log ratios .00 .02 | .01 .04 .07, about their means: squares .0002 + .0018 with 1 + 2 degrees of freedom.
    comparisons = [list(np.exp([0.00, 0.02])), list(np.exp([0.01, 0.04, 0.07]))]
    deviation = math.sqrt(0.0020 / 3)
    # Noncentral t with power .8 beyond t(.975): 3.513904 for 5 degrees of freedom, 16.334 for one.
    effect = minimum_detectable_effect(comparisons, 6)
    assert effect is not None
    log = 3.513904 * deviation / math.sqrt(6)
    assert effect.value == pytest.approx(math.exp(log) - 1, rel=1e-6)
    assert effect_of(comparisons) == pytest.approx(math.exp(16.334015 * deviation / math.sqrt(2)) - 1, rel=1e-5)
    # The 90 % interval of a deviation with 3 degrees of freedom: chi-square quantiles .351846 and 7.814728.
    assert effect.low == pytest.approx(math.exp(log * math.sqrt(3 / 7.814728)) - 1, rel=1e-5)
    assert effect.high == pytest.approx(math.exp(log * math.sqrt(3 / 0.351846)) - 1, rel=1e-5)


def test_a_a_runs_enlarge_the_smallest_change() -> None:
    # s = .02: variances .0004 / 4 of 4 processes and of each A/A run, with 3 and 3 degrees of freedom: 6 in the sum.
    comparison = list(np.exp([0.02 * math.sqrt(1.5), 0.0, -0.02 * math.sqrt(1.5), 0.0]))
    expected = scipy_noncentrality(0.025, 0.8, 6) * math.sqrt(2 * 0.0004 / 4)
    assert effect_of([comparison], aa_runs=3) == pytest.approx(math.exp(expected) - 1, rel=1e-4)


def test_a_model_beside_itself_has_a_ratio_of_one_that_is_known() -> None:
    # Logs a, a: no spread about their mean, a about 0. 16.334015 is the noncentrality for one degree of freedom.
    assert effect_of([[1.01, 1.01]]) == 0
    expected = math.exp(16.334015 * math.log(1.01) / math.sqrt(2)) - 1
    assert effect_of([[1.01, 1.01]], around_one=True) == pytest.approx(expected, rel=1e-5)


def test_only_the_spread_over_processes_counts_for_the_smallest_change() -> None:
    comparison = [0.99, 1.0, 1.02]
    alone = effect_of([comparison])
    assert effect_of([comparison, [2 * ratio for ratio in comparison]]) == pytest.approx(alone)
    assert effect_of([comparison, [5.0], []]) == alone
    assert effect_of([[1.0, 1.0]]) == 0


@pytest.mark.parametrize("comparisons", [[], [[1.0]], [[1.0], []]])
def test_without_two_processes_no_smallest_change_is_known(comparisons: list[list[float]]) -> None:
    assert minimum_detectable_effect(comparisons) is None


@pytest.mark.parametrize("processes", [2, 4, 6, 12])
def test_the_smallest_change_is_detected_as_often_as_its_power_says(processes: int) -> None:
    rng = np.random.default_rng(7)
    change = effect_of(list(np.exp(rng.normal(0, 0.002, (4000, processes)))))
    logs = rng.normal(math.log(1 + change), 0.002, (20_000, processes))
    interval = stats.ttest_1samp(logs, 0, axis=1).confidence_interval(0.95)
    detected = np.mean((interval.low > 0) | (interval.high < 0))
    assert detected == pytest.approx(0.8, abs=0.02)


def test_the_interval_of_the_smallest_change_holds_the_true_one_in_nine_of_ten_runs() -> None:
    rng = np.random.default_rng(8)
    true = math.exp(scipy_noncentrality(0.025, 0.8, 3) * 0.01 / 2) - 1
    held = []
    for ratios in np.exp(rng.normal(0, 0.01, (4000, 4))):
        effect = minimum_detectable_effect([list(ratios)], around_one=True)
        assert effect is not None
        held.append(effect.low < true < effect.high)
    assert np.mean(held) == pytest.approx(0.9, abs=0.015)


# ------------------------------------------------------------------------------------------------- what A/A runs show


def test_the_error_of_a_mean_by_hand() -> None:
    # Logs .01 .02 .03 .06: mean .03, variance .00014 / 3; A/A means .004 and -.002: mean square .00001.
    ratios = list(np.exp([0.01, 0.02, 0.03, 0.06]))
    runs = [list(np.exp([0.003, 0.005])), list(np.exp([-0.002, -0.002, -0.002]))]
    mean = mean_log_ratio(ratios, runs)
    own, noise = 0.0014 / 3 / 4, 0.00001
    assert mean.value == pytest.approx(0.03)
    assert mean.error == pytest.approx(math.sqrt(own + noise))
    assert mean.freedom == pytest.approx((own + noise) ** 2 / (own**2 / 3 + noise**2 / 2))


def test_without_a_a_runs_the_error_is_that_of_scipy_s_t_test() -> None:
    ratios = list(np.exp(np.random.default_rng(9).normal(0.1, 0.02, 5)))
    mean = mean_log_ratio(ratios)
    assert (mean.error, mean.freedom) == (pytest.approx(stats.sem(np.log(ratios))), 4)
    assert mean_log_ratio(ratios[:1]).error is None
    with pytest.raises(MeasureError, match="at least one process"):
        mean_log_ratio([])


def test_quiet_a_a_runs_change_little() -> None:
    ratios = list(np.exp(np.random.default_rng(10).normal(0.1, 0.02, 6)))
    alone, quiet = mean_log_ratio(ratios), mean_log_ratio(ratios, [[1.0001, 0.9999, 1.0002]] * 3)
    assert quiet.error == pytest.approx(alone.error, rel=1e-3)
    assert quiet.freedom == pytest.approx(alone.freedom, rel=1e-2)


@given(paired(), st.lists(st.lists(st.floats(0.5, 2), min_size=1, max_size=6), max_size=4))
def test_a_a_runs_only_add_to_the_error(
    arms: tuple[NDArray[np.float64], NDArray[np.float64]], runs: list[list[float]]
) -> None:
    alone, beside = paired_ratio(*arms), paired_ratio(*arms, aa_runs=runs)
    assert alone.ratio == beside.ratio
    means = mean_log_ratio(alone.per_process), mean_log_ratio(alone.per_process, runs)
    assert means[0].error is not None
    assert means[1].error is not None
    assert means[1].error >= means[0].error


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.nan, math.inf])
def test_what_is_not_a_ratio_is_refused(ratio: float) -> None:
    assert log_ratios([1.0, math.e]) == pytest.approx([0, 1])
    with pytest.raises(MeasureError, match="positive and finite"):
        log_ratios([1.0, ratio])
    with pytest.raises(MeasureError, match="positive and finite"):
        minimum_detectable_effect([[1.0, ratio]])


@pytest.mark.parametrize(("q", "needed"), [(90, 64), (95, 130), (99, 662), (99.9, 6636)])
def test_a_tail_percentile_needs_as_many_samples_as_mlperf_says(q: float, needed: int) -> None:
    assert samples_needed(q) == needed
    samples = np.arange(needed, dtype=float)
    assert percentile(samples, q).value == pytest.approx(np.percentile(samples, q))
    refused = percentile(samples[1:], q)
    assert refused.value is None
    assert refused.reason == f"p{q:g} needs {needed} samples, there are {needed - 1}"


@pytest.mark.parametrize("q", [0, 100, -1])
def test_a_percentile_out_of_range_is_an_error(q: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 100"):
        percentile([1.0], q)
