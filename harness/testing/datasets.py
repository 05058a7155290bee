"""What every data set must hold to. An author's module imports all of it and defines the fixture ``dataset``.

A synthetic one is made; a real one is looked for as in a run (HARNESS_DATA, or ./data) and skipped where it is not.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.api import Data, Dataset
from harness.errors import DataError, HarnessError, UsageError
from harness.testing.blame import fail_check, some
from harness.testing.imports import imports_cleanly

if TYPE_CHECKING:
    from harness.api import FloatArray

#: Files that are removed, one after the other, at most.
MOST_REMOVED = 5


class Shelf:
    """Data sets in their folders, each made or found and read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._loaded: dict[str, Data] = {}

    def folder(self, dataset: Dataset) -> Path:
        """Its folder; skips the check where there is none."""
        from harness.data.library import VARIABLE, candidates, roots

        if dataset.synthetic:
            folder = self.root / dataset.name
            if not folder.exists():
                dataset.make(folder)
            return folder
        try:
            where = roots(None)
        except UsageError as error:
            pytest.skip(str(error))
        found = next((folder for folder in candidates(dataset, where) if dataset.matches(folder)), None)
        if found is None:
            pytest.skip(f"{dataset.name} is not in {', '.join(map(str, where))}; point {VARIABLE} at it")
        return found

    def data(self, dataset: Dataset) -> Data:
        """What it loads."""
        if dataset.name not in self._loaded:
            self._loaded[dataset.name] = self.load(dataset, self.folder(dataset), "cache")
        return self._loaded[dataset.name]

    def load(self, dataset: Dataset, folder: Path, cache: str) -> Data:
        """What it loads from a folder, with a cache of its own."""
        kept = self.root / f"{dataset.name}-{cache}"
        kept.mkdir(exist_ok=True)
        return dataset.load(folder, kept)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """The kit's copies of the data sets."""
    return Shelf(tmp_path_factory.mktemp("datasets"))


def test_dataset_describes_itself(dataset: Dataset) -> None:
    """It is registered, a synthetic one is named so, and what stands in for it is synthetic."""
    from harness.plugin.manager import installed

    thing, datasets = f"data set {dataset.name!r}", installed().datasets
    if dataset.name not in datasets or type(datasets.get(dataset.name)) is not type(dataset):
        fail_check(
            thing,
            wanted="it among the installed data sets",
            got="nothing of that name, or another one",
            fix="register it in the hook harness_datasets, and install the package",
        )
    if dataset.synthetic != ("synthetic" in dataset.name):
        fail_check(
            thing,
            wanted="'synthetic' in the name of a synthetic data set, and of no other",
            got=f"synthetic = {dataset.synthetic}",
            fix="rename it: tables show the name, and made-up data must not be taken for real",
        )
    fallback = dataset.fallback
    if fallback is not None and not (fallback in datasets and datasets.get(fallback).synthetic):
        fail_check(
            thing,
            wanted="a registered synthetic data set as fallback",
            got=repr(fallback),
            fix="name one, or None",
        )
    if not dataset.summary:
        fail_check(thing, wanted="a line in `about`: what it is, its licence, its source", got="none", fix="write it")


def test_dataset_module_loads_no_torch(dataset: Dataset) -> None:
    """Its module can be imported, prints nothing and loads no torch."""
    imports_cleanly(f"data set {dataset.name!r}", type(dataset))


def test_dataset_recognises_its_folder_alone(dataset: Dataset, shelf: Shelf, tmp_path: Path) -> None:
    """It recognises its own folder, and neither an empty one nor one that is not there."""
    for folder in (tmp_path, tmp_path / "absent"):
        if dataset.matches(folder):
            fail_check(
                f"data set {dataset.name!r}",
                wanted="matches() is false for a folder that is empty or not there",
                got="true",
                fix="look for the files that load() reads",
            )
    if not dataset.matches(shelf.folder(dataset)):
        fail_check(
            f"data set {dataset.name!r}",
            wanted="matches() is true for the folder that make() wrote",
            got="false",
            fix="let both agree on the files",
        )


def test_dataset_fingerprint_is_of_the_content(dataset: Dataset, shelf: Shelf, tmp_path: Path) -> None:
    """The fingerprint is 64 hex digits, the same again and for the same files in another place."""
    folder, other = shelf.folder(dataset), tmp_path / "elsewhere"
    first, again = dataset.fingerprint(folder), dataset.fingerprint(folder)
    if not re.fullmatch(r"[0-9a-f]{64}", str(first)):
        fail_check(
            f"data set {dataset.name!r}",
            wanted="a fingerprint of 64 hex digits",
            got=repr(first),
            fix="return hashlib.sha256(...).hexdigest()",
        )
    if dataset.synthetic:
        shutil.copytree(folder, other)
    else:
        other.symlink_to(folder.resolve(), target_is_directory=True)
    moved = dataset.fingerprint(other)
    if not first == again == moved:
        fail_check(
            f"data set {dataset.name!r}",
            wanted="one fingerprint for one content, wherever it lies and however often it is asked",
            got=f"{first[:12]}, again {again[:12]}, elsewhere {moved[:12]}",
            fix="hash contents, versions and relative names in a sorted order; no absolute paths, no times",
        )


def test_dataset_loads(dataset: Dataset, shelf: Shelf) -> None:
    """It loads finite float32 examples of its task's shape, with both classes of each label in each part."""
    import numpy as np

    thing, data = f"data set {dataset.name!r}", _loaded(dataset, shelf)
    if data.task != dataset.task:
        fail_check(thing, wanted=f"data of its task, {dataset.task}", got=str(data.task), fix="pass self.task to Data")
    for name, part in data.splits():
        if part.inputs.dtype != np.float32 or part.targets.dtype != np.float32:
            fail_check(
                f"{thing}, {name} part",
                wanted="float32 inputs and targets",
                got=f"{part.inputs.dtype} and {part.targets.dtype}",
                fix="convert them by astype(np.float32)",
            )
        if not np.isin(part.targets, (0, 1)).all():
            fail_check(f"{thing}, {name} part", wanted="targets 0 or 1", got="others", fix="one column a label, 0 or 1")


def test_dataset_keeps_patients_apart(dataset: Dataset, shelf: Shelf) -> None:
    """No patient is in two parts."""
    data = _loaded(dataset, shelf)
    found = {name: set(part.patients.tolist()) for name, part in data.splits()}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if both := sorted(map(str, found[one] & found[other])):
            fail_check(
                f"data set {dataset.name!r}",
                wanted=f"no patient in both the {one} and the {other} part",
                got=f"{len(both)} are: {', '.join(both[:5])}",
                fix="split by patient, not by example",
            )


def test_dataset_loads_the_same_again(dataset: Dataset, shelf: Shelf) -> None:
    """A second load, from what the first one cached, gives the same arrays."""
    import numpy as np

    first, second = _loaded(dataset, shelf), shelf.load(dataset, shelf.folder(dataset), "cache")
    for (name, one), (_, other) in zip(first.splits(), second.splits(), strict=True):
        for array in ("inputs", "targets", "patients"):
            if not np.array_equal(getattr(one, array), getattr(other, array)):
                fail_check(
                    f"data set {dataset.name!r}, {name} part",
                    wanted="the same arrays from a second load",
                    got=f"other {array}",
                    fix="cache what is loaded whole and in one order; draw nothing at random without a fixed seed",
                )


def test_dataset_views_have_their_shapes(dataset: Dataset, shelf: Shelf) -> None:
    """Each declared layout gives finite float32 examples of the shape that it declares."""
    import numpy as np

    if not dataset.layouts:
        pytest.skip(f"{dataset.name} declares no views")
    inputs: FloatArray = _loaded(dataset, shelf).validation.inputs[:8]
    for name, task in dataset.layouts.items():
        layout = dataset.to_layout(inputs, name)
        if (
            layout.shape != (len(inputs), *task.input_shape)
            or layout.dtype != np.float32
            or not np.isfinite(layout).all()
        ):
            fail_check(
                f"data set {dataset.name!r}, layout {name!r}",
                wanted=f"finite float32 ({len(inputs)}, {', '.join(map(str, task.input_shape))})",
                got=f"{layout.dtype} {layout.shape}",
                fix="let to_layout() and layouts agree",
            )


def test_dataset_is_made_the_same_each_time(dataset: Dataset, shelf: Shelf, tmp_path: Path) -> None:
    """make() writes the same bytes into another folder."""
    if not dataset.synthetic:
        pytest.skip(f"{dataset.name} is not synthetic, so it is not made")
    dataset.make(tmp_path / "again")
    first, second = (_contents(folder) for folder in (shelf.folder(dataset), tmp_path / "again"))
    differ = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    if differ:
        fail_check(
            f"data set {dataset.name!r}",
            wanted="make() writes the same bytes each time",
            got=f"other: {some(sorted(differ))}",
            fix="draw from numpy.random.default_rng(a fixed seed), and write no times",
        )


def test_dataset_notices_what_is_missing(dataset: Dataset, shelf: Shelf, tmp_path: Path) -> None:
    """Without one of its files it is not recognised, loads as well, or raises DataError: never another exception."""
    if not dataset.synthetic:
        pytest.skip(f"{dataset.name} is real data, of which nothing is removed; its synthetic stand-in is checked")
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
                wanted="matches() is false, or DataError that names the file",
                got=f"{type(error).__name__}: {error}",
                fix="check for the file in matches(), or raise DataError where it is read",
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
            wanted="parts with finite examples of the task's shape, and both classes of each label",
            got=str(error),
            fix="see harness.Data.check",
        )
    return data


def _contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def _different_files(folder: Path) -> list[Path]:
    """A file of each kind, by its suffix and depth; with few files, all of them."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    if len(files) > MOST_REMOVED:
        files = list({(file.suffix, len(file.parts)): file for file in files}.values())
    return files[:MOST_REMOVED]


#: What an author imports: the checks and their fixtures.
__all__ = ["shelf", *(name for name in dir() if name.startswith("test_"))]
