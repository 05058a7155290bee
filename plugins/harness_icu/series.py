"""Put irregular measurements of ICU stays on an hourly grid: the last value of each hour, imputed and masked.

The preparation is that of Harutyunyan et al., Sci Data 2019, 10.1038/s41597-019-0103-9. Pure functions of arrays;
nothing here depends on a data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: The hours that the task may see.
HOURS = 48


@dataclasses.dataclass(frozen=True)
class Channel:
    """A measured quantity; ``normal`` is its value until the first one of a stay.

    With ``categories`` its values are places in them, ``normal`` is one of them, and each has a column.
    """

    name: str
    normal: float | str
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """The number of columns that hold its values."""
        return len(self.categories) or 1

    @property
    def default(self) -> float:
        """``normal`` as a value: itself, or its place in the categories."""
        return float(self.categories.index(str(self.normal))) if self.categories else float(self.normal)


@dataclasses.dataclass(frozen=True, eq=False)
class Events:
    """Single measurements, four arrays of one length; ``stays`` and ``channels`` are places, from 0.

    ``hours`` count from the stay's beginning; those outside of all bins are left out. Of two events of one stay,
    channel and time, the later in the arrays counts as the later one.
    """

    stays: NDArray[np.integer]
    hours: NDArray[np.floating]
    channels: NDArray[np.integer]
    values: NDArray[np.floating]


def columns(channels: Sequence[Channel]) -> list[slice]:
    """Return the columns of each channel's values among the features; one mask per channel follows all of them."""
    ends = np.cumsum([channel.width for channel in channels]).tolist()
    return [slice(end - channel.width, end) for channel, end in zip(channels, ends, strict=True)]


def features(channels: Sequence[Channel]) -> int:
    """Return the number of features of an hour: the channels' values and a mask for each channel."""
    return sum(channel.width for channel in channels) + len(channels)


def series(events: Events, stays: int, channels: Sequence[Channel], bins: int = HOURS) -> NDArray[np.float32]:
    """Return the features of each stay and hour, (stays, bins, features), not yet standardised.

    Values come first, categories as one-hot columns, then a mask per channel: 1 where that hour has a measurement.
    """
    measured = grid(events, stays, len(channels), bins)
    return encode(impute(measured, [channel.default for channel in channels]), ~np.isnan(measured), channels)


def grid(events: Events, stays: int, channels: int, bins: int = HOURS) -> NDArray[np.float64]:
    """Return the last value of each hour, (stays, bins, channels), NaN where nothing was measured.

    Bin k holds the times k < hour <= k + 1, and bin 0 the time 0 as well.
    """
    inside = np.flatnonzero((events.hours >= 0) & (events.hours <= bins))
    order = inside[np.argsort(events.hours[inside], kind="stable")]
    bin_of = np.maximum(np.ceil(events.hours[order]).astype(np.int64) - 1, 0)
    measured = np.full((stays, bins, channels), np.nan)
    # Of repeated places the last assignment stays
    measured[events.stays[order], bin_of, events.channels[order]] = events.values[order]
    return measured


def impute(measured: NDArray[np.float64], normals: Sequence[float]) -> NDArray[np.float64]:
    """Copy (stays, bins, channels) with each NaN replaced by the last value before it, or else the normal one."""
    filled = measured.copy()
    filled[:, 0] = np.where(np.isnan(filled[:, 0]), np.asarray(normals), filled[:, 0])
    for k in range(1, filled.shape[1]):
        filled[:, k] = np.where(np.isnan(filled[:, k]), filled[:, k - 1], filled[:, k])
    return filled


def encode(filled: NDArray[np.float64], mask: NDArray[np.bool_], channels: Sequence[Channel]) -> NDArray[np.float32]:
    """Encode imputed values and masks, both (stays, bins, channels), as features (stays, bins, features)."""
    encoded = np.zeros((*filled.shape[:2], features(channels)), np.float32)
    for place, (channel, here) in enumerate(zip(channels, columns(channels), strict=True)):
        values = filled[:, :, place]
        if channel.categories:
            encoded[:, :, here] = values[:, :, None] == np.arange(channel.width)
        else:
            encoded[:, :, here.start] = values
    encoded[:, :, -len(channels) :] = mask
    return encoded


def moments(train: NDArray[np.float32], channels: Sequence[Channel]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and deviation of each feature, (features,), with which ``(inputs - mean) / deviation`` standardises.

    Only the columns of continuous channels are standardised, by the mean and the sample deviation over all hours of
    the training split after imputation; the others have 0 and 1. A column without any spread has deviation 1.
    """
    mean, deviation = np.zeros(train.shape[2]), np.ones(train.shape[2])
    for channel, here in zip(channels, columns(channels), strict=True):
        if not channel.categories and train.shape[0]:
            column = train[:, :, here.start].astype(np.float64)
            mean[here] = column.mean()
            if column.min() < column.max():
                deviation[here] = column.std(ddof=1)
    return mean.astype(np.float32), deviation.astype(np.float32)


def flat(inputs: NDArray[np.float32], channels: Sequence[Channel]) -> NDArray[np.float32]:
    """Average the measured values over time: (stays, bins, features) -> (stays, features), standardised or not.

    A channel that was never measured keeps the normal value, its mean over all hours; a mask becomes the share of hours
    with a measurement.
    """
    masks = inputs[:, :, -len(channels) :]
    flattened = np.empty((inputs.shape[0], inputs.shape[2]), np.float32)
    flattened[:, -len(channels) :] = masks.mean(axis=1)
    for place, here in enumerate(columns(channels)):
        mask = masks[:, :, place : place + 1]
        weights = np.where(mask.any(axis=1, keepdims=True), mask, np.float32(1))
        flattened[:, here] = (inputs[:, :, here] * weights).sum(axis=1) / weights.sum(axis=1)
    return flattened
