"""Load the PhysioNet/CinC Challenge 2012 from its text files: death in hospital, from the first 48 hours in the ICU.

Silva et al., Predicting in-hospital mortality of ICU patients: the PhysioNet/Computing in Cardiology Challenge 2012,
CinC 2012;39:245-248; data: physionet.org/content/challenge-2012/1.0.0. The data are open. Task and
preparation (see series) are those of Liu, Sepulveda and Zheng, JMIR Form Res 2021;5(12):e20767.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.api import Data, Dataset, Progress, Split, Task, silent
from harness.errors import DataError, UsageError, nearest
from harness_icu.physionet2012_files import (
    RECORD,
    REMEDY,
    SETS,
    Record,
    find_sets,
    outcomes_file,
    read_records,
    record_file,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness_icu.series import Events

#: 37 time series, age, gender, height, four columns for the unit, and a mask for each of the 41 variables.
FEATURES = 37 + 3 + 4 + 41
HOURS = 48
LABELS = ("in-hospital mortality",)
SPLITS = ("train", "validation", "test")
#: The seed of the splits. Those of the challenge cannot be used: two of its three sets are its test sets.
SEED = 2012
#: A file of this name marks a folder as synthetic, and so do record numbers from this one on.
SYNTHETIC, SYNTHETIC_NUMBERS = "physionet2012-synthetic", 9_000_000


def is_synthetic(folder: Path) -> bool:
    """Whether the folder's data are synthetic, by its marker file or, if that is lost, by the records' numbers."""
    if (folder / SYNTHETIC).exists():
        return True
    try:
        with outcomes_file(folder, SETS[0]).open(encoding="utf-8", errors="replace") as file:
            file.readline()
            first = file.readline().partition(",")[0]
    except OSError:
        return False
    return first.isdecimal() and int(first) >= SYNTHETIC_NUMBERS


class PhysioNet2012(Dataset):
    """Three sets of 4,000 patients each; the sets in the folder are used, split by patient.

    Each split takes its share of the dead and of the survivors of each set, so that another set moves no patient to
    another split. A hash of the record's number decides the split. A record without any plausible measurement (10 of
    the 8,000 in sets a and b) is left out, because it has no inputs.

    The descriptors count as measured at 00:00 and are carried forward. Their columns are constant except the weight,
    which is measured again. Each has a mask, which is 0 throughout where the descriptor is missing (-1).
    """

    name = "physionet2012"
    version = "1"
    task = Task((HOURS, FEATURES), LABELS)
    #: Beside the series, (48, FEATURES): the mean over time of the measured values.
    layouts: ClassVar[Mapping[str, Task]] = {"flat": Task((FEATURES,), LABELS)}
    examples = 8_400
    fallback: ClassVar[str | None] = SYNTHETIC
    summary = "PhysioNet/CinC Challenge 2012, in-hospital death; ODC-BY 1.0; physionet.org/content/challenge-2012"
    #: Where ``fetch`` finds the files and their checksums.
    source: ClassVar[str] = "https://physionet.org/files/challenge-2012/1.0.0/"
    #: The share of each split.
    shares: ClassVar[tuple[float, float, float]] = (0.70, 0.15, 0.15)

    def matches(self, folder: Path) -> bool:
        sets = find_sets(folder)
        complete = bool(sets) and all(outcomes_file(folder, name).is_file() for name in sets)
        return complete and is_synthetic(folder) == self.synthetic

    def fingerprint(self, folder: Path) -> str:
        """Hash all outcomes and measurements, the rules of the splits, and the preprocessing."""
        return self._survey(folder, silent)[1]

    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        from harness.data.cache import cached

        records, fingerprint = self._survey(folder, progress)
        return self._data(cached(cache, fingerprint, lambda: self._arrays(folder, records)))

    def to_layout(self, inputs: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """Convert inputs (n, 48, FEATURES) into the layout ``name``: "flat" is (n, FEATURES)."""
        from harness_icu.physionet2012_variables import CHANNELS
        from harness_icu.series import flat

        if name != "flat":
            raise UsageError(f"{self.name} has no layout {name!r}{nearest(name, self.layouts)}")
        return flat(inputs, CHANNELS)

    def fetch(self, folder: Path, progress: Progress = silent) -> None:
        """Download the three sets (about 25 MB) and unpack them, then fetch the outcomes.

        A folder with an interrupted download is not recognized; fetching again continues it.
        """
        from harness.data.download import fetch_all, read_checksums

        if is_synthetic(folder):
            raise DataError(f"{folder}: holds the synthetic {self.name}; choose another folder for the real one")
        sums = read_checksums(self.source, folder / "SHA256SUMS.txt")
        archives = [f"set-{name}.tar.gz" for name in SETS]
        outcomes = [outcomes_file(folder, name).name for name in SETS]
        missing = [path for path in archives + outcomes if path not in sums]
        if missing:
            raise DataError(f"{self.source}SHA256SUMS.txt: does not list {', '.join(missing)}; is it the challenge's?")
        fetch_all(self.source, {path: sums[path] for path in archives}, folder, progress)
        for path in archives:
            _unpack(folder / path, folder)
        fetch_all(self.source, {path: sums[path] for path in outcomes}, folder)

    def _survey(self, folder: Path, progress: Progress) -> tuple[list[Record], str]:
        """Return the records and the fingerprint."""
        from harness_icu.physionet2012_variables import REPAIRS, UNITS, VARIABLES

        if is_synthetic(folder) != self.synthetic:
            holds = "no synthetic data" if self.synthetic else "the synthetic data, not the real ones"
            raise DataError(f"{folder}: holds {holds}; point {self.name!r} at another folder")
        records = read_records(folder, progress)
        rules = {
            "dataset": [self.name, self.version],
            "split": [SEED, self.shares],
            "variables": VARIABLES,
            "units": UNITS,
            "repairs": REPAIRS,
        }
        digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode())
        for record in records:
            digest.update(f"{record.set} {record.number} {record.died} {len(record.lines)} ".encode())
            digest.update(record.lines)
        return records, digest.hexdigest()

    def _arrays(self, folder: Path, records: Sequence[Record]) -> dict[str, NDArray[Any]]:
        """Compute the arrays to cache: inputs, targets and patients of each split, checked."""
        import numpy as np

        from harness_icu.physionet2012_variables import CHANNELS
        from harness_icu.series import moments, series

        events, measured = _events(folder, records)
        inputs = series(events, len(records), CHANNELS, HOURS)
        targets = np.array([[record.died] for record in records], np.float32)
        patients = np.array([str(record.number) for record in records], np.str_)
        splits = split(records, np.flatnonzero(measured).tolist(), self.shares)
        mean, deviation = moments(inputs[splits["train"]], CHANNELS)
        arrays: dict[str, NDArray[Any]] = {}
        for split_name, places in splits.items():
            arrays[f"{split_name}-inputs"] = (inputs[places] - mean) / deviation
            arrays[f"{split_name}-targets"] = targets[places]
            arrays[f"{split_name}-patients"] = patients[places]
        self._data(arrays).check(self.name)
        return arrays

    def _data(self, arrays: Mapping[str, NDArray[Any]]) -> Data:
        """Build the data set from the cached arrays."""
        splits = {
            split: Split(arrays[f"{split}-inputs"], arrays[f"{split}-targets"], arrays[f"{split}-patients"])
            for split in SPLITS
        }
        return Data(self.task, **splits)


def split(records: Sequence[Record], places: Sequence[int], shares: tuple[float, float, float]) -> dict[str, list[int]]:
    """Divide places in ``records`` into splits, in order: ``shares`` of each set's dead and survivors."""
    strata: dict[tuple[str, bool], list[int]] = {}
    for place in places:
        strata.setdefault((records[place].set, records[place].died), []).append(place)
    splits: dict[str, list[int]] = {name: [] for name in SPLITS}
    for stratum in strata.values():
        # By a hash: the numbers of a random generator may change with its version
        stratum.sort(key=lambda place: hashlib.sha256(f"{SEED} {records[place].number}".encode()).digest())
        first = round(shares[0] * len(stratum))
        second = round((shares[0] + shares[1]) * len(stratum))
        for name, members in zip(SPLITS, (stratum[:first], stratum[first:second], stratum[second:]), strict=True):
            splits[name] += members
    return {name: sorted(members) for name, members in splits.items()}


def _events(folder: Path, records: Sequence[Record]) -> tuple[Events, NDArray[np.bool_]]:
    """Return all plausible measurements and descriptors, and which records have any measurement."""
    import numpy as np

    from harness_icu.physionet2012_files import parse_records
    from harness_icu.physionet2012_variables import CODES, NAMES, SERIES, clean
    from harness_icu.series import Events

    rows = parse_records(folder, records, (*NAMES, RECORD))
    is_number = rows.parameters == len(NAMES)
    _check_numbers(folder, records, rows.records[is_number], rows.values[is_number])
    for name, codes in CODES.items():
        wrong = (rows.parameters == NAMES.index(name)) & ~np.isin(rows.values, codes)
        if wrong.any():
            record, value = records[rows.records[wrong][0]], rows.values[wrong][0]
            allowed = ", ".join(map(str, codes))
            raise DataError(
                f"{_where(folder, record, name, value)}: {name} is {value:g}, not one of {allowed}; {REMEDY}"
            )
    values = np.full(len(rows.values), np.nan)
    values[~is_number] = clean(rows.parameters[~is_number], rows.values[~is_number])
    valid = ~np.isnan(values)
    stays, minutes, channels, values = rows.records[valid], rows.minutes[valid], rows.parameters[valid], values[valid]
    # The weight at 00:00 is a descriptor.
    weight_on_admission = (channels == NAMES.index("Weight")) & (minutes == 0)
    measured = np.bincount(stays[(channels < len(SERIES)) & ~weight_on_admission], minlength=len(records)) > 0
    values[channels == NAMES.index("ICUType")] -= 1  # places in UNITS
    return Events(stays, minutes / 60, channels, values), measured


def _check_numbers(
    folder: Path, records: Sequence[Record], stays: NDArray[np.int32], numbers: NDArray[np.float64]
) -> None:
    """Raise unless the number in each file is that of its name."""
    numbers_in_files = dict(zip(stays.tolist(), numbers.tolist(), strict=True))
    for place, record in enumerate(records):
        if place not in numbers_in_files:
            raise DataError(f"{record_file(folder, record.set, record.number)}: it has no {RECORD}; {REMEDY}")
        if numbers_in_files[place] != record.number:
            location = _where(folder, record, RECORD, numbers_in_files[place])
            raise DataError(f"{location}: its {RECORD} is {numbers_in_files[place]:.15g}; {REMEDY}")


def _where(folder: Path, record: Record, parameter: str, value: float) -> str:
    """Return the record's file and the line in which the parameter has this value."""
    rows = [line.split(b",") for line in record.lines.splitlines()]
    line = next(n for n, row in enumerate(rows, 2) if row[1] == parameter.encode() and float(row[2]) == value)
    return f"{record_file(folder, record.set, record.number)}, line {line}"


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a set's archive into ``folder``; its members cannot be written elsewhere."""
    import tarfile

    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({type(error).__name__}: {error})") from error
