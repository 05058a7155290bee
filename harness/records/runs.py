"""Read run files: the records of each file, when the run was made and from which commit, and the order of runs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.api.metrics import MOST_DIGITS
from harness.errors import UsageError
from harness.records.changes import Documents
from harness.records.journal import (
    SUFFIX,
    count_cells,
    interrupted_journals,
    is_running,
    read_journal,
    recovery,
)
from harness.records.record import CHECKSUM, FIELD, SCHEMA, Interval, Record, Unmeasured, decode, verify
from harness.records.verdicts import attach, decide, verdicts_in

logger = logging.getLogger(__name__)
#: The axes that every cell has.
AXES = ("dataset", "architecture", "runtime", "profile", "seed")


@dataclasses.dataclass(frozen=True)
class Commit:
    """The commit that a run was made from; unknown values are None. ``dirty``: with uncommitted changes."""

    id: str | None = None
    branch: str | None = None
    dirty: bool = False
    date: datetime | None = None

    @property
    def short(self) -> str:
        """The first seven digits of the id, with "(dirty)" for uncommitted changes."""
        return "no commit" if self.id is None else self.id[:7] + (" (dirty)" if self.dirty else "")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run file; ``date`` is in UTC."""

    path: Path
    date: datetime
    commit: Commit
    records: tuple[Record, ...]
    #: The key documents of the artefacts, by key.
    documents: Documents = dataclasses.field(default_factory=dict)
    #: The cells that were selected and not measured.
    unmeasured: tuple[Unmeasured, ...] = ()
    #: By collected suite, the names of its cells that were not selected; None in files of earlier versions.
    suites: Mapping[str, frozenset[str]] | None = None


def read(file: Path) -> Run:
    """Read the run in a file. Raises UsageError as `load` does, and for a file without a date."""
    document, records = load(file)
    date = _date(document.get("datetime"))
    if date is None:
        raise UsageError(
            f"{file} does not say when it was made: its datetime is {document.get('datetime')!r}; take the file as "
            "pytest-benchmark wrote it"
        )
    commit = commit_of(document.get("commit_info"))
    unmeasured = tuple(unmeasured_in(document))
    return Run(file, date, commit, tuple(records), documents_in(document), unmeasured, suites_in(document))


def read_records(file: Path) -> list[Record]:
    """Read the records of a run file, in order; the file needs no date. Raises UsageError as `load` does."""
    return load(file)[1]


def collect(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Read the runs in files and in all JSON files below folders, in order of time, then of the arguments.

    Also returns remarks: files of a folder that are no runs and were skipped, copies that were skipped, and runs with
    a wrong clock. Raises UsageError for a named file that is no run, and if there is no run at all.
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
            remarks.append(f"skipped: {str(error).partition(';')[0]}")
    unique: list[Run] = []
    for run in sorted(runs.values(), key=lambda run: run.date):
        twin = next((earlier for earlier in reversed(unique) if _same(run, earlier)), None)
        if twin is None:
            unique.append(run)
            remarks.extend(_doubts(run))
        else:
            remarks.append(f"skipped: {run.path} is a copy of {twin.path}")
    if not unique:
        raise UsageError(
            "\n".join([f"there is no run in {', '.join(map(str, paths))}; make one with --benchmark-json", *remarks])
        )
    return unique, remarks


def labels(runs: Sequence[Run]) -> list[str]:
    """Label each run with date and commit; with the time, or else the file, if these are not unique."""
    names: list[str] = []
    for form in ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"):
        names = [f"{run.date:{form}} {run.commit.short}" for run in runs]
        if len(set(names)) == len(runs):
            return names
    return [f"{name} {run.path}" for name, run in zip(names, runs, strict=True)]


def load(file: Path) -> tuple[dict[str, Any], list[Record]]:
    """Read the JSON of a run file, or the journal of a run, and its records in order. Warns of an interrupted run.

    Raises UsageError for a file that cannot be read, has no record, has records of another schema, or is damaged: also
    where a record or a verdict does not match its checksum.
    """
    document = read_journal(file) if file.name.endswith(SUFFIX) else _read_json(file)
    benchmarks = document.get("benchmarks") if isinstance(document, Mapping) else None
    entries = benchmarks if isinstance(benchmarks, list) else []
    extras = [entry.get("extra_info") for entry in entries if isinstance(entry, Mapping)]
    ours = [extra for extra in extras if isinstance(extra, Mapping) and isinstance(extra.get(FIELD), dict)]
    if not ours and file.name.endswith(SUFFIX):
        raise UsageError(f"{file} holds no record of a cell: its run ended, or still is, before the end of the first")
    if not ours:
        raise UsageError(f"{file} holds no record of this harness; make one: pytest SUITE.py --benchmark-json={file}")
    for extra in ours:
        if (schema := extra[FIELD].get("schema")) != SCHEMA:
            raise UsageError(f"{file} has records of schema {schema}; this version reads {SCHEMA}")
    records: list[Record] = []
    for number, extra in enumerate(ours, 1):
        value = extra[FIELD]
        try:
            records.append(decode(value))
            _check(records[-1])
            if CHECKSUM in extra:  # records of earlier versions have none
                verify(value, extra[CHECKSUM])
        except ValueError as error:
            cell = f" (cell {value['cell']})" if isinstance(value.get("cell"), str) else ""
            raise UsageError(
                f"{file} is damaged: record {number}{cell}, {error}; restore the file, or run again"
            ) from error
    try:
        records = _with_verdicts(document, records)
    except ValueError as error:
        raise UsageError(f"{file} is damaged: {error}; restore the file, or run again") from error
    _warn_of_interruption(file, document)
    return document, records


def _check(record: Record) -> None:
    """Raise ValueError for a record that lacks what every record has, or that contradicts itself."""
    if missing := [name for name in AXES if name not in record.axes]:
        raise ValueError(f"axes: no {missing[0]}")
    for place, figures in (("figures", record.figures), ("against.figures", getattr(record.against, "figures", {}))):
        for name, figure in figures.items():
            if not name.isprintable():
                raise ValueError(f"{place}: {name!r} is no line of printable text")
            if not 0 <= figure.digits <= MOST_DIGITS:
                raise ValueError(f"{place}.{name}.digits: {figure.digits} is not from 0 to {MOST_DIGITS}")
    timings = {"timing": record.timing, "against.timing": record.against.timing if record.against else None}
    for place, timing in timings.items():
        if timing is None:
            continue
        if not timing.environment or not all(
            {"threads", "allocator"} <= worker.keys() for worker in timing.environment
        ):
            raise ValueError(f"{place}.environment: lacks a worker, or what it verified")
        _check_ratio(f"{place}.ratio", timing.ratio, timing.per_process)
        for run in timing.aa_runs:
            _check_ratio(f"{place}.aa_runs.ratio", run.ratio, run.per_process)


def _check_ratio(place: str, ratio: Interval, per_process: Sequence[float]) -> None:
    """Raise ValueError unless the ratio lies in its interval and is the geometric mean of those of the processes.

    Ratios that are no positive numbers are left to those who read them.
    """
    if not all(0 < value < math.inf for value in (ratio.value, *per_process)):
        return
    low, high = (ratio.value if bound is None else bound for bound in (ratio.low, ratio.high))
    if not low <= ratio.value <= high:
        raise ValueError(f"{place}: {ratio.value} is not within its interval [{ratio.low}, {ratio.high}]")
    mean = statistics.geometric_mean(per_process or [ratio.value])
    if not math.isclose(mean, ratio.value, rel_tol=1e-6):
        raise ValueError(f"{place}: {ratio.value} contradicts per_process, whose geometric mean is {mean:.6g}")


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        advice = f"a run writes one with --benchmark-json={file}"
        if journals := interrupted_journals(file):
            advice = f"the run that was to write it was interrupted; make one of its cells: {recovery(journals[-1])}"
        raise UsageError(f"there is no file {file}; {advice}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read as a benchmark JSON: {error}") from error


def _warn_of_interruption(file: Path, document: Mapping[str, Any]) -> None:
    """Warn that a run file, or its run, lacks cells, or that a later run was to replace the file."""
    ours = document.get(FIELD)
    if isinstance(ours, Mapping) and ours.get("interrupted") is True and isinstance(ours.get("left"), list):
        cause = "its run goes on" if file.name.endswith(SUFFIX) and is_running(file) else "its run was interrupted"
        logger.warning(f"{file} has {count_cells(document)}: {cause}")
    if (journal := later_journal(file)) is not None:
        logger.warning(f"{file} is of an earlier run: a later one was interrupted and left {journal}")


def later_journal(file: Path) -> Path | None:
    """Return the last journal of an interrupted run that was to replace this run file; None if there is none."""
    for journal in reversed(interrupted_journals(file)):
        with contextlib.suppress(OSError):  # it was removed just now
            if journal.stat().st_mtime > file.stat().st_mtime:
                return journal
    return None


def _with_verdicts(document: Mapping[str, Any], records: list[Record]) -> list[Record]:
    """Attach the verdicts of the file's section; decide them now if the run was killed before it did."""
    ours = document.get(FIELD)
    if isinstance(ours, Mapping) and "verdicts" in ours:
        return attach(records, verdicts_in(ours))
    return attach(records, decide(records))


def documents_in(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The key documents of a run file's artefacts, by key; empty if the file has none."""
    ours = document.get(FIELD)
    documents = ours.get("documents") if isinstance(ours, Mapping) else None
    entries = documents.items() if isinstance(documents, Mapping) else ()
    return {key: entry for key, entry in entries if isinstance(entry, Mapping)}


def unmeasured_in(document: Mapping[str, Any]) -> list[Unmeasured]:
    """The cells of a run file that were selected and not measured; damaged entries are ignored."""
    ours = document.get(FIELD)
    entries = ours.get("left") if isinstance(ours, Mapping) else None
    cells = []
    for entry in entries if isinstance(entries, list) else []:
        try:
            cells.append(decode(entry, Unmeasured))
        except ValueError:
            continue
    return cells


def suites_in(document: Mapping[str, Any]) -> dict[str, frozenset[str]] | None:
    """The collected suites of a run file, each with the names of its cells that were not selected.

    None if the file does not say.
    """
    ours = document.get(FIELD)
    suites = ours.get("suites") if isinstance(ours, Mapping) else None
    if not isinstance(suites, Mapping):
        return None
    return {
        suite: frozenset(f"{suite}::{cell}" for cell in cells)
        for suite, cells in suites.items()
        if isinstance(cells, list)
    }


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield the run files of these paths, each with whether the path named it or its folder."""
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
            f"{run.path} was made at {run.date:%Y-%m-%d %H:%M}, before its commit of "
            f"{run.commit.date:%Y-%m-%d %H:%M}: a clock was wrong, and the run may be out of order"
        )


def commit_of(info: Any) -> Commit:
    """Read the commit from pytest-benchmark's ``commit_info``."""
    if not isinstance(info, Mapping):
        return Commit()
    name, branch = info.get("id"), info.get("branch")
    is_hash = isinstance(name, str) and re.fullmatch(r"[0-9a-f]{7,64}", name)
    return Commit(
        id=name if is_hash else None,
        branch=branch if isinstance(branch, str) else None,
        dirty=info.get("dirty") is True,
        date=_date(info.get("time")),
    )


def _date(text: Any) -> datetime | None:
    """Parse a date in ISO form, as UTC unless it names another zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
