"""Binning, imputation, encoding, standardisation and the flat layout: by hand, and their laws."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness_icu.series import Channel, Events, columns, encode, features, flat, grid, impute, moments, series

PULSE, EYES, ACID = (
    Channel("pulse", 86.0),
    Channel("eyes", "open", ("shut", "open", "half")),
    Channel("acid", 7.4),
)
CHANNELS = (PULSE, EYES, ACID)
NAN = np.nan


def events(*rows: tuple[int, float, int, float]) -> Events:
    stays, hours, channels, values = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Events(np.array(stays, int), np.array(hours, float), np.array(channels, int), np.array(values, float))


def test_a_category_has_a_column_each_and_its_normal_value_is_one_of_them() -> None:
    assert (EYES.width, EYES.default, PULSE.width, PULSE.default) == (3, 1.0, 1, 86.0)
    assert columns(CHANNELS) == [slice(0, 1), slice(1, 4), slice(4, 5)]
    assert features(CHANNELS) == 8


def test_bins_hold_their_end_and_the_first_one_its_beginning_too() -> None:
    measured = grid(events((0, 0, 0, 1), (0, 1, 2, 2), (0, 1.001, 0, 3), (0, 3, 0, 4)), 1, 3, bins=3)
    np.testing.assert_array_equal(measured[0], [[1, NAN, 2], [3, NAN, NAN], [4, NAN, NAN]])


def test_the_last_value_of_a_bin_wins_by_time_then_by_place() -> None:
    rows = events((0, 0.9, 0, 5), (0, 0.2, 0, 6), (0, 1.5, 0, 7), (0, 1.5, 0, 8), (1, 0.5, 0, 9))
    np.testing.assert_array_equal(grid(rows, 2, 1, bins=2)[:, :, 0], [[5, 8], [9, NAN]])


def test_times_outside_are_left_out() -> None:
    assert np.isnan(grid(events((0, -0.001, 0, 1), (0, 2.001, 0, 2), (0, NAN, 0, 3)), 1, 1, bins=2)).all()


def test_a_gap_is_filled_from_before_else_with_the_normal_value() -> None:
    measured = np.array([[[NAN, NAN], [5, NAN], [NAN, 3]], [[1, 2], [NAN, NAN], [NAN, 9]]])
    filled = impute(measured, [86, 7])
    np.testing.assert_array_equal(filled, [[[86, 7], [5, 7], [5, 3]], [[1, 2], [1, 2], [1, 9]]])
    assert np.isnan(measured[0, 0, 0]), "the input is left alone"


def test_a_stay_worked_by_hand() -> None:
    made = series(events((0, 0.5, 1, 2), (0, 1.5, 0, 90)), 1, CHANNELS, bins=3)
    assert made.dtype == np.float32
    expected = [[86, 0, 0, 1, 7.4, 0, 1, 0], [90, 0, 0, 1, 7.4, 1, 0, 0], [90, 0, 0, 1, 7.4, 0, 0, 0]]
    np.testing.assert_allclose(made[0], expected)


def test_only_continuous_columns_are_standardised_by_the_sample_deviation() -> None:
    train = series(events((0, 0.5, 0, 80), (1, 1.5, 0, 96), (1, 0.5, 1, 0)), 2, CHANNELS, bins=2)
    mean, deviation = moments(train, CHANNELS)
    values = np.array([80, 80, 86, 96])
    np.testing.assert_allclose(mean, [values.mean(), 0, 0, 0, 7.4, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(deviation, [values.std(ddof=1), 1, 1, 1, 1, 1, 1, 1], rtol=1e-6)


def test_the_flat_layout_is_the_mean_of_what_was_measured() -> None:
    made = series(events((0, 0.5, 0, 80), (0, 2.5, 0, 90), (0, 0.5, 1, 0), (0, 2.5, 1, 2)), 2, CHANNELS, bins=4)
    np.testing.assert_allclose(
        flat(made, CHANNELS),
        [[85, 0.5, 0, 0.5, 7.4, 0.5, 0.5, 0], [86, 0, 1, 0, 7.4, 0, 0, 0]],  # the second stay has normal values alone
        rtol=1e-6,
    )


# ------------------------------------------------------------------------------------------------------------- laws

STAYS, BINS = 3, 5
ROWS = st.lists(
    st.tuples(st.integers(0, STAYS - 1), st.floats(0, BINS), st.integers(0, 2), st.integers(0, 2)), max_size=40
)


@given(ROWS)
def test_a_grid_is_what_a_loop_over_the_events_gives(rows: list[tuple[int, float, int, float]]) -> None:
    expected = np.full((STAYS, BINS, 3), NAN)
    for stay, hour, channel, value in sorted(rows, key=lambda row: row[1]):
        expected[stay, next(k for k in range(BINS) if hour <= k + 1), channel] = value
    np.testing.assert_array_equal(grid(events(*rows), STAYS, 3, BINS), expected)


@given(ROWS)
def test_features_are_finite_one_hot_and_masked_where_measured(rows: list[tuple[int, float, int, float]]) -> None:
    made = series(events(*rows), STAYS, CHANNELS, BINS)
    assert made.shape == (STAYS, BINS, 8)
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made[:, :, 1:4].sum(axis=2), 1)
    np.testing.assert_array_equal(made[:, :, 5:] == 1, ~np.isnan(grid(events(*rows), STAYS, 3, BINS)))


@given(hnp.arrays(np.float64, (2, 6, 1), elements=st.one_of(st.just(NAN), st.floats(-9, 9))))
def test_imputing_keeps_what_was_measured_and_again_changes_nothing(measured: np.ndarray) -> None:
    filled = impute(measured, [1.0])
    there = ~np.isnan(measured)
    np.testing.assert_array_equal(filled[there], measured[there])
    np.testing.assert_array_equal(impute(filled, [5.0]), filled)


@given(ROWS)
def test_standardising_and_flattening_commute(rows: list[tuple[int, float, int, float]]) -> None:
    made = series(events(*rows), STAYS, CHANNELS, BINS)
    mean, deviation = moments(made, CHANNELS)
    np.testing.assert_allclose(
        flat((made - mean) / deviation, CHANNELS), (flat(made, CHANNELS) - mean) / deviation, atol=1e-4
    )


@given(st.integers(2, 6), st.randoms(use_true_random=False))
def test_standardised_columns_have_mean_0_and_deviation_1(stays: int, random: object) -> None:
    filled = np.random.default_rng(stays).normal(50, 9, (stays, BINS, 3))
    filled[:, :, 1] = 2
    made = encode(filled, np.ones(filled.shape, bool), CHANNELS)
    mean, deviation = moments(made, CHANNELS)
    standard = ((made - mean) / deviation)[:, :, [0, 4]].reshape(-1, 2)
    np.testing.assert_allclose(standard.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std(axis=0, ddof=1), 1, atol=1e-5)
