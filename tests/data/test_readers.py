"""Readers for authors of data sets: CSV, npz, WFDB at any rate, folders of images, and the division by patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb
from PIL import Image

from harness import DataError, Split, Task
from harness.data.cache import cached
from harness.data.readers import divide, find_images, read_csv, read_images, read_npz, read_wfdb, write_npz

TABLE = """id,person,sex,height,weight,class
a,p1,f,1.5,50,low
b,p1,f,1.6,60,high
c,p2,m,1.7,70.5,low
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "table.csv"
    file.write_text(TABLE)
    return file


def test_csv_gives_features_classes_ids_and_groups(table: Path) -> None:
    task = Task((2,), ("low", "high"), "multiclass")
    split = read_csv(table, task, ["height", "weight"], "class", patient="person", record="id", groups=["sex"])
    assert split.inputs.tolist() == np.array([[1.5, 50], [1.6, 60], [1.7, 70.5]], np.float32).tolist()
    assert (split.targets.dtype, split.targets.tolist()) == (np.int64, [0, 1, 0])
    assert split.patients is not None
    assert split.records is not None
    assert (split.patients.tolist(), split.records.tolist()) == (["p1", "p1", "p2"], ["a", "b", "c"])
    assert split.groups["sex"].tolist() == ["f", "f", "m"]


def test_csv_gives_numbers_for_a_regression(table: Path) -> None:
    split = read_csv(table, Task((1,), ("weight",), "regression"), ["height"], ["weight"])
    assert (split.targets.dtype, split.targets.tolist()) == (np.float32, [[50], [60], [70.5]])
    assert split.units()[1] == "examples"


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (TABLE, ["length"], r"table.csv has no column 'length' \(it has: id, person"),
        (TABLE.replace("1.6", ""), ["height"], "row 3: column 'height' is empty"),
        (TABLE.replace("1.6", "tall"), ["height"], "column 'height' holds something else than numbers"),
        (TABLE.replace("high", "higher"), ["height"], "row 3: class 'higher' is none of low, high"),
        ("", ["height"], "cannot be read"),
    ],
)
def test_a_wrong_csv_is_named(table: Path, text: str, columns: list[str], message: str) -> None:
    table.write_text(text)
    with pytest.raises(DataError, match=message):
        read_csv(table, Task((1,), ("low", "high"), "multiclass"), columns, "class")


def test_npz_gives_back_what_was_written_as_the_same_bytes(tmp_path: Path) -> None:
    groups = {"sex": np.array(["f", "m"])}
    split = Split(np.zeros((2, 3), np.uint8), np.array([1, 0]), np.array([4, 5]), np.array(["a", "b"]), groups)
    for name in ("one.npz", "two.npz"):
        write_npz(tmp_path / name, split)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    again = read_npz(tmp_path / "one.npz").arrays()
    assert again.keys() == {"inputs", "targets", "patients", "records", "group sex"}
    assert all(np.array_equal(array, split.arrays()[name]) for name, array in again.items())


def test_a_wrong_npz_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.npz is missing"):
        read_npz(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK no archive")
    with pytest.raises(DataError, match=r"bad.npz cannot be read"):
        read_npz(tmp_path / "bad.npz")
    np.savez(tmp_path / "half.npz", inputs=np.zeros(3))
    with pytest.raises(DataError, match=r"half.npz has no array 'targets' \(it has: inputs\)"):
        read_npz(tmp_path / "half.npz")


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Two seconds of a 5 Hz sine and its double, at 360 Hz, as MIT-BIH has it."""
    wave = np.sin(2 * np.pi * 5 * np.arange(720) / 360)
    wfdb.wrsamp(
        "r1", 360, ["mV", "mV"], ["I", "II"], np.stack([wave, 2 * wave], 1), fmt=["16", "16"], write_dir=str(tmp_path)
    )
    return tmp_path / "r1"


@pytest.mark.parametrize("rate", [360, 500, 100, 128.5])
def test_wfdb_is_resampled_to_any_rate(record: Path, rate: float) -> None:
    signals = read_wfdb(record, rate, ["II", "I"])
    assert signals.dtype == np.float32
    assert abs(signals.shape[1] - 2 * rate) <= 1
    inner = slice(int(0.3 * rate), int(1.7 * rate))  # the filter rings at the ends
    expected = np.sin(2 * np.pi * 5 * np.arange(signals.shape[1]) / rate)
    assert np.abs(signals[1] - expected)[inner].max() < 0.02
    assert np.abs(signals[0] - 2 * expected)[inner].max() < 0.04


def test_wfdb_is_cut_and_padded(record: Path) -> None:
    assert read_wfdb(record, 360, seconds=1).shape == (2, 360)
    longer = read_wfdb(record, 360, seconds=3)
    assert longer.shape == (2, 1080)
    assert not longer[:, 720:].any()


def test_a_wrong_wfdb_record_is_named(record: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"r1 has no channel 'V9' \(it has: I, II\)"):
        read_wfdb(record, 360, ["V9"])
    with pytest.raises(DataError, match="r2 is missing"):
        read_wfdb(tmp_path / "r2", 360)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name, level in (("cat/1.png", 10), ("cat/deep/2.png", 20), ("dog/3.jpg", 200)):
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 4), (level, level, level)).save(file)
    (tmp_path / "images" / "dog" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_a_folder_of_images_gives_classes_and_uint8(images: Path, tmp_path: Path) -> None:
    found = find_images(images)
    assert (found.classes, found.targets.tolist()) == (("cat", "dog"), [0, 0, 1])
    assert found.records.tolist() == ["cat/1.png", "cat/deep/2.png", "dog/3.jpg"]
    arrays = cached(tmp_path / "cache", "key", lambda: {"inputs": read_images(found.files, (3, 2, 4))})
    assert (arrays["inputs"].dtype, arrays["inputs"].shape) == (np.uint8, (3, 3, 2, 4))
    assert arrays["inputs"].mean(axis=(1, 2, 3)) == pytest.approx([10, 20, 200], abs=2)


def test_channels_come_first_and_sizes_are_resampled(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (same,) = read_images([tmp_path / "a.png"], (3, 2, 4)).blocks
    assert np.array_equal(same[0], pixels.transpose(2, 0, 1))
    (grey,) = read_images([tmp_path / "a.png"], (1, 4, 8)).blocks
    assert grey.shape == (1, 1, 4, 8)


def test_wrong_images_are_named(images: Path, tmp_path: Path) -> None:
    (images / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1.png cannot be read"):
        list(read_images(find_images(images).files, (1, 4, 4)).blocks)
    with pytest.raises(DataError, match="has no subfolders with images"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="1 channel"):
        read_images([], (2, 4, 4))


def test_a_division_keeps_patients_apart_and_uses_all_examples() -> None:
    patients = np.repeat(np.arange(50), 2)
    split = Split(np.arange(100, dtype=np.float32)[:, None], np.zeros((100, 1), np.float32), patients)
    parts = divide(split, {"train": 0.6, "validation": 0.2, "test": 0.2}, seed=1)
    assert {name: len(part) for name, part in parts.items()} == {"train": 60, "validation": 20, "test": 20}
    assert sorted(np.concatenate([part.inputs[:, 0] for part in parts.values()])) == list(range(100))
    sets = [set(part.units()[0]) for part in parts.values()]
    assert sum(map(len, sets)) == 50
    assert np.array_equal(divide(split, {"a": 0.6, "b": 0.4}, seed=1)["a"].inputs, parts["train"].inputs)
    with pytest.raises(DataError, match=r"add up to 0.9"):
        divide(split, {"a": 0.5, "b": 0.4})
