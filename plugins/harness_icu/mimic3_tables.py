"""MIMIC-III's tables as they are distributed, plain CSV or gzip with names in either case, read piece by piece.

With pandas: it streams plain and gzip files in constant memory, notices a truncated or damaged one, and the project
has it anyway (DuckDB 2.0, twice as fast on plain files, reads over a wrong checksum). Every cell is read as text, so
that "None", a value of the Glasgow Coma Scale, stays one. In messages, row 1 is the first below the header.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import DataError

REMEDY = "restore the file from the data set's source"
#: Rows at a time: some hundred megabytes of memory.
PIECE = 1_000_000


def find(folder: Path, table: str) -> Path:
    """The file of a table: ``CHARTEVENTS.csv`` or ``.csv.gz``, in either case. Raises DataError when there is none."""
    there = {path.name.lower(): path for path in folder.iterdir()} if folder.is_dir() else {}
    for suffix in (".csv", ".csv.gz"):
        path = there.get(f"{table.lower()}{suffix}")
        if path is not None:
            return path
    raise DataError(f"{folder / table}.csv: missing, and so is {table}.csv.gz; {REMEDY}")


def read(folder: Path, table: str, columns: Collection[str]) -> pd.DataFrame:
    """These columns of a small table, as in ``pieces``."""
    return pd.concat(list(pieces(find(folder, table), columns)))


def pieces(
    path: Path, columns: Collection[str], optional: Collection[str] = (), read: Callable[[int], None] | None = None
) -> Iterator[pd.DataFrame]:
    """The table in pieces: these columns (upper-case), all texts; the index counts the rows from 1.

    An absent ``optional`` column is left out. ``read`` is told how many bytes of the file have been read. Raises
    DataError for a file that is empty, truncated or damaged, and for a missing column.
    """
    wanted = {*columns, *optional}
    try:
        with path.open("rb") as raw:
            packed = path.suffix.lower() == ".gz"
            if not packed:
                _check_end(path, raw)
            content: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
            reader = pd.read_csv(
                content,
                usecols=lambda name: name.upper() in wanted,
                dtype=str,
                na_filter=False,
                chunksize=PIECE,
                encoding="utf-8-sig",
                encoding_errors="replace",
            )
            for frame in reader:
                frame.columns = frame.columns.str.upper()
                for column in columns:
                    if column not in frame:
                        raise DataError(f"{path}: no column {column}; {REMEDY}")
                if not isinstance(frame.index, pd.RangeIndex):  # pandas takes a surplus first cell for an index
                    raise DataError(f"{path}: its rows have more cells than its header has names; {REMEDY}")
                if frame.empty:
                    raise DataError(f"{path}: holds no rows; {REMEDY}")
                frame.index = frame.index + 1
                if read:
                    read(raw.tell())
                yield frame
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: is empty; {REMEDY}") from None
    except (OSError, EOFError, zlib.error, pd.errors.ParserError, csv.Error, ValueError) as error:
        raise DataError(f"{path}: is truncated, damaged or no table of MIMIC-III ({error}); {REMEDY}") from error


def whole(column: pd.Series[Any], path: Path) -> NDArray[np.int64]:
    """A column of numbers from 0; an empty cell is -1. Raises DataError naming the row of anything else."""

    def number(text: str) -> int:
        return int(_matching(r"\d+(?=(\.0)?$)", text)) if text else -1

    return _parsed(column, path, number, np.int64, "a whole number")


def real(column: pd.Series[Any], path: Path) -> NDArray[np.float64]:
    """A column of numbers; an empty cell is NaN. Raises DataError naming the row of anything else."""

    def number(text: str) -> float:
        return float(_matching(r"-?\d+(\.\d+)?$", text)) if text else np.nan

    return _parsed(column, path, number, np.float64, "a number")


def times(column: pd.Series[Any], path: Path) -> NDArray[np.datetime64]:
    """A column of times in seconds; an empty cell is NaT. Raises DataError naming the row of anything else."""
    codes, texts = pd.factorize(column)
    parsed = pd.to_datetime(pd.Series(texts), format="%Y-%m-%d %H:%M:%S", errors="coerce").to_numpy("datetime64[s]")
    _check(column, path, codes, np.isnat(parsed) & np.asarray(texts != ""), "a time such as 2101-10-20 19:08:00")
    return parsed[codes]


def _parsed(
    column: pd.Series[Any], path: Path, parse: Callable[[str], float], kind: type[Any], what: str
) -> NDArray[Any]:
    """Each different text parsed once."""
    codes, texts = pd.factorize(column)
    values, wrong = np.zeros(len(texts), kind), np.zeros(len(texts), bool)
    for place, text in enumerate(texts):
        try:
            values[place] = parse(text)
        except (ValueError, OverflowError):
            wrong[place] = True
    _check(column, path, codes, wrong, what)
    return values[codes]


def _matching(pattern: str, text: str) -> str:
    """What the pattern finds at the text's beginning. Raises ValueError when it finds nothing."""
    found = re.match(pattern, text, re.ASCII)
    if not found:
        raise ValueError(text)
    return found[0]


def _check(column: pd.Series[Any], path: Path, codes: NDArray[np.intp], wrong: NDArray[np.bool_], what: str) -> None:
    """Raise DataError for the first row whose text is a wrong one."""
    if wrong.any():
        place = int(np.flatnonzero(wrong[codes])[0])
        row, text = column.index[place], column.iloc[place]
        raise DataError(f"{path}, row {row}: {column.name} is {text!r}, not {what}; {REMEDY}")


def _check_end(path: Path, raw: IO[bytes]) -> None:
    """Raise DataError for a plain file that ends in the middle of a row, which pandas would fill up."""
    header = raw.readline()
    end = raw.seek(0, os.SEEK_END)
    raw.seek(max(len(header), end - 2**16))
    last = raw.read().rpartition(b"\n")[2]
    raw.seek(0)
    if last:
        cells, names = (len(next(csv.reader([line.decode(errors="replace")]))) for line in (last, header))
        if cells != names:
            raise DataError(f"{path}: is truncated: its last row has {cells} cells, not {names}; {REMEDY}")
