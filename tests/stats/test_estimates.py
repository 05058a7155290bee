"""Estimates: hand-worked numbers, and SciPy's own Welch and Student as oracles."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.stats.estimates import (
    LEVEL,
    Mean,
    average,
    from_deviation,
    from_interval,
    mean_of,
    one_more_value,
    quantile,
    welch_difference,
)

VALUES = st.lists(st.floats(-10, 10), min_size=2, max_size=8).filter(lambda values: statistics.stdev(values) > 1e-3)


@given(VALUES, VALUES)
def test_a_difference_is_scipy_s_welch(ours: list[float], theirs: list[float]) -> None:
    oracle = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(LEVEL)
    published = from_deviation(statistics.fmean(theirs), statistics.stdev(theirs), len(theirs))
    low, high = welch_difference(mean_of(ours), published).bounds()
    assert low == pytest.approx(oracle.low, rel=1e-6, abs=1e-9)
    assert high == pytest.approx(oracle.high, rel=1e-6, abs=1e-9)


@given(VALUES)
def test_a_mean_is_scipy_s_student(values: list[float]) -> None:
    oracle = stats.ttest_1samp(values, 0).confidence_interval(LEVEL)
    assert mean_of(values).bounds() == pytest.approx((oracle.low, oracle.high), rel=1e-6, abs=1e-9)


def test_by_hand() -> None:
    # mean 3, deviation 1, error 1 / sqrt(3); t(0.975, 2) = 4.3027
    low, high = mean_of([2.0, 3.0, 4.0]).bounds()
    assert (low, high) == (pytest.approx(3 - 4.3027 / math.sqrt(3), abs=1e-4), pytest.approx(5.4841, abs=1e-4))


def test_one_run_against_five_is_the_prediction_interval() -> None:
    # t(0.975, 4) = 2.7764; 0.001 * sqrt(1 + 1/5) = 0.0010954
    theirs = from_deviation(0.93, 0.001, 5)
    alone = one_more_value(0.932, 0.001, 5)
    assert math.hypot(alone.error or 0, theirs.error or 0) * quantile(LEVEL, 4) == pytest.approx(0.0030414, abs=1e-6)


def test_one_value_has_no_interval_and_neither_has_what_is_made_of_it() -> None:
    assert mean_of([1.0]).bounds() == (None, None)
    assert welch_difference(mean_of([1.0]), mean_of([1.0, 2.0])).error is None


def test_what_does_not_vary_is_exact() -> None:
    assert welch_difference(mean_of([2.0, 2.0]), mean_of([1.0, 1.0])).bounds() == (1.0, 1.0)


@given(st.floats(-5, 5), st.floats(0.01, 2), st.integers(1, 20))
def test_an_interval_s_error_gives_the_interval_again(value: float, error: float, freedom: int) -> None:
    low, high = Mean(value, error, freedom).bounds()
    again = from_interval(value, low, high, freedom)
    assert again.error == pytest.approx(error)


def test_an_average_of_equals_has_less_error() -> None:
    found = average([Mean(1.0, 0.2, 5), Mean(3.0, 0.2, 5)])
    assert (found.value, found.error, found.freedom) == pytest.approx((2.0, 0.2 / math.sqrt(2), 10.0))
