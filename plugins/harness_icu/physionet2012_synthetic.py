"""Generate a small synthetic Challenge 2012 in the official layout, to try everything without a download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from harness.api import Progress, silent
from harness.errors import DataError
from harness_icu.physionet2012 import SYNTHETIC, SYNTHETIC_NUMBERS, PhysioNet2012, is_synthetic
from harness_icu.physionet2012_files import HEADER, OUTCOME, RECORD, find_sets, outcomes_file, record_file

if TYPE_CHECKING:
    import numpy as np

SEED = 20120
RECORDS = 480
#: The logit of death at severity 0, and what a unit of severity and of its rise over 48 hours add to it.
LOGIT, SEVERITY, RISE = -1.5, 1.2, 1.2


class Sign(NamedTuple):
    """A variable: its ``typical`` value, how patients and readings vary, what severity adds, how often it is read.

    ``every`` is in hours; ``share`` is the share of patients in whom it is measured at all.
    """

    typical: float
    patients: float
    readings: float
    severity: float
    every: float
    digits: int
    share: float = 1.0


SIGNS = {
    "BUN": Sign(22, 5, 2, 9, 12, 0),
    "Creatinine": Sign(1.1, 0.2, 0.1, 0.4, 12, 1),
    "DiasABP": Sign(58, 6, 5, -3, 1, 0, 0.6),
    "FiO2": Sign(0.5, 0.05, 0.03, 0.07, 6, 2, 0.5),
    "GCS": Sign(13, 1, 0.7, -2, 4, 0),
    "Glucose": Sign(130, 15, 15, 12, 8, 0),
    "HCO3": Sign(24, 2, 1, -2, 12, 0),
    "HCT": Sign(31, 3, 1, -1, 10, 1),
    "HR": Sign(86, 9, 5, 6, 1, 0),
    "K": Sign(4.1, 0.3, 0.2, 0.1, 10, 1),
    "Lactate": Sign(1.8, 0.3, 0.2, 0.9, 10, 1, 0.5),
    "MAP": Sign(78, 6, 5, -5, 1, 0, 0.6),
    "Mg": Sign(2, 0.2, 0.1, 0, 14, 1),
    "Na": Sign(139, 3, 1, 0, 12, 0),
    "NIDiasABP": Sign(58, 6, 5, -3, 2, 0),
    "NIMAP": Sign(77, 6, 5, -5, 2, 2),
    "NISysABP": Sign(118, 10, 7, -7, 2, 0),
    "Platelets": Sign(200, 50, 10, -15, 14, 0),
    "RespRate": Sign(19, 3, 2, 2, 1, 0, 0.4),
    "SysABP": Sign(118, 10, 7, -7, 1, 0, 0.6),
    "Temp": Sign(37, 0.3, 0.2, 0.1, 4, 1),
    "Urine": Sign(90, 25, 25, -25, 1, 0),
    "WBC": Sign(11, 3, 1, 2, 14, 1),
    "Weight": Sign(80, 12, 0.3, 0, 12, 1),
    "pH": Sign(7.39, 0.02, 0.02, -0.03, 8, 2, 0.6),
}
#: Values are clipped to these; the other variables stay far within their ranges.
LIMITS = {"GCS": (3, 15), "Urine": (0, 900), "FiO2": (0.21, 1), "Lactate": (0.3, 30), "Creatinine": (0.2, 20)}
COLUMNS = f"{RECORD},SAPS-I,SOFA,Length_of_stay,Survival,{OUTCOME}"


class SyntheticPhysioNet2012(PhysioNet2012):
    """480 generated patients in one set, read by the loader of the real ones."""

    name = SYNTHETIC
    version = "1"
    examples = 192
    synthetic: ClassVar[bool] = True
    fallback: ClassVar[str | None] = None
    summary = "generated ICU stays in which the severity of illness shows and decides; for trying things out"
    #: Validation and test are larger than in the real one: calibration takes 128 examples.
    shares: ClassVar[tuple[float, float, float]] = (0.4, 0.3, 0.3)

    def fetch(self, folder: Path, progress: Progress = silent) -> None:
        raise DataError(
            f"{self.name} is generated, not downloaded; `harness data fetch {PhysioNet2012.name}` gets the real one"
        )

    def make(self, folder: Path) -> None:
        """Write the data set into ``folder``: the same bytes each time.

        The marker comes first and the outcomes last, so that an interrupted data set counts neither as real nor as
        complete. Raises DataError when the folder holds the real data or cannot be written.
        """
        from harness.data.synthetic import make_once

        if find_sets(folder) and not is_synthetic(folder):
            raise DataError(f"{folder}: holds the real {PhysioNet2012.name}; choose another folder")
        make_once(self, folder, outcomes_file(folder, "a"), _write)


def _write(folder: Path) -> None:
    import numpy as np

    random = np.random.default_rng(SEED)
    rows = [COLUMNS]
    for number in range(SYNTHETIC_NUMBERS, SYNTHETIC_NUMBERS + RECORDS):
        severity, rise = random.normal(), random.normal()
        died = random.random() < 1 / (1 + np.exp(-(LOGIT + SEVERITY * severity + RISE * rise)))
        path = record_file(folder, "a", number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_record(number, severity, rise, random))
        rows.append(f"{number},-1,-1,{random.integers(3, 30)},{random.integers(2, 60) if died else -1},{int(died)}")
    outcomes_file(folder, "a").write_text("\n".join(rows) + "\n")


def _record(number: int, severity: float, rise: float, random: np.random.Generator) -> bytes:
    """Return the file of one patient, whose severity rises by ``rise`` over the 48 hours."""
    height = round(random.normal(170, 9), 1) if random.random() < 0.5 else -1
    descriptors = {
        RECORD: number,
        "Age": random.integers(20, 91),
        "Gender": random.integers(2),
        "Height": height,
        "ICUType": random.integers(1, 5),
        "Weight": -1,
    }
    lines = [f"00:00,{name},{value}" for name, value in descriptors.items()]
    readings = []
    for name, sign in SIGNS.items():
        patient = sign.typical + random.normal(0, sign.patients)
        if random.random() >= sign.share:
            continue
        times = random.uniform(0, 48, max(1, round(48 / sign.every)))
        values = patient + sign.severity * (severity + rise * times / 48) + random.normal(0, sign.readings, len(times))
        low, high = LIMITS.get(name, (0, 1000))
        for time, value in zip(times, values.clip(low, high), strict=True):
            readings.append((int(60 * time), name, f"{value:.{sign.digits}f}"))
    lines += [f"{minute // 60:02d}:{minute % 60:02d},{name},{value}" for minute, name, value in sorted(readings)]
    return HEADER + ("\n".join(lines) + "\n").encode()
