"""Rules for data sets. An author's module imports everything from here and defines the fixture ``dataset``.

A synthetic data set is generated. A real one is searched for as in a run ($HARNESS_DATA, else ./data), and its checks
are skipped if it is not found.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.api import Data, Dataset
from harness.errors import DataError, HarnessError, UsageError
from harness.testing._failing import fail_check, imports_cleanly, listing

if TYPE_CHECKING:
    from harness.api import FloatArray

#: The largest number of files that are removed, one at a time.
MAX_REMOVED = 5


class Shelf:
    """The folders and data of data sets; each is generated or found, and loaded, once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._loaded: dict[str, Data] = {}

    def folder(self, dataset: Dataset) -> Path:
        """Return a data set's folder. Skip the check if there is none."""
        from harness.data.library import VARIABLE, candidates, roots

        if dataset.synthetic or dataset.bundled:
            folder = self.root / dataset.name
            if not folder.exists():
                dataset.make(folder)
            return folder
        try:
            folders = roots(None)
        except UsageError as error:
            pytest.skip(str(error))
        match = next((folder for folder in candidates(dataset, folders) if dataset.matches(folder)), None)
        if match is None:
            pytest.skip(f"{dataset.name} is not in {', '.join(map(str, folders))}; set {VARIABLE} to its folder")
        return match

    def data(self, dataset: Dataset) -> Data:
        """Return a data set's data."""
        if dataset.name not in self._loaded:
            self._loaded[dataset.name] = self.load(dataset, self.folder(dataset), "cache")
        return self._loaded[dataset.name]

    def load(self, dataset: Dataset, folder: Path, cache: str) -> Data:
        """Load a data set from a folder, with the cache of this name."""
        cache_folder = self.root / f"{dataset.name}-{cache}"
        cache_folder.mkdir(exist_ok=True)
        return dataset.load(folder, cache_folder)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """The kit's copies of the data sets."""
    return Shelf(tmp_path_factory.mktemp("datasets"))


def test_dataset_describes_itself(dataset: Dataset) -> None:
    """It is registered; only a synthetic one has 'synthetic' in its name; its fallback is synthetic."""
    from harness.plugin.manager import installed

    subject, datasets = f"data set {dataset.name!r}", installed().datasets
    if dataset.name not in datasets or type(datasets.get(dataset.name)) is not type(dataset):
        fail_check(
            subject,
            wanted="it among the installed data sets",
            got="nothing of that name, or another one",
            fix="register it in the hook harness_datasets, and install the package",
        )
    if dataset.synthetic != ("synthetic" in dataset.name):
        fail_check(
            subject,
            wanted="'synthetic' in the name of a synthetic data set, and of no other",
            got=f"synthetic = {dataset.synthetic}",
            fix="rename it: tables show the name, and nobody must mistake synthetic data for real data",
        )
    fallback = dataset.fallback
    if fallback is not None and not (fallback in datasets and datasets.get(fallback).synthetic):
        fail_check(
            subject,
            wanted="a registered synthetic data set as fallback",
            got=repr(fallback),
            fix="name one, or set fallback = None",
        )
    if not dataset.summary:
        fail_check(
            subject, wanted="a `summary`: what it is, its licence, its source", got="none", fix="write it in one line"
        )


def test_dataset_module_loads_no_torch(dataset: Dataset) -> None:
    """Its module imports, prints nothing and does not load torch."""
    imports_cleanly(f"data set {dataset.name!r}", type(dataset))


def test_dataset_matches_its_folder_alone(dataset: Dataset, shelf: Shelf, tmp_path: Path) -> None:
    """matches() accepts its own folder, and neither an empty nor a missing one."""
    for folder in (tmp_path, tmp_path / "absent"):
        if dataset.matches(folder):
            fail_check(
                f"data set {dataset.name!r}",
                wanted="matches() is false for an empty or missing folder",
                got="true",
                fix="look for the files that load() reads",
            )
    if not dataset.matches(shelf.folder(dataset)):
        fail_check(
            f"data set {dataset.name!r}",
            wanted="matches() is true for the folder that make() wrote",
            got="false",
            fix="let both use the same files",
        )


def test_dataset_fingerprint_is_of_the_content(dataset: Dataset, shelf: Shelf, tmp_path: Path) -> None:
    """The fingerprint is 64 hex digits, and depends on the content, not on the folder or the time."""
    folder, other = shelf.folder(dataset), tmp_path / "elsewhere"
    first, again = dataset.fingerprint(folder), dataset.fingerprint(folder)
    if not re.fullmatch(r"[0-9a-f]{64}", str(first)):
        fail_check(
            f"data set {dataset.name!r}",
            wanted="a fingerprint of 64 hex digits",
            got=repr(first),
            fix="return hashlib.sha256(...).hexdigest()",
        )
    if dataset.synthetic or dataset.bundled:
        shutil.copytree(folder, other)
    else:
        other.symlink_to(folder.resolve(), target_is_directory=True)
    moved = dataset.fingerprint(other)
    if not first == again == moved:
        fail_check(
            f"data set {dataset.name!r}",
            wanted="the same fingerprint for the same content, in every folder and at every call",
            got=f"{first[:12]}, again {again[:12]}, elsewhere {moved[:12]}",
            fix="hash contents, versions and relative names in sorted order, and no absolute paths or times",
        )


def test_dataset_loads(dataset: Dataset, shelf: Shelf) -> None:
    """It loads finite examples of its task's shape, with targets of its kind that are not all the same."""
    import numpy as np

    subject, data = f"data set {dataset.name!r}", _loaded(dataset, shelf)
    if data.task != dataset.task:
        fail_check(
            subject, wanted=f"data of its task, {dataset.task}", got=str(data.task), fix="pass self.task to Data"
        )
    for name, split in data.splits():
        if dataset.task.kind in ("multilabel", "binary") and not np.isin(split.targets, (0, 1)).all():
            fail_check(
                f"{subject}, {name} split",
                wanted="targets 0 or 1",
                got="others",
                fix="use one column per label, of 0 and 1",
            )


def test_dataset_keeps_patients_apart(dataset: Dataset, shelf: Shelf) -> None:
    """No patient is in two splits."""
    data = _loaded(dataset, shelf)
    patients = {name: set(() if split.patients is None else split.patients.tolist()) for name, split in data.splits()}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if shared := sorted(map(str, patients[one] & patients[other])):
            fail_check(
                f"data set {dataset.name!r}",
                wanted=f"no patient in both the {one} and the {other} split",
                got=f"{len(shared)} are: {', '.join(shared[:5])}",
                fix="split by patient, not by example",
            )


def test_dataset_loads_the_same_again(dataset: Dataset, shelf: Shelf) -> None:
    """A second load, from the cache of the first, gives the same arrays."""
    import numpy as np

    first, second = _loaded(dataset, shelf), shelf.load(dataset, shelf.folder(dataset), "cache")
    for (name, one), (_, other) in zip(first.splits(), second.splits(), strict=True):
        arrays, others = one.arrays(), other.arrays()
        for array in {**arrays, **others}:
            if array not in arrays or array not in others or not np.array_equal(arrays[array], others[array]):
                fail_check(
                    f"data set {dataset.name!r}, {name} split",
                    wanted="the same arrays from a second load",
                    got=f"other {array}",
                    fix="cache complete arrays in a fixed order, and draw random values only with a fixed seed",
                )


def test_dataset_layouts_have_their_shapes(dataset: Dataset, shelf: Shelf) -> None:
    """Each layout gives finite float32 examples of the shape that it declares."""
    import numpy as np

    if not dataset.layouts:
        pytest.skip(f"{dataset.name} declares no layouts")
    inputs: FloatArray = _loaded(dataset, shelf).validation.inputs[:8]
    for name, task in dataset.layouts.items():
        converted = dataset.to_layout(inputs, name)
        if (
            converted.shape != (len(inputs), *task.input_shape)
            or converted.dtype != np.float32
            or not np.isfinite(converted).all()
        ):
            fail_check(
                f"data set {dataset.name!r}, layout {name!r}",
                wanted=f"finite float32 ({len(inputs)}, {', '.join(map(str, task.input_shape))})",
                got=f"{converted.dtype} {converted.shape}",
                fix="make to_layout() return the shape that layouts declares",
            )


def test_dataset_is_made_the_same_each_time(dataset: Dataset, shelf: Shelf, tmp_path: Path) -> None:
    """make() writes the same bytes into every folder."""
    if not (dataset.synthetic or dataset.bundled):
        pytest.skip(f"{dataset.name} is neither synthetic nor bundled, so it has no make()")
    dataset.make(tmp_path / "again")
    first, second = (_contents(folder) for folder in (shelf.folder(dataset), tmp_path / "again"))
    differing = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    if differing:
        fail_check(
            f"data set {dataset.name!r}",
            wanted="make() writes the same bytes each time",
            got=f"different: {listing(sorted(differing))}",
            fix="draw from numpy.random.default_rng with a fixed seed, and write no times",
        )


def test_dataset_notices_what_is_missing(dataset: Dataset, shelf: Shelf, tmp_path: Path) -> None:
    """Without one of its files it does not match, still loads, or raises DataError: never another exception."""
    if not dataset.synthetic:
        pytest.skip(f"{dataset.name} is real data, from which nothing is removed; its synthetic fallback is checked")
    folder = tmp_path / "damaged"
    shutil.copytree(shelf.folder(dataset), folder)
    for index, file in enumerate(_different_files(folder)):
        hidden = tmp_path / "hidden"
        file.rename(hidden)
        try:
            if dataset.matches(folder):
                dataset.fingerprint(folder)
                shelf.load(dataset, folder, f"damaged-{index}")
        except DataError:
            pass
        except Exception as error:
            fail_check(
                f"data set {dataset.name!r} without {file.relative_to(folder)}",
                wanted="matches() is false, or a DataError that names the file",
                got=f"{type(error).__name__}: {error}",
                fix="look for the file in matches(), or raise DataError where it is read",
            )
        finally:
            hidden.rename(file)


def _loaded(dataset: Dataset, shelf: Shelf) -> Data:
    try:
        data = shelf.data(dataset)
        data.check(dataset.name)
    except HarnessError as error:
        fail_check(
            f"data set {dataset.name!r}",
            wanted="splits with finite examples of the task's shape, and targets of its kind that vary",
            got=str(error),
            fix="see harness.Data.check",
        )
    return data


def _contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def _different_files(folder: Path) -> list[Path]:
    """All files if they are few, else one of each suffix and depth."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    if len(files) > MAX_REMOVED:
        files = list({(file.suffix, len(file.parts)): file for file in files}.values())
    return files[:MAX_REMOVED]


#: What an author imports: the checks and their fixtures.
__all__ = ["shelf", *(name for name in dir() if name.startswith("test_"))]
