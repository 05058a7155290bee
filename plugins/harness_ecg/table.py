"""Read PTB-XL's two tables: the labels, fold, patient and file of each record."""

from __future__ import annotations

import ast
import csv
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.errors import DataError

DATABASE = "ptbxl_database.csv"
STATEMENTS = "scp_statements.csv"
REMEDY = "restore the file from the data set's source"
FOLDS = range(1, 11)


class Record(NamedTuple):
    """One row of the database, at ``line`` of its file; ``name`` is the record's path in the folder, no suffix."""

    line: int
    ecg_id: int
    patient: str
    fold: int
    name: str
    labels: frozenset[str]


def read_records(folder: Path, labels: Sequence[str]) -> list[Record]:
    """Return all records of the database, in its order. Raises DataError naming file and row for what is wrong.

    A record has a label when any key of its ``scp_codes`` belongs to that diagnostic class, whatever the
    likelihood (Strodthoff et al., IEEE JBHI 2021, 10.1109/JBHI.2020.3022989). A record without a patient
    counts as a patient of its own.
    """
    classes = read_classes(folder / STATEMENTS, labels)
    path = folder / DATABASE
    records: list[Record] = []
    lines: dict[int, int] = {}
    folds: dict[str, Record] = {}
    files: dict[str, int] = {}
    for line, row in _rows(path, ("ecg_id", "patient_id", "scp_codes", "strat_fold", "filename_lr")):
        location = f"{path}, line {line}"
        ecg_id = _number(row["ecg_id"], location, "ecg_id")
        location += f" (ecg_id {ecg_id})"
        if ecg_id in lines:
            raise DataError(f"{location}: the same ecg_id as in line {lines[ecg_id]}; {REMEDY}")
        lines[ecg_id] = line
        fold = _number(row["strat_fold"], location, "strat_fold")
        if fold not in FOLDS:
            raise DataError(f"{location}: strat_fold is {fold}, not 1 to 10; {REMEDY}")
        file = _record_file(row["filename_lr"], location)
        if file in files:
            raise DataError(
                f"{location}: filename_lr {row['filename_lr']} is the recording of line {files[file]} as well, so that "
                f"training could see recordings of the test split; {REMEDY}"
            )
        files[file] = line
        patient = str(_number(row["patient_id"], location, "patient_id")) if row["patient_id"] else f"ecg-{ecg_id}"
        codes = _codes(row["scp_codes"])
        if codes is None:
            raise DataError(f"{location}: scp_codes is not a dictionary of codes: {row['scp_codes'][:60]!r}; {REMEDY}")
        record_labels = frozenset(classes[code] for code in codes if code in classes)
        record = Record(line, ecg_id, patient, fold, row["filename_lr"], record_labels)
        first = folds.setdefault(patient, record)
        if first.fold != fold:
            raise DataError(
                f"{location}: patient {patient} is in fold {fold} here and in fold {first.fold} in line {first.line}, "
                f"so that training would see patients of the test split; {REMEDY}"
            )
        records.append(record)
    return records


def read_classes(path: Path, labels: Sequence[str]) -> dict[str, str]:
    """Return the label of each diagnostic code.

    Raises DataError for a class that is not in ``labels``, for an empty code, and for a code in two rows.
    """
    classes: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, row in _rows(path, ("", "diagnostic_class")):
        code, label = row[""], row["diagnostic_class"]
        if not code:
            raise DataError(f"{path}, line {line}: the code is empty; {REMEDY}")
        if code in lines:
            raise DataError(f"{path}, line {line}: the code {code!r} is in line {lines[code]}, too; {REMEDY}")
        lines[code] = line
        if not label:
            continue
        if label not in labels:
            raise DataError(
                f"{path}, line {line}: diagnostic_class {label!r} is not one of {', '.join(labels)}; {REMEDY}"
            )
        classes[code] = label
    return classes


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yield line number and row of a CSV file that has these columns; cells are stripped of blanks."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            for column in columns:
                if column not in header:
                    name = f"column {column!r}" if column else "unnamed first column (the codes)"
                    raise DataError(f"{path}: no {name}; it has {', '.join(header) or 'nothing'}; {REMEDY}")
                if header.count(column) > 1:
                    raise DataError(f"{path}: has the column {column!r} twice; {REMEDY}")
            places = {column: header.index(column) for column in columns}
            for row in reader:
                if len(row) != len(header):
                    raise DataError(f"{path}, line {reader.line_num}: {len(row)} cells, not {len(header)}; {REMEDY}")
                yield reader.line_num, {column: row[place].strip() for column, place in places.items()}
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {REMEDY}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV file ({error}); {REMEDY}") from error


def _record_file(name: str, location: str) -> str:
    """Normalize a ``filename_lr`` to one spelling per file. Raises DataError for a path outside the folder."""
    if not name:
        raise DataError(f"{location}: filename_lr is empty; {REMEDY}")
    file = os.path.normcase(os.path.normpath(name))
    if "\0" in name or os.path.isabs(file) or file.split(os.sep)[0] == os.pardir:
        raise DataError(f"{location}: filename_lr {name!r} is not a path in the folder; {REMEDY}")
    return file


def _number(text: str, location: str, column: str) -> int:
    """Parse a whole number, which pandas may have written as ``15709.0``."""
    try:
        number = float(text)
        if number != int(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise DataError(f"{location}: {column} is {text!r}, not a whole number; {REMEDY}") from None
    return int(number)


@functools.lru_cache(maxsize=2**15)
def _codes(text: str) -> tuple[str, ...] | None:
    """Return the keys of the dictionary literal ``text``, or None if it is not one."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return None
    return tuple(value)
