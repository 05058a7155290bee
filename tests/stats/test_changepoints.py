"""Change points, by simulation: flat series have none, steps are found soon, odd runs are none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.stats.changepoints import LEAST_RUNS, ChangePoint, Scale, change_points

Array = NDArray[np.float64]
Noise = Callable[[np.random.Generator, int], Array]


def normal(random: np.random.Generator, runs: int) -> Array:
    return random.standard_normal(runs)


def heavy(random: np.random.Generator, runs: int) -> Array:
    """Student's t with 3 degrees of freedom, and one run in twenty is odd by 5 to 15 deviations."""
    odd = (random.random(runs) < 0.05) * random.choice([-1, 1], runs) * random.uniform(5, 15, runs)
    return random.standard_t(3, runs) / math.sqrt(3) + odd


def slow(random: np.random.Generator, runs: int) -> Array:
    """Normal, and one run in twenty is slower by 5 to 15 deviations: never faster."""
    return normal(random, runs) + (random.random(runs) < 0.05) * random.uniform(5, 15, runs)


def correlated(random: np.random.Generator, runs: int) -> Array:
    """AR(1) with 0.4: each run resembles the one before."""
    made = normal(random, runs)
    for run in range(1, runs):
        made[run] = 0.4 * made[run - 1] + math.sqrt(1 - 0.4**2) * made[run]
    return made


SHAPES = [normal, heavy, slow, correlated]


def found(logs: Array, error: float | None = None) -> list[int]:
    return [change.index for change in change_points(np.exp(logs).tolist(), [error] * len(logs), "ratio", 0.01)]


def false_alarms(noise: Noise, runs: int, deviation: float, series: int, error: float | None = None) -> float:
    random = np.random.default_rng(runs)
    return sum(bool(found(deviation * noise(random, runs), error)) for _ in range(series)) / series


def power(noise: Noise, before: int, after: int, series: int) -> float:
    """How often a step of 5 % in 1 % of noise is found, within a run of its place, so many runs after it."""
    random = np.random.default_rng(before)
    hits = 0
    for _ in range(series):
        logs = 0.01 * noise(random, before + after)
        logs[before:] += math.log(1.05)
        hits += any(abs(index - before) <= 1 for index in found(logs))
    return hits / series


@pytest.mark.parametrize("runs", [5, 10, 20, 50])
@pytest.mark.parametrize("noise", SHAPES)
def test_of_flat_series_at_most_one_in_twenty_has_a_change(noise: Noise, runs: int) -> None:
    assert false_alarms(noise, runs, 0.05, 200) <= 0.05  # noise beside which the margin is nothing


@pytest.mark.slow
@pytest.mark.parametrize("error", [None, 0.5])
@pytest.mark.parametrize("deviation", [0.01, 0.05])
@pytest.mark.parametrize("runs", [5, 6, 7, 8, 10, 15, 20, 50, 100])
@pytest.mark.parametrize("noise", SHAPES)
def test_false_alarms_in_many_series(noise: Noise, runs: int, deviation: float, error: float | None) -> None:
    """``error`` is the runs' own, as a share of the deviation between them."""
    assert false_alarms(noise, runs, deviation, 1000, error and error * deviation) <= 0.05


@pytest.mark.parametrize(
    ("noise", "before", "after", "least"),
    [
        (normal, 12, 3, 0.9),
        (normal, 17, 3, 0.93),
        (normal, 47, 3, 0.97),
        (normal, 47, 2, 0.85),
        (correlated, 17, 3, 0.9),
        (correlated, 47, 3, 0.93),
        (heavy, 17, 3, 0.75),
        (heavy, 47, 3, 0.87),
        (slow, 47, 5, 0.87),
    ],
)
def test_a_step_is_found_soon(noise: Noise, before: int, after: int, least: float) -> None:
    assert power(noise, before, after, 100) >= least


@given(st.integers(5, 40), st.data(), st.floats(0.02, 1000), st.integers(0, 2**32 - 1))
def test_one_odd_run_is_no_change(runs: int, data: st.DataObject, factor: float, seed: int) -> None:
    logs = 1e-3 * np.random.default_rng(seed).uniform(-1, 1, runs)
    logs[data.draw(st.integers(0, runs - 1))] += math.log1p(factor)
    assert found(logs) == []


@pytest.mark.parametrize("place", range(5))
def test_one_odd_run_of_five_is_no_change(place: int) -> None:
    logs = 1e-3 * np.random.default_rng(2**32 - 1).uniform(-1, 1, 5)
    logs[place] += math.log(2)
    assert found(logs) == []


def test_two_odd_runs_apart_and_two_together_in_the_middle_are_no_change() -> None:
    logs = 1e-3 * normal(np.random.default_rng(0), 20)
    for odd in ([4, 12], [9, 10], [0, 19]):
        moved = logs.copy()
        moved[odd] += 0.2
        assert found(moved) == []


def test_levels_are_found_at_their_places() -> None:
    random = np.random.default_rng(1)
    levels = np.repeat([0.0, 0.1, 0.0, -0.2, -0.1], [8, 7, 9, 6, 8])
    assert found(levels + 0.004 * normal(random, 38)) == [8, 15, 24, 30]


def test_a_step_without_noise_is_found_from_five_runs_on() -> None:
    assert change_points([1, 1, 1, 2, 2], [None] * 5, "ratio", 0.01) == [ChangePoint(3, 1.0, 2.0)]
    assert change_points([1, 1, 2, 2], [None] * 4, "ratio", 0.01) == []
    assert LEAST_RUNS == 5


def test_a_change_must_exceed_the_margin_either_way() -> None:
    for factor in (1.02, 1 / 1.02):
        series = [0.5] * 6 + [0.5 * factor] * 6
        assert [len(change_points(series, [None] * 12, "ratio", margin)) for margin in (0.019, 0.021)] == [1, 0]
    assert [len(change_points([-50.0] * 6 + [-51.0] * 6, [None] * 12, "plain", margin)) for margin in (0.01, 0.03)] == [
        1,
        0,
    ]


def test_steps_below_the_margin_do_not_hide_one_beyond_it() -> None:
    series = [1.0] * 8 + [1.004] * 8 + [1.104] * 8
    assert [change.index for change in change_points(series, [None] * 24, "ratio", 0.01)] == [16]


def test_of_steps_below_the_margin_the_least_goes_first() -> None:
    series = [1.0] * 8 + [1.006] * 8 + [1.0129] * 8
    assert [change.index for change in change_points(series, [None] * 24, "ratio", 0.007)] == [16]


def test_runs_that_agree_by_luck_are_no_better_than_their_errors() -> None:
    series = [1.0, 1.0, 1.0, 1.02, 1.02]
    assert [len(change_points(series, [error] * 5, "ratio", 0.01)) for error in (None, 0.006)] == [1, 0]


def test_what_the_runs_own_errors_explain_is_no_change() -> None:
    series = [1.0, 1.001, 0.999, 1.0, 1.001, 1.0, 0.999, 1.001, 1.08, 1.07, 1.09]
    assert [len(change_points(series, [error] * 11, "ratio", 0.01)) for error in (None, 0.002, 0.1)] == [1, 1, 0]
    late = [0.001] * 8 + [0.1] * 3
    assert change_points(series, late, "ratio", 0.01) == []


def test_exact_figures_change_with_any_difference_from_two_runs_on() -> None:
    assert change_points([3.0, 3.0, 4.0, 3.0], [None] * 4, "exact", 0.5) == [
        ChangePoint(2, 3.0, 4.0),
        ChangePoint(3, 4.0, 3.0),
    ]
    assert [change_points(series, [None] * len(series), "exact", 0.0) for series in ([], [1.0], [1.0, 1.0])] == [[]] * 3


@pytest.mark.parametrize("scale", ["ratio", "plain"])
@pytest.mark.parametrize("level", [1e-90, 1.0, 1e99])
def test_the_unit_does_not_matter(scale: Scale, level: float) -> None:
    series = [level] * 6 + [1.1 * level] * 6
    (change,) = change_points(series, [None] * 12, scale, 0.01)
    assert change.index == 6
    assert change.relative == pytest.approx(0.1)


def test_from_nothing_there_is_no_relative_change() -> None:
    (change,) = change_points([0.0] * 5 + [3.0] * 5, [None] * 10, "plain", 0.01)
    assert (change.index, change.relative) == (5, None)
    assert ChangePoint(1, 5e-324, 1e99).relative is None
    assert change_points([0.0] * 10, [None] * 10, "plain", 0.01) == []


@pytest.mark.parametrize(
    ("values", "errors", "scale"),
    [
        ([1, math.nan], [None] * 2, "plain"),
        ([1, 0], [None] * 2, "ratio"),
        ([1], [], "plain"),
        ([math.inf], [None], "exact"),
    ],
)
def test_what_is_no_series_is_refused(values: Any, errors: Any, scale: Scale) -> None:
    with pytest.raises(ValueError, match="a series needs finite values"):
        change_points(values, errors, scale, 0.01)


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=5, max_size=30),
    st.sampled_from(["ratio", "plain", "exact"]),
    st.floats(0, 0.5),
)
def test_changes_are_in_order_and_levels_follow_each_other(values: list[float], scale: Scale, margin: float) -> None:
    changes = change_points(values, [None] * len(values), scale, margin)
    places = [0, *(change.index for change in changes), len(values)]
    assert places == sorted(set(places))
    for one, other in itertools.pairwise(changes):
        assert one.after == other.before
    for change, begin, end in zip(changes, places, places[2:], strict=False):
        assert change.before == np.median(values[begin : change.index])
        assert change.after == np.median(values[change.index : end])


@given(st.lists(st.floats(0.5, 2), min_size=5, max_size=25), st.floats(1e-6, 1e6))
def test_ratios_of_another_unit_change_at_the_same_runs(values: list[float], factor: float) -> None:
    first = change_points(values, [None] * len(values), "ratio", 0.01)
    second = change_points([factor * value for value in values], [None] * len(values), "ratio", 0.01)
    assert [change.index for change in first] == [change.index for change in second]
