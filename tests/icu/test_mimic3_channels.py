"""The 17 channels: their columns as published, and the cleaning of texts, computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_icu import mimic3_channels
from harness_icu.mimic3_channels import CHANNELS, ITEMS, LARGEST, clean
from harness_icu.series import columns, features


def test_columns_are_the_published_ones() -> None:
    assert features(CHANNELS) == 76
    where = {
        channel.name: (here.start, here.stop - 1) for channel, here in zip(CHANNELS, columns(CHANNELS), strict=True)
    }
    assert list(where.values()) == [
        *((0, 1), (2, 2), (3, 3), (4, 11), (12, 23), (24, 36), (37, 48), (49, 49), (50, 50)),
        *((51, 51), (52, 52), (53, 53), (54, 54), (55, 55), (56, 56), (57, 57), (58, 58)),
    ]
    assert where["GCS total"] == (24, 36)
    assert sum(not channel.categories for channel in CHANNELS) == 12
    for channel in CHANNELS:
        assert len(set(channel.categories)) == len(channel.categories)
        assert math.isfinite(channel.default)


def test_each_item_belongs_to_one_channel() -> None:
    assert len(ITEMS) == 114
    assert CHANNELS[ITEMS[211]].name == "heart rate"
    assert CHANNELS[ITEMS[50820]].name == "pH"


@pytest.mark.parametrize(
    ("item", "text", "unit", "value"),
    [
        (3348, "Normal <3 secs", "", 0),
        (8377, "Brisk", "", 0),
        (115, "Abnormal >3 secs", "", 1),
        (115, "Delayed", "", 1),
        (115, "Other/Remarks", "", math.nan),
        (8368, "120/71", "mmHg", 71),
        (51, "120/71", "mmHg", 120),
        (51, "120", "mmHg", 120),
        (3420, "50", "%", 0.5),
        (223835, "0.5", "", 0.5),
        (223835, "1", "", 1),
        (189, "50", "torr", 50),
        (189, "50", "TORR", 50),
        (184, "4 Spontaneously", "", 3),
        (220739, "None", "", 4),
        (220739, " None ", "", 4),
        (198, "15", "points", 4),
        (723, "1.0 ET/Trach", "", 8),
        (50931, "ERROR", "mg/dL", math.nan),
        (50931, "HEMOLYZED", "mg/dL", math.nan),
        (50931, "105", "mg/dL", 105),
        (50931, ".5", "mg/dL", 0.5),
        (50820, "7.35", "units", 7.35),
        (50820, "-7", "units", math.nan),
        (646, "0.97", "%", 97),
        (646, "1", "%", 100),
        (646, "0", "%", 0),
        (646, "97", "%", 97),
        (50817, "ERROR", "%", math.nan),
        (678, "98.6", "Deg. F", 37),
        (223762, "37.5", "?C", 37.5),
        (223761, "78.9", "?F", 78.9),  # below 79 the published code leaves it, whatever the unit
        (676, "79", "Deg. C", 47 * 5 / 9),
        (763, "80", "kg", 80),
        (763, "80", "", 80),
        (763, "100", "lb", 45.3592),
        (226531, "100", "", 45.3592),
        (3581, "100", "lbs", 45.3592),
        (3582, "160", "oz", 4.53592),
        (226707, "70", "Inch", 178),
        (1394, "70", "", 178),
        (226730, "170.5", "cm", 170.5),
        (226707, "170", "", 170),
        (211, "-3.5e1", "BPM", -35),  # outliers stay
        (211, "100000", "BPM", 100000),
        (211, "1e9", "BPM", math.nan),  # typing errors do not
        (211, "-1e9", "BPM", math.nan),
        (50931, "1276103", "mg/dL", math.nan),
        (3582, "160000", "oz", 4535.92),  # compared in the channel's unit
        (1394, "50000", "", math.nan),
    ],
)
def test_cleaning_by_hand(item: int, text: str, unit: str, value: float) -> None:
    assert clean(item, text, unit) == pytest.approx(value, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("item", "text", "unit", "reason"),
    [
        (211, "fast", "BPM", "it is no number, as heart rate needs"),
        (211, "nan", "BPM", "it is no number"),
        (211, "1_0", "BPM", "it is no number"),
        (52, "120/71", "mmHg", "it is no number"),
        (51, "120/", "mmHg", "it is no number"),
        (211, "1e400", "BPM", "it is too large"),
        (226730, "1e39", "cm", "it is too large"),
        (51, f"{'9' * 400}/71", "mmHg", "it is too large"),
        (184, "5 Winks", "", "it is no category of GCS eye opening"),
        (198, "16", "points", "it is no category of GCS total"),
        (226512, "80", "lb", "the unit 'lb' contradicts item 226512, which is in kg"),
        (3581, "180", "kg", "the unit 'kg' contradicts item 3581, which is in lb"),
        (226730, "70", "Inch", "the unit 'Inch' contradicts item 226730, which is in cm"),
    ],
)
def test_what_cannot_be_understood_is_refused(item: int, text: str, unit: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        clean(item, text, unit)


def test_the_published_slip_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mimic3_channels, "FIO2_SLIP", True)
    assert clean(223835, "0.5", "") == 0.005
    assert clean(223835, "50", "") == 0.5
    assert clean(189, "50", "torr") == 50


@given(st.sampled_from(sorted(ITEMS)), st.floats(0, 1e6), st.sampled_from(["", "%", "mmHg"]))
def test_any_number_is_finite_or_refused_or_missing_when_too_large(item: int, number: float, unit: str) -> None:
    text = f"{number:.3f}"
    channel = CHANNELS[ITEMS[item]]
    if channel.name == "capillary refill rate":
        assert math.isnan(clean(item, text, unit))
    elif channel.categories:
        with pytest.raises(ValueError, match="no category"):
            clean(item, text, unit)
    else:
        value = clean(item, text, unit)
        assert abs(value) <= LARGEST or (np.isnan(value) and number > LARGEST / 2.54)


@given(st.floats(20, 45))
def test_fahrenheit_and_celsius_agree(celsius: float) -> None:
    fahrenheit = celsius * 9 / 5 + 32
    assert clean(676, f"{celsius:.6f}", "") == pytest.approx(celsius, abs=1e-5)
    if fahrenheit >= 79:
        assert clean(678, f"{fahrenheit:.6f}", "") == pytest.approx(celsius, abs=1e-5)
