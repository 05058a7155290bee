"""Locate data sets on this machine, choose a fallback for one that is missing, and load each once."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.api import Data, Dataset
from harness.data.hashes import remembered_in
from harness.errors import DataError, HarnessError, NoData, UsageError
from harness.keys import code_digest
from harness.plugin.manager import Plugins
from harness.progress import Display
from harness.store.local import Store

VARIABLE = "HARNESS_DATA"
DEFAULT = Path("data")
#: A data set's own folder, as users name it: NAME=FOLDER.
NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._+-]*)=(.+)")


@dataclasses.dataclass(frozen=True)
class Found:
    """A data set and its folder (None for one that is generated on demand: synthetic, or part of a package)."""

    dataset: Dataset
    folder: Path | None


def roots(option: str | None) -> list[Path]:
    """Return the folders to search: the option, else HARNESS_DATA (several, as in PATH), else ``./data``.

    Entries NAME=FOLDER are no such folders. Raises UsageError if a folder does not exist.
    """
    return [Path(entry) for entry in _entries(option) if not NAMED.fullmatch(entry)] or [DEFAULT]


def named_folders(option: str | None) -> dict[str, Path]:
    """Return the folders of single data sets, by their names: the entries NAME=FOLDER of the option or variable."""
    matches = (NAMED.fullmatch(entry) for entry in _entries(option))
    return {match[1]: Path(match[2]) for match in matches if match is not None}


def _entries(option: str | None) -> list[str]:
    """The entries of the option, else of the variable. Raises UsageError for one that is not a folder."""
    text = option or os.environ.get(VARIABLE, "")
    entries = [text] if text and Path(text).is_dir() else [entry for entry in text.split(os.pathsep) if entry]
    for entry in entries:
        match = NAMED.fullmatch(entry)
        if not Path(match[2] if match else entry).is_dir():
            source = "the option for data" if option else f"the variable {VARIABLE}"
            raise UsageError(f"{source} names {match[2] if match else entry}, which is not a folder")
    return entries


def candidates(dataset: Dataset, search_path: Sequence[Path]) -> list[Path]:
    """Return the existing folders that may hold ``dataset``: each root, and its subfolder of that name."""
    return [folder for root in search_path for folder in (root, root / dataset.name) if folder.is_dir()]


def locate(dataset: Dataset, search_path: Sequence[Path], plugins: Plugins) -> Path | None:
    """Return the first folder that holds ``dataset``. Raises DataError if its plugin fails."""
    matching = (f for f in candidates(dataset, search_path) if plugins.call(dataset, "matches", f))
    return next(matching, None)


def resolve(name: str, plugins: Plugins, option: str | None) -> Found:
    """Choose the data set for ``name``: that data set if it is on this machine, else its fallback.

    Raises NoData if there is neither, and DataError if the plugin fails. A folder that the user named must hold the
    data set: whoever names a folder does not want synthetic data. Raises UsageError, which ends the run, for a folder
    NAME=FOLDER that does not hold that data set.
    """
    dataset, named = plugins.datasets.get(name), named_folders(option)
    for other in named:
        plugins.datasets.get(other)  # a misspelt name would leave the folder unused
    if name in named:
        if not plugins.call(dataset, "matches", named[name]):
            raise UsageError(
                f"{named[name]} is not a complete {name}: {dataset.summary or 'see its documentation'}. Point "
                f"{name}=FOLDER at the folder that holds its files"
            )
        return Found(dataset, named[name])
    if dataset.synthetic or dataset.bundled:
        return Found(dataset, None)
    search_path = roots(option)
    folder = locate(dataset, search_path, plugins)
    if folder is not None:
        return Found(dataset, folder)
    for incomplete in (root / name for root in search_path):
        if incomplete.is_dir() and any(incomplete.iterdir()):
            raise NoData(
                f"{incomplete} exists but holds no complete {name}; complete it, or remove the folder "
                f"({_advice(dataset)})"
            )
    missing = f"data set {name!r} is not in {', '.join(str(root) for root in search_path)}"
    remedy = f"point --harness-data {name}=FOLDER or {VARIABLE} at it, or {_advice(dataset)}"
    if any(not NAMED.fullmatch(entry) for entry in _entries(option)):
        raise NoData(f"{missing}; {remedy}")
    if dataset.fallback is None:
        raise NoData(f"{missing} and has no fallback; {remedy}")
    return resolve(dataset.fallback, plugins, option)


def _advice(dataset: Dataset) -> str:
    """How to get a data set that is not on this machine."""
    if type(dataset).fetch is Dataset.fetch:
        return f"put its files into {DEFAULT / dataset.name}"
    return f"get it: harness data fetch {dataset.name}"


class Library:
    """The data sets of one run: their fingerprints and contents. Each is loaded once."""

    def __init__(self, plugins: Plugins, store: Store, option: str | None, display: Display) -> None:
        self._plugins = plugins
        self._store = store
        self._option = option
        self._display = display
        self._loaded: dict[tuple[str, int | None, str], Data | HarnessError] = {}

    def fingerprint(self, name: str) -> str:
        """The fingerprint of the data set called ``name``."""
        dataset, folder = self._locate(name)
        with remembered_in(self._store.data(name)):
            fingerprint = self._plugins.call(dataset, "fingerprint", folder)
        if not isinstance(fingerprint, str) or not fingerprint:
            raise DataError(f"fingerprint() of dataset {name!r} gives {fingerprint!r}, not a text of 64 hex digits")
        return fingerprint

    def load(self, name: str, evaluation: int | None = None, layout: str = "") -> Data:
        """The data of ``name``, checked: in ``layout``, with the first ``evaluation`` validation and test examples.

        Loading is not repeated after an error: every caller gets the same one.
        """
        key = (name, evaluation, layout)
        if key not in self._loaded:
            try:
                if layout:
                    data = self._to_layout(self.load(name, evaluation), name, layout)
                else:
                    data = self._read(name) if evaluation is None else _first_examples(self.load(name), evaluation)
                self._plugins.call(self._plugins.datasets.get(name), data.check, name)
                self._loaded[key] = data
            except HarnessError as error:
                self._loaded[key] = error
        loaded = self._loaded[key]
        if isinstance(loaded, HarnessError):
            raise loaded
        return loaded

    def _read(self, name: str) -> Data:
        dataset, folder = self._locate(name)
        # Older code may have filled its cache differently.
        cache = self._store.data(name) / (code_digest(type(dataset)) or "")
        with self._display.step(f"reading {name}") as progress, remembered_in(self._store.data(name)):
            data = self._plugins.call(dataset, "load", folder, cache, progress)
        if not isinstance(data, Data):
            raise DataError(f"load() of dataset {name!r} gives {type(data).__name__}, not a harness.Data")
        return data.read_by(dataset)

    def _to_layout(self, data: Data, name: str, layout: str) -> Data:
        dataset = self._plugins.datasets.get(name)
        splits = {
            split_name: dataclasses.replace(
                split, inputs=self._plugins.call(dataset, "to_layout", split.inputs, layout)
            )
            for split_name, split in data.splits()
        }
        return Data(dataset.task_in(layout), **splits)

    def _locate(self, name: str) -> tuple[Dataset, Path]:
        """The data set and its folder. Synthetic data, and data of packages, are written into the store."""
        location = resolve(name, self._plugins, self._option)
        dataset = location.dataset
        if dataset.name != name:
            raise DataError(f"dataset {name!r} was present when the suite was collected, but is missing now")
        if location.folder is not None:
            return dataset, location.folder
        folder = self._store.data(name) / f"made-{dataset.version}"
        if not self._plugins.call(dataset, "matches", folder):
            self._plugins.call(dataset, "make", folder)
        return dataset, folder


def _first_examples(data: Data, count: int) -> Data:
    return dataclasses.replace(data, validation=data.validation.take(slice(count)), test=data.test.take(slice(count)))


@dataclasses.dataclass(frozen=True)
class Status:
    """Where a data set is: its ``folder``, if it was found; ``problem`` is why its plugin could not look."""

    name: str
    summary: str
    synthetic: bool
    folder: str | None
    searched: tuple[str, ...]
    problem: str | None = None
    #: Whether the files come with an installed package.
    bundled: bool = False
    #: How to get a data set that was not found.
    advice: str = ""

    def __str__(self) -> str:
        """The lines for users: the folder, or how to get the data set."""
        if self.problem is not None:
            return f"{self.name}: {self.problem}"
        state = f"not found in {', '.join(self.searched)}; {self.advice}"
        if self.synthetic and self.folder is None:
            state = "made when it is needed"
        elif self.bundled and self.folder is None:
            state = "comes with an installed package"
        elif self.folder is not None:
            state = f"found in {self.folder}"
        return f"{self.name}: {state}\n    {self.summary}"


def status(plugins: Plugins, option: str | None) -> Iterator[Status]:
    """Yield where each data set is."""
    search_path, named = roots(option), named_folders(option)
    for name in plugins.datasets:
        dataset = plugins.datasets.get(name)
        folder = problem = None
        is_made = (dataset.synthetic or dataset.bundled) and name not in named
        if not is_made:
            try:
                folder = (
                    resolve(name, plugins, option).folder if name in named else locate(dataset, search_path, plugins)
                )
            except (DataError, UsageError) as error:
                problem = str(error)
        searched = () if is_made else tuple(map(str, search_path))
        place = None if folder is None else str(folder)
        advice = "" if is_made or place is not None else _advice(dataset)
        yield Status(name, dataset.summary, dataset.synthetic, place, searched, problem, dataset.bundled, advice)
