"""Garbage: artefacts that no kept run names, that none of its models came from, and that nobody used for a while."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NoReturn, Protocol

from filelock import FileLock, Timeout

from harness.errors import StoreError, UsageError, explain_disk_errors
from harness.files import process_prefix
from harness.keys import key_of
from harness.records.runs import documents_in, load
from harness.store.entry import META, MODEL, Damaged, Description, Entry, parse

KEY = re.compile(r"[0-9a-f]{64}")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Place(Protocol):
    """Where artefacts lie: the local store's folder, or a shared store."""

    def entries(self) -> list[Entry]:
        """All artefacts."""

    def leftovers(self) -> list[Entry]:
        """What else interruptions left: checkpoints, halves of uploads."""

    def describe(self, keys: Iterable[str]) -> Mapping[str, Description]:
        """The descriptions that are there and can be read."""

    def remove(self, entry: Entry) -> bool:
        """Remove it whole, unless somebody uses it meanwhile; whether it was done."""


def age(text: str) -> float:
    """Seconds, from a number with a unit: 45s, 30m, 12h, 7d, 2w. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([smhdw])", text.strip())
    if match is None:
        raise UsageError(f"the age {text!r} is not a number with a unit, such as 12h, 7d or 2w")
    return float(match[1]) * UNITS[match[2]]


@dataclasses.dataclass(frozen=True)
class Kept:
    """What runs name: the keys of the artefacts that they measured, and the documents that they hold, by their keys."""

    keys: Set[str] = frozenset()
    documents: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Garbage:
    """What may go and what stays; ``absent`` are the keys that kept runs name and the place does not have."""

    artefacts: Sequence[Entry]
    leftovers: Sequence[Entry]
    kept: Sequence[Entry]
    absent: Set[str]


def named(runs: Iterable[Path]) -> Kept:
    """What these runs' records name. Raises UsageError for a file that cannot be read."""
    keys: set[str] = set()
    documents: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        document, records = load(run)
        for record in records:
            own = {record.artefact.key, record.reference_artefact.key}
            if record.against is not None:
                own.add(record.against.artefact.key)
            if not all(map(KEY.fullmatch, own)):
                raise UsageError(
                    f"{run} is damaged: the artefacts of {record.name} are {sorted(own)}, which are no keys; "
                    "nothing was removed"
                )
            keys |= own
        for key, entry in documents_in(document).items():
            with contextlib.suppress(UsageError):  # one without a key is not what it says, and is asked for elsewhere
                documents |= {key: entry} if key_of(entry) == key else {}
    return Kept(keys, documents)


def find(place: Place, kept: Kept, before: float) -> Garbage:
    """What ``kept`` does not need and nobody has used since ``before`` (seconds since 1970).

    An artefact is needed with all that it came from, by the documents of the runs and of the place, and so is one that
    was used since: a run may be about to name it. Raises StoreError when nobody can tell what a needed one came from.
    """
    entries = {entry.name: entry for entry in place.entries()}
    recent = {entry.name for entry in entries.values() if not _older(entry, before)}
    needed = _closure(place, entries, kept.keys | recent, kept.documents)
    return Garbage(
        artefacts=[entry for entry in entries.values() if entry.name not in needed],
        leftovers=[entry for entry in place.leftovers() if _older(entry, before)],
        kept=[entry for entry in entries.values() if entry.name in needed],
        absent=kept.keys - {entry.name for entry in entries.values() if entry.whole},
    )


def _older(entry: Entry, before: float) -> bool:
    return entry.used is not None and entry.used < before


def _closure(
    place: Place, entries: Mapping[str, Entry], keys: Set[str], documents: Mapping[str, Mapping[str, Any]]
) -> set[str]:
    """``keys`` and, over any number of steps, what their documents name."""
    found: set[str] = set()
    new = set(keys)
    while new:
        found |= new
        asked = (new & entries.keys()) - documents.keys()
        described = {key: one.document for key, one in place.describe(asked).items()}
        for key in sorted(asked - described.keys()):
            if entries[key].whole:
                raise StoreError(
                    f"artefact {key} is needed but its description cannot be read, so nobody knows what it came from: "
                    f"nothing was removed; run its suite again, or remove {' and '.join(entries[key].files)}"
                )
        texts = set(_texts([*described.values(), *(documents[key] for key in new & documents.keys())]))
        new = (texts & (entries.keys() | documents.keys())) - found
    return found


def _texts(document: Any) -> Iterator[str]:
    """All texts in a document. Whatever is a key there is an ancestor, under whichever name."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, (list, Mapping)):
        for entry in document.values() if isinstance(document, Mapping) else document:
            yield from _texts(entry)


class Folder:
    """The local store's folder as a place; nothing is made in one that is not there."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def entries(self) -> list[Entry]:
        folders = [folder for half in _folders(self._root / "artefacts") for folder in _folders(half)]
        return [entry for folder in folders if KEY.fullmatch(folder.name) for entry in _look(folder)]

    def leftovers(self) -> list[Entry]:
        """The checkpoints of trainings that did not end."""
        return [entry for folder in _folders(self._root / "progress") for entry in _look(folder)]

    def describe(self, keys: Iterable[str]) -> Mapping[str, Description]:
        found = {}
        for key in keys:
            with contextlib.suppress(OSError, Damaged):
                found[key] = parse(key, (self._root / "artefacts" / key[:2] / key / META).read_bytes())
        return found

    def remove(self, entry: Entry) -> bool:
        (folder,) = map(Path, entry.files)
        temporary = self._root / "tmp"
        with explain_disk_errors(f"cannot remove from {self._root}", "then collect again"):
            for needed in (temporary, self._root / "locks"):
                needed.mkdir(exist_ok=True)
            try:
                with (
                    FileLock(self._root / "locks" / f"{entry.name}.lock", timeout=0),
                    tempfile.TemporaryDirectory(dir=temporary, prefix=process_prefix()) as aside,
                ):
                    if [now.used for now in _look(folder)] != [entry.used]:
                        return False
                    folder.rename(Path(aside) / entry.name)  # so that a reader finds all of it or nothing
            except (Timeout, FileNotFoundError):  # a run makes it just now, or it is gone
                return False
        return True


# What follows does not use glob, which passes over what it may not read: that would count as not there.


def _folders(parent: Path) -> list[Path]:
    with explain_disk_errors(f"cannot look into {parent}", "then collect again"):
        try:
            return sorted(path for path in parent.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []


def _look(folder: Path) -> list[Entry]:
    """The folder's entry; none for a folder that is gone. Raises StoreError for one that cannot be looked into."""

    def fail(error: OSError) -> NoReturn:
        raise error

    with explain_disk_errors(f"cannot look into {folder}", "then collect again"):
        for _ in range(3):  # a run may be replacing it
            with contextlib.suppress(FileNotFoundError):
                walked = list(os.walk(folder, onerror=fail))
                files = [Path(path, name) for path, _, names in walked for name in names]
                size = sum(file.stat().st_size for file in files)
                used = max(path.stat().st_mtime for path in (*(Path(path) for path, _, _ in walked), *files))
                whole = {folder / META, folder / MODEL} <= set(files)
                return [Entry(folder.name, size, used, (str(folder),), whole)]
            time.sleep(0.01)
    return []
