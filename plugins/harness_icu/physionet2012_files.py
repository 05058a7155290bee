"""Read the challenge's files: one table of outcomes per set, one text file per record, and the rows of the records.

A row such as ``00:07,HR,73`` has hours and minutes since admission, a parameter's name, and its value.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.api import Progress
from harness.errors import DataError, nearest

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

SETS = ("a", "b", "c")
HEADER = b"Time,Parameter,Value\n"
OUTCOME = "In-hospital_death"
RECORD = "RecordID"
REMEDY = "restore the file from the data set's source"
#: Records per task of the thread pool: many, to start few tasks; few enough to keep several processors busy.
BLOCK = 500


class Record(NamedTuple):
    """One patient: whether the patient ``died`` in hospital, and the file's lines below the header, as bytes."""

    set: str
    number: int
    died: bool
    lines: bytes


def outcomes_file(folder: Path, name: str) -> Path:
    """Return the path of the table of the set ``name``."""
    return folder / f"Outcomes-{name}.txt"


def record_file(folder: Path, name: str, number: int) -> Path:
    """Return the path of the measurements of one record of the set ``name``."""
    return folder / f"set-{name}" / f"{number}.txt"


def find_sets(folder: Path) -> list[str]:
    """Return the names of the sets in the folder, including one that is not a folder."""
    return [name for name in SETS if os.path.lexists(folder / f"set-{name}")]


def read_records(folder: Path, progress: Progress) -> list[Record]:
    """Return the records of all sets in the folder, by set and number.

    Raises DataError naming the file when outcomes and records do not match one to one, and for a file that cannot be
    read, has another header, or ends within a line.
    """
    entries: list[tuple[str, int, bool]] = []
    first: dict[int, str] = {}
    for name in find_sets(folder):
        outcomes = read_outcomes(outcomes_file(folder, name))
        numbers = _numbers(folder / f"set-{name}")
        for number, (line, _) in outcomes.items():
            if number not in numbers:
                raise DataError(
                    f"{outcomes_file(folder, name)}, line {line}: record {number} has no file "
                    f"{record_file(folder, name, number)}; {REMEDY}"
                )
        for number in sorted(numbers):
            if number not in outcomes:
                raise DataError(
                    f"{record_file(folder, name, number)}: the record has no row in "
                    f"{outcomes_file(folder, name).name}; {REMEDY}"
                )
            if number in first:
                raise DataError(
                    f"{record_file(folder, name, number)}: record {number} is in set {first[number]} as well, so that "
                    f"training could see patients of the test split; {REMEDY}"
                )
            first[number] = name
            entries.append((name, number, outcomes[number][1]))
    if not entries:
        raise DataError(f"{folder}: holds no records in {', '.join(f'set-{name}' for name in SETS)}; {REMEDY}")

    def read(block: Sequence[tuple[str, int, bool]]) -> list[Record]:
        return [Record(name, number, died, _lines(record_file(folder, name, number))) for name, number, died in block]

    records: list[Record] = []
    with ThreadPoolExecutor(workers()) as pool:
        for block in pool.map(read, (entries[start : start + BLOCK] for start in range(0, len(entries), BLOCK))):
            records += block
            progress(len(records), len(entries), "reading records")
    return records


def read_outcomes(path: Path) -> dict[int, tuple[int, bool]]:
    """Return each record's line and whether the patient died in hospital. Raises DataError naming file and line."""
    outcomes: dict[int, tuple[int, bool]] = {}
    for line, row in _table(path, (RECORD, OUTCOME)):
        location = f"{path}, line {line}"
        if not row[RECORD].isascii() or not row[RECORD].isdigit():
            raise DataError(f"{location}: {RECORD} is {row[RECORD]!r}, not a number; {REMEDY}")
        number = int(row[RECORD])
        if number in outcomes:
            raise DataError(
                f"{location}: record {number} has an outcome in line {outcomes[number][0]} already; {REMEDY}"
            )
        if row[OUTCOME] not in ("0", "1"):
            raise DataError(f"{location}: {OUTCOME} of record {number} is {row[OUTCOME]!r}, not 0 or 1; {REMEDY}")
        outcomes[number] = line, row[OUTCOME] == "1"
    return outcomes


def _lines(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read().replace(b"\r\n", b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error
    if not content.startswith(HEADER):
        first = content.partition(b"\n")[0][:80].decode("latin-1")
        raise DataError(f"{path}, line 1: {first!r} is not {HEADER.decode().strip()!r}; {REMEDY}")
    if content == HEADER:
        raise DataError(f"{path}, line 2: the file ends below the header; {REMEDY}")
    if not content.endswith(b"\n"):
        line = content.count(b"\n") + 1
        last = content.rpartition(b"\n")[2][:80].decode("latin-1")
        raise DataError(f"{path}, line {line}: the file ends within the line {last!r}; {REMEDY}")
    return content[len(HEADER) :]


def _numbers(folder: Path) -> set[int]:
    """Return the numbers of the records that have a file; other files of the folder are ignored."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DataError(f"{folder}: the folder of a set cannot be listed ({error.strerror}); {REMEDY}") from error
    return {int(match[1]) for match in map(_FILE.fullmatch, names) if match}


_FILE = re.compile(r"([1-9]\d*)\.txt", re.ASCII)


def _table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yield line number and row of a CSV file that has these columns; cells are stripped of blanks."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [cell.strip() for cell in next(reader, [])]
            for column in columns:
                if column not in header:
                    raise DataError(f"{path}: no column {column!r}; it has {', '.join(header) or 'nothing'}; {REMEDY}")
                if header.count(column) > 1:
                    raise DataError(f"{path}: has the column {column!r} twice; {REMEDY}")
            for row in reader:
                if len(row) != len(header):
                    raise DataError(f"{path}, line {reader.line_num}: {len(row)} cells, not {len(header)}; {REMEDY}")
                yield reader.line_num, dict(zip(header, (cell.strip() for cell in row), strict=True))
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {REMEDY}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV file ({error}); {REMEDY}") from error


def workers() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -------------------------------------------------------------------------------------------------------------- rows

#: Minutes that a record covers, the last one included.
MINUTES = 48 * 60


class Rows(NamedTuple):
    """The rows of some records, four arrays of one length; rows without a parameter's name are left out.

    ``records`` and ``parameters`` are places in the arguments of ``parse_records``; ``minutes`` are 0 to MINUTES.
    """

    records: NDArray[np.int32]
    minutes: NDArray[np.int32]
    parameters: NDArray[np.int32]
    values: NDArray[np.float64]


def parse_records(folder: Path, records: Sequence[Record], parameters: Sequence[str]) -> Rows:
    """Return the rows of the records, in their order. Raises DataError naming file and line for what is wrong.

    A parameter that is not in ``parameters`` is an error: leaving it out silently would hide a damaged name. A line
    without a name is left out.
    """
    import numpy as np

    blocks = [range(start, min(start + BLOCK, len(records))) for start in range(0, len(records), BLOCK)]
    with ThreadPoolExecutor(workers()) as pool:
        parsed = list(pool.map(lambda block: _parse(folder, records, block, parameters), blocks))
    return Rows(*(np.concatenate(arrays) for arrays in zip(*parsed, strict=True)))


def _parse(folder: Path, records: Sequence[Record], block: range, parameters: Sequence[str]) -> Rows:
    import numpy as np
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
    numbers = _convert(frame["parameter"], lambda name: places.get(name, np.nan))
    values = _convert(frame["value"], _number)
    for invalid, column, expected in (
        (np.isnan(minutes), "time", "hours and minutes up to 48:00"),
        (np.isnan(numbers), "parameter", "one of the challenge's"),
        (np.isnan(values) & (numbers >= 0), "value", "a number"),
    ):
        if invalid.any():
            row = int(invalid.argmax())
            cell = str(frame[column].iloc[row])
            hint = nearest(cell, parameters) if column == "parameter" else ""
            raise fail(row, f"the {column} is {cell!r}, not {expected}{hint}")
    named = numbers >= 0
    return Rows(owner[named], minutes[named].astype(np.int32), numbers[named].astype(np.int32), values[named])


def _check_cells(text: bytes, fail: Callable[[int, str], DataError]) -> None:
    """Raise unless each line has three cells: two commas before every end of a line."""
    marks = text.translate(None, _NO_MARKS)
    if marks != b",,\n" * (len(marks) // 3):
        lines = text.split(b"\n")
        row = next(row for row, line in enumerate(lines) if line.count(b",") != 2)
        shown = lines[row][:80].decode("latin-1")
        raise fail(row, f"{shown!r} does not have the three cells time, parameter and value")


_NO_MARKS = bytes(set(range(256)) - set(b",\n"))


def _convert(column: pd.Series[Any], convert: Callable[[str], float]) -> NDArray[np.float64]:
    import numpy as np

    # str: some versions of pandas convert categories that all look like numbers or booleans
    converted = [convert(str(text)) for text in column.cat.categories]
    return np.array(converted, np.float64)[column.cat.codes.to_numpy()]


_TIME = re.compile(r"(\d\d):([0-5]\d)", re.ASCII)


def _minutes(text: str) -> float:
    """Parse minutes since admission; NaN for anything but a time within the record's 48 hours."""
    match = _TIME.fullmatch(text)
    minutes = 60 * int(match[1]) + int(match[2]) if match else MINUTES + 1
    return minutes if minutes <= MINUTES else math.nan


def _number(text: str) -> float:
    """Parse a number; NaN for anything else, also for Python's 1_000, nan and inf."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) and "_" not in text else math.nan
