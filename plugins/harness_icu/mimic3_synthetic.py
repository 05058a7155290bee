"""Generate a small synthetic MIMIC-III in the official layout, to try everything without credentials."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from harness.api import Progress, silent
from harness.errors import DataError
from harness_icu.mimic3 import SYNTHETIC, Mimic3

if TYPE_CHECKING:
    from numpy.random import Generator

SEED = 20767
#: Patients in the task, and how many of them have two stays. Validation and test are large: calibration takes 128
#: examples of the one, and the metrics are computed on the other.
PATIENTS, TWICE = 520, 40
SHARES = {"train": 0.4, "validation": 0.28, "test": 0.32}
#: Stays that a rule of the cohort excludes: of children, moved between wards, two in an admission, short, empty.
EXCLUDED = ("child", "moved", "two", "two", "short", "empty") * 2

HEADERS = {
    "PATIENTS": "ROW_ID SUBJECT_ID GENDER DOB DOD DOD_HOSP DOD_SSN EXPIRE_FLAG",
    "ADMISSIONS": "ROW_ID SUBJECT_ID HADM_ID ADMITTIME DISCHTIME DEATHTIME ADMISSION_TYPE DIAGNOSIS "
    "HOSPITAL_EXPIRE_FLAG HAS_CHARTEVENTS_DATA",
    "ICUSTAYS": "ROW_ID SUBJECT_ID HADM_ID ICUSTAY_ID DBSOURCE FIRST_CAREUNIT LAST_CAREUNIT FIRST_WARDID LAST_WARDID "
    "INTIME OUTTIME LOS",
    "CHARTEVENTS": "ROW_ID SUBJECT_ID HADM_ID ICUSTAY_ID ITEMID CHARTTIME STORETIME CGID VALUE VALUENUM VALUEUOM "
    "WARNING ERROR RESULTSTATUS STOPPED",
    "LABEVENTS": "ROW_ID SUBJECT_ID HADM_ID ITEMID CHARTTIME VALUE VALUENUM VALUEUOM FLAG",
    "OUTPUTEVENTS": "ROW_ID SUBJECT_ID HADM_ID ICUSTAY_ID CHARTTIME ITEMID VALUE VALUEUOM STORETIME CGID STOPPED "
    "NEWBOTTLE ISERROR",
}

Row = dict[str, object]

#: Item and unit in each of the two record systems, mean, effect of a unit of severity, spread, measurements per hour,
#: and decimals.
SIGNS: tuple[tuple[tuple[int, str], tuple[int, str], float, float, float, float, int], ...] = (
    ((211, "BPM"), (220045, "bpm"), 84, 7, 9, 0.5, 0),
    ((455, "mmHg"), (220179, "mmHg"), 121, -7, 12, 0.5, 0),
    ((8441, "mmHg"), (220180, "mmHg"), 60, -3, 8, 0.5, 0),
    ((456, "mmHg"), (220181, "mmHg"), 78, -5, 9, 0.5, 0),
    ((618, "BPM"), (220210, "insp/min"), 18, 2, 3, 0.5, 0),
    ((646, "%"), (220277, "%"), 97, -0.7, 1.2, 0.5, 0),
    ((678, "Deg. F"), (223762, "?C"), 36.9, 0.1, 0.5, 0.25, 1),
    ((50931, "mg/dL"), (50931, "mg/dL"), 132, 12, 30, 0.15, 0),
    ((50820, "units"), (50820, "units"), 7.39, -0.025, 0.05, 0.12, 2),
    ((3420, "%"), (223835, ""), 45, 7, 9, 0.15, 0),
    ((763, "kg"), (226531, ""), 80, 0, 8, 0.03, 1),
    ((1394, ""), (226730, "cm"), 170, 0, 10, 0.01, 0),
)
LABORATORY = {50931, 50820}
#: Texts of the coma scale's parts and of the capillary refill, from bad to good, in each system.
SCALES: tuple[tuple[tuple[int, tuple[str, ...]], tuple[int, tuple[str, ...]]], ...] = (
    (
        (184, ("1 No Response", "2 To pain", "3 To speech", "4 Spontaneously")),
        (220739, ("None", "To Pain", "To Speech", "Spontaneously")),
    ),
    (
        (454, ("2 Abnorm extensn", "3 Abnorm flexion", "4 Flex-withdraws", "5 Localizes Pain", "6 Obeys Commands")),
        (223901, ("No response", "Abnormal Flexion", "Flex-withdraws", "Localizes Pain", "Obeys Commands")),
    ),
    (
        (723, ("1.0 ET/Trach", "2 Incomp sounds", "3 Inapprop words", "4 Confused", "5 Oriented")),
        (223900, ("No Response-ETT", "Incomprehensible sounds", "Inappropriate Words", "Confused", "Oriented")),
    ),
    ((198, ("3", "7", "11", "15")), (198, ("3", "7", "11", "15"))),
    ((3348, ("Delayed", "Brisk", "Brisk", "Brisk")), (8377, ("Abnormal >3 secs", *["Normal <3 secs"] * 4))),
)


class SyntheticMimic3(Mimic3):
    """560 generated stays, and some that the cohort's rules exclude, read by the loader of the real ones."""

    name = SYNTHETIC
    version = "1"
    examples = 223
    synthetic: ClassVar[bool] = True
    fallback: ClassVar[str | None] = None
    summary = "generated ICU stays in MIMIC-III's tables, with worse vital signs before a death; for trying things out"

    def fetch(self, folder: Path, progress: Progress = silent) -> None:
        raise DataError(
            f"{self.name} is generated, not downloaded; `harness data fetch {Mimic3.name}` says how to get it"
        )

    def make(self, folder: Path) -> None:
        """Write the data set into ``folder``: the same bytes each time.

        The marker comes first and ICUSTAYS last, so that an interrupted data set counts neither as the real
        MIMIC-III nor as complete. Raises DataError when the folder holds the real one or cannot be written.
        """
        from harness.data.synthetic import make_once

        if Mimic3().matches(folder):
            raise DataError(f"{folder}: holds a real MIMIC-III; choose another folder for the synthetic one")
        make_once(self, folder, folder / "ICUSTAYS.csv", _write)


class Stay(NamedTuple):
    """One generated stay; ``kind`` is empty or one of EXCLUDED."""

    subject: int
    admission: int
    icustay: int
    intime: datetime.datetime
    days: float
    severity: float
    died: bool
    kind: str

    @property
    def outtime(self) -> datetime.datetime:
        return self.intime + datetime.timedelta(seconds=round(self.days * 86400))


def _write(folder: Path) -> None:
    import numpy as np

    random = np.random.default_rng(SEED)
    stays = _stays(random)
    chart: list[Row] = []
    laboratory: list[Row] = []
    for stay in stays:
        for hour, item, value, unit in _events(stay, np.random.default_rng((SEED, stay.icustay))):
            time = stay.intime + datetime.timedelta(minutes=round(60 * hour))
            row: Row = {"SUBJECT_ID": stay.subject, "HADM_ID": stay.admission, "ITEMID": item, "CHARTTIME": time}
            row |= {"VALUE": value, "VALUEUOM": unit}
            if item in LABORATORY:
                laboratory.append(row)
            else:  # some rows do not name their stay
                chart.append(row | {"ICUSTAY_ID": stay.icustay if random.random() < 0.98 else ""})
    _traps(stays, chart, laboratory)
    output = [{"SUBJECT_ID": s.subject, "HADM_ID": s.admission, "ITEMID": 40055, "CHARTTIME": s.intime} for s in stays]
    _table(folder, "CHARTEVENTS", chart)
    _table(folder, "LABEVENTS", laboratory)
    _table(folder, "OUTPUTEVENTS", (row | {"VALUE": 39, "VALUEUOM": "ml"} for row in output))
    _people(folder, stays)
    _lists(folder, stays, random)
    _table(folder, "ICUSTAYS", map(_icustay, stays))


def _stays(random: Generator) -> list[Stay]:
    """Draw the stays, those in the task first; the first patients have two."""
    import numpy as np

    subjects = [*(20000 + i for i in range(PATIENTS)), *(20000 + i for i in range(TWICE))]
    stays = []
    for place, kind in enumerate([""] * len(subjects) + list(EXCLUDED)):
        twin = kind == "two" and EXCLUDED[place - len(subjects) - 1] == "two"
        subject = subjects[place] if place < len(subjects) else 30000 + place - twin
        is_second = len(subjects) > place >= PATIENTS
        severity = random.normal()
        died = bool(random.random() < 1 / (1 + np.exp(2.2 - 2.5 * severity))) and (
            is_second or subject >= 20000 + TWICE
        )
        since = datetime.datetime(2120, 3, 1) + datetime.timedelta(minutes=int(random.integers(20 * 365 * 1440)))
        intime = since + datetime.timedelta(days=9000 if is_second else 0)
        days = 1.5 if kind == "short" else round(2 + random.exponential(3), 4)
        stays.append(Stay(subject, 100000 + place - twin, 200000 + place, intime, days, severity, died, kind))
    return stays


def _events(stay: Stay, random: Generator) -> Iterator[tuple[float, int, object, str]]:
    """Yield hour, item, value and unit of each measurement, some just outside of the 48 hours."""
    if stay.kind == "empty":
        return
    system = stay.icustay % 2
    for *sources, mean, slope, spread, rate, decimals in SIGNS:
        item, unit = sources[system]
        patient_mean = random.normal(mean, spread / 2)
        for hour in _hours(random, rate):
            # The effect of severity grows with time
            value = random.normal(patient_mean + slope * stay.severity * (0.6 + 0.6 * hour / 48), spread / 2)
            yield hour, item, _recorded(item, value, decimals, random), unit
    for scale in SCALES:
        item, texts = scale[system]
        for hour in _hours(random, 0.15):
            place = len(texts) - 1 - max(0.0, random.normal(0.9 * stay.severity * (0.6 + 0.6 * hour / 48), 0.6))
            yield hour, item, texts[max(0, round(place))], ""


def _hours(random: Generator, rate: float) -> list[float]:
    """Draw the times of measurements, at least one."""
    count = 1 + int(random.poisson(50 * rate))
    return [float(hour) for hour in random.uniform(-0.5, 50, count)]


def _recorded(item: int, value: float, decimals: int, random: Generator) -> str:
    """Format a value as this item's rows have it: in its unit, sometimes as a fraction instead of a percentage."""
    if item in (646, 220277):
        value = min(value, 100)
        if random.random() < 0.01:
            return f"{value / 100:.2f}"
    if item in (3420, 223835):
        value = min(max(value, 21), 100)
        if random.random() < 0.1:
            return f"{value / 100:.2f}"
    value = {678: value * 9 / 5 + 32, 226531: value / 0.453592, 1394: value / 2.54}.get(item, value)
    return f"{value:.{decimals}f}"


def _traps(stays: list[Stay], chart: list[Row], laboratory: list[Row]) -> None:
    """Add rows that a loader must leave out: no admission, another stay, no value, a laboratory's text."""
    for stay, next_stay in zip(stays[::7], stays[1::7], strict=False):
        row: Row = {"SUBJECT_ID": stay.subject, "HADM_ID": stay.admission, "ICUSTAY_ID": stay.icustay}
        row |= {"ITEMID": 211, "CHARTTIME": stay.intime + datetime.timedelta(hours=5), "VALUE": 999, "VALUEUOM": "BPM"}
        chart += [
            row | {"HADM_ID": ""},
            row | {"ICUSTAY_ID": next_stay.icustay},
            row | {"VALUE": ""},
            row | {"ITEMID": 7},
        ]
        laboratory += [row | {"ITEMID": 50931, "VALUE": "ERROR"}, row | {"ITEMID": 50931, "HADM_ID": ""}]


def _people(folder: Path, stays: list[Stay]) -> None:
    """Write PATIENTS and ADMISSIONS; some deaths are only in the first, at midnight, or only in the second."""
    patients: dict[int, Row] = {}
    admissions: dict[int, Row] = {}
    for stay in stays:
        admitted = stay.intime - datetime.timedelta(hours=2)
        discharged = stay.outtime + datetime.timedelta(days=1, hours=1)
        death = stay.outtime if stay.died else ""
        admissions[stay.admission] = {
            "SUBJECT_ID": stay.subject,
            "HADM_ID": stay.admission,
            "ADMITTIME": admitted,
            "DISCHTIME": discharged,
            "DEATHTIME": death if stay.icustay % 3 else "",
            "HOSPITAL_EXPIRE_FLAG": int(stay.died),
        }
        age = 9 if stay.kind == "child" else 300 if stay.icustay % 11 == 0 else 25 + stay.icustay % 60
        born = stay.intime.replace(year=stay.intime.year - age, month=1, day=1, hour=0, minute=0)
        night = (stay.outtime + datetime.timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        patient = {"SUBJECT_ID": stay.subject, "DOB": patients.get(stay.subject, {}).get("DOB", born)}
        patients[stay.subject] = patient | {"DOD": night if stay.died else "", "EXPIRE_FLAG": int(stay.died)}
    _table(folder, "ADMISSIONS", admissions.values())
    _table(folder, "PATIENTS", patients.values())


def _icustay(stay: Stay) -> Row:
    return {
        "SUBJECT_ID": stay.subject,
        "HADM_ID": stay.admission,
        "ICUSTAY_ID": stay.icustay,
        "DBSOURCE": SYNTHETIC,
        "FIRST_CAREUNIT": "MICU",
        "LAST_CAREUNIT": "MICU",
        "FIRST_WARDID": 50,
        "LAST_WARDID": 52 if stay.kind == "moved" else 50,
        "INTIME": stay.intime,
        "OUTTIME": stay.outtime,
        "LOS": stay.days,
    }


def _lists(folder: Path, stays: list[Stay], random: Generator) -> None:
    """Write the splits of the patients in the form of the published lists."""
    subjects = random.permutation(sorted({stay.subject for stay in stays})).tolist()
    first, second = (round(len(subjects) * share) for share in (SHARES["test"], SHARES["test"] + SHARES["validation"]))
    test, validation = set(subjects[:first]), set(subjects[first:second])
    lines = sorted(subjects)
    (folder / "testset.csv").write_text("".join(f"{subject},{int(subject in test)}\n" for subject in lines))
    (folder / "valset.csv").write_text(
        "".join(f"{subject},{int(subject in validation)}\n" for subject in lines if subject not in test)
    )


def _table(folder: Path, table: str, rows: Iterable[Row]) -> None:
    with (folder / f"{table}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HEADERS[table].split(), restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for number, row in enumerate(rows, start=1):
            writer.writerow(row | {"ROW_ID": number})
