"""Define the 17 channels of MIMIC-III that the benchmark reads, and clean their values.

Items, categories, normal values and cleaning are those of the published pipeline of Harutyunyan et al., Sci Data 2019,
10.1038/s41597-019-0103-9, but for FIO2_SLIP and LARGEST.
"""

from __future__ import annotations

import math
import re
from typing import Final

from harness_icu.series import Channel

#: The published code divides every inspired-oxygen fraction by 100 unless its unit is torr, also one that is a
#: fraction already: a slip, by its authors' own comment. We divide percentages alone; True repeats the slip.
FIO2_SLIP: Final = False

REFILL = {"Normal <3 secs": 0.0, "Brisk": 0.0, "Abnormal >3 secs": 1.0, "Delayed": 1.0}
EYE = ("To Pain", "3 To speech", "1 No Response", "4 Spontaneously", "None", "To Speech", "Spontaneously", "2 To pain")
MOTOR = (
    *("1 No Response", "3 Abnorm flexion", "Abnormal extension", "No response", "4 Flex-withdraws", "Localizes Pain"),
    *("Flex-withdraws", "Obeys Commands", "Abnormal Flexion", "6 Obeys Commands", "5 Localizes Pain"),
    "2 Abnorm extensn",
)
TOTAL = ("11", "10", "13", "12", "15", "14", "3", "5", "4", "7", "6", "9", "8")
VERBAL = (
    *("1 No Response", "No Response", "Confused", "Inappropriate Words", "Oriented", "No Response-ETT", "5 Oriented"),
    *("Incomprehensible sounds", "1.0 ET/Trach", "4 Confused", "2 Incomp sounds", "3 Inapprop words"),
)

#: Each channel with its items, in the order of the columns.
_CHANNELS: tuple[tuple[Channel, str], ...] = (
    (Channel("capillary refill rate", "0.0", ("0.0", "1.0")), "3348 115 8377"),
    (
        Channel("diastolic blood pressure", 59.0),
        "8368 220051 225310 8555 8441 220180 8502 8440 8503 8504 8507 8506 224643",
    ),
    (Channel("fraction inspired oxygen", 0.21), "3420 223835 3422 189 727"),
    (Channel("GCS eye opening", "4 Spontaneously", EYE), "184 220739"),
    (Channel("GCS motor response", "6 Obeys Commands", MOTOR), "454 223901"),
    (Channel("GCS total", "15", TOTAL), "198"),
    (Channel("GCS verbal response", "5 Oriented", VERBAL), "723 223900"),
    (Channel("glucose", 128.0), "50931 807 811 1529 50809 51478 3745 225664 220621 226537"),
    (Channel("heart rate", 86.0), "211 220045"),
    (Channel("height", 170.0), "226707 226730 1394"),
    (
        Channel("mean blood pressure", 77.0),
        "52 220052 225312 224 6702 224322 456 220181 3312 3314 3316 3322 3320",
    ),
    (Channel("oxygen saturation", 98.0), "834 50817 8498 220227 646 220277"),
    (Channel("respiratory rate", 19.0), "618 220210 3603 224689 614 651 224422 615 224690"),
    (
        Channel("systolic blood pressure", 118.0),
        "51 220050 225309 6701 455 220179 3313 3315 442 3317 3323 3321 224167 227243",
    ),
    (Channel("temperature", 36.6), "3655 677 676 223762 3654 678 223761 679"),
    (Channel("weight", 81.0), "763 224639 226512 3580 3693 3581 226531 3582"),
    (Channel("pH", 7.4), "50820 51491 3839 1673 50831 51094 780 1126 223830 4753 4202 860 220274"),
)
CHANNELS = tuple(channel for channel, _ in _CHANNELS)
#: Item -> the place of its channel.
ITEMS = {int(item): place for place, (_, items) in enumerate(_CHANNELS) for item in items.split()}

#: The unit that an item's label in D_ITEMS states, for the two channels whose values are converted by unit.
LABELLED = {
    **{1394: "in", 226730: "cm"},
    **{226512: "kg", 3580: "kg", 3693: "kg", 3581: "lb", 226531: "lb", 3582: "oz"},
}
#: What one of each unit is in the channel's own, and the texts by which a row names it.
UNITS: dict[str, dict[str, tuple[float, tuple[str, ...]]]] = {
    "height": {"in": (2.54, ("in",)), "cm": (1.0, ("cm",))},
    "weight": {"oz": (0.453592 / 16, ("oz", "ounce")), "lb": (0.453592, ("lb", "pound")), "kg": (1.0, ("kg", "kilo"))},
}
#: In these a text that is no number, such as ERROR, is a missing value; in the others it is an error.
LENIENT = {"glucose", "oxygen saturation", "pH"}
#: A larger value, in the channel's own unit, is a typing error and counts as missing: one of them would dominate the
#: mean and deviation of its channel. The published pipeline keeps all outliers; we keep those up to here, though the
#: largest value that the benchmark's table of ranges calls plausible in any channel is 2,200.
LARGEST: Final = 1e5
#: A still larger one does not fit the float32 of the features: the file is damaged.
_OVERFLOW = 1e38
_PLAIN = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_PRESSURES = re.compile(r"(\d+)/(\d+)", re.ASCII)


def clean(item: int, text: str, unit: str) -> float:
    """Return the value of a row's VALUE and VALUEUOM for its item's channel; NaN for one that counts as missing.

    A category is its place in the channel's columns. Outliers up to LARGEST stay. Raises ValueError with the reason for
    a text that is no number (of 32 bits) or category of the channel, and for a unit that contradicts the item's.
    """
    channel = CHANNELS[ITEMS[item]]
    text = text.strip()
    if channel.name == "capillary refill rate":
        return REFILL.get(text, math.nan)
    if channel.categories:
        if text not in channel.categories:
            raise ValueError(f"it is no category of {channel.name}")
        return float(channel.categories.index(text))
    pressures = _PRESSURES.fullmatch(text)
    if pressures and channel.name in ("systolic blood pressure", "diastolic blood pressure"):
        text = pressures[1 if channel.name.startswith("systolic") else 2]
    if channel.name in LENIENT:
        if not _PLAIN.fullmatch(text):
            return math.nan
    elif not _NUMBER.fullmatch(text):
        raise ValueError(f"it is no number, as {channel.name} needs")
    if abs(float(text)) > _OVERFLOW:
        raise ValueError("it is too large for the 32 bits of the features")
    value = _converted(channel.name, item, float(text), unit)
    return value if abs(value) <= LARGEST else math.nan


def _converted(channel: str, item: int, value: float, unit: str) -> float:
    """Convert a value into the channel's own unit."""
    if channel == "fraction inspired oxygen":
        return value / 100 if "torr" not in unit.lower() and (value > 1 or FIO2_SLIP) else value
    if channel == "oxygen saturation":
        return value * 100 if value <= 1 else value
    if channel == "temperature":
        return (value - 32) * 5 / 9 if value >= 79 else value
    if channel in UNITS:
        return _by_unit(channel, item, value, unit)
    return value


def _by_unit(channel: str, item: int, value: float, unit: str) -> float:
    """Convert into a height in cm (rounded if converted, as published) or a weight in kg."""
    labelled = LABELLED.get(item)
    named = next((name for name, (_, texts) in UNITS[channel].items() if any(t in unit.lower() for t in texts)), None)
    if labelled and named and labelled != named:
        raise ValueError(f"the unit {unit!r} contradicts item {item}, which is in {labelled}")
    factor = UNITS[channel][labelled or named or {"height": "cm", "weight": "kg"}[channel]][0]
    return float(round(value * factor)) if channel == "height" and factor != 1 else value * factor
