"""A tiny PTB-XL in the official layout, written by wfdb-python."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import wfdb

from harness_ecg.ptbxl import LEADS

CODES = {"NORM": "NORM", "IMI": "MI", "CLBBB": "CD", "LVH": "HYP", "NST_": "STTC", "SR": ""}
ABNORMAL = {"IMI": 100.0, "CLBBB": 0.0, "LVH": 15.0, "NST_": 50.0, "SR": 0.0}


def write_record(folder: Path, name: str, samples: np.ndarray, **changes: object) -> None:
    """Stored values (1000, 12) as a record of PTB-XL's layout, or changed from it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    count = samples.shape[1]
    arguments: dict[str, object] = {
        "fs": 100,
        "units": ["mV"] * count,
        "sig_name": list(LEADS[:count]),
        "d_signal": samples.astype(np.int64),
        "fmt": ["16"] * count,
        "adc_gain": [1000.0] * count,
        "baseline": [0] * count,
    }
    wfdb.wrsamp(path.name, write_dir=str(path.parent), **(arguments | changes))


def write_tables(folder: Path, rows: list[dict[str, object]]) -> None:
    with (folder / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with (folder / "scp_statements.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("", "diagnostic_class"), *CODES.items()])


def database() -> list[dict[str, object]]:
    """Two rows a fold, one normal and one with all other labels, and a row without any."""
    made: list[dict[str, object]] = []
    for ecg_id in range(1, 22):
        codes = "{'SR': 0.0}" if ecg_id == 21 else "{'NORM': 100.0, 'SR': 0.0}" if ecg_id % 2 else str(ABNORMAL)
        made.append(
            {
                "ecg_id": ecg_id,
                "patient_id": f"{1000 + (ecg_id + 1) // 2}.0" if ecg_id < 19 else "",
                "scp_codes": codes,
                "strat_fold": min(10, (ecg_id + 1) // 2),
                "filename_lr": f"records100/00000/{ecg_id:05d}_lr",
            }
        )
    return made
