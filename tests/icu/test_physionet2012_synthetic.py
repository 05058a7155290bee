"""The synthetic Challenge 2012: always the same, never taken for the real one, and with something to learn in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.errors import DataError
from harness_icu.physionet2012 import PhysioNet2012
from harness_icu.physionet2012_synthetic import SyntheticPhysioNet2012


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "made"
    SyntheticPhysioNet2012().make(folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_is_never_taken_for_the_real_one(made: Path, tmp_path: Path) -> None:
    real, made_up = PhysioNet2012(), SyntheticPhysioNet2012()
    assert made_up.matches(made)
    assert not real.matches(made)
    copy = shutil.copytree(made, tmp_path / "copy")
    (copy / "physionet2012-synthetic").unlink()
    assert made_up.matches(copy), "the records' numbers tell, too"
    assert not real.matches(copy)
    with pytest.raises(DataError, match="holds the synthetic data, not the real ones"):
        real.load(copy, tmp_path / "cache")


def test_the_real_one_is_neither_taken_for_it_nor_overwritten(tmp_path: Path) -> None:
    (tmp_path / "set-a").mkdir()
    (tmp_path / "Outcomes-a.txt").write_text("RecordID,In-hospital_death\n132539,0\n")
    before = files(tmp_path)
    assert not SyntheticPhysioNet2012().matches(tmp_path)
    with pytest.raises(DataError, match="holds no synthetic data"):
        SyntheticPhysioNet2012().load(tmp_path, tmp_path / "cache")
    with pytest.raises(DataError, match="holds the real physionet2012"):
        SyntheticPhysioNet2012().make(tmp_path)
    assert files(tmp_path) == before


def test_an_interrupted_one_is_not_recognized_and_is_completed(made: Path, tmp_path: Path) -> None:
    half = shutil.copytree(made, tmp_path / "half")
    (half / "Outcomes-a.txt").unlink()
    (half / "set-a" / "9000007.txt").write_bytes(b"ha")
    assert not SyntheticPhysioNet2012().matches(half)
    assert not PhysioNet2012().matches(half)
    SyntheticPhysioNet2012().make(half)
    assert files(half) == files(made)


def test_is_not_made_twice_but_anew_for_another_version(made: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(made, tmp_path / "copy")
    record = copy / "set-a" / "9000007.txt"
    record.write_bytes(b"mine")
    SyntheticPhysioNet2012().make(copy)
    assert record.read_bytes() == b"mine"
    (copy / "physionet2012-synthetic").write_text("0")
    SyntheticPhysioNet2012().make(copy)
    assert files(copy) == files(made)


def test_splits_are_large_enough_and_a_plain_model_learns(made: Path, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    dataset = SyntheticPhysioNet2012()
    data = dataset.load(made, tmp_path)
    assert [len(part) for _, part in data.splits()] == [192, 144, 144], "calibration takes 128 examples"
    assert all(0.2 < part.targets.mean() < 0.3 for _, part in data.splits())
    train, test = (dataset.to_layout(part.inputs, "flat") for part in (data.train, data.test))
    model = LogisticRegression(C=0.01, max_iter=1000).fit(train, data.train.targets[:, 0])
    assert 0.75 < roc_auc_score(data.test.targets[:, 0], model.decision_function(test)) < 0.97


def test_cannot_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="generated, not downloaded"):
        SyntheticPhysioNet2012().fetch(tmp_path)


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/made: physionet2012-synthetic cannot be written there"):
        SyntheticPhysioNet2012().make(tmp_path / "file" / "made")
