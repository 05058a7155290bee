"""Where data sets are on this machine, what stands in for one that is not, and loading each once."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.contracts import Data, Dataset, Part, Progress, silent
from harness.errors import DataError, HarnessError, UsageError
from harness.plugins import Plugins
from harness.store import Store

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
            source = "--harness-data" if option else VARIABLE
            raise UsageError(f"{source} names {entry}, which is not a folder")
    return [Path(entry) for entry in named] or [DEFAULT]


def locate(dataset: Dataset, where: Sequence[Path]) -> Path | None:
    """The first folder that holds ``dataset``: a root itself, or the folder of its name in a root."""
    candidates = (folder for root in where for folder in (root, root / dataset.name))
    return next((folder for folder in candidates if folder.is_dir() and dataset.recognises(folder)), None)


def resolve(name: str, plugins: Plugins, option: str | None) -> Found:
    """The data set to use for ``name``: itself when it is found, else its stand-in.

    A root that was named and holds none of it is an error: who points at data does not want made-up data instead.
    """
    dataset = plugins.datasets.get(name)
    if dataset.synthetic:
        return Found(dataset, None)
    where = roots(option)
    folder = locate(dataset, where)
    if folder is not None:
        return Found(dataset, folder)
    missing = f"data set {name!r} is not in {', '.join(str(root) for root in where)}"
    remedy = f"point --harness-data or {VARIABLE} at it, or get it: harness data fetch {name}"
    if option or os.environ.get(VARIABLE):
        raise UsageError(f"{missing}; {remedy}")
    if dataset.stand_in is None:
        raise UsageError(f"{missing} and nothing stands in for it; {remedy}")
    return resolve(dataset.stand_in, plugins, option)


class Library:
    """The data sets of one run: fingerprints and contents, each made once."""

    def __init__(self, plugins: Plugins, store: Store, option: str | None, progress: Progress = silent) -> None:
        self._plugins = plugins
        self._store = store
        self._option = option
        self._progress = progress
        self._loaded: dict[tuple[str, int | None], Data] = {}

    def fingerprint(self, name: str) -> str:
        """The fingerprint of the data set called ``name``."""
        found = self._found(name)
        with _named(name):
            return found.dataset.fingerprint(self._folder(found))

    def load(self, name: str, evaluation: int | None = None) -> Data:
        """The data, checked. ``evaluation`` bounds the validation and the test part to their first examples."""
        if (name, evaluation) not in self._loaded:
            if evaluation is None:
                found = self._found(name)
                with _named(name):
                    data = found.dataset.load(self._folder(found), self._store.data(name), self._progress)
            else:
                whole = self.load(name)
                validation, test = _first(whole.validation, evaluation), _first(whole.test, evaluation)
                data = dataclasses.replace(whole, validation=validation, test=test)
            data.check(name)
            self._loaded[name, evaluation] = data
        return self._loaded[name, evaluation]

    def _found(self, name: str) -> Found:
        found = resolve(name, self._plugins, self._option)
        if found.dataset.name != name:
            raise DataError(f"data set {name!r} was there when the suite was collected and is gone now")
        return found

    def _folder(self, found: Found) -> Path:
        if found.folder is not None:
            return found.folder
        folder = self._store.data(found.dataset.name) / f"made-{found.dataset.version}"
        if not found.dataset.recognises(folder):
            found.dataset.make(folder)
        return folder


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Whatever a data set raises becomes an error that names it."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        raise DataError(f"data set {name!r} failed: {type(error).__name__}: {error}") from error


def _first(part: Part, count: int) -> Part:
    return Part(part.inputs[:count], part.targets[:count], part.patients[:count])


def status(plugins: Plugins, option: str | None, say: Callable[[str], None]) -> None:
    """Say for each data set whether it is found, and where or how to get it."""
    where = roots(option)
    for name in plugins.datasets:
        dataset = plugins.datasets.get(name)
        if dataset.synthetic:
            state = "made when it is needed"
        else:
            folder = locate(dataset, where)
            searched = ", ".join(str(root) for root in where)
            state = f"found in {folder}" if folder else f"not found in {searched}; get it: harness data fetch {name}"
        say(f"{name}: {state}\n    {dataset.about}")
