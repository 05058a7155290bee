"""The synthetic PTB-XL: always the same, never taken for the real one, and with the labels' signs in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DataError
from harness_ecg import PTBXL, SyntheticPTBXL
from harness_ecg.ecg_model import Anatomy, projection, recording, waves
from harness_ecg.ptbxl import LABELS, LEADS
from harness_ecg.table import read_records


def test_is_never_taken_for_the_real_one(synthetic: Path, tiny: Path, tmp_path: Path) -> None:
    real, made_up = PTBXL(), SyntheticPTBXL()
    assert made_up.matches(synthetic)
    assert not real.matches(synthetic)
    assert real.matches(tiny)
    assert not made_up.matches(tiny)
    copy = shutil.copytree(synthetic, tmp_path / "copy")
    (copy / "ptbxl-synthetic").unlink()
    assert not real.matches(copy), "the table tells, too"
    with pytest.raises(DataError, match="holds the synthetic PTB-XL, not the real one"):
        real.load(copy, tmp_path / "cache")
    with pytest.raises(DataError, match="holds no synthetic PTB-XL"):
        made_up.load(tiny, tmp_path / "cache")


def test_an_interrupted_one_is_not_recognized_and_is_completed(synthetic: Path, tmp_path: Path) -> None:
    half = shutil.copytree(synthetic, tmp_path / "half")
    (half / "ptbxl_database.csv").unlink()
    (half / "records100/00000/00007_lr.dat").write_bytes(b"ha")
    assert not SyntheticPTBXL().matches(half)
    assert not PTBXL().matches(half)
    SyntheticPTBXL().make(half)
    for path in sorted(path for path in synthetic.rglob("*") if path.is_file()):
        assert (half / path.relative_to(synthetic)).read_bytes() == path.read_bytes()


def test_does_not_overwrite_the_real_one(tiny: Path) -> None:
    before = (tiny / "ptbxl_database.csv").read_bytes()
    with pytest.raises(DataError, match="holds a real PTB-XL"):
        SyntheticPTBXL().make(tiny)
    assert (tiny / "ptbxl_database.csv").read_bytes() == before


def test_folds_patients_and_labels(synthetic: Path) -> None:
    records = read_records(synthetic, LABELS)  # raises for a patient in two folds
    assert len(records) == 480
    for fold in range(1, 11):
        here = [record for record in records if record.fold == fold]
        assert len(here) == (24 if fold < 9 else 144), "calibration takes 128 examples of fold 9"
        assert len({record.patient for record in here}) == len(here) * 17 // 24
        for label in LABELS:
            assert 0 < sum(label in record.labels for record in here) < len(here)
    assert any(len(record.labels) > 1 for record in records)


def test_reads_as_wfdb_reads_it_and_shows_the_signs(synthetic: Path, tmp_path: Path) -> None:
    data = SyntheticPTBXL().load(synthetic, tmp_path / "cache")
    assert len(data.train) == 192
    record = wfdb.rdrecord(str(synthetic / "records100/00000/00001_lr"))
    assert tuple(record.sig_name) == LEADS
    assert (record.fs, record.sig_len, record.units) == (100, 1000, ["mV"] * 12)
    # Signs that a reader would look for, as means over the training split: (lead, statistic) larger with the label
    heights = np.percentile(data.train.inputs, 99.5, axis=2)
    depths = -np.percentile(data.train.inputs, 0.5, axis=2)
    activity = np.abs(np.diff(data.train.inputs, axis=2)).mean(axis=2)
    normal = data.train.targets[:, 0] == 1
    for label, statistic, lead in (("HYP", heights, "V5"), ("HYP", depths, "V2"), ("CD", activity, "V1")):
        values = statistic[:, LEADS.index(lead)]
        positive = (data.train.targets[:, LABELS.index(label)] == 1) & ~normal
        gap = values[positive].mean() - values[normal].mean()
        error = np.sqrt(values[positive].var() / positive.sum() + values[normal].var() / normal.sum())
        assert gap > 4 * error, (label, lead)


def test_cannot_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="generated, not downloaded"):
        SyntheticPTBXL().fetch(tmp_path)


def test_leads_obey_einthoven_and_goldberger() -> None:
    leads = dict(zip(LEADS, projection(), strict=True))
    np.testing.assert_allclose(leads["I"] + leads["III"], leads["II"])
    np.testing.assert_allclose(leads["AVR"] + leads["AVL"] + leads["AVF"], 0, atol=1e-12)


@given(st.integers(0, 2**32), st.sets(st.sampled_from(LABELS)), st.integers(0, 2), st.booleans())
def test_any_recording_is_finite_bounded_and_reproducible(seed: int, labels: set[str], place: int, left: bool) -> None:
    def draw() -> np.ndarray:
        random = np.random.default_rng(seed)
        anatomy = Anatomy.draw(random)
        return recording(waves(labels, place, left, 1.0, anatomy), anatomy.rate, random)

    signals = draw()
    assert signals.shape == (12, 1000)
    assert np.abs(signals).max() < 15
    np.testing.assert_array_equal(signals, draw())
