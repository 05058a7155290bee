"""Find garbage in a store: artefacts that no kept run needs, as its own or as ancestors, and no run used recently."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

from harness.errors import StoreError, UsageError
from harness.keys import key_of
from harness.records.runs import documents_in, load
from harness.store.entry import Entry, Metadata
from harness.store.layout import is_key

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Place(Protocol):
    """A store whose garbage is collected: the local store (opened without a shared one), or a shared store."""

    def entries(self) -> list[Entry]:
        """List all artefacts."""

    def leftovers(self) -> list[Entry]:
        """List what else interruptions left: checkpoints, incomplete uploads."""

    def describe(self, keys: Iterable[str]) -> Mapping[str, Metadata]:
        """Return the metadata of those of ``keys`` that are readable."""

    def remove(self, entry: Entry) -> bool:
        """Remove an entry as a whole; return False if it was used or removed since it was listed."""


def age(text: str) -> float:
    """Convert an age such as 45s, 30m, 12h, 7d or 2w to seconds. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([smhdw])", text.strip())
    if match is None:
        raise UsageError(f"the age {text!r} is not a number with a unit, such as 12h, 7d or 2w")
    return float(match[1]) * UNITS[match[2]]


@dataclasses.dataclass(frozen=True)
class Kept:
    """What the kept runs name: the keys of the artefacts and deployables that they measured, and the key documents.

    Only a local store has deployables, so none is missing elsewhere.
    """

    keys: Set[str] = frozenset()
    documents: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    deployables: Set[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Garbage:
    """What can be removed and what is kept; ``missing`` are keys that kept runs name and the place lacks."""

    artefacts: Sequence[Entry]
    leftovers: Sequence[Entry]
    kept: Sequence[Entry]
    missing: Set[str]


def named(runs: Iterable[Path]) -> Kept:
    """Collect what the records of these runs name. Raises UsageError for a file that cannot be read."""
    keys: set[str] = set()
    deployables: set[str] = set()
    documents: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        document, records = load(run)
        for record in records:
            refs = [record.artefact, record.reference_artefact]
            refs += [] if record.against is None else [record.against.artefact]
            artefacts = {ref.key for ref in refs}
            deployables |= {ref.deployable for ref in refs if is_key(ref.deployable)}
            if not all(map(is_key, artefacts)):
                raise UsageError(
                    f"{run} is damaged: the artefacts of {record.name} are {sorted(artefacts)}, which are no keys; "
                    "nothing was removed"
                )
            keys |= artefacts
        for key, entry in documents_in(document).items():
            with contextlib.suppress(UsageError):  # a document without a key is invalid; the place is asked for it
                documents |= {key: entry} if key_of(entry) == key else {}
    return Kept(keys, documents, deployables)


def find(place: Place, kept: Kept, before: float) -> Garbage:
    """Find what ``kept`` does not need and no run has used since ``before`` (seconds since 1970).

    Needed are the artefacts that ``kept`` names or that were used since (a run that has not ended may name them), and
    all their ancestors, according to the documents of the runs and of the place. Raises StoreError when the metadata
    of a needed artefact cannot be read, so that its ancestors are unknown.
    """
    entries = {entry.name: entry for entry in place.entries()}
    recent = {entry.name for entry in entries.values() if not _older(entry, before)}
    deployed = kept.deployables & entries.keys()
    needed = _closure(place, entries, kept.keys | deployed | recent, kept.documents)
    return Garbage(
        artefacts=[entry for entry in entries.values() if entry.name not in needed],
        leftovers=[entry for entry in place.leftovers() if _older(entry, before)],
        kept=[entry for entry in entries.values() if entry.name in needed],
        missing=kept.keys - {entry.name for entry in entries.values() if entry.complete},
    )


def _older(entry: Entry, before: float) -> bool:
    return entry.used is not None and entry.used < before


def _closure(
    place: Place, entries: Mapping[str, Entry], keys: Set[str], documents: Mapping[str, Mapping[str, Any]]
) -> set[str]:
    """Return ``keys`` and, over any number of steps, the keys that their documents name."""
    closure: set[str] = set()
    new = set(keys)
    while new:
        closure |= new
        unread = (new & entries.keys()) - documents.keys()
        described = {key: one.document for key, one in place.describe(unread).items()}
        for key in sorted(unread - described.keys()):
            if entries[key].complete:
                raise StoreError(
                    f"artefact {key} is needed but its metadata cannot be read, so its ancestors are unknown: "
                    f"nothing was removed; run its suite again, or remove {' and '.join(entries[key].files)}"
                )
        texts = set(_texts([*described.values(), *(documents[key] for key in new & documents.keys())]))
        new = (texts & (entries.keys() | documents.keys())) - closure
    return closure


def _texts(document: Any) -> Iterator[str]:
    """Yield all strings in a document: every key among them is that of an ancestor, whatever the field is called."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, (list, Mapping)):
        for entry in document.values() if isinstance(document, Mapping) else document:
            yield from _texts(entry)
