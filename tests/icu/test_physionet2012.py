"""Load the Challenge 2012: features, splits, downloads, and messages about damaged files."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.api import Data
from harness.errors import DataError, UsageError
from harness_icu.physionet2012 import FEATURES, SPLITS, PhysioNet2012, split
from harness_icu.physionet2012_files import Record, parse_records, read_records
from harness_icu.physionet2012_variables import CHANNELS, NAMES, SERIES, VARIABLES, clean
from harness_icu.series import features

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "physionet2012"
Spoil = Callable[[Path], object]


# ------------------------------------------------------------------------------------------------------- tiny folder


def write_record(folder: Path, name: str, number: int, lines: str, **descriptors: object) -> None:
    known = {"RecordID": number, "Age": 60, "Gender": 1, "Height": -1, "ICUType": 3, "Weight": -1} | descriptors
    head = "".join(f"00:00,{parameter},{value}\n" for parameter, value in known.items())
    path = folder / f"set-{name}" / f"{number}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"Time,Parameter,Value\n{head}{lines}")


def write_set(folder: Path, name: str, first: int, records: int = 40) -> None:
    """A set whose every fourth patient dies, with a rising heart rate."""
    rows = ["RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"]
    for place in range(records):
        rows.append(f"{first + place},6,1,5,-1,{int(place % 4 == 0)}")
        lines = "".join(f"{hour:02d}:30,HR,{60 + place + hour}\n" for hour in range(0, 48, 7))
        write_record(folder, name, first + place, lines + "47:59,Urine,100\n", Age=30 + place, ICUType=1 + place % 4)
    (folder / f"Outcomes-{name}.txt").write_text("\n".join(rows) + "\n")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_set(tmp_path / "tiny", "a", 101)
    return tmp_path / "tiny"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def of(data: Data, number: int) -> np.ndarray:
    """The inputs of one record."""
    for _, part in data.splits():
        if str(number) in part.patients:
            return part.inputs[list(part.patients).index(str(number))]
    raise AssertionError(f"record {number} is in no part")


def everything(data: Data) -> np.ndarray:
    return np.concatenate([part.inputs for _, part in data.splits()])


# ---------------------------------------------------------------------------------------------------------- features


def test_the_task_says_what_comes_of_the_channels() -> None:
    assert FEATURES == features(CHANNELS) == 85
    assert PhysioNet2012.task.input_shape == (48, FEATURES)
    assert PhysioNet2012.layouts["flat"].input_shape == (FEATURES,)
    assert (len(SERIES), len(VARIABLES)) == (37, 41)


ODD = (
    "00:00,GCS,9\n01:00,HR,70\n01:00,HR,75\n01:01,HR,80\n01:20,,5\n"  # twice at one time; no name
    "02:00,Temp,0\n02:00,pH,735\n03:10,Temp,98.6\n04:10,Temp,2.8\n05:00,HR,0\n06:00,Weight,-1\n"
    "07:30,Weight,70\n46:59,NISysABP,120\n48:00,Lactate,4.5\n48:00,AST,1.5e+03\n"
)


def test_features_are_those_of_a_plain_reading(tiny: Path, cache: Path) -> None:
    """Against an independent computation, line by line, of every record."""
    write_record(tiny, "a", 105, ODD, Height=1.8, Gender=-1, Weight=80)
    data = PhysioNet2012().load(tiny, cache)
    raw = {}
    for path in (tiny / "set-a").iterdir():
        table = np.zeros((48, FEATURES))
        last: dict[str, float] = {}
        rows = list(csv.reader(path.read_text().splitlines()))[1:]
        for k in range(48):
            inside = []
            for time, name, text in rows:
                minute = 60 * int(time[:2]) + int(time[3:])
                value = float(text)
                if name == "pH" and value == 735:
                    value = 7.35
                if name == "Temp" and value in (98.6, 2.8):
                    value = 37.0 if value == 98.6 else 2.8 * 9 / 5 + 32
                if name == "Height" and value == 1.8:
                    value = 180.0
                impossible = value == -1 or (value == 0 and name in ("HR", "Temp"))
                if name in NAMES and not impossible and (60 * k < minute <= 60 * k + 60 or minute == k == 0):
                    inside.append(name)
                    last[name] = value
            for place, variable in enumerate(VARIABLES):
                value = last.get(variable.name, variable.normal)
                if variable.name == "ICUType":
                    table[k, 40 + int(value) - 1] = 1
                else:
                    table[k, place] = value
                table[k, 44 + place] = variable.name in inside
        raw[int(path.stem)] = table
    train = np.stack([raw[int(patient)] for patient in data.train.patients])
    mean, deviation = np.zeros(FEATURES), np.ones(FEATURES)
    mean[:40] = train[:, :, :40].mean((0, 1))
    deviation[:40] = train[:, :, :40].reshape(-1, 40).std(0, ddof=1)
    deviation[np.ptp(train, axis=(0, 1)) == 0] = 1
    for number, table in raw.items():
        np.testing.assert_allclose(of(data, number), (table - mean) / deviation, atol=2e-4, err_msg=str(number))


def test_hours_are_open_below_and_48_00_is_in_the_last(tiny: Path, cache: Path) -> None:
    write_record(tiny, "a", 105, ODD)
    masks = of(PhysioNet2012().load(tiny, cache), 105)[:, 44:]
    measured = {name: np.flatnonzero(masks[:, place]).tolist() for place, name in enumerate(NAMES)}
    assert measured["GCS"] == [0]
    assert measured["HR"] == [0, 1], "a heart rate of 0 was not measured"
    assert measured["Lactate"] == [47]
    assert measured["Weight"] == [7]
    assert measured["Height"] == []


def test_the_flat_layout_is_the_mean_of_what_was_measured(tiny: Path, cache: Path) -> None:
    dataset = PhysioNet2012()
    inputs = dataset.load(tiny, cache).train.inputs
    flat = dataset.to_layout(inputs, "flat")
    assert flat.shape == (len(inputs), FEATURES)
    assert flat.dtype == np.float32
    heart_rate, mask = inputs[:, :, NAMES.index("HR")], inputs[:, :, 44 + NAMES.index("HR")]
    expected = [row[seen == 1].mean() for row, seen in zip(heart_rate, mask, strict=True)]
    np.testing.assert_allclose(flat[:, NAMES.index("HR")], expected, atol=1e-5)
    np.testing.assert_allclose(flat[:, 44 + NAMES.index("HR")], 7 / 48, atol=1e-6)
    with pytest.raises(UsageError, match="no layout 'falt'; did you mean 'flat'"):
        dataset.to_layout(inputs, "falt")


@pytest.mark.parametrize("spoil", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_a_set_that_is_no_folder_is_named_not_left_out(tiny: Path, cache: Path, spoil: Spoil) -> None:
    write_set(tiny, "b", 501, 20)
    shutil.rmtree(tiny / "set-b")
    spoil(tiny / "set-b")
    assert PhysioNet2012().matches(tiny)
    with pytest.raises(DataError, match=r"set-b: the folder of a set cannot be listed \((Not a dir|No such)"):
        PhysioNet2012().load(tiny, cache)


# ------------------------------------------------------------------------------------------------ plausible variables


@pytest.mark.parametrize(
    ("name", "value", "becomes"),
    [
        ("pH", 735, 7.35),
        ("pH", 73.5, 7.35),
        ("pH", 0.735, 7.35),
        ("pH", 3, np.nan),
        ("Temp", 98.6, 37),
        ("Temp", 2.8, 37.04),
        ("Temp", -17.8, np.nan),
        ("Temp", 0, np.nan),
        ("HR", 0, np.nan),
        ("Urine", 0, 0),
        ("PaCO2", 4.1, 41),
        ("PaO2", 1.5, np.nan),
        ("Height", 1.8, 180),
        ("Height", 17.8, 178),
        ("Height", 431.8, 170),
        ("Height", 5.1, np.nan),
        ("Weight", 472, np.nan),
        ("WBC", 12500, np.nan),
    ],
)
def test_repairs_and_ranges(name: str, value: float, becomes: float) -> None:
    np.testing.assert_allclose(clean(np.array([NAMES.index(name)]), np.array([float(value)])), [becomes], rtol=1e-4)


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(-1e6, 1e6) | st.floats(0, 500)), min_size=1))
def test_what_is_left_is_plausible_and_stays(rows: list[tuple[int, float]]) -> None:
    variables, values = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    cleaned = clean(variables, values)
    kept = ~np.isnan(cleaned)
    for place, value in zip(variables[kept], cleaned[kept], strict=True):
        assert VARIABLES[place].low <= value <= VARIABLES[place].high
    np.testing.assert_array_equal(clean(variables[kept], cleaned[kept]), cleaned[kept])


def test_missing_is_plausible_nowhere_and_normal_values_are() -> None:
    everywhere = np.arange(len(VARIABLES))
    assert np.isnan(clean(everywhere, np.full(len(VARIABLES), -1.0))).all()
    normals = np.array([float(variable.normal) for variable in VARIABLES])
    np.testing.assert_array_equal(clean(everywhere, normals), normals)


# ------------------------------------------------------------------------------------------------------------- split


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=300))
def test_the_split_keeps_the_shares_of_each_set_and_outcome(kinds: list[tuple[str, bool]]) -> None:
    records = [Record(name, number, died, b"") for number, (name, died) in enumerate(kinds)]
    parts = split(records, range(len(records)), (0.7, 0.15, 0.15))
    assert sorted(place for places in parts.values() for place in places) == list(range(len(records)))
    for kind in set(kinds):
        for part, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
            found = sum(kinds[place] == kind for place in parts[part])
            assert abs(found - share * kinds.count(kind)) <= 1


def test_the_split_is_that_of_every_run_and_another_set_moves_no_patient() -> None:
    a = [Record("a", number, number % 4 == 0, b"") for number in range(101, 141)]
    b = [Record("b", number, number % 4 == 0, b"") for number in range(1, 90)]
    alone = split(a, range(len(a)), (0.7, 0.15, 0.15))
    assert [a[place].number for place in alone["test"]] == [106, 107, 108, 114, 124, 130]
    both = split(b + a, range(len(a + b)), (0.7, 0.15, 0.15))
    for part in SPLITS:
        assert [(b + a)[place].number for place in both[part] if place >= len(b)] == [
            a[place].number for place in alone[part]
        ]


def test_all_sets_that_are_there_are_used_and_outcomes_follow_their_record(tiny: Path, cache: Path) -> None:
    write_set(tiny, "c", 501, 20)
    data = PhysioNet2012().load(tiny, cache)
    assert [len(part) for _, part in data.splits()] == [42, 9, 9]
    for _, part in data.splits():
        first = np.where(part.patients.astype(int) < 500, 101, 501)
        np.testing.assert_array_equal(part.targets[:, 0], (part.patients.astype(int) - first) % 4 == 0)
        assert part.targets.dtype == part.inputs.dtype == np.float32


@pytest.mark.parametrize("lines", ["", "00:00,Weight,80\n", "05:00,HR,0\n10:00,,3\n"])
def test_a_record_without_measurements_is_left_out(tiny: Path, cache: Path, lines: str) -> None:
    write_record(tiny, "a", 106, lines, Weight=70)
    data = PhysioNet2012().load(tiny, cache)
    assert sum(len(part) for _, part in data.splits()) == 39
    assert "106" not in np.concatenate([part.patients for _, part in data.splits()])


# -------------------------------------------------------------------------------------------- folder and fingerprint


def test_matches_a_folder_by_its_sets_and_their_outcomes(tiny: Path, tmp_path: Path) -> None:
    assert PhysioNet2012().matches(tiny)
    assert not PhysioNet2012().matches(tmp_path)
    (tiny / "set-b").mkdir()
    assert not PhysioNet2012().matches(tiny), "set b has no outcomes yet"


def test_fingerprint_follows_content_and_rules(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [PhysioNet2012().fingerprint(tiny)]
    assert PhysioNet2012().fingerprint(shutil.copytree(tiny, tmp_path / "elsewhere")) == seen[0]
    path = tiny / "set-a" / "107.txt"
    path.write_text(path.read_text().replace("100", "101"))
    seen.append(PhysioNet2012().fingerprint(tiny))
    outcomes = tiny / "Outcomes-a.txt"
    outcomes.write_text(outcomes.read_text().replace("107,6,1,5,-1,0", "107,6,1,5,-1,1"))
    seen.append(PhysioNet2012().fingerprint(tiny))
    monkeypatch.setattr("harness_icu.physionet2012.SEED", 1)
    seen.append(PhysioNet2012().fingerprint(tiny))
    monkeypatch.setattr("harness_icu.physionet2012_variables.REPAIRS", ())
    seen.append(PhysioNet2012().fingerprint(tiny))
    assert len(set(seen)) == len(seen)
    assert all(len(fingerprint) == 64 for fingerprint in seen)


def test_the_second_load_comes_from_the_cache(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = PhysioNet2012().load(tiny, cache)
    monkeypatch.setattr(PhysioNet2012, "_arrays", None)
    np.testing.assert_array_equal(everything(PhysioNet2012().load(tiny, cache)), everything(first))


def test_line_ends_of_another_system_make_no_difference(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    for path in copy.rglob("*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert PhysioNet2012().fingerprint(copy) == PhysioNet2012().fingerprint(tiny)


def test_progress_ends_at_the_number_of_records(tiny: Path, cache: Path) -> None:
    told: list[tuple[int, int]] = []
    PhysioNet2012().load(tiny, cache, lambda done, total, note="": told.append((done, total)))
    assert told[-1] == (40, 40)


# --------------------------------------------------------------------------------------------------- damaged folders


def record(old: str, new: str) -> Spoil:
    """Record 105, whose eighth line is its first heart rate, with something replaced."""
    return lambda folder: replace(folder / "set-a" / "105.txt", old, new)


def outcome(old: str, new: str) -> Spoil:
    return lambda folder: replace(folder / "Outcomes-a.txt", old, new)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (record("Urine,100\n", "Urine,10"), r"105\.txt, line 15: the file ends within the line '47:59,Urine,10'"),
        (record("Time,Parameter", "Time,Variable"), r"105\.txt, line 1: 'Time,Variable,Value' is not 'Time,Param"),
        (lambda folder: (folder / "set-a/105.txt").write_bytes(b""), r"105\.txt, line 1: '' is not"),
        (
            lambda folder: (folder / "set-a/105.txt").write_text("Time,Parameter,Value\n"),
            r"105\.txt, line 2: the file e",
        ),
        (lambda folder: shutil.rmtree(folder / "set-a"), "tiny: holds no records in set-a, set-b, set-c"),
        (record("00:30,HR", "00:61,HR"), r"105\.txt, line 8: the time is '00:61'"),
        (record("00:30,HR", "48:01,HR"), r"105\.txt, line 8: the time is '48:01', not .* up to 48:00"),
        (record("00:30,HR", "-0:30,HR"), r"105\.txt, line 8: the time is '-0:30'"),
        (record("00:30,HR,64", "00:30,HR,6x"), r"105\.txt, line 8: the value is '6x', not a number"),
        (record("00:30,HR,64", "00:30,HR,nan"), r"105\.txt, line 8: the value is 'nan', not a number"),
        (record("00:30,HR,64", "00:30,HR,6_4"), r"105\.txt, line 8: the value is '6_4', not a number"),
        (record("00:30,HR,64", "00:30,HR,"), r"105\.txt, line 8: the value is '', not a number"),
        (record("00:30,HR,64", "00:30,HR"), r"105\.txt, line 8: '00:30,HR' does not have the three cells"),
        (record("00:30,HR,64", "00:30,HR,64,1"), r"105\.txt, line 8: '00:30,HR,64,1' does not have the three cells"),
        (record("00:30,HR,64", ""), r"105\.txt, line 8: '' does not have the three cells"),
        (record("00:30,HR,64", '00:30,"HR",64'), r"105\.txt, line 8: the parameter is '\"HR\"', not one of"),
        (
            record("00:30,HR,64", "00:30,Laktate,64"),
            r"105\.txt, line 8: the parameter is 'Laktate', not one of .*did you mean 'Lactate'",
        ),
        (record("RecordID,105", "RecordID,104"), r"105\.txt, line 2: its RecordID is 104"),
        (record("00:00,RecordID,105\n", ""), r"105\.txt: it has no RecordID"),
        (record("ICUType,1", "ICUType,7"), r"105\.txt, line 6: ICUType is 7, not one of -1, 1, 2, 3, 4"),
        (record("Gender,1", "Gender,0.5"), r"105\.txt, line 4: Gender is 0\.5, not one of"),
        (
            record("07:30,HR,71", "07:30,MechVent,1\n07:31,MechVent,2"),
            r"105\.txt, line 10: MechVent is 2, not one of -1, 0, 1",
        ),
        (lambda folder: (folder / "set-a/105.txt").unlink(), r"Outcomes-a\.txt, line 6: record 105 has no file"),
        (outcome("105,6,1,5,-1,1\n", ""), r"105\.txt: the record has no row in Outcomes-a\.txt"),
        (outcome("105,6,1,5,-1,1\n", "104,6,1,5,-1,1\n"), r"txt, line 6: record 104 has an outcome in line 5 already"),
        (outcome("105,6,1,5,-1,1\n", "105,6,1,5,-1,\n"), r"txt, line 6: In-hospital_death of record 105 is ''"),
        (outcome("105,6,1,5,-1,1\n", "105,6,1,5,-1,2\n"), r"line 6: In-hospital_death of record 105 is '2', not 0"),
        (outcome("105,6,1,5,-1,1\n", "105,6,1,5\n"), r"Outcomes-a\.txt, line 6: 4 cells, not 6"),
        (outcome("105,6,1,5,-1,1\n", "x,6,1,5,-1,1\n"), r"Outcomes-a\.txt, line 6: RecordID is 'x', not a number"),
        (outcome("In-hospital_death", "Death"), r"Outcomes-a\.txt: no column 'In-hospital_death'; it has RecordID"),
        (lambda folder: (folder / "Outcomes-a.txt").unlink(), r"Outcomes-a\.txt: missing"),
        (lambda folder: write_set(folder, "b", 140), r"set-b/140\.txt: record 140 is in set a as well"),
        (lambda folder: (folder / "physionet2012-synthetic").touch(), "holds the synthetic data, not the real ones"),
    ],
)
def test_damage_is_named_by_file_and_line(tiny: Path, cache: Path, spoil: Spoil, reason: str) -> None:
    spoil(tiny)
    with pytest.raises(DataError, match=reason):
        PhysioNet2012().load(tiny, cache)
    assert not list(cache.glob("*.npy"))


def test_other_files_beside_the_records_are_left_alone(tiny: Path) -> None:
    before = PhysioNet2012().fingerprint(tiny)
    for name in ("._105.txt", "index.html", "105.txt.part"):
        (tiny / "set-a" / name).write_bytes(b"\x00")
    assert PhysioNet2012().fingerprint(tiny) == before


def test_the_line_is_right_in_every_record_of_a_block(tiny: Path) -> None:
    for number in (101, 120, 140):
        path = tiny / "set-a" / f"{number}.txt"
        text = path.read_text()
        path.write_text(text.replace("35:30,HR", "35:30,XX"))
        with pytest.raises(DataError, match=rf"{number}\.txt, line 13: the parameter is 'XX'"):
            parse_records(tiny, read_records(tiny, lambda done, total, note="": None), (*NAMES, "RecordID"))
        path.write_text(text)


@pytest.mark.parametrize("text", ["inf", "1e999", "True", "1_0"])
def test_what_looks_like_a_number_to_python_alone_is_none(tmp_path: Path, text: str) -> None:
    """In a column without any word, of which a parser may make numbers."""
    records = [Record("a", 7, False, f"00:00,RecordID,7\n00:10,HR,{text}\n".encode())]
    with pytest.raises(DataError, match=r"set-a/7\.txt, line 3: the value is '(inf|True|1_0|1e999)', not a number"):
        parse_records(tmp_path, records, (*NAMES, "RecordID"))


# ------------------------------------------------------------------------------------------------------------- fetch


class Mirror:
    """The official files on a server of our own, but for those that are ``missing``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: set[str] = set()
        mirror = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(folder))

            def do_GET(self) -> None:
                if self.path.removeprefix("/") in mirror.missing:
                    self.send_error(404)
                else:
                    super().do_GET()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.dataset = type("Mirrored", (PhysioNet2012,), {"source": f"http://127.0.0.1:{self.server.server_port}/"})()

    def list(self) -> None:
        sums = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.name}"
            for path in sorted(self.folder.iterdir())
            if path.name not in self.missing | {"SHA256SUMS.txt"}
        ]
        (self.folder / "SHA256SUMS.txt").write_text("\n".join(sums) + "\n")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "*")
    official, unpacked = tmp_path / "official", tmp_path / "unpacked"
    official.mkdir()
    for name, first in (("a", 101), ("b", 201), ("c", 301)):
        write_set(unpacked, name, first, 20)
        with tarfile.open(official / f"set-{name}.tar.gz", "w:gz") as tar:
            tar.add(unpacked / f"set-{name}", f"set-{name}")
        shutil.copy(unpacked / f"Outcomes-{name}.txt", official)
    running = Mirror(official)
    running.list()
    threading.Thread(target=running.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield running
    running.server.shutdown()
    running.server.server_close()


def test_fetch_unpacks_the_sets_and_brings_the_outcomes_last(mirror: Mirror, tmp_path: Path) -> None:
    target = tmp_path / "fetched"
    mirror.missing = {"Outcomes-c.txt"}
    with pytest.raises(DataError, match=r"Outcomes-c\.txt: the server answered 404"):
        mirror.dataset.fetch(target)
    assert not PhysioNet2012().matches(target)
    mirror.missing = set()
    (target / "set-b" / "203.txt").write_text("damaged meanwhile")
    mirror.dataset.fetch(target)
    assert PhysioNet2012().matches(target)
    assert PhysioNet2012().fingerprint(target) == PhysioNet2012().fingerprint(tmp_path / "unpacked")
    assert not list(target.rglob("*.part"))


@pytest.mark.parametrize("name", ["../evil.txt", "set-b/../../evil.txt", "link"])
def test_an_archive_cannot_write_outside_the_folder(mirror: Mirror, tmp_path: Path, name: str) -> None:
    with tarfile.open(mirror.folder / "set-b.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "../../outside"
        else:
            member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    mirror.list()
    with pytest.raises(DataError, match=r"set-b\.tar\.gz: cannot be unpacked \((Outside|Link)"):
        mirror.dataset.fetch(tmp_path / "fetched")
    assert not (tmp_path / "evil.txt").exists()


def test_fetch_says_when_the_list_is_not_the_challenges(mirror: Mirror, tmp_path: Path) -> None:
    mirror.missing = {"set-c.tar.gz"}
    mirror.list()
    with pytest.raises(DataError, match=r"SHA256SUMS\.txt: does not list set-c\.tar\.gz"):
        mirror.dataset.fetch(tmp_path / "fetched")


def test_fetch_refuses_the_synthetic_ones_folder(tmp_path: Path) -> None:
    (tmp_path / "physionet2012-synthetic").touch()
    with pytest.raises(DataError, match="holds the synthetic physionet2012"):
        PhysioNet2012().fetch(tmp_path)


# --------------------------------------------------------------------------------------------------------- real data


@pytest.mark.slow
def test_the_real_sets(tmp_path: Path) -> None:
    """Sets a and b: all but the ten empty records, and as good as the published logistic regressions."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    if not (SHARED / "set-a.tar.xz").exists():
        pytest.skip(f"the real data are not in {SHARED}")
    for name in ("a", "b"):
        with tarfile.open(SHARED / f"set-{name}.tar.xz") as tar:
            tar.extractall(tmp_path, filter="data")
    dataset = PhysioNet2012()
    data = dataset.load(tmp_path, tmp_path / "cache")
    assert [(len(part), part.targets.sum()) for _, part in data.splits()] == [(5594, 786), (1198, 168), (1198, 168)]
    used = {int(patient) for _, part in data.splits() for patient in part.patients}
    there = {int(path.stem) for name in ("a", "b") for path in (tmp_path / f"set-{name}").iterdir()}
    assert there - used == {140501, 140936, 141264, 142731, 142998, 143656, 145611, 147514, 150309, 150649}
    train, test = (dataset.to_layout(part.inputs, "flat") for part in (data.train, data.test))
    model = LogisticRegression(C=0.1, max_iter=2000).fit(train, data.train.targets[:, 0])
    assert roc_auc_score(data.test.targets[:, 0], model.decision_function(test)) > 0.84
