"""The lines of the challenge's records, parsed: millions in about a second.

A line such as ``00:07,HR,73`` has hours and minutes since admission, a parameter's name, and its value.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError, nearest
from harness_icu.physionet2012_files import BLOCK, REMEDY, Record, record_file, workers

if TYPE_CHECKING:
    import pandas as pd

#: Minutes that a record covers, the last one included.
MINUTES = 48 * 60


class Rows(NamedTuple):
    """All lines of some records, four arrays of one length; those without a parameter's name are left out.

    ``records`` and ``parameters`` are places in what was asked for, ``minutes`` are 0 to MINUTES.
    """

    records: NDArray[np.int32]
    minutes: NDArray[np.int32]
    parameters: NDArray[np.int32]
    values: NDArray[np.float64]


def parse_records(folder: Path, records: Sequence[Record], parameters: Sequence[str]) -> Rows:
    """What the records hold, in their order. Raises DataError naming file and line for whatever is wrong.

    A parameter that is none of ``parameters`` is an error: what it means is not known, and leaving it out in silence
    would hide a damaged name. A line without any name says nothing and is left out.
    """
    blocks = [range(start, min(start + BLOCK, len(records))) for start in range(0, len(records), BLOCK)]
    with ThreadPoolExecutor(workers()) as pool:
        parsed = list(pool.map(lambda block: _parse(folder, records, block, parameters), blocks))
    return Rows(*(np.concatenate(arrays) for arrays in zip(*parsed, strict=True)))


def _parse(folder: Path, records: Sequence[Record], block: range, parameters: Sequence[str]) -> Rows:
    import pandas as pd

    text = b"".join(records[place].lines for place in block)
    counts = [records[place].lines.count(b"\n") for place in block]
    owner = np.repeat(np.array(block, np.int32), counts)

    def fail(row: int, reason: str) -> DataError:
        place = int(owner[row])
        record = records[place]
        line = row - sum(counts[: block.index(place)])
        return DataError(f"{record_file(folder, record.set, record.number)}, line {line + 2}: {reason}; {REMEDY}")

    _check_cells(text, fail)
    frame = pd.read_csv(
        io.BytesIO(text),
        header=None,
        names=["time", "parameter", "value"],
        dtype="category",  # so that each distinct text is converted once
        na_filter=False,
        skip_blank_lines=False,
        quoting=csv.QUOTE_NONE,
        lineterminator="\n",
        encoding="latin-1",
    )
    places = {"": -1.0, **{name: float(place) for place, name in enumerate(parameters)}}
    minutes = _convert(frame["time"], _minutes)
    found = _convert(frame["parameter"], lambda name: places.get(name, np.nan))
    values = _convert(frame["value"], _number)
    for bad, column, wanted in (
        (np.isnan(minutes), "time", "hours and minutes up to 48:00"),
        (np.isnan(found), "parameter", "one of the challenge's"),
        (np.isnan(values) & (found >= 0), "value", "a number"),
    ):
        if bad.any():
            row = int(bad.argmax())
            given = str(frame[column].iloc[row])
            hint = nearest(given, parameters) if column == "parameter" else ""
            raise fail(row, f"the {column} is {given!r}, not {wanted}{hint}")
    named = found >= 0
    return Rows(owner[named], minutes[named].astype(np.int32), found[named].astype(np.int32), values[named])


def _check_cells(text: bytes, fail: Callable[[int, str], DataError]) -> None:
    """Raise unless each line has three cells: two commas before every end of a line."""
    marks = text.translate(None, _NO_MARKS)
    if marks != b",,\n" * (len(marks) // 3):
        lines = text.split(b"\n")
        row = next(row for row, line in enumerate(lines) if line.count(b",") != 2)
        shown = lines[row][:80].decode("latin-1")
        raise fail(row, f"{shown!r} has not the three cells time, parameter and value")


_NO_MARKS = bytes(set(range(256)) - set(b",\n"))


def _convert(column: pd.Series[Any], convert: Callable[[str], float]) -> NDArray[np.float64]:
    # str: some versions of pandas make numbers, or True and False, of the categories when all of them look so
    converted = [convert(str(text)) for text in column.cat.categories]
    return np.array(converted, np.float64)[column.cat.codes.to_numpy()]


_TIME = re.compile(r"(\d\d):([0-5]\d)", re.ASCII)


def _minutes(text: str) -> float:
    """Minutes since admission, or NaN for what is no time within the record's 48 hours."""
    match = _TIME.fullmatch(text)
    minutes = 60 * int(match[1]) + int(match[2]) if match else MINUTES + 1
    return minutes if minutes <= MINUTES else np.nan


def _number(text: str) -> float:
    """The number, or NaN for what is none; Python's own 1_000, nan and inf are none here."""
    try:
        value = float(text)
    except ValueError:
        return np.nan
    return value if np.isfinite(value) and "_" not in text else np.nan
