"""The paired ratio and the percentile rule, against hand figures, scipy's own test and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats

from harness.errors import MeasureError, UsageError
from harness.measure.statistics import paired_ratio, percentile, samples_needed

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
    assert ratio.reason == "an interval over processes needs at least two of them"


@pytest.mark.parametrize(
    ("reference", "candidate", "text"),
    [
        ([[1.0, 2.0]], [[1.0]], "of one shape"),
        ([1.0, 2.0], [1.0, 2.0], "of one shape"),
        ([[], []], [[], []], "of one shape"),
        ([[1.0]], [[0.0]], "took no time"),
        ([[math.nan]], [[1.0]], "took no time"),
    ],
)
def test_what_is_not_paired_times_is_refused(reference: object, candidate: object, text: str) -> None:
    with pytest.raises(MeasureError, match=text):
        paired_ratio(reference, candidate)  # type: ignore[arg-type]


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
