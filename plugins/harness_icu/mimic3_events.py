"""Read the measurements of ICU stays from MIMIC-III's event tables, one piece in memory at a time."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.api import Progress
from harness.errors import DataError
from harness_icu.mimic3_channels import CHANNELS, ITEMS, clean
from harness_icu.mimic3_tables import REMEDY, find, pieces, times, whole
from harness_icu.series import HOURS, Events

TABLES = ("CHARTEVENTS", "LABEVENTS", "OUTPUTEVENTS")
COLUMNS = ("HADM_ID", "ITEMID", "CHARTTIME", "VALUE", "VALUEUOM")
#: LABEVENTS has none: its rows belong to the admission's only stay.
OPTIONAL = ("ICUSTAY_ID",)
#: The column of a table that flags a row as an error with 1; LABEVENTS has none.
FLAGS = {"CHARTEVENTS": "ERROR", "OUTPUTEVENTS": "ISERROR"}


def read_events(folder: Path, stays: pd.DataFrame, progress: Progress, drop_flagged: bool = False) -> Events:
    """Return the 17 channels' events of each stay (a row of ``stays``, one an admission) in its first 48 hours.

    Rows without an admission or value, and those of another stay, are left out; so are values that count as missing.
    Rows that the hospital flagged as errors are used, as in the published pipeline, unless ``drop_flagged``.
    Of several values at one time the greatest comes last, of categories the last one by its text, as published.
    (The published code compares the heart rate and other uncleaned numbers as texts, too: "98" after "102".)
    Raises DataError naming file and row for what cannot be parsed.
    """
    paths = [find(folder, table) for table in TABLES]
    sizes = [path.stat().st_size for path in paths]
    reader = _Reader(stays)
    read_pieces = []
    for place, (table, path) in enumerate(zip(TABLES, paths, strict=True)):
        flag = FLAGS.get(table) if drop_flagged else None

        def read(done: int, path: Path = path, before: int = sum(sizes[:place])) -> None:
            progress(before + done, sum(sizes), f"bytes, {path.name}")

        for frame in pieces(path, (*COLUMNS, flag) if flag else COLUMNS, OPTIONAL, read):
            unflagged = frame[~frame[flag].str.strip().isin(("1", "1.0"))] if flag else frame
            read_pieces.append(reader.events(unflagged, path))
    stay, hours, channels, values = (np.concatenate(arrays) for arrays in zip(*read_pieces, strict=True))
    order = np.argsort(_ranks(channels, values), kind="stable")
    return Events(stay[order], hours[order], channels[order], values[order])


class _Reader:
    """Select the events of ``stays`` from pieces of the tables."""

    def __init__(self, stays: pd.DataFrame) -> None:
        self._items = np.array(list(ITEMS))
        self._place = pd.Series(np.arange(len(stays)), stays["HADM_ID"])
        self._icustay = stays["ICUSTAY_ID"].to_numpy()
        self._intime = stays["INTIME"].to_numpy("datetime64[s]")

    def events(self, frame: pd.DataFrame, path: Path) -> tuple[NDArray[Any], ...]:
        """Return stay, hour, channel and value of each event in one piece."""
        items = whole(frame["ITEMID"], path)
        keep = np.isin(items, self._items) & (frame["VALUE"] != "").to_numpy()
        frame, items = frame[keep], items[keep]
        stay = self._place.reindex(whole(frame["HADM_ID"], path), fill_value=-1).to_numpy()
        keep = stay >= 0
        if "ICUSTAY_ID" in frame:
            icustay = whole(frame["ICUSTAY_ID"], path)
            keep &= (icustay < 0) | (icustay == self._icustay[stay])
        frame, items, stay = frame[keep], items[keep], stay[keep]
        hours = (times(frame["CHARTTIME"], path) - self._intime[stay]) / np.timedelta64(1, "h")
        inside = (hours >= 0) & (hours <= HOURS)  # false for a row without a time
        frame, items, stay, hours = frame[inside], items[inside], stay[inside], hours[inside]
        values = _values(frame, items, path)
        measured = ~np.isnan(values)
        channels = np.array([ITEMS[item] for item in items.tolist()], np.int8)
        return tuple(array[measured] for array in (stay.astype(np.int32), hours, channels, values))


def _values(frame: pd.DataFrame, items: NDArray[np.int64], path: Path) -> NDArray[np.float64]:
    """Return the value of each row; each distinct combination of item, text and unit is cleaned once."""
    rows = pd.DataFrame({"item": items, "text": frame["VALUE"].array, "unit": frame["VALUEUOM"].array})
    numbers = rows.groupby(["item", "text", "unit"], observed=True, sort=False).ngroup().to_numpy()
    firsts = np.unique(numbers, return_index=True)[1]
    cleaned = np.empty(len(firsts))
    for number, (item, text, unit) in enumerate(rows.iloc[firsts].itertuples(index=False)):
        try:
            cleaned[number] = clean(item, text, unit)
        except ValueError as error:
            row = frame.index[firsts[number]]
            raise DataError(
                f"{path}, row {row}: VALUE {reprlib.repr(text)} of item {item}: {error}; {REMEDY}"
            ) from None
    return cleaned[numbers]


def _ranks(channels: NDArray[np.int8], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the order of events of one channel at one time: the number, or the rank of a category's text."""
    ranks = values.copy()
    for place, channel in enumerate(CHANNELS):
        if channel.categories:
            here = channels == place
            ranks[here] = np.argsort(np.argsort(channel.categories))[values[here].astype(int)]
    return ranks
