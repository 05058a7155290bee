"""Read MIMIC-III's tables piece by piece: plain CSV or gzip, with names in either case.

pandas streams plain and gzip files in constant memory and notices a truncated or damaged one. (DuckDB 2.0 is twice as
fast on plain files, but ignores a wrong checksum.) Every cell is read as text, so that "None", a value of the Glasgow
Coma Scale, stays one. In messages, row 1 is the first below the header.
"""

from __future__ import annotations

import csv
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
#: More bytes than any row has: a longer one has a quote that nothing closes.
LONGEST = 2**24


def find(folder: Path, table: str) -> Path:
    """Return the file of a table: ``CHARTEVENTS.csv`` or ``.csv.gz``, in either case.

    Raises DataError unless there is exactly one: if two files differ, it is unknown which one is right.
    """
    names = {f"{table.lower()}.csv", f"{table.lower()}.csv.gz"}
    paths = sorted(path for path in folder.iterdir() if path.name.lower() in names) if folder.is_dir() else []
    paths = [path for path in paths if path.is_file()]
    if len(paths) > 1:
        raise DataError(f"{folder}: holds {table} {len(paths)} times, as {_names(paths)}; remove all but one")
    if not paths:
        raise DataError(f"{folder / table}.csv: missing, and so is {table}.csv.gz; {REMEDY}")
    return paths[0]


def _names(paths: Collection[Path]) -> str:
    return " and ".join(path.name for path in paths)


def read(folder: Path, table: str, columns: Collection[str]) -> pd.DataFrame:
    """These columns of a small table, as in ``pieces``."""
    return pd.concat(list(pieces(find(folder, table), columns)))


def pieces(
    path: Path,
    columns: Collection[str],
    optional: Collection[str] = (),
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield the table in pieces: these columns (upper-case), all texts; the index counts the rows from 1.

    Absent ``optional`` columns are skipped. ``on_progress`` gets the number of bytes read so far. Raises DataError for
    a file that is empty, truncated or damaged, for a missing or doubled column, for a row with too few or too many
    cells, for a carriage return outside of quotes, and for a quote within an unquoted cell.
    """
    allowed = {*columns, *optional}
    try:
        with path.open("rb") as raw:
            packed = path.suffix.lower() == ".gz"
            content: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
            reader = pd.read_csv(
                _Counted(content, path),
                usecols=lambda name: name.upper() in allowed,
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
                if on_progress:
                    on_progress(raw.tell())
                yield frame
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: is empty; {REMEDY}") from None
    except (OSError, EOFError, zlib.error, csv.Error, pd.errors.ParserError, ValueError) as error:
        raise DataError(f"{path}: is truncated, damaged or no table of MIMIC-III ({error}); {REMEDY}") from error


def whole(column: pd.Series[Any], path: Path) -> NDArray[np.int64]:
    """Parse a column of numbers from 0; an empty cell is -1. Raises DataError naming the row of anything else."""

    def number(text: str) -> int:
        return int(_matching(r"\d+(?=(\.0)?$)", text)) if text else -1

    return _parsed(column, path, number, np.int64, "a whole number")


def real(column: pd.Series[Any], path: Path) -> NDArray[np.float64]:
    """Parse a column of numbers; an empty cell is NaN. Raises DataError naming the row of anything else."""

    def number(text: str) -> float:
        return float(_matching(r"-?\d+(\.\d+)?$", text)) if text else np.nan

    return _parsed(column, path, number, np.float64, "a number")


def times(column: pd.Series[Any], path: Path) -> NDArray[np.datetime64]:
    """Parse a column of times in seconds; an empty cell is NaT. Raises DataError naming the row of anything else."""
    codes, texts = pd.factorize(column)
    parsed = pd.to_datetime(pd.Series(texts), format="%Y-%m-%d %H:%M:%S", errors="coerce").to_numpy("datetime64[s]")
    _check(column, path, codes, np.isnat(parsed) & np.asarray(texts != ""), "a time such as 2101-10-20 19:08:00")
    return parsed[codes]


def _parsed(
    column: pd.Series[Any], path: Path, parse: Callable[[str], float], kind: type[Any], expected: str
) -> NDArray[Any]:
    """Parse each distinct text once."""
    codes, texts = pd.factorize(column)
    values, wrong = np.zeros(len(texts), kind), np.zeros(len(texts), bool)
    for place, text in enumerate(texts):
        try:
            values[place] = parse(text)
        except (ValueError, OverflowError):
            wrong[place] = True
    _check(column, path, codes, wrong, expected)
    return values[codes]


def _matching(pattern: str, text: str) -> str:
    """Return the match of the pattern at the text's beginning. Raises ValueError if it does not match."""
    match = re.match(pattern, text, re.ASCII)
    if not match:
        raise ValueError(text)
    return match[0]


def _check(
    column: pd.Series[Any], path: Path, codes: NDArray[np.intp], wrong: NDArray[np.bool_], expected: str
) -> None:
    """Raise DataError for the first row whose text is wrong."""
    if wrong.any():
        place = int(np.flatnonzero(wrong[codes])[0])
        row, text = column.index[place], column.iloc[place]
        raise DataError(f"{path}, row {row}: {column.name} is {reprlib.repr(text)}, not {expected}; {REMEDY}")


class _Counted(io.RawIOBase):
    """Check a table's bytes on their way to pandas, which silently fills short rows, cuts long ones and splits others.

    Reading raises DataError naming the first row that has more or fewer cells than the header, a carriage return
    outside of quotes, where pandas would begin another row, or a quote within a cell, which pandas takes as text.
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
        rows, end, remainder = self._rest.rpartition(b"\n")
        if rows.count(b'"') % 2 == 0:  # else the last end of line belongs to a cell
            self._check(rows + end)
            self._rest = remainder
        if len(self._rest) > (LONGEST if piece else 0):
            odd = (n for n, line in enumerate(self._rest.split(b"\n"), self._row) if line.count(b'"') % 2)
            raise DataError(f"{self._path}, row {next(odd, self._row)}: does not end; is a quote not closed? {REMEDY}")
        buffer[: len(piece)] = piece
        return len(piece)

    def _check(self, rows: bytes) -> None:
        """Raise DataError unless all rows have the header's commas and one end of line, outside of quotes."""
        if not self._row:
            self._check_header(rows)
            self._names = _unquoted(rows).partition(b"\n")[0].count(b",") + 1
        if b"\r" in rows:
            for row, line in enumerate(_unquoted(rows, b'"').split(b"\n"), start=self._row):
                if b"\r" in line.removesuffix(b"\r"):
                    reason = "it has a carriage return outside of quotes, so that its end is not known"
                    raise DataError(f"{self._path}, row {row}: is damaged: {reason}; {REMEDY}")
        if b'"' in rows and (stray := _STRAY.search(marked := _unquoted(rows, b'"').removeprefix(b"\xef\xbb\xbf"))):
            row = self._row + marked.count(b"\n", 0, stray.start() + 1)
            raise DataError(f"{self._path}, row {row}: is damaged: it has a quote within a cell; {REMEDY}")
        marks = _unquoted(rows.translate(None, _NO_MARKS))
        count = marks.count(b"\n")
        if marks != (b"," * (self._names - 1) + b"\n") * count:
            for row, line in enumerate(_unquoted(rows).split(b"\n"), start=self._row):
                if line.strip() and (cells := line.count(b",") + 1) != self._names:
                    reason = f"it has {cells} cells, its header {self._names}"
                    raise DataError(f"{self._path}, row {row}: is truncated or damaged: {reason}; {REMEDY}")
        self._row += count

    def _check_header(self, rows: bytes) -> None:
        header = next(csv.reader(io.StringIO(rows.decode("utf-8-sig", "replace"), newline="")), [])
        names = [name.upper() for name in header]
        for name in names:
            if name and names.count(name) > 1:
                raise DataError(f"{self._path}: has the column {name} twice; {REMEDY}")


def _unquoted(text: bytes, between: bytes = b"") -> bytes:
    """Return the text outside of quotes, joined by ``between``; a doubled quote within a cell ends and reopens it."""
    return between.join(text.split(b'"')[::2]) if b'"' in text else text


#: A quoted cell, which ``_unquoted`` leaves as quotes alone, that begins or ends within another one.
_STRAY = re.compile(rb'[^,\n"]"|"[^,\r\n"]')
_NO_MARKS = bytes(set(range(256)) - set(b',\n"'))
