"""Load MIMIC-III: cohort, labels, events, splits, cache, the demo, and messages about damaged tables."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DataError, UsageError
from harness_icu import Mimic3, mimic3, mimic3_channels, mimic3_events, mimic3_tables
from harness_icu.mimic3_channels import CHANNELS
from harness_icu.mimic3_cohort import cohort, divide, long_enough
from harness_icu.mimic3_events import read_events
from harness_icu.series import grid

Row = dict[str, object]
Tables = dict[str, list[Row]]

DEMO = Path(__file__).parents[3] / "shared" / "data" / "mimic3_demo"
NAMES = [channel.name for channel in CHANNELS]


def at(hour: float) -> str:
    """A time so many hours after each stay's beginning."""
    return f"{datetime.datetime(2150, 1, 1) + datetime.timedelta(hours=hour):%Y-%m-%d %H:%M:%S}"


def event(patient: int, hour: float, item: int, value: object, unit: str = "", **cells: object) -> Row:
    row: Row = {"SUBJECT_ID": patient, "HADM_ID": 100 + patient, "ICUSTAY_ID": 200 + patient, "ITEMID": item}
    return row | {"CHARTTIME": at(hour), "VALUE": value, "VALUEUOM": unit} | cells


@pytest.fixture
def tables() -> Tables:
    """Twelve adults with one stay of three days each; the first six die. Rows 1 to 12 are theirs in each table."""
    made: Tables = {"PATIENTS": [], "ADMISSIONS": [], "ICUSTAYS": [], "CHARTEVENTS": [], "LABEVENTS": []}
    for patient in range(1, 13):
        made["PATIENTS"].append({"SUBJECT_ID": patient, "DOB": "2100-01-01 00:00:00", "DOD": ""})
        made["ADMISSIONS"].append(
            {
                "SUBJECT_ID": patient,
                "HADM_ID": 100 + patient,
                "ADMITTIME": at(-2),
                "DISCHTIME": at(90),
                "DEATHTIME": at(80) if patient <= 6 else "",
            }
        )
        made["ICUSTAYS"].append(
            {"SUBJECT_ID": patient, "HADM_ID": 100 + patient, "ICUSTAY_ID": 200 + patient, "LOS": "3.0"}
            | {"FIRST_CAREUNIT": "MICU", "LAST_CAREUNIT": "MICU", "FIRST_WARDID": 50, "LAST_WARDID": 50}
            | {"INTIME": at(0), "OUTTIME": at(72)}
        )
        made["CHARTEVENTS"].append(event(patient, 1.5, 211, 80 + patient, "BPM"))
        made["LABEVENTS"].append(event(patient, 2.5, 50820, 7.3, "units"))
    made["OUTPUTEVENTS"] = [event(1, 1, 40055, 39, "ml")]
    return made


def write(folder: Path, tables: Tables, suffix: str = ".csv", lower: bool = False) -> Path:
    """The tables with all columns of their first rows but LABEVENTS' ICUSTAY_ID, which the real one has not either."""
    folder.mkdir(exist_ok=True)
    for table, rows in tables.items():
        names = [name for name in rows[0] if (table, name) != ("LABEVENTS", "ICUSTAY_ID")]
        open_ = gzip.open if suffix.endswith(".gz") else open
        name = f"{table}{suffix}"
        with open_(folder / (name.lower() if lower else name), "wt", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([name.lower() if lower else name for name in names])
            writer.writerows([row.get(name, "") for name in names] for row in rows)
    return folder


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Tables], dict[str, np.ndarray]]:
    """Writes the tables and reads them: the measured values (stays, 48, 17) of the task's stays, and their numbers."""

    def loaded(tables: Tables) -> dict[str, np.ndarray]:
        folder = write(tmp_path / "tables", tables)
        stays = long_enough(cohort(folder))
        events = read_events(folder, stays, lambda done, total, note="": None)
        measured = grid(events, len(stays), len(CHANNELS))
        return dict(zip((stays.ICUSTAY_ID - 200).tolist(), measured, strict=True))

    return loaded


# ----------------------------------------------------------------------------------------------------------- cohort


def change(table: str, **cells: object) -> Callable[[Tables], None]:
    return lambda tables: tables[table][0].update(cells)


def again(**cells: object) -> Callable[[Tables], None]:
    """A second stay in the first admission."""
    return lambda tables: tables["ICUSTAYS"].append(tables["ICUSTAYS"][0] | {"ICUSTAY_ID": 299} | cells)


@pytest.mark.parametrize(
    ("spoil", "kept"),
    [
        (change("ICUSTAYS", LAST_WARDID=51), False),
        (change("ICUSTAYS", LAST_CAREUNIT="CCU"), False),
        (again(), False),
        (again(LAST_WARDID=51), True),  # the one that moved is dropped before they are counted
        (change("PATIENTS", DOB="2132-01-10 00:00:00"), False),
        (change("PATIENTS", DOB="2132-01-01 00:00:00"), True),  # 18 years of 365 days
        (change("PATIENTS", DOB="1850-01-01 00:00:00"), True),
        (change("PATIENTS", DOB="2200-01-01 00:00:00"), True),  # a negative age is 90
        (change("ICUSTAYS", LOS="1.9999"), False),
        (change("ICUSTAYS", LOS="2.0"), True),
        (change("ICUSTAYS", LOS=""), False),
    ],
)
def test_the_rules_of_the_cohort(tables: Tables, tmp_path: Path, spoil: Callable[[Tables], None], kept: bool) -> None:
    spoil(tables)
    stays = long_enough(cohort(write(tmp_path / "tables", tables)))
    assert stays.ICUSTAY_ID.tolist() == list(range(201 if kept else 202, 213))


@pytest.mark.parametrize(
    ("death", "died"),
    [
        ({"DEATHTIME": at(90)}, True),
        ({"DEATHTIME": at(90.1)}, False),
        ({"DEATHTIME": at(-2)}, True),
        ({"DEATHTIME": at(-2.1)}, False),
        ({"DEATHTIME": ""}, False),
    ],
)
def test_who_dies_in_hospital(tables: Tables, tmp_path: Path, death: Row, died: bool) -> None:
    tables["ADMISSIONS"][0] |= death
    tables["ADMISSIONS"][1] |= {"DEATHTIME": ""}
    tables["PATIENTS"][1] |= {"DOD": "2150-01-03 00:00:00"}  # PATIENTS alone knows of it, by the day
    tables["PATIENTS"][7] |= {"DOD": "2150-01-09 00:00:00"}  # after the discharge
    stays = cohort(write(tmp_path / "tables", tables))
    assert stays.DIED.tolist() == [died, *[True] * 5, *[False] * 6]


# ----------------------------------------------------------------------------------------------------------- events


def test_events_are_those_of_the_stay_and_the_first_48_hours(tables: Tables, load) -> None:
    rows = tables["CHARTEVENTS"]
    rows += [
        event(1, 5, 220045, 60, ICUSTAY_ID=""),  # filled in from the admission
        event(1, 6, 220045, 61, ICUSTAY_ID=202),  # another stay's
        event(1, 7, 220045, 62, HADM_ID=""),
        event(1, 8, 220045, 63, HADM_ID=999),
        event(1, 9, 220045, ""),
        event(1, 10, 4711, 64),  # not of our items
        event(1, 11, 220045, 65, CHARTTIME=""),
        event(1, -0.01, 220045, 66),
        event(1, 48.01, 220045, 67),
        event(1, 0, 220045, 68),
        event(1, 48, 220045, 69),
    ]
    measured = load(tables)[1]
    pulse = measured[:, NAMES.index("heart rate")]
    assert {k: pulse[k] for k in range(48) if not np.isnan(pulse[k])} == {0: 68, 1: 81, 4: 60, 47: 69}
    assert measured[2, NAMES.index("pH")] == 7.3
    assert (~np.isnan(measured)).sum() == 5


@pytest.mark.parametrize("drop", [False, True])
def test_rows_flagged_as_errors_are_used_unless_a_data_set_drops_them(
    tables: Tables, tmp_path: Path, drop: bool
) -> None:
    for table, flag in (("CHARTEVENTS", "ERROR"), ("OUTPUTEVENTS", "ISERROR")):
        tables[table] = [row | {flag: ""} for row in tables[table]]
    tables["CHARTEVENTS"] += [event(1, 4, 211, 99, ERROR=0), event(1, 5, 211, 300, ERROR=1)]
    folder = write(tmp_path / "tables", tables)
    stays = long_enough(cohort(folder))
    events = read_events(folder, stays, lambda done, total, note="": None, drop)
    pulse = grid(events, len(stays), len(CHANNELS))[0, :, NAMES.index("heart rate")]
    assert pulse[~np.isnan(pulse)].tolist() == [81, 99] + [300] * (not drop)

    dropping = type("Dropping", (Mimic3,), {"name": "mimic3-unflagged", "drop_flagged": drop})()
    assert dropping.load(folder, tmp_path / "cache").task == Mimic3.task
    assert (
        dropping.fingerprint(folder) == type("Same", (Mimic3,), {"name": dropping.name})().fingerprint(folder)
    ) != drop


def test_dropping_flagged_rows_needs_the_flag(tables: Tables, tmp_path: Path) -> None:
    dropping = type("Dropping", (Mimic3,), {"drop_flagged": True})()
    with pytest.raises(DataError, match=r"CHARTEVENTS\.csv: no column ERROR"):
        dropping.load(write(tmp_path / "tables", tables), tmp_path / "cache")


def test_a_typing_error_in_a_value_counts_as_missing(tables: Tables, load) -> None:
    tables["CHARTEVENTS"].append(event(1, 4.5, 211, "1e9", "BPM"))
    pulse = load(tables)[1][:, NAMES.index("heart rate")]
    assert pulse[~np.isnan(pulse)].tolist() == [81]


def test_none_is_a_value_of_the_coma_scale_not_a_missing_one(tables: Tables, load) -> None:
    tables["CHARTEVENTS"].append(event(3, 1, 220739, "None"))
    eyes = CHANNELS[NAMES.index("GCS eye opening")]
    assert load(tables)[3][0, NAMES.index("GCS eye opening")] == eyes.categories.index("None")


def test_of_values_at_one_time_the_greatest_wins_whatever_the_order(tables: Tables, load) -> None:
    tables["CHARTEVENTS"] += [event(1, 3, 211, 102), event(1, 3, 220045, 98), event(1, 2.9, 211, 200)]
    tables["CHARTEVENTS"] += [event(1, 3, 223901, "Obeys Commands"), event(1, 3, 454, "5 Localizes Pain")]
    measured = load(tables)[1][2]
    assert measured[NAMES.index("heart rate")] == 102
    motor = CHANNELS[NAMES.index("GCS motor response")]
    assert motor.categories[int(measured[NAMES.index("GCS motor response")])] == "Obeys Commands"


def test_missing_values_do_not_make_an_example(tables: Tables, tmp_path: Path) -> None:
    tables["CHARTEVENTS"][2] |= {"ITEMID": 3348, "VALUE": "Other/Remarks"}
    tables["LABEVENTS"][2] |= {"VALUE": "ERROR"}
    lists(write(tmp_path / "tables", tables), TEST, VALIDATION)
    data = Mimic3().load(tmp_path / "tables", tmp_path / "cache")
    assert sorted(map(int, data.train.patients)) == [4, 5, 6, 7, 8, 9, 10]


# ---------------------------------------------------------------------------------------------------------- division


def test_inputs_are_standardised_by_the_training_split(tables: Tables, tmp_path: Path) -> None:
    data = Mimic3().load(write(tmp_path / "tables", tables), tmp_path / "cache")
    data.check("mimic3")
    pulse = {int(p): i for _, part in data.splits() for p, i in zip(part.patients, part.inputs[:, :, 50], strict=True)}
    raw = {patient: np.array([86, *[80 + patient] * 47]) for patient in range(1, 13)}
    training = np.array([raw[int(patient)] for patient in data.train.patients])
    for patient, values in raw.items():
        expected = (values - training.mean()) / training.std(ddof=1)
        np.testing.assert_allclose(pulse[patient], expected, atol=1e-5)
    assert (data.train.inputs[:, 1, 59 + NAMES.index("heart rate")] == 1).all()
    np.testing.assert_array_equal(data.test.targets[:, 0], [int(p) <= 6 for p in data.test.patients])


def test_without_lists_patients_are_divided_at_random_the_dead_alike(tables: Tables, tmp_path: Path) -> None:
    data = Mimic3().load(write(tmp_path / "tables", tables), tmp_path / "cache")
    assert [(len(part), part.targets.sum()) for _, part in data.splits()] == [(8, 4), (2, 1), (2, 1)]


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=80))
def test_a_patient_is_in_one_split_only(stays: list[tuple[int, bool]]) -> None:
    subjects, died = (np.array(values) for values in zip(*stays, strict=True))
    splits = divide(subjects, died, {})
    assert len(set(zip(subjects, splits, strict=True))) == len(set(subjects))
    np.testing.assert_array_equal(splits, divide(subjects, died, {}), "the same each time")


def lists(folder: Path, test: str, validation: str) -> None:
    (folder / "testset.csv").write_text(test)
    (folder / "valset.csv").write_text(validation)


TEST = "".join(f"{patient},{int(patient in (1, 12))}\n" for patient in range(1, 13))
VALIDATION = "".join(f"{patient},{int(patient in (2, 11))}\n" for patient in range(2, 12)) + "\n"


def test_published_lists_divide_the_patients(tables: Tables, tmp_path: Path) -> None:
    lists(write(tmp_path / "tables", tables), TEST, VALIDATION)
    data = Mimic3().load(tmp_path / "tables", tmp_path / "cache")
    assert list(data.test.patients) == ["1", "12"]
    assert list(data.validation.patients) == ["2", "11"]
    assert len(data.train) == 8


@pytest.mark.parametrize("names", [("testset.csv.gz", "valset.csv.gz"), ("TESTSET.CSV", "ValSet.csv.GZ")])
def test_published_lists_may_be_packed_and_in_either_case(
    tables: Tables, tmp_path: Path, names: tuple[str, str]
) -> None:
    folder = write(tmp_path / "tables", tables)
    for name, text in zip(names, (TEST, VALIDATION), strict=True):
        (folder / name).write_bytes(gzip.compress(text.encode()) if name.lower().endswith("gz") else text.encode())
    data = Mimic3().load(folder, tmp_path / "cache")
    assert (list(data.test.patients), list(data.validation.patients)) == (["1", "12"], ["2", "11"])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda folder: (folder / "valset.csv").unlink(),
            r"for the validation split one list valset\*\.csv or .* is needed, and there is none",
        ),
        (lambda folder: (folder / "testset2.csv").touch(), "testset.csv and testset2.csv"),
        (lambda folder: (folder / "TESTSET.CSV.GZ").touch(), "TESTSET.CSV.GZ and testset.csv"),
        (lambda folder: (folder / "testset.csv").rename(folder / "testset.xlsx"), "there is testset.xlsx"),
        (
            lambda folder: [(folder / "valset.csv").unlink(), (folder / "valset.csv.gz").write_bytes(b"no gzip")],
            r"valset\.csv\.gz: cannot be read \(Not a gzipped file",
        ),
        (
            lambda folder: [(folder / "valset.csv").unlink(), (folder / "valset.csv").mkdir()],
            r"valset\.csv: cannot be r",
        ),
        (lambda folder: lists(folder, TEST.replace("7,0\n", ""), VALIDATION), r"testset\.csv: patient 7 is not in it"),
        (lambda folder: lists(folder, TEST, VALIDATION.replace("7,0\n", "")), r"valset\.csv: patient 7 is not in it"),
        (lambda folder: lists(folder, "stay,y_true\n", VALIDATION), r"testset\.csv, line 1: 'stay,y_true' is no"),
        (lambda folder: lists(folder, TEST + "3,1\n", VALIDATION), r"testset\.csv, line 13: patient 3 is both in"),
        (lambda folder: lists(folder, "1,0\n2,2\n", VALIDATION), r"testset\.csv, line 2: '2,2' is no"),
    ],
)
def test_wrong_lists_are_named(tables: Tables, tmp_path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    folder = write(tmp_path / "tables", tables)
    lists(folder, TEST, VALIDATION)
    spoil(folder)
    with pytest.raises(DataError, match=reason):
        Mimic3().load(folder, tmp_path / "cache")


# --------------------------------------------------------------------------------------------------- files and cache


def test_a_folder_without_some_table_is_recognised_so_that_reading_it_names_the_table(
    tables: Tables, tmp_path: Path
) -> None:
    del tables["CHARTEVENTS"]
    assert Mimic3().matches(write(tmp_path / "tables", tables))


def test_a_file_that_cannot_be_read_is_named(tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(mimic3, "_ends", refuse)
    with pytest.raises(DataError, match=r"CHARTEVENTS\.csv: cannot be read \(Permission denied\)"):
        Mimic3().fingerprint(write(tmp_path / "tables", tables))


def test_plain_and_gzip_either_case_and_any_pieces_are_the_same(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Mimic3().load(write(tmp_path / "plain", tables), tmp_path / "a")
    monkeypatch.setattr(mimic3_tables, "PIECE", 5)
    folder = write(tmp_path / "packed", tables, ".csv.gz", lower=True)
    assert Mimic3().matches(folder)
    found = Mimic3().load(folder, tmp_path / "b")
    for (_, a), (_, b) in zip(expected.splits(), found.splits(), strict=True):
        np.testing.assert_array_equal(a.inputs, b.inputs)
        np.testing.assert_array_equal(a.patients, b.patients)


def test_progress_ends_at_the_tables_bytes(tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mimic3_tables, "PIECE", 2)
    folder, told = write(tmp_path / "tables", tables), []
    Mimic3().load(folder, tmp_path / "cache", lambda done, total, note="": told.append((done, total)))
    size = sum((folder / f"{table}.csv").stat().st_size for table in mimic3_events.TABLES)
    assert told[-1] == (size, size)
    assert told == sorted(told)


def test_second_load_reads_the_cache(tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "tables", tables)
    first = Mimic3().load(folder, tmp_path / "cache")
    monkeypatch.setattr(mimic3_events, "read_events", None)
    np.testing.assert_array_equal(Mimic3().load(folder, tmp_path / "cache").train.inputs, first.train.inputs)


def test_fingerprint_follows_tables_lists_and_rules(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "tables", tables)
    seen = [Mimic3().fingerprint(folder)]
    assert Mimic3().fingerprint(write(tmp_path / "elsewhere", tables)) == seen[0], "the place does not matter"
    for table in ("PATIENTS", "ADMISSIONS", "ICUSTAYS", "CHARTEVENTS", "LABEVENTS", "OUTPUTEVENTS"):
        tables[table][0]["SUBJECT_ID"] = "77"
        write(folder, tables)
        seen.append(Mimic3().fingerprint(folder))
    monkeypatch.setattr(mimic3, "ENDS", 64)
    seen.append(Mimic3().fingerprint(folder))
    tables["CHARTEVENTS"][-1]["VALUE"] = "55"  # at the very end, and as long as it was
    seen.append(Mimic3().fingerprint(write(folder, tables)))
    lists(folder, TEST, VALIDATION)
    seen.append(Mimic3().fingerprint(folder))
    lists(folder, VALIDATION, TEST)
    seen.append(Mimic3().fingerprint(folder))
    monkeypatch.setattr(mimic3_channels, "FIO2_SLIP", True)
    seen.append(Mimic3().fingerprint(folder))
    assert len(set(seen)) == len(seen)
    assert all(len(fingerprint) == 64 for fingerprint in seen)


def test_the_flat_layout_is_of_the_measured_values(tables: Tables, tmp_path: Path) -> None:
    data = Mimic3().load(write(tmp_path / "tables", tables), tmp_path / "cache")
    flattened = Mimic3().to_layout(data.train.inputs, "flat")
    assert flattened.shape == (len(data.train), *Mimic3().layouts["flat"].input_shape)
    np.testing.assert_array_equal(flattened[:, 50], data.train.inputs[:, 1, 50])
    with pytest.raises(UsageError, match=r"mimic3 has no layout 'flat2'; did you mean 'flat'"):
        Mimic3().to_layout(data.train.inputs, "flat2")


def test_it_cannot_be_downloaded_but_says_how(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs your credentials: get access at https://physionet\.org"):
        Mimic3().fetch(tmp_path)


# ---------------------------------------------------------------------------------------------------- damaged tables


def cell(table: str, row: int = 3, **cells: object) -> Callable[[Path, Tables], None]:
    def spoil(folder: Path, tables: Tables) -> None:
        tables[table][row - 1] |= cells
        write(folder, tables)

    return spoil


def without(table: str, column: str) -> Callable[[Path, Tables], None]:
    def spoil(folder: Path, tables: Tables) -> None:
        write(folder, {table: [{k: v for k, v in row.items() if k != column} for row in tables[table]]})

    return spoil


def content(table: str, change: Callable[[bytes], bytes]) -> Callable[[Path, Tables], None]:
    def spoil(folder: Path, tables: Tables) -> None:
        path = folder / f"{table}.csv"
        path.write_bytes(change(path.read_bytes()))

    return spoil


def in_row_3(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def changed(text: bytes) -> bytes:
        lines = text.split(b"\r\n")
        lines[3] = change(lines[3])
        return b"\r\n".join(lines)

    return changed


def packed(table: str, change: Callable[[bytes], bytes]) -> Callable[[Path, Tables], None]:
    def spoil(folder: Path, tables: Tables) -> None:
        path = folder / f"{table}.csv"
        (folder / f"{table}.csv.gz").write_bytes(change(gzip.compress(path.read_bytes() * 20)))
        path.unlink()

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        *(
            (
                lambda folder, tables, table=table: (folder / f"{table}.csv").unlink(),
                rf"{table}\.csv: missing, and so is",
            )
            for table in ("ADMISSIONS", "PATIENTS", "ICUSTAYS", "CHARTEVENTS", "LABEVENTS", "OUTPUTEVENTS")
        ),
        (content("CHARTEVENTS", lambda text: b""), r"CHARTEVENTS\.csv: is empty"),
        (content("ICUSTAYS", lambda text: b""), r"ICUSTAYS\.csv: is empty"),
        (content("PATIENTS", lambda text: text.splitlines()[0] + b"\n"), r"PATIENTS\.csv: holds no rows"),
        (content("CHARTEVENTS", lambda text: text.splitlines()[0] + b"\n"), r"CHARTEVENTS\.csv: holds no rows"),
        (
            content("CHARTEVENTS", in_row_3(lambda row: row.replace(b",83,", b",83\r,"))),
            r"CHARTEVENTS\.csv, row 3: is damaged: it has a carriage return outside of quotes",
        ),
        (
            content("CHARTEVENTS", in_row_3(lambda row: row.replace(b",83,BPM", b',83\r,"BPM"'))),
            r"CHARTEVENTS\.csv, row 3: is damaged: it has a carriage return outside of quotes",
        ),
        (
            content("CHARTEVENTS", in_row_3(lambda row: row.replace(b",83,BPM", b',8"3,BPM"'))),
            r"CHARTEVENTS\.csv, row 3: is damaged: it has a quote within a cell",
        ),
        (
            content("CHARTEVENTS", in_row_3(lambda row: row.replace(b",83,BPM", b',"83"3,BPM'))),
            r"CHARTEVENTS\.csv, row 3: is damaged: it has a quote within a cell",
        ),
        (content("ICUSTAYS", in_row_3(lambda row: row + b"\r")), r"ICUSTAYS\.csv, row 3: .* a carriage return"),
        (
            content("ICUSTAYS", lambda text: text.replace(b"LOS", b"HADM_ID", 1)),
            r"ICUSTAYS\.csv: has the column HADM_ID t",
        ),
        (
            content("LABEVENTS", lambda text: text.replace(b"VALUE,", b"itemid,", 1)),
            r"LABEVENTS\.csv: has the column ITEMID",
        ),
        (
            lambda folder, tables: (folder / "CHARTEVENTS.csv.gz").write_bytes(gzip.compress(b"A,B\n1,2\n")),
            r"holds CHARTEVENTS 2 times, as CHARTEVENTS\.csv and CHARTEVENTS\.csv\.gz; remove all but one",
        ),
        (
            lambda folder, tables: (folder / "patients.csv").write_bytes((folder / "PATIENTS.csv").read_bytes()),
            r"holds PATIENTS 2 times, as PATIENTS\.csv and patients\.csv; remove",
        ),
        (content("CHARTEVENTS", lambda text: text[:-20]), r"CHARTEVENTS\.csv, row 12: is truncated .* 5 cells, its h"),
        (
            packed("CHARTEVENTS", lambda data: gzip.compress(gzip.decompress(data)[:-20])),
            r"CHARTEVENTS\.csv\.gz, row 259: is truncated .* 5 cells, its header 7",
        ),
        (
            content("CHARTEVENTS", lambda text: text + b'1,2,"3\n'),
            r"CHARTEVENTS\.csv, row 13: does not end; is a quote",
        ),
        (
            content("CHARTEVENTS", in_row_3(lambda row: row + b",1")),
            r"CHARTEVENTS\.csv, row 3: .* 8 cells, its header 7",
        ),
        (content("CHARTEVENTS", in_row_3(lambda row: row[:5])), r"CHARTEVENTS\.csv, row 3: .* 2 cells, its header 7"),
        (content("CHARTEVENTS", in_row_3(lambda row: b"\0" * len(row))), r"CHARTEVENTS\.csv, row 3: .* 1 cells, its"),
        (content("CHARTEVENTS", in_row_3(lambda row: row.replace(b"3", b'"3', 1))), r"row 3: does not end; is a quote"),
        (packed("CHARTEVENTS", lambda data: data[:-30]), r"CHARTEVENTS\.csv\.gz: is truncated.*end-of-stream"),
        (packed("LABEVENTS", lambda data: data[:30] + b"\0\0\0" + data[33:]), r"LABEVENTS\.csv\.gz: is truncated, dam"),
        (packed("CHARTEVENTS", lambda data: data[:-8] + b"\0" * 8), r"CHARTEVENTS\.csv\.gz: is truncated.*CRC"),
        (packed("ICUSTAYS", lambda data: b"no gzip"), r"ICUSTAYS\.csv\.gz: is truncated, damaged.*gzip"),
        (without("ICUSTAYS", "LOS"), r"ICUSTAYS\.csv: no column LOS"),
        (without("CHARTEVENTS", "VALUEUOM"), r"CHARTEVENTS\.csv: no column VALUEUOM"),
        (
            cell("ICUSTAYS", INTIME="01/02/2150 00:00"),
            r"ICUSTAYS\.csv, row 3: INTIME is '01/02/2150 00:00', not a time",
        ),
        (cell("ICUSTAYS", INTIME=""), r"ICUSTAYS\.csv, row 3: ICUSTAY_ID 203 has no INTIME"),
        (cell("ADMISSIONS", DEATHTIME="never"), r"ADMISSIONS\.csv, row 3: DEATHTIME is 'never', not a time"),
        (cell("PATIENTS", DOB="2150-02-30 00:00:00"), r"PATIENTS\.csv, row 3: DOB is '2150-02-30 00:00:00', not a"),
        (cell("CHARTEVENTS", CHARTTIME="2150-01-01"), r"CHARTEVENTS\.csv, row 3: CHARTTIME is '2150-01-01', not a"),
        (cell("LABEVENTS", CHARTTIME="noon"), r"LABEVENTS\.csv, row 3: CHARTTIME is 'noon', not a time"),
        (cell("ICUSTAYS", LOS="3 days"), r"ICUSTAYS\.csv, row 3: LOS is '3 days', not a number"),
        (cell("ICUSTAYS", LOS="inf"), r"ICUSTAYS\.csv, row 3: LOS is 'inf', not a number"),
        (cell("ICUSTAYS", ICUSTAY_ID="x"), r"ICUSTAYS\.csv, row 3: ICUSTAY_ID is 'x', not a whole number"),
        (cell("ICUSTAYS", ICUSTAY_ID=202), r"ICUSTAYS\.csv, row 3: ICUSTAY_ID 202 is in two rows"),
        (cell("ICUSTAYS", HADM_ID=999), r"ICUSTAYS\.csv, row 3: HADM_ID 999 is not in ADMISSIONS"),
        (cell("ICUSTAYS", HADM_ID=""), r"ICUSTAYS\.csv, row 3: HADM_ID -1 is not in ADMISSIONS"),
        (cell("ICUSTAYS", SUBJECT_ID=4), r"ICUSTAYS\.csv, row 3: HADM_ID 103 is another patient's in ADMISSIONS"),
        (cell("ADMISSIONS", ADMITTIME=""), r"ADMISSIONS\.csv, row 3: HADM_ID 103 has no ADMITTIME"),
        (cell("ADMISSIONS", DISCHTIME=""), r"ADMISSIONS\.csv, row 3: HADM_ID 103 has no DISCHTIME"),
        (cell("PATIENTS", DOB=""), r"PATIENTS\.csv, row 3: SUBJECT_ID 3 has no DOB"),
        (cell("ICUSTAYS", SUBJECT_ID=999), r"ICUSTAYS\.csv, row 3: SUBJECT_ID 999 is not in PATIENTS"),
        (cell("PATIENTS", SUBJECT_ID=2), r"PATIENTS\.csv, row 3: SUBJECT_ID 2 is in two rows"),
        (cell("CHARTEVENTS", ITEMID="HR"), r"CHARTEVENTS\.csv, row 3: ITEMID is 'HR', not a whole number"),
        (cell("CHARTEVENTS", HADM_ID="1.5"), r"CHARTEVENTS\.csv, row 3: HADM_ID is '1.5', not a whole number"),
        (cell("CHARTEVENTS", ICUSTAY_ID="-"), r"CHARTEVENTS\.csv, row 3: ICUSTAY_ID is '-', not a whole number"),
        (cell("CHARTEVENTS", VALUE="fast"), r"CHARTEVENTS\.csv, row 3: VALUE 'fast' of item 211: it is no number"),
        (cell("CHARTEVENTS", VALUE="1e400"), r"CHARTEVENTS\.csv, row 3: VALUE '1e400' of item 211: it is too large"),
        (cell("CHARTEVENTS", VALUE="fast" * 1000), r"row 3: VALUE .{30,40} of item 211: it is no number"),
        (cell("CHARTEVENTS", CHARTTIME="noon" * 1000), r"row 3: CHARTTIME is .{30,40}, not a time"),
        (
            lambda folder, tables: [(folder / "LABEVENTS.csv").unlink(), (folder / "LABEVENTS.csv").mkdir()],
            r"LABEVENTS\.csv: missing, and so is",
        ),
        (
            cell("CHARTEVENTS", ITEMID=198, VALUE="16"),
            r"row 3: VALUE '16' of item 198: it is no category of GCS total",
        ),
        (cell("CHARTEVENTS", ITEMID=3581, VALUEUOM="kg"), r"row 3: .*unit 'kg' contradicts item 3581, which is in lb"),
        (
            lambda folder, tables: write(folder, {"ADMISSIONS": [r | {"DEATHTIME": ""} for r in tables["ADMISSIONS"]]}),
            "in-hospital mortality has no positive example",
        ),
        (
            lambda folder, tables: write(folder, {"ICUSTAYS": [row | {"LOS": 1} for row in tables["ICUSTAYS"]]}),
            "no stay of 48 hours",
        ),
    ],
)
def test_damage_is_named_by_file_and_row(
    tables: Tables,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path, Tables], None],
    reason: str,
) -> None:
    monkeypatch.setattr(mimic3_tables, "PIECE", 2)  # rows are counted on through the pieces
    folder = write(tmp_path / "tables", tables)
    spoil(folder, tables)
    with pytest.raises(DataError, match=reason):
        Mimic3().load(folder, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.npy"))


@given(st.lists(st.tuples(st.text(), st.text(), st.text(',\r\n" '))), st.integers(1, 40))
def test_cells_of_any_text_pass_in_any_pieces(rows: list[tuple[str, str, str]], size: int) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("A", "B", "C"), *rows])
    table = mimic3_tables._Counted(io.BytesIO(text.getvalue().encode()), Path("table.csv"))
    assert b"".join(iter(lambda: table.read(size), b"")) == text.getvalue().encode()


def test_a_table_without_ends_of_lines_is_not_gathered_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mimic3_tables, "LONGEST", 100)
    table = mimic3_tables._Counted(io.BytesIO(b"1,2\r" * 1000), Path("table.csv"))
    with pytest.raises(DataError, match=r"table\.csv, row 0: does not end"):
        table.read(200)


# ---------------------------------------------------------------------------------------------------------- the demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = DEMO / "mimic3_demo.tar.xz"
    if not archive.exists():
        pytest.skip(f"the demo of MIMIC-III is not in {DEMO}")
    folder = tmp_path_factory.mktemp("demo")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_the_demo_has_the_published_numbers(demo: Path, tmp_path: Path) -> None:
    stays = cohort(demo)
    assert (len(stays), stays.SUBJECT_ID.nunique()) == (114, 89)
    assert Mimic3().matches(demo)
    data = Mimic3().load(demo, tmp_path / "cache")
    assert sum(len(part) for _, part in data.splits()) == 57
    assert sum(part.targets.sum() for _, part in data.splits()) == 17
    assert len({patient for _, part in data.splits() for patient in part.patients}) == 47
    for path in DEMO.glob("*.csv"):
        (demo / path.name).write_bytes(path.read_bytes())
    data = Mimic3().load(demo, tmp_path / "cache")
    assert [(len(part), part.targets.sum()) for _, part in data.splits()] == [(41, 10), (5, 2), (11, 5)]
    means = data.train.inputs.mean(axis=(0, 1))
    continuous = [
        i for i, c in zip(range(76), [c for c in CHANNELS for _ in range(c.width)], strict=False) if not c.categories
    ]
    np.testing.assert_allclose(means[continuous], 0, atol=1e-4)
