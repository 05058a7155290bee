"""MIMIC-III's tables as they are distributed, plain CSV or gzip with names in either case, read piece by piece.

With pandas: it streams plain and gzip files in constant memory, notices a truncated or damaged one, and the project
has it anyway (DuckDB 2.0, twice as fast on plain files, reads over a wrong checksum). Every cell is read as text, so
that "None", a value of the Glasgow Coma Scale, stays one. In messages, row 1 is the first below the header.
"""

from __future__ import annotations

import gzip
import io
import re
import reprlib
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
#: No row is as long, in bytes: where one seems to be, a quote was opened and never closed.
LONGEST = 2**24


def find(folder: Path, table: str) -> Path:
    """The file of a table: ``CHARTEVENTS.csv`` or ``.csv.gz``, in either case. Raises DataError when there is none."""
    there = {path.name.lower(): path for path in folder.iterdir()} if folder.is_dir() else {}
    for suffix in (".csv", ".csv.gz"):
        path = there.get(f"{table.lower()}{suffix}")
        if path is not None and path.is_file():
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
    DataError for a file that is empty, truncated or damaged, for a missing column, and for a row with too few or too
    many cells.
    """
    wanted = {*columns, *optional}
    try:
        with path.open("rb") as raw:
            packed = path.suffix.lower() == ".gz"
            content: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
            reader = pd.read_csv(
                _Counted(content, path),
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
                if frame.empty:
                    raise DataError(f"{path}: holds no rows; {REMEDY}")
                frame.index = frame.index + 1
                if read:
                    read(raw.tell())
                yield frame
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: is empty; {REMEDY}") from None
    except (OSError, EOFError, zlib.error, pd.errors.ParserError, ValueError) as error:
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
        raise DataError(f"{path}, row {row}: {column.name} is {reprlib.repr(text)}, not {what}; {REMEDY}")


class _Counted(io.RawIOBase):
    """A table's bytes on their way to pandas, which in silence fills up short rows and cuts long ones.

    Reading raises DataError naming the first row that has not as many cells as the header.
    """

    def __init__(self, content: IO[bytes], path: Path) -> None:
        super().__init__()
        self._content, self._path = content, path
        self._rest, self._row, self._names = b"", 0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._content.read(len(buffer))
        self._rest += piece or b"\n"  # so that the last row is checked even when nothing ends it
        rows, end, rest = self._rest.rpartition(b"\n")
        if rows.count(b'"') % 2 == 0:  # else the last end of line belongs to a cell
            self._check(rows + end)
            self._rest = rest
        if len(self._rest) > (LONGEST if piece else 0):
            odd = (n for n, line in enumerate(self._rest.split(b"\n"), self._row) if line.count(b'"') % 2)
            raise DataError(f"{self._path}, row {next(odd, self._row)}: does not end; is a quote not closed? {REMEDY}")
        buffer[: len(piece)] = piece
        return len(piece)

    def _check(self, rows: bytes) -> None:
        """Of whole rows: outside of quotes they must have the commas of the header, and then an end of line."""
        if not self._row:
            self._names = _unquoted(rows).partition(b"\n")[0].count(b",") + 1
        marks = _unquoted(rows.translate(None, _NO_MARKS))
        count = marks.count(b"\n")
        if marks != (b"," * (self._names - 1) + b"\n") * count:
            for row, line in enumerate(_unquoted(rows).split(b"\n"), start=self._row):
                if line.strip() and (cells := line.count(b",") + 1) != self._names:
                    reason = f"it has {cells} cells, its header {self._names}"
                    raise DataError(f"{self._path}, row {row}: is truncated or damaged: {reason}; {REMEDY}")
        self._row += count


def _unquoted(text: bytes) -> bytes:
    """What is outside of quotes; one that is doubled, for a quote within a cell, ends it and begins it again."""
    return b"".join(text.split(b'"')[::2]) if b'"' in text else text


_NO_MARKS = bytes(set(range(256)) - set(b',\n"'))
