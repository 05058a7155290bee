"""Where data sets are on this machine, what stands in for one that is not, and loading each once."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.plugin.containment import Tell
from harness.api import Data, Dataset, Split
from harness.errors import DataError, HarnessError, NoData, UsageError
from harness.plugin.manager import Plugins
from harness.run.progress import Display
from harness.keys import code_digest
from harness.store.local import Store

VARIABLE = "HARNESS_DATA"
DEFAULT = Path("data")


@dataclasses.dataclass(frozen=True)
class Found:
    """A data set to be used: its contract and its folder (None for one that is made when it is needed)."""

    dataset: Dataset
    folder: Path | None


def roots(option: str | None) -> list[Path]:
    """Where to look: the option, else the environment's HARNESS_DATA (several, as in PATH), else ``./data``.

    Raises UsageError for a folder that was named and does not exist.
    """
    named = [option] if option else [entry for entry in os.environ.get(VARIABLE, "").split(os.pathsep) if entry]
    for entry in named:
        if not Path(entry).is_dir():
            source = "the option for data" if option else f"the variable {VARIABLE}"
            raise UsageError(f"{source} names {entry}, which is not a folder")
    return [Path(entry) for entry in named] or [DEFAULT]


def locate(dataset: Dataset, where: Sequence[Path]) -> Path | None:
    """The first folder that holds ``dataset``: a root itself, or the folder of its name in a root."""
    candidates = (folder for root in where for folder in (root, root / dataset.name))
    return next((folder for folder in candidates if folder.is_dir() and dataset.matches(folder)), None)


def contain(
    plugins: Plugins, name: str, method: str, say: Tell | None = None, files: bool = False
) -> contextlib.AbstractContextManager[None]:
    """Run code of the data set called ``name``: whatever it raises becomes a DataError that names it.

    ``files``: whether to tell of those that it leaves open, which data that are mapped into memory are.
    """
    thing, what = type(plugins.datasets.get(name)), f"{method}() of data set {name!r}"
    return plugins.contain(plugins.datasets.origin(name), what, say, error=DataError, thing=thing, files=files)


def resolve(name: str, plugins: Plugins, option: str | None) -> Found:
    """The data set to use for ``name``: itself when it is found, else its stand-in.

    Raises NoData where it is not found and none stands in, and DataError when its plugin cannot tell. A root that was
    named and holds none of it is an error: who points at data does not want made-up data instead.
    """
    dataset = plugins.datasets.get(name)
    if dataset.synthetic:
        return Found(dataset, None)
    where = roots(option)
    with contain(plugins, name, "matches"):
        folder = locate(dataset, where)
    if folder is not None:
        return Found(dataset, folder)
    for incomplete in (root / name for root in where):
        if incomplete.is_dir() and any(incomplete.iterdir()):
            raise NoData(
                f"{incomplete} is there but is no complete {name}; complete it, or remove the folder (harness data "
                f"fetch {name} goes on where it stopped, or says how to get the data)"
            )
    missing = f"data set {name!r} is not in {', '.join(str(root) for root in where)}"
    remedy = f"point --harness-data or {VARIABLE} at it, or get it: harness data fetch {name}"
    if option or os.environ.get(VARIABLE):
        raise NoData(f"{missing}; {remedy}")
    if dataset.fallback is None:
        raise NoData(f"{missing} and nothing stands in for it; {remedy}")
    return resolve(dataset.fallback, plugins, option)


class Library:
    """The data sets of one run: fingerprints and contents, each made once."""

    def __init__(self, plugins: Plugins, store: Store, option: str | None, display: Display) -> None:
        self._plugins = plugins
        self._store = store
        self._option = option
        self._display = display
        self._loaded: dict[tuple[str, int | None, str], Data | HarnessError] = {}

    def fingerprint(self, name: str) -> str:
        """The fingerprint of the data set called ``name``."""
        found = self._found(name)
        with contain(self._plugins, name, "fingerprint", self._display.say, files=True):
            given: object = found.dataset.fingerprint(self._folder(found))
        if not isinstance(given, str) or not given:
            raise DataError(f"fingerprint() of data set {name!r} gives {given!r}, not a text of 64 hex digits")
        return given

    def load(self, name: str, evaluation: int | None = None, layout: str = "") -> Data:
        """The data, checked. ``evaluation`` bounds the validation and the test split to their first examples.

        ``layout`` names the form of the examples. What cannot be loaded is not tried again: the same error is raised for
        everything that needs it.
        """
        key = (name, evaluation, layout)
        if key not in self._loaded:
            try:
                if layout:
                    data = self._arranged(self.load(name, evaluation), name, layout)
                else:
                    data = self._read(name) if evaluation is None else _smaller(self.load(name), evaluation)
                with contain(self._plugins, name, "layout" if layout else "load"):
                    data.check(name)
                self._loaded[key] = data
            except HarnessError as error:
                self._loaded[key] = error
        found = self._loaded[key]
        if isinstance(found, HarnessError):
            raise found
        return found

    def _read(self, name: str) -> Data:
        found = self._found(name)
        with (
            self._display.step(f"reading {name}") as progress,
            contain(self._plugins, name, "load", self._display.say),
        ):
            # What older code prepared is not what this code would.
            kept = self._store.data(name) / (code_digest(type(found.dataset)) or "")
            given: object = found.dataset.load(self._folder(found), kept, progress)
        if not isinstance(given, Data):
            raise DataError(f"load() of data set {name!r} gives {type(given).__name__}, not a harness.Data")
        return given

    def _arranged(self, data: Data, name: str, layout: str) -> Data:
        dataset = self._plugins.datasets.get(name)
        with contain(self._plugins, name, "layout", self._display.say):
            parts = {
                which: dataclasses.replace(part, inputs=dataset.to_layout(part.inputs, layout)) for which, part in data.splits()
            }
        return Data(dataset.task_in(layout), **parts)

    def _found(self, name: str) -> Found:
        found = resolve(name, self._plugins, self._option)
        if found.dataset.name != name:
            raise DataError(f"data set {name!r} was there when the suite was collected and is gone now")
        return found

    def _folder(self, found: Found) -> Path:
        if found.folder is not None:
            return found.folder
        folder = self._store.data(found.dataset.name) / f"made-{found.dataset.version}"
        if not found.dataset.matches(folder):
            found.dataset.make(folder)
        return folder


def _smaller(data: Data, evaluation: int) -> Data:
    return dataclasses.replace(data, validation=_first(data.validation, evaluation), test=_first(data.test, evaluation))


def _first(part: Split, count: int) -> Split:
    return Split(part.inputs[:count], part.targets[:count], part.patients[:count])


def status(plugins: Plugins, option: str | None, say: Callable[[str], None]) -> None:
    """Say for each data set whether it is found, and where or how to get it."""
    where = roots(option)
    for name in plugins.datasets:
        dataset = plugins.datasets.get(name)
        if dataset.synthetic:
            state = "made when it is needed"
        else:
            try:
                with contain(plugins, name, "matches"):
                    folder = locate(dataset, where)
            except DataError as error:
                say(f"{name}: {error}")
                continue
            searched = ", ".join(str(root) for root in where)
            state = f"found in {folder}" if folder else f"not found in {searched}; get it: harness data fetch {name}"
        say(f"{name}: {state}\n    {dataset.summary}")
