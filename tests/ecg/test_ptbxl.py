"""Load PTB-XL: labels, splits, standardisation, cache, downloads, and messages about damaged folders."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import wfdb
from tiny_ptbxl import write_record, write_tables

from harness.data import cache as array_cache
from harness.data.hashes import remembered_in
from harness.errors import DataError, StoreError
from harness_ecg import PTBXL
from harness_ecg.preprocessing import clean

Rows = list[dict[str, object]]
RECORD = "records100/00000/{:05d}_lr"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_labels_folds_and_patients(tiny: Path, cache: Path) -> None:
    data = PTBXL().load(tiny, cache)
    assert PTBXL().matches(tiny)
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 2, 2)  # ecg_id 21 has no superclass
    # any likelihood counts, 0 too
    np.testing.assert_array_equal(data.validation.targets, [[1, 0, 0, 0, 0], [0, 1, 1, 1, 1]])
    assert list(data.validation.patients) == ["1009", "1009"]
    assert list(data.test.patients) == ["ecg-19", "ecg-20"]


def test_inputs_are_filtered_and_standardised_by_the_training_split(tiny: Path, cache: Path) -> None:
    data = PTBXL().load(tiny, cache)
    signals = [wfdb.rdsamp(str(tiny / RECORD.format(i)))[0].T for i in range(1, 21)]
    expected = clean(np.array(signals))
    training = expected[:16]
    expected = (expected - training.mean((0, 2), keepdims=True)) / training.std((0, 2), keepdims=True)
    for part, rows in ((data.train, expected[:16]), (data.validation, expected[16:18]), (data.test, expected[18:])):
        assert part.inputs.dtype == np.float32
        assert part.inputs.flags.c_contiguous
        np.testing.assert_allclose(part.inputs, rows, atol=2e-6)


def test_progress_ends_at_the_number_of_records(tiny: Path, cache: Path) -> None:
    told: list[tuple[int, int]] = []
    PTBXL().load(tiny, cache, lambda done, total, note="": told.append((done, total)))
    assert told[-1] == (20, 20)
    assert told == sorted(told)


# ------------------------------------------------------------------------------------------------------ fingerprint


def test_fingerprint_follows_content_split_and_preprocessing(
    tiny: Path, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [PTBXL().fingerprint(tiny)]
    copy = shutil.copytree(tiny, tmp_path / "elsewhere")
    assert PTBXL().fingerprint(copy) == seen[0], "the place does not matter"

    write_record(tiny, RECORD.format(3), np.ones((1000, 12)))  # the header's checksums change
    seen.append(PTBXL().fingerprint(tiny))
    flip(tiny / f"{RECORD.format(3)}.dat")  # the header stays as it was
    seen.append(PTBXL().fingerprint(tiny))
    write_tables(tiny, [row | {"scp_codes": "{'IMI': 1.0}"} if row["ecg_id"] == 21 else row for row in rows])
    seen.append(PTBXL().fingerprint(tiny))
    monkeypatch.setattr("harness_ecg.preprocessing.VERSION", "another")
    seen.append(PTBXL().fingerprint(tiny))
    monkeypatch.setattr("harness_ecg.ptbxl.KEEP_UNLABELLED", True)
    seen.append(PTBXL().fingerprint(tiny))
    assert len(set(seen)) == len(seen)
    assert all(len(fingerprint) == 64 for fingerprint in seen)


def test_signals_are_hashed_once_and_a_changed_byte_is_noticed(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in tiny.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    with remembered_in(cache):
        first = PTBXL().fingerprint(tiny)
        with monkeypatch.context() as patch:
            patch.setattr("hashlib.file_digest", None)
            assert PTBXL().fingerprint(tiny) == first, "nothing is read again"
        flip(tiny / f"{RECORD.format(7)}.dat")
        assert PTBXL().fingerprint(tiny) != first
    assert not [*tiny.rglob("*.json")], "nothing is written into the folder of the data"


def test_a_signal_that_cannot_be_read_is_named(tiny: Path) -> None:
    path = tiny / f"{RECORD.format(7)}.dat"
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(DataError, match=r"00007_lr\.dat: cannot be read"):
        PTBXL().fingerprint(tiny)


# ------------------------------------------------------------------------------------------------------------ cache


def test_second_load_reads_the_cache_alone(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = PTBXL().load(tiny, cache)
    with monkeypatch.context() as patch:
        patch.setattr("harness_ecg.recordings.read_inputs", None)
        second = PTBXL().load(tiny, cache)
    for (_, a), (_, b) in zip(first.splits(), second.splits(), strict=True):
        for field in ("inputs", "targets", "patients"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    second.train.inputs[0] = 7  # a caller's scribbling reaches no file
    np.testing.assert_array_equal(PTBXL().load(tiny, cache).train.inputs, first.train.inputs)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda cache: flip(next(cache.glob("*train-inputs.npy"))),
        lambda cache: next(cache.glob("*test-targets.npy")).unlink(),
        lambda cache: next(cache.glob("*test-inputs.npy")).write_bytes(b""),
        lambda cache: np.save(next(cache.glob("*test-targets.npy")), np.ones((2, 5), np.float32)),
        lambda cache: next(cache.glob("*.json")).write_text("{"),
        lambda cache: next(cache.glob("*.json")).write_text("[]"),
        lambda cache: next(cache.glob("*.json")).write_text("{}"),
    ],
)
def test_a_damaged_cache_is_made_anew_with_a_warning(tiny: Path, cache: Path, damage: Callable[[Path], None]) -> None:
    first = PTBXL().load(tiny, cache)
    expected = first.train.inputs.copy(), first.test.targets.copy()
    damage(cache)
    with pytest.warns(UserWarning, match="damaged .* computing them again"):
        again = PTBXL().load(tiny, cache)
    np.testing.assert_array_equal(again.train.inputs, expected[0])
    np.testing.assert_array_equal(again.test.targets, expected[1])


def test_a_full_disk_is_said_before_writing(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 5, 5)
    monkeypatch.setattr(array_cache.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(StoreError, match=r"cache: the disk is full: .* need 960,\d+ bytes and 5 are free"):
        PTBXL().load(tiny, cache)
    assert [path.name for path in cache.iterdir() if path.name != ".lock"] == []


def test_a_disk_that_fills_up_leaves_no_half_file(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = np.save

    def fills(file, array, **options):
        if len(array) == 2:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(file, array, **options)

    monkeypatch.setattr(array_cache.np, "save", fills)
    with pytest.raises(StoreError, match="disk is full"):
        PTBXL().load(tiny, cache)
    monkeypatch.undo()
    assert not [*cache.glob("*.tmp"), *cache.glob("*.json")]
    assert len(PTBXL().load(tiny, cache).test) == 2


def test_an_unwritable_cache_is_named(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file/cache: "):
        PTBXL().load(tiny, tmp_path / "file" / "cache")


# -------------------------------------------------------------------------------------------------- damaged folders


def spoil_row(**cells: object) -> Callable[[Path, Rows], None]:
    def spoil(folder: Path, rows: Rows) -> None:
        rows[4] |= cells
        write_tables(folder, rows)

    return spoil


def without(column: str) -> Callable[[Path, Rows], None]:
    def spoil(folder: Path, rows: Rows) -> None:
        write_tables(folder, [{k: v for k, v in row.items() if k != column} for row in rows])

    return spoil


def record(**changes: object) -> Callable[[Path, Rows], None]:
    def spoil(folder: Path, rows: Rows) -> None:
        count = int(changes.pop("leads", 12))
        samples = np.random.default_rng(1).integers(-9, 9, (int(changes.pop("length", 1000)), count))
        samples[5, 3] = changes.pop("sample", 0)
        write_record(folder, RECORD.format(5), samples, **changes)

    return spoil


def dat(change: Callable[[Path], object]) -> Callable[[Path, Rows], None]:
    return lambda folder, rows: change(folder / f"{RECORD.format(5)}.dat") and None


LINE = r"ptbxl_database.csv, line 6"
ROW = rf"\[.*{LINE}, ecg_id 5\]"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (dat(lambda path: path.unlink()), rf"00005_lr\.dat: missing.*{ROW}"),
        (dat(lambda path: path.with_suffix(".hea").unlink()), rf"00005_lr\.hea: missing.*{ROW}"),
        (dat(lambda path: path.write_bytes(path.read_bytes()[:-2])), rf"truncated: 23998 bytes.*{ROW}"),
        (dat(flip), rf"signal V\d has checksum.*{ROW}"),
        (record(fs=500), rf"sampled at 500 Hz, not 100 Hz.*{ROW}"),
        (record(leads=11), rf"no lead V6.*{ROW}"),
        (record(sig_name=["II", "I", "III", "AVR", "AVL", "AVF", *(f"V{i}" for i in range(1, 7))]), f"order.*{ROW}"),
        (record(length=999), rf"999 samples per signal, not 1000.*{ROW}"),
        (record(units=["uV"] * 12), rf"signal I is in uV, not in mV.*{ROW}"),
        (record(fmt=["24"] * 12, sample=-(2**23)), rf"lead AVR has no valid sample at 5.*{ROW}"),
        (record(sample=-(2**15)), rf"lead AVR has no valid sample at 5.*{ROW}"),
        (without("strat_fold"), "ptbxl_database.csv: no column 'strat_fold'"),
        (without("scp_codes"), "ptbxl_database.csv: no column 'scp_codes'"),
        (spoil_row(strat_fold=11), rf"{LINE} \(ecg_id 5\): strat_fold is 11, not 1 to 10"),
        (spoil_row(strat_fold="x"), rf"{LINE} \(ecg_id 5\): strat_fold is 'x', not a whole number"),
        (spoil_row(ecg_id="nan"), rf"{LINE}: ecg_id is 'nan'"),
        (spoil_row(ecg_id=4), rf"{LINE} \(ecg_id 4\): the same ecg_id as in line 5"),
        (spoil_row(scp_codes="{'NORM': "), rf"{LINE} \(ecg_id 5\): scp_codes is not a dictionary"),
        (spoil_row(scp_codes="['NORM']"), rf"{LINE} \(ecg_id 5\): scp_codes is not a dictionary"),
        (spoil_row(scp_codes="open('x')"), rf"{LINE} \(ecg_id 5\): scp_codes is not a dictionary"),
        (spoil_row(filename_lr=""), rf"{LINE} \(ecg_id 5\): filename_lr is empty"),
        (spoil_row(filename_lr="records100/x"), r"records100/x\.hea: missing"),
        (
            spoil_row(filename_lr="records100/\0x"),
            rf"{LINE} \(ecg_id 5\): filename_lr 'records100/.x00x' is not a path",
        ),
        (spoil_row(filename_lr="/records100/x"), rf"{LINE} \(ecg_id 5\): filename_lr '/records100/x' is not a path"),
        (spoil_row(filename_lr="x/../../y"), rf"{LINE} \(ecg_id 5\): filename_lr 'x/../../y' is not a path in the"),
        (
            spoil_row(filename_lr=RECORD.format(20)),
            r"line 21 \(ecg_id 20\): filename_lr records100/00000/00020_lr is the recording of line 6 as well",
        ),
        (
            spoil_row(filename_lr="records100/./00000//00001_lr"),
            rf"{LINE} \(ecg_id 5\): filename_lr .* is the recording of line 2 as well",
        ),
        (spoil_row(patient_id="1009"), r"line 18 .*patient 1009 is in fold 9 here and in fold 3 in line 6"),
        (lambda folder, rows: (folder / "scp_statements.csv").unlink() and None, "scp_statements.csv: missing"),
        (
            lambda folder, rows: (
                (folder / "scp_statements.csv").write_text(",diagnostic_class\nIMI,MI\nNORM,NORM\nIMI,NORM\n") and None
            ),
            "scp_statements.csv, line 4: the code 'IMI' is in line 2, too",
        ),
        (
            lambda folder, rows: (folder / "scp_statements.csv").write_text(",diagnostic_class\n,MI\n") and None,
            "scp_statements.csv, line 2: the code is empty",
        ),
        (
            lambda folder, rows: (folder / "scp_statements.csv").write_text(",diagnostic_class\nX,OTHER\n") and None,
            "scp_statements.csv, line 2: diagnostic_class 'OTHER' is not one of NORM",
        ),
        (
            lambda folder, rows: (folder / "ptbxl_database.csv").write_bytes(b"\xff\xff\x00") and None,
            "ptbxl_database.csv: cannot be read as a CSV file",
        ),
        (
            lambda folder, rows: write_tables(folder, [row | {"scp_codes": "{'NORM': 1}"} for row in rows]),
            "label NORM has no negative example",
        ),
        (lambda folder, rows: write_tables(folder, rows[:18]), "test split: no examples"),
    ],
)
def test_damage_is_named_by_file_and_row(
    tiny: Path, rows: Rows, cache: Path, spoil: Callable[[Path, Rows], None], reason: str
) -> None:
    spoil(tiny, rows)
    with pytest.raises(DataError, match=reason):
        PTBXL().load(tiny, cache)
    assert not list(cache.glob("*.npy"))


def test_a_dead_lead_cannot_be_standardised(tiny: Path, rows: Rows, cache: Path) -> None:
    samples = np.random.default_rng(2).integers(-9, 9, (1000, 12))
    samples[:, 7] = 0
    for row in rows:
        write_record(tiny, str(row["filename_lr"]), samples)
    with pytest.raises(DataError, match="lead V2 is constant in the whole training split"):
        PTBXL().load(tiny, cache)


def test_records_in_another_format_give_the_same_inputs(tiny: Path, cache: Path) -> None:
    expected = PTBXL().load(tiny, cache)
    for ecg_id in (3, 20):
        samples = wfdb.rdrecord(str(tiny / RECORD.format(ecg_id)), physical=False).d_signal
        write_record(tiny, RECORD.format(ecg_id), samples, fmt=["212"] * 12)
    data = PTBXL().load(tiny, cache)
    for (_, a), (_, b) in zip(expected.splits(), data.splits(), strict=True):
        np.testing.assert_array_equal(a.inputs, b.inputs)


# ----------------------------------------------------------------------------------------------------------- fetch


def test_fetch_brings_the_tables_last_and_only_what_is_needed(tiny: Path, tmp_path: Path, mirror) -> None:
    target = tmp_path / "fetched"
    told: list[tuple[int, int]] = []
    mirror.missing = {"records100/00000/00012_lr.dat"}
    with pytest.raises(DataError, match=r"00012_lr\.dat: the server answered 404"):
        mirror.dataset.fetch(target)
    assert not PTBXL().matches(target)
    mirror.missing = set()
    mirror.dataset.fetch(target, lambda done, total, note="": told.append((done, total)))
    assert told[-1] == (42, 42)
    assert not (target / "records500").exists()
    assert PTBXL().fingerprint(target) == PTBXL().fingerprint(tiny)
    assert not list(target.rglob("*.part"))


def test_fetch_refuses_the_synthetic_ones_folder(tmp_path: Path) -> None:
    (tmp_path / "ptbxl-synthetic").touch()
    with pytest.raises(DataError, match="holds the synthetic PTB-XL"):
        PTBXL().fetch(tmp_path)


def test_fetch_says_when_the_list_is_not_that_of_ptbxl(tmp_path: Path, mirror) -> None:
    mirror.missing = {"ptbxl_database.csv"}
    mirror.list()
    with pytest.raises(DataError, match="lists no records100 or not both tables"):
        mirror.dataset.fetch(tmp_path / "fetched")
