"""Hashes of files: right, remembered by size and time, and never in the way."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from harness.data.hashes import hash_files, remembered_in


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(600):
        write(folder / f"{number}.dat", f"content {number}")
    return folder


def write(file: Path, text: str, time: float = 1e9) -> None:
    file.write_text(text)
    os.utime(file, (time, time))


def names(root: Path) -> list[str]:
    return sorted(os.listdir(root))


def test_each_file_has_its_sha256(root: Path) -> None:
    expected = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names(root)}
    assert hash_files(root, names(root)) == expected
    assert list(hash_files(root, names(root))) == names(root)


def test_only_changed_files_are_read_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with remembered_in(tmp_path / "cache"):
        first = hash_files(root, names(root))
        write(root / "3.dat", "content X")  # same size and time: not noticed, as documented
        assert hash_files(root, names(root)) == first
        write(root / "3.dat", "content X", time=1e9 + 1)
        write(root / "4.dat", "longer content")
        second = hash_files(root, names(root))
    assert second == hash_files(root, names(root))
    assert [name for name in first if first[name] != second[name]] == ["3.dat", "4.dat"]


def test_a_file_that_has_just_changed_is_not_remembered(root: Path, tmp_path: Path) -> None:
    """It may change once more within the resolution of its time."""
    file = root / "3.dat"
    with remembered_in(tmp_path / "cache"):
        file.write_text("content A")
        status = file.stat()
        first = hash_files(root, names(root))
        file.write_text("content B")
        os.utime(file, ns=(status.st_mtime_ns, status.st_mtime_ns))
        assert hash_files(root, names(root)) != first


@pytest.mark.parametrize("damage", ["{", "[]", '{"3.dat": 1}', '{"3.dat": [1, 2]}', '{"3.dat": [1, 2, 3, 4]}'])
def test_a_damaged_memory_is_made_again(root: Path, tmp_path: Path, damage: str) -> None:
    with remembered_in(tmp_path / "cache"):
        first = hash_files(root, names(root))
        (memory,) = (tmp_path / "cache").glob("hashes-*.json")
        whole = memory.read_text()
        memory.write_text(damage)
        assert hash_files(root, names(root)) == first
        assert memory.read_text() == whole


def test_every_flipped_bit_of_the_memory_is_noticed_or_harmless(root: Path, tmp_path: Path) -> None:
    """A changed hash would give the data set another fingerprint, and all models other keys."""
    with remembered_in(tmp_path / "cache"):
        first = hash_files(root, names(root)[:2])
        (memory,) = (tmp_path / "cache").glob("hashes-*.json")
        whole = memory.read_bytes()
        for bit in range(0, 8 * len(whole), 7):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            memory.write_bytes(flipped)
            assert hash_files(root, names(root)[:2]) == first


def test_without_a_place_to_write_all_files_are_read(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with remembered_in(tmp_path / "file"):
        assert hash_files(root, names(root)) == hash_files(root, names(root))
