"""Select the ICU stays of MIMIC-III that the task uses, label who died, and divide them into splits.

The rules are those of Harutyunyan et al., Sci Data 2019, 10.1038/s41597-019-0103-9, in their order. The last one, that
a stay has an event in its first 48 hours, is applied when the events are read.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import DataError
from harness_icu.mimic3_tables import REMEDY, find, read, real, times, whole
from harness_icu.series import HOURS

SPLITS = ("train", "validation", "test")
#: The published splits: lists of ``subject,0 or 1`` beside the tables, 1 for the patients of that split, as .csv or
#: .csv.gz. The benchmark's repository has them, resources/testset.csv and mimic3models/resources/valset.csv.
LISTS = {"test": "testset", "validation": "valset"}
#: Without the lists: patients at random by this seed, in these shares of those who died and of the others.
SEED, SHARES = 20, (0.70, 0.15, 0.15)
ADULT, ELDERLY, YEAR = 18, 90, np.timedelta64(365, "D")

ADMISSIONS = ("SUBJECT_ID", "HADM_ID", "ADMITTIME", "DISCHTIME", "DEATHTIME")
PATIENTS = ("SUBJECT_ID", "DOB", "DOD")
#: Age and outcome are computed from these; the official tables have them in every row.
NEEDED = ("ADMITTIME", "DISCHTIME", "DOB")
ICUSTAYS = (
    *("SUBJECT_ID", "HADM_ID", "ICUSTAY_ID", "FIRST_CAREUNIT", "LAST_CAREUNIT", "FIRST_WARDID", "LAST_WARDID"),
    *("INTIME", "LOS"),
)


def cohort(folder: Path) -> pd.DataFrame:
    """Return the benchmark's stays by ICUSTAY_ID: SUBJECT_ID, HADM_ID, ICUSTAY_ID, INTIME, LOS (days), DIED.

    Raises DataError naming file and row for what is wrong.
    """
    stays = _stays(folder)
    untransferred = (stays.FIRST_WARDID == stays.LAST_WARDID) & (stays.FIRST_CAREUNIT == stays.LAST_CAREUNIT)
    stays = stays[untransferred]
    stays = stays[~stays.HADM_ID.duplicated(keep=False)]
    age = (stays.INTIME - stays.DOB).to_numpy() / YEAR
    stays = stays[np.where(age < 0, ELDERLY, age) >= ADULT]
    died = pd.Series(False, stays.index)
    for death in (stays.DOD, stays.DEATHTIME):
        died |= (death >= stays.ADMITTIME) & (death <= stays.DISCHTIME)
    stays = stays.assign(DIED=died)[["SUBJECT_ID", "HADM_ID", "ICUSTAY_ID", "INTIME", "LOS", "DIED"]]
    return stays.sort_values("ICUSTAY_ID").reset_index(drop=True)


def long_enough(stays: pd.DataFrame) -> pd.DataFrame:
    """Return the stays of at least 48 hours; a stay of unknown length is left out."""
    return stays[stays.LOS * 24 >= HOURS - 1e-6].reset_index(drop=True)


def lists(folder: Path) -> dict[str, Path]:
    """Return the published lists of patients in the folder, by split: both or none.

    Raises DataError for one list without the other, for several, and for one that is not .csv or .csv.gz, in either
    case: a list that is ignored would be replaced by a random division.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    candidates = {split: [path for path in files if path.name.lower().startswith(LISTS[split])] for split in LISTS}
    if not any(candidates.values()):
        return {}
    for split, paths in candidates.items():
        if len(paths) != 1 or not paths[0].name.lower().endswith((".csv", ".csv.gz")):
            names = " and ".join(path.name for path in paths) or "none"
            pattern = f"{LISTS[split]}*.csv or {LISTS[split]}*.csv.gz"
            raise DataError(f"{folder}: for the {split} split one list {pattern} is needed, and there is {names}")
    return {split: paths[0] for split, paths in candidates.items()}


def divide(subjects: NDArray[np.int64], died: NDArray[np.bool_], paths: Mapping[str, Path]) -> NDArray[np.str_]:
    """Return the split of each stay, one for all stays of a patient: by the published lists, or else by ``SEED``."""
    if not paths:
        return _random(subjects, died)
    splits = np.full(len(subjects), "train", dtype="<U10")
    for split, path in paths.items():  # the test's first: its patients are in no other list
        listed = _listed(path)
        for subject in np.unique(subjects[splits == "train"]).tolist():
            if subject not in listed:
                raise DataError(
                    f"{path}: patient {subject} is not in it; use the lists of this very database, or none for a "
                    f"random division"
                )
            if listed[subject]:
                splits[subjects == subject] = split
    return splits


def _random(subjects: NDArray[np.int64], died: NDArray[np.bool_]) -> NDArray[np.str_]:
    random = np.random.default_rng(SEED)
    splits = np.full(len(subjects), "train", dtype="<U10")
    deceased = np.unique(subjects[died])
    for stratum in (deceased, np.setdiff1d(subjects, deceased)):
        order = random.permutation(stratum)
        cuts = np.rint(np.cumsum(SHARES[:2]) * len(order)).astype(int)
        for split, members in zip(SPLITS, np.split(order, cuts), strict=True):
            splits[np.isin(subjects, members)] = split
    return splits


def _listed(path: Path) -> dict[int, bool]:
    """Return for each patient of a list whether it is in the list's split."""
    listed: dict[int, bool] = {}
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix.lower() == ".gz" else content).decode("utf-8-sig", "replace")
        rows = list(csv.reader(text.splitlines()))
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); {REMEDY}") from error
    for number, row in enumerate(rows, start=1):
        if not row:
            continue
        if len(row) != 2 or not row[0].strip().isdecimal() or row[1].strip() not in ("0", "1"):
            raise DataError(f"{path}, line {number}: {','.join(row)!r} is no patient's number and 0 or 1; {REMEDY}")
        subject, here = int(row[0]), row[1].strip() == "1"
        if listed.setdefault(subject, here) != here:
            raise DataError(f"{path}, line {number}: patient {subject} is both in the split and not; {REMEDY}")
    return listed


def _stays(folder: Path) -> pd.DataFrame:
    """Return all ICU stays, each with its admission and patient."""
    path = find(folder, "ICUSTAYS")
    raw = read(folder, "ICUSTAYS", ICUSTAYS)
    stays = pd.DataFrame(
        {column: whole(raw[column], path) for column in ("SUBJECT_ID", "HADM_ID", "ICUSTAY_ID")}
        | {column: raw[column].astype(str) for column in ICUSTAYS[3:7]}
        | {"INTIME": times(raw["INTIME"], path), "LOS": real(raw["LOS"], path)},
        index=raw.index,
    )
    _check(stays.ICUSTAY_ID.duplicated(), stays.ICUSTAY_ID, path, "is in two rows")
    _check(stays.INTIME.isna(), stays.ICUSTAY_ID, path, "has no INTIME")
    for table, columns, key in (("ADMISSIONS", ADMISSIONS, "HADM_ID"), ("PATIENTS", PATIENTS, "SUBJECT_ID")):
        keyed_table = _keyed(folder, table, columns, key)
        _check(~stays[key].isin(keyed_table.index), stays[key], path, f"is not in {table}")
        stays = stays.join(keyed_table, on=key)
    _check(stays.SUBJECT_ID != stays.OWNER, stays.HADM_ID, path, "is another patient's in ADMISSIONS")
    return stays


def _keyed(folder: Path, table: str, columns: tuple[str, ...], key: str) -> pd.DataFrame:
    """Return a table's times by its key; an admission's patient is OWNER."""
    path = find(folder, table)
    raw = read(folder, table, columns)
    keys = pd.Series(whole(raw[key], path), raw.index, name=key)
    _check(keys.duplicated(), keys, path, "is in two rows")
    _check(keys < 0, keys, path, "is empty")
    frame = pd.DataFrame({name: times(raw[name], path) for name in columns if not name.endswith("_ID")}, raw.index)
    for name in (name for name in NEEDED if name in columns):
        _check(frame[name].isna(), keys, path, f"has no {name}")
    if key != "SUBJECT_ID":
        frame["OWNER"] = whole(raw["SUBJECT_ID"], path)
    return frame.set_index(keys)


def _check(wrong: pd.Series[bool], keys: pd.Series[int], path: Path, reason: str) -> None:
    """Raise DataError naming the first row that is wrong."""
    if wrong.any():
        place = int(wrong.to_numpy().argmax())
        row, key = keys.index[place], keys.iloc[place]
        raise DataError(f"{path}, row {row}: {keys.name} {key} {reason}; {REMEDY}")
