"""Runs: benchmark JSON files as wholes, with when they were made and from which commit, in the order of time."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.records.changes import Documents
from harness.records.record import Left, Record, documents_in, left_in, load
from harness.records.schema import fault


@dataclasses.dataclass(frozen=True)
class Commit:
    """The commit that a run was made from; ``dirty``: with changes besides. What is not known is None."""

    id: str | None = None
    branch: str | None = None
    dirty: bool = False
    date: datetime | None = None

    @property
    def short(self) -> str:
        """The first seven digits of its id, and whether there were changes besides."""
        return "no commit" if self.id is None else self.id[:7] + (" (dirty)" if self.dirty else "")


@dataclasses.dataclass(frozen=True)
class Run:
    """One benchmark JSON; ``date`` is in UTC."""

    path: Path
    date: datetime
    commit: Commit
    records: tuple[Record, ...]
    #: What the artefacts depend on, by their keys.
    documents: Documents = dataclasses.field(default_factory=dict)
    #: What was selected and not measured.
    left: tuple[Left, ...] = ()


def read(file: Path) -> Run:
    """The run in a file. Raises UsageError for what is no run, is damaged, or does not say when it was made."""
    document, records = load(file)
    for number, record in enumerate(records, 1):
        if found := fault(record, Record):
            raise UsageError(f"{file} is damaged: in record {number}, {found}; restore it, or run again")
    date = _date(document.get("datetime"))
    if date is None:
        raise UsageError(
            f"{file} does not say when it was made: its datetime is {document.get('datetime')!r}; take the file as "
            "pytest-benchmark wrote it"
        )
    return Run(
        file,
        date,
        commit_of(document.get("commit_info")),
        tuple(records),
        documents_in(document),
        tuple(left_in(document)),
    )


def collect(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs of files, and of all JSON files in folders and below, in the order of time; those of one time as given.

    Also remarks: what in a folder is no run, and is passed over; which runs are copies of others, and count once; whose
    clock was wrong. A file that is named itself must be a run: raises UsageError, as it does where there is no run.
    """
    runs: dict[Path, Run] = {}
    remarks = []
    for file, named in _files(paths):
        if file.resolve() in runs:
            continue
        try:
            runs[file.resolve()] = read(file)
        except UsageError as error:
            if named:
                raise
            remarks.append(f"passed over: {str(error).partition(';')[0]}")
    kept: list[Run] = []
    for run in sorted(runs.values(), key=lambda run: run.date):
        twin = next((other for other in reversed(kept) if _same(run, other)), None)
        if twin is None:
            kept.append(run)
            remarks.extend(_doubts(run))
        else:
            remarks.append(f"passed over: {run.path} is a copy of {twin.path}")
    if not kept:
        raise UsageError(
            "\n".join([f"there is no run in {', '.join(map(str, paths))}; make one with --benchmark-json", *remarks])
        )
    return kept, remarks


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run, for people: its date and commit; with the time, then the file, where these do not tell."""
    names: list[str] = []
    for form in ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"):
        names = [f"{run.date:{form}} {run.commit.short}" for run in runs]
        if len(set(names)) == len(runs):
            return names
    return [f"{name} {run.path}" for name, run in zip(names, runs, strict=True)]


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """The files, each with whether it was named itself."""
    for path in paths:
        if path.is_dir():
            yield from ((file, False) for file in sorted(path.rglob("*.json")) if file.is_file())
        else:
            yield path, True


def _same(run: Run, other: Run) -> bool:
    return run.date == other.date and run.commit == other.commit and run.records == other.records


def _doubts(run: Run) -> Iterator[str]:
    if run.commit.date is not None and run.date < run.commit.date:
        yield (
            f"{run.path} says that it was made at {run.date:%Y-%m-%d %H:%M} and from a commit of "
            f"{run.commit.date:%Y-%m-%d %H:%M}: a clock was wrong, and its place in the order of time may be"
        )


def commit_of(info: Any) -> Commit:
    """The commit that pytest-benchmark tells of."""
    if not isinstance(info, Mapping):
        return Commit()
    name, branch = info.get("id"), info.get("branch")
    known = isinstance(name, str) and re.fullmatch(r"[0-9a-f]{7,64}", name)
    return Commit(
        id=name if known else None,
        branch=branch if isinstance(branch, str) else None,
        dirty=info.get("dirty") is True,
        date=_date(info.get("time")),
    )


def _date(text: Any) -> datetime | None:
    """A moment, in UTC; also where the text does not say so."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
