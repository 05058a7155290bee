"""Load PTB-XL at 100 Hz with its five diagnostic superclasses from the official folder layout.

Wagner et al., PTB-XL, a large publicly available electrocardiography dataset, Sci Data 2020,
10.1038/s41597-020-0495-6; data: 10.13026/kfzx-aw45. Splits, labels and preprocessing are those of Hołda et al.,
Informatica 2026, 10.15388/26-INFOR620.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.api import Data, Dataset, Progress, Split, Task, silent
from harness.errors import DataError
from harness_ecg.table import DATABASE, STATEMENTS, Record, read_records

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
LABELS = ("NORM", "MI", "CD", "HYP", "STTC")
RATE = 100
LENGTH = 1000
SIGNALS = "records100"
#: The official splits: the folds of each.
SPLITS = {"train": tuple(range(1, 9)), "validation": (9,), "test": (10,)}
#: Study B does not state what it does with records that have none of the five labels (411 of 21,799). We drop them,
#: as the field's reference benchmark does (Strodthoff et al. 2021). It matters little: one and the same CNN had a
#: test AUROC of 0.930 without them and 0.929 with them.
KEEP_UNLABELLED = False
#: This text in the database's first row, or a file of this name, marks a folder as synthetic.
SYNTHETIC = "ptbxl-synthetic"


def is_synthetic(folder: Path) -> bool:
    """Whether the folder holds the synthetic PTB-XL, by its marker file or, if that is lost, by the table itself."""
    if (folder / SYNTHETIC).exists():
        return True
    try:
        with (folder / DATABASE).open(encoding="utf-8", errors="replace") as file:
            return SYNTHETIC in file.read(4096)
    except OSError:
        return False


class PTBXL(Dataset):
    """Twelve leads of ten seconds, 21,799 recordings of 18,869 patients."""

    name = "ptbxl"
    version = "1"
    task = Task((len(LEADS), LENGTH), LABELS)
    examples = 17_084
    fallback: ClassVar[str | None] = SYNTHETIC
    summary = "PTB-XL 1.0.3 at 100 Hz, five superclasses; CC BY 4.0; physionet.org/content/ptb-xl"
    #: Where ``fetch`` finds the files and their checksums.
    source: ClassVar[str] = "https://physionet.org/files/ptb-xl/1.0.3/"

    def matches(self, folder: Path) -> bool:
        return _has_layout(folder) and is_synthetic(folder) == self.synthetic

    def fingerprint(self, folder: Path) -> str:
        """Covers both tables, all headers and signals below records100, the split and the preprocessing.

        The harness remembers the hashes of the 43,600 files, so that a later run only asks for their size and time.
        """
        return self._survey(folder)[1]

    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        from harness.data.cache import cached

        splits, fingerprint = self._survey(folder)
        return self._data(cached(cache, fingerprint, lambda: self._arrays(folder, splits, progress)))

    def fetch(self, folder: Path, progress: Progress = silent) -> None:
        """Download the two tables and the 100 Hz recordings (about 0.5 GB), the tables last.

        A folder with an interrupted download is not recognized as PTB-XL; fetching again continues it.
        """
        from harness.data.download import fetch_all, read_checksums

        if is_synthetic(folder):
            raise DataError(f"{folder}: holds the synthetic PTB-XL; choose another folder for the real one")
        sums = read_checksums(self.source, folder / "SHA256SUMS.txt")
        signals = {path: digest for path, digest in sums.items() if path.startswith(f"{SIGNALS}/")}
        tables = {path: sums[path] for path in (STATEMENTS, DATABASE) if path in sums}
        if not signals or len(tables) != 2:
            raise DataError(f"{self.source}SHA256SUMS.txt: lists no {SIGNALS} or not both tables; is it PTB-XL's?")
        fetch_all(self.source, signals, folder, progress)
        fetch_all(self.source, tables, folder)

    def _survey(self, folder: Path) -> tuple[dict[str, list[tuple[Record, bytes]]], str]:
        """Return the records to use with their headers' content, by split, and the fingerprint."""
        from harness_ecg import preprocessing
        from harness_ecg.recordings import read_headers

        if is_synthetic(folder) != self.synthetic:
            holds = "no synthetic PTB-XL" if self.synthetic else "the synthetic PTB-XL, not the real one"
            raise DataError(f"{folder}: holds {holds}; point {self.name!r} at another folder")
        records = read_records(folder, LABELS)
        if not KEEP_UNLABELLED:
            records = [record for record in records if record.labels]
        headers = read_headers(folder, records)
        rules = {
            "dataset": [self.name, self.version],
            "labels": LABELS,
            "parts": SPLITS,
            "unlabelled": KEEP_UNLABELLED,
            "preprocessing": preprocessing.VERSION,
        }
        digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode())
        for table in (STATEMENTS, DATABASE):
            digest.update(hashlib.sha256((folder / table).read_bytes()).digest())
        for header in headers:
            digest.update(b"%d " % len(header))
            digest.update(header)
        digest.update(json.dumps(_hash_recordings(folder)).encode())
        rows = list(zip(records, headers, strict=True))
        splits = {split: [row for row in rows if row[0].fold in folds] for split, folds in SPLITS.items()}
        return splits, digest.hexdigest()

    def _arrays(
        self, folder: Path, splits: dict[str, list[tuple[Record, bytes]]], progress: Progress
    ) -> dict[str, NDArray[Any]]:
        """Compute the arrays to cache: inputs, targets and patients of each split, checked."""
        import numpy as np

        from harness_ecg.recordings import read_inputs
        from harness_ecg.wfdb_format import Layout

        arrays: dict[str, NDArray[Any]] = {}
        for split, inputs in read_inputs(folder, splits, Layout(RATE, LENGTH, LEADS, "mV"), progress).items():
            records = [record for record, _ in splits[split]]
            targets = np.array([[label in record.labels for label in LABELS] for record in records], np.float32)
            arrays[f"{split}-inputs"] = inputs
            arrays[f"{split}-targets"] = targets.reshape(len(records), len(LABELS))
            arrays[f"{split}-patients"] = np.array([record.patient for record in records], np.str_)
        self._data(arrays).check(self.name)
        return arrays

    def _data(self, arrays: Mapping[str, NDArray[Any]]) -> Data:
        """Build the data set from the cached arrays."""
        splits = {
            split: Split(arrays[f"{split}-inputs"], arrays[f"{split}-targets"], arrays[f"{split}-patients"])
            for split in SPLITS
        }
        return Data(self.task, **splits)


def _has_layout(folder: Path) -> bool:
    return (folder / DATABASE).is_file() and (folder / STATEMENTS).is_file() and (folder / SIGNALS).is_dir()


def _hash_recordings(folder: Path) -> dict[str, str]:
    """The SHA-256 of every header and signal file, by its path below ``folder``, in sorted order."""
    from harness.data.hashes import hash_files

    root = os.path.join(folder, "")
    paths = [os.path.join(parent, name) for parent, _, names in os.walk(root + SIGNALS) for name in names]
    recordings = sorted(path.removeprefix(root) for path in paths if path.endswith((".hea", ".dat")))
    try:
        return {name.replace(os.sep, "/"): digest for name, digest in hash_files(folder, recordings).items()}
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from error
