"""Load MIMIC-III from its official CSV tables: death in hospital, from the first 48 hours in the ICU.

Johnson et al., MIMIC-III, a freely accessible critical care database, Sci Data 2016, 10.1038/sdata.2016.35. Task and
preparation are those of Harutyunyan et al., Sci Data 2019, 10.1038/s41597-019-0103-9; Liu et al., JMIR Form Res 2021,
10.2196/20767, compress networks for them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.api import Data, Dataset, Progress, Split, Task, silent
from harness.errors import DataError, UsageError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: This text in ICUSTAYS' first rows, or a file of this name, marks a folder as synthetic.
SYNTHETIC = "mimic3-synthetic"
LABELS = ("in-hospital mortality",)
#: The tables that are read whole, and those that are streamed.
SMALL = ("ADMISSIONS", "PATIENTS", "ICUSTAYS")
#: How much of a streamed table's beginning and end enters the fingerprint.
ENDS = 2**20


def is_synthetic(folder: Path) -> bool:
    """Whether the folder holds the synthetic MIMIC-III, by its marker file or, if that is lost, by the table itself."""
    if (folder / SYNTHETIC).exists():
        return True
    try:
        with (folder / "ICUSTAYS.csv").open(encoding="utf-8", errors="replace") as file:
            return SYNTHETIC in file.read(4096)
    except OSError:
        return False


class Mimic3(Dataset):
    """17 channels, hour by hour for 48 hours: 76 features, 17 of them masks of the measured values.

    Rows that the hospital flagged as errors (ERROR or ISERROR is 1) are used, as in the published pipeline. A subclass
    with another ``name`` and ``drop_flagged = True`` leaves them out.
    """

    name = "mimic3"
    version = "1"
    task = Task((48, 76), LABELS)
    #: Whether rows that are flagged as errors are left out.
    drop_flagged: ClassVar[bool] = False
    #: The same without time: the means of the measured values.
    layouts: ClassVar[Mapping[str, Task]] = {"flat": Task((76,), LABELS)}
    examples = 14_681
    fallback: ClassVar[str | None] = SYNTHETIC
    summary = (
        "MIMIC-III 1.4 or its demo, in-hospital mortality from 48 hours; credentialed: after the course and the data "
        "use agreement of physionet.org/content/mimiciii download the CSV files (the demo, mimiciii-demo, is open)"
    )

    def matches(self, folder: Path) -> bool:
        """Recognize a folder by ICUSTAYS alone; reading it names other tables that are missing."""
        names = {path.name.lower().removesuffix(".gz") for path in folder.iterdir()} if folder.is_dir() else set()
        return "icustays.csv" in names and is_synthetic(folder) == self.synthetic

    def fingerprint(self, folder: Path) -> str:
        """Hash the small tables, the lists, the size, first and last MiB of each event table, and the rules.

        The event tables, 33 GB, are not hashed whole: a change in their middle that keeps the size goes unnoticed.
        """
        from harness_icu import mimic3_channels, mimic3_cohort
        from harness_icu.mimic3_events import TABLES
        from harness_icu.mimic3_tables import find

        self._check_kind(folder)
        lists = mimic3_cohort.lists(folder)
        rules: dict[str, object] = {
            "dataset": [self.name, self.version],
            "fio2": mimic3_channels.FIO2_SLIP,
            "largest": mimic3_channels.LARGEST,
            "drop flagged": self.drop_flagged,
            "parts": sorted(lists) or [mimic3_cohort.SEED, mimic3_cohort.SHARES],
        }
        digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode())
        try:
            for path in [*(find(folder, table) for table in SMALL), *lists.values()]:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            for table in TABLES:
                digest.update(_ends(find(folder, table)))
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
        return digest.hexdigest()

    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        from harness.data.cache import cached

        return self._data(cached(cache, self.fingerprint(folder), lambda: self._arrays(folder, progress)))

    def to_layout(self, inputs: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """Convert inputs (n, 48, 76) into the layout ``name``: "flat" is (n, 76), see ``harness_icu.series.flat``."""
        from harness_icu.mimic3_channels import CHANNELS
        from harness_icu.series import flat

        if name not in self.layouts:
            raise UsageError(f"{self.name} has no layout {name!r}{nearest(name, self.layouts)}")
        return flat(inputs, CHANNELS)

    def fetch(self, folder: Path, progress: Progress = silent) -> None:
        raise DataError(
            f"{self.name} cannot be downloaded by the harness, since it needs your credentials: get access at "
            "https://physionet.org/content/mimiciii/1.4/ (a course and a data use agreement), download ADMISSIONS, "
            "PATIENTS, ICUSTAYS, CHARTEVENTS, LABEVENTS and OUTPUTEVENTS (.csv.gz, as they are) into "
            f"{folder}, and for the published splits testset.csv and valset.csv from "
            "https://github.com/YerevaNN/mimic3-benchmarks. The demo of 100 patients, "
            "https://physionet.org/content/mimiciii-demo/1.4/, needs no credentials"
        )

    def _check_kind(self, folder: Path) -> None:
        if is_synthetic(folder) != self.synthetic:
            holds = "no synthetic MIMIC-III" if self.synthetic else "the synthetic MIMIC-III, not the real one"
            raise DataError(f"{folder}: holds {holds}; point {self.name!r} at another folder")

    def _arrays(self, folder: Path, progress: Progress) -> dict[str, NDArray[Any]]:
        """Compute the arrays to cache: inputs, targets and patients of each split, checked."""
        import numpy as np

        from harness_icu.mimic3_channels import CHANNELS
        from harness_icu.mimic3_cohort import SPLITS, cohort, divide, lists, long_enough
        from harness_icu.mimic3_events import read_events
        from harness_icu.series import moments, series

        stays = long_enough(cohort(folder))
        if stays.empty:
            raise DataError(f"{folder}: no stay of 48 hours is left by the cohort's rules; is the database complete?")
        events = read_events(folder, stays, progress, self.drop_flagged)
        inputs = series(events, len(stays), CHANNELS)
        measured = np.unique(events.stays)  # a stay without any event is no example
        inputs, stays = inputs[measured], stays.iloc[measured]
        subjects, died = stays["SUBJECT_ID"].to_numpy(), stays["DIED"].to_numpy()
        splits = divide(subjects, died, lists(folder))
        mean, deviation = moments(inputs[splits == "train"], CHANNELS)
        inputs -= mean
        inputs /= deviation
        arrays: dict[str, NDArray[Any]] = {}
        for split in SPLITS:
            members = splits == split
            arrays[f"{split}-inputs"] = inputs[members]
            arrays[f"{split}-targets"] = died[members].astype(np.float32)[:, None]
            arrays[f"{split}-patients"] = subjects[members].astype(np.str_)
        self._data(arrays).check(self.name)
        return arrays

    def _data(self, arrays: Mapping[str, NDArray[Any]]) -> Data:
        """Build the data set from the cached arrays."""
        splits = {
            split: Split(arrays[f"{split}-inputs"], arrays[f"{split}-targets"], arrays[f"{split}-patients"])
            for split in ("train", "validation", "test")
        }
        return Data(self.task, **splits)


def _ends(path: Path) -> bytes:
    """Hash a file's size, first and last MiB."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(b"%d " % size + file.read(ENDS))
        file.seek(max(0, size - ENDS))
        digest.update(file.read())
    return digest.digest()
