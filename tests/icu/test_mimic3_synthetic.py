"""The synthetic MIMIC-III: always the same, never taken for the real one, and read as a plain loop reads it."""

from __future__ import annotations

import csv
import datetime
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from harness.errors import DataError
from harness_icu import Mimic3, SyntheticMimic3
from harness_icu.mimic3 import SYNTHETIC
from harness_icu.mimic3_channels import CHANNELS, ITEMS, clean


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "made"
    SyntheticMimic3().make(folder)
    return folder


def test_is_never_taken_for_the_real_one(made: Path, tmp_path: Path) -> None:
    assert SyntheticMimic3().matches(made)
    assert not Mimic3().matches(made)
    copy = shutil.copytree(made, tmp_path / "copy")
    (copy / SYNTHETIC).unlink()
    assert not Mimic3().matches(copy), "the table tells, too"
    with pytest.raises(DataError, match="holds the synthetic MIMIC-III, not the real one"):
        Mimic3().load(copy, tmp_path / "cache")
    (copy / "ICUSTAYS.csv").write_text((copy / "ICUSTAYS.csv").read_text().replace(SYNTHETIC, "carevue"))
    assert Mimic3().matches(copy)
    with pytest.raises(DataError, match="holds no synthetic MIMIC-III"):
        SyntheticMimic3().load(copy, tmp_path / "cache")
    with pytest.raises(DataError, match="holds a real MIMIC-III"):
        SyntheticMimic3().make(copy)


def test_an_interrupted_one_is_not_recognized_and_is_completed(made: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    half.mkdir()
    (half / SYNTHETIC).write_text("1")
    (half / "CHARTEVENTS.csv").write_text("ROW_ID,SUB")
    assert not SyntheticMimic3().matches(half)
    assert not Mimic3().matches(half)
    SyntheticMimic3().make(half)
    for path in sorted(path for path in made.iterdir() if path.is_file()):
        assert (half / path.name).read_bytes() == path.read_bytes(), "the same bytes each time"


def test_cannot_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="generated, not downloaded"):
        SyntheticMimic3().fetch(tmp_path)


def test_deaths_show_in_the_signs(made: Path, tmp_path: Path) -> None:
    data = SyntheticMimic3().load(made, tmp_path / "cache")
    assert len(data.train) == SyntheticMimic3.examples
    assert len(data.validation) >= 128, "calibration takes 128 examples of it"
    flat = {name: SyntheticMimic3().to_layout(part.inputs, "flat") for name, part in data.splits()}
    for (name, part), place, sign in [(p, *s) for p in data.splits() for s in ((50, 1), (55, -1), (54, 1))]:
        dead = part.targets[:, 0] == 1
        assert sign * (flat[name][dead, place].mean() - flat[name][~dead, place].mean()) > 0.2, (name, place)


def rows(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def when(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def naive_cohort(folder: Path) -> dict[str, tuple[dict[str, str], bool]]:
    """The rules of the cohort as they are told, one stay after the other: each admission's stay, and who died."""
    patients = {row["SUBJECT_ID"]: row for row in rows(folder, "PATIENTS")}
    admissions = {row["HADM_ID"]: row for row in rows(folder, "ADMISSIONS")}
    stays = [
        row
        for row in rows(folder, "ICUSTAYS")
        if row["FIRST_CAREUNIT"] == row["LAST_CAREUNIT"] and row["FIRST_WARDID"] == row["LAST_WARDID"]
    ]
    count = Counter(row["HADM_ID"] for row in stays)
    found = {}
    for stay in stays:
        patient, admission = patients[stay["SUBJECT_ID"]], admissions[stay["HADM_ID"]]
        days = (when(stay["INTIME"]) - when(patient["DOB"])).total_seconds() / 86400
        if count[stay["HADM_ID"]] == 1 and days / 365 >= 18 and float(stay["LOS"]) * 24 >= 48 - 1e-6:
            deaths = [when(text) for text in (patient["DOD"], admission["DEATHTIME"]) if text]
            died = any(when(admission["ADMITTIME"]) <= d <= when(admission["DISCHTIME"]) for d in deaths)
            found[stay["HADM_ID"]] = (stay, died)
    return found


def test_every_stay_is_what_a_plain_loop_makes_of_the_tables(made: Path, tmp_path: Path) -> None:
    """An independent reading: cohort, events, bins, imputation, columns, division and z-score, without arrays."""
    stays = naive_cohort(made)
    measured: dict[str, dict[tuple[int, int], tuple[float, object, float]]] = {admission: {} for admission in stays}
    for table in ("CHARTEVENTS", "LABEVENTS", "OUTPUTEVENTS"):
        for row in rows(made, table):
            item, admission = int(row["ITEMID"]), row["HADM_ID"]
            if item not in ITEMS or admission not in stays or row["VALUE"] == "":
                continue
            stay = stays[admission][0]
            if row.get("ICUSTAY_ID") not in (None, "", stay["ICUSTAY_ID"]):
                continue
            hour = (when(row["CHARTTIME"]) - when(stay["INTIME"])).total_seconds() / 3600
            value = clean(item, row["VALUE"], row["VALUEUOM"])
            if not 0 <= hour <= 48 or math.isnan(value):
                continue
            channel = CHANNELS[ITEMS[item]]
            rank = channel.categories[int(value)] if channel.categories else value
            place = max(0, math.ceil(hour) - 1), ITEMS[item]
            here = measured[admission]
            if place not in here or (hour, rank) >= here[place][:2]:  # type: ignore[operator]
                here[place] = (hour, rank, value)

    expected: dict[str, np.ndarray] = {}
    for admission, values in measured.items():
        if values:
            features = [[0.0] * 76 for _ in range(48)]
            column = 0
            for number, channel in enumerate(CHANNELS):
                last = channel.default
                for bin_, line in enumerate(features):
                    if (bin_, number) in values:
                        last = values[bin_, number][2]
                        line[59 + number] = 1.0
                    if channel.categories:
                        line[column + int(last)] = 1.0
                    else:
                        line[column] = last
                column += channel.width
            expected[admission] = np.array(features)

    test, validation = (
        {row.split(",")[0] for row in (made / name).read_text().split() if row.endswith(",1")}
        for name in ("testset.csv", "valset.csv")
    )
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for admission in sorted(expected, key=lambda admission: int(stays[admission][0]["ICUSTAY_ID"])):
        subject = stays[admission][0]["SUBJECT_ID"]
        parts["test" if subject in test else "validation" if subject in validation else "train"].append(admission)
    training = np.concatenate([expected[admission] for admission in parts["train"]])
    continuous = [2, 3, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58]
    mean, deviation = np.zeros(76), np.ones(76)
    mean[continuous], deviation[continuous] = training.mean(0)[continuous], training.std(0, ddof=1)[continuous]

    data = SyntheticMimic3().load(made, tmp_path / "cache")
    assert sum(map(len, parts.values())) == 560
    for name, part in data.splits():
        assert list(part.patients) == [stays[admission][0]["SUBJECT_ID"] for admission in parts[name]]
        np.testing.assert_array_equal(part.targets[:, 0], [stays[admission][1] for admission in parts[name]])
        inputs = np.array([(expected[admission] - mean) / deviation for admission in parts[name]])
        np.testing.assert_allclose(part.inputs, inputs, atol=2e-4)
