"""The challenge's files: a table of outcomes a set, and a text file a record, read and matched one to one."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from harness.api import Progress
from harness.errors import DataError

SETS = ("a", "b", "c")
HEADER = b"Time,Parameter,Value\n"
OUTCOME = "In-hospital_death"
RECORD = "RecordID"
REMEDY = "restore the file from the data set's source"
#: Records at a time: enough that starting on them costs nothing, few enough to keep several processors busy.
BLOCK = 500


class Record(NamedTuple):
    """One patient: whether she or he ``died`` in hospital, and the lines of the file, in bytes, below the header."""

    set: str
    number: int
    died: bool
    lines: bytes


def outcomes_file(folder: Path, name: str) -> Path:
    """The table of the set ``name``."""
    return folder / f"Outcomes-{name}.txt"


def record_file(folder: Path, name: str, number: int) -> Path:
    """The measurements of one record of the set ``name``."""
    return folder / f"set-{name}" / f"{number}.txt"


def find_sets(folder: Path) -> list[str]:
    """Return the names of the sets in the folder; also of one that is there, but not as a folder."""
    return [name for name in SETS if os.path.lexists(folder / f"set-{name}")]


def read_records(folder: Path, progress: Progress) -> list[Record]:
    """The records of all sets that are there, by set and number.

    Raises DataError naming the file when outcomes and records do not match one to one, and for a file that cannot be
    read, has another header, or ends within a line.
    """
    wanted: list[tuple[str, int, bool]] = []
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
                    f"training could see patients of the test; {REMEDY}"
                )
            first[number] = name
            wanted.append((name, number, outcomes[number][1]))
    if not wanted:
        raise DataError(f"{folder}: holds no records in {', '.join(f'set-{name}' for name in SETS)}; {REMEDY}")

    def read(block: Sequence[tuple[str, int, bool]]) -> list[Record]:
        return [Record(*asked, _lines(record_file(folder, *asked[:2]))) for asked in block]

    records: list[Record] = []
    with ThreadPoolExecutor(workers()) as pool:
        for some in pool.map(read, (wanted[start : start + BLOCK] for start in range(0, len(wanted), BLOCK))):
            records += some
            progress(len(records), len(wanted), "reading records")
    return records


def read_outcomes(path: Path) -> dict[int, tuple[int, bool]]:
    """The line of each record, and whether the patient died in hospital. Raises DataError naming file and line."""
    outcomes: dict[int, tuple[int, bool]] = {}
    for line, row in _table(path, (RECORD, OUTCOME)):
        where = f"{path}, line {line}"
        if not row[RECORD].isascii() or not row[RECORD].isdigit():
            raise DataError(f"{where}: {RECORD} is {row[RECORD]!r}, not a number; {REMEDY}")
        number = int(row[RECORD])
        if number in outcomes:
            raise DataError(f"{where}: record {number} has an outcome in line {outcomes[number][0]} already; {REMEDY}")
        if row[OUTCOME] not in ("0", "1"):
            raise DataError(f"{where}: {OUTCOME} of record {number} is {row[OUTCOME]!r}, not 0 or 1; {REMEDY}")
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
    """The records that have a file; whatever else lies in the folder is none of ours."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DataError(f"{folder}: the folder of a set cannot be listed ({error.strerror}); {REMEDY}") from error
    return {int(match[1]) for match in map(_FILE.fullmatch, names) if match}


_FILE = re.compile(r"([1-9]\d*)\.txt", re.ASCII)


def _table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Line number and row of a CSV file, which must have these columns; cells are stripped of blanks."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [cell.strip() for cell in next(reader, [])]
            for column in columns:
                if column not in header:
                    raise DataError(f"{path}: no column {column!r}; it has {', '.join(header) or 'nothing'}; {REMEDY}")
            for row in reader:
                if len(row) != len(header):
                    raise DataError(f"{path}, line {reader.line_num}: {len(row)} cells, not {len(header)}; {REMEDY}")
                yield reader.line_num, dict(zip(header, (cell.strip() for cell in row), strict=True))
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {REMEDY}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV file ({error}); {REMEDY}") from error


def workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
