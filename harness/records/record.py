"""The schema of a cell's record: what goes into the benchmark JSON, and all that reports and gates read.

A record stands in ``benchmarks[].extra_info["harness"]`` of a pytest-benchmark file; the paired samples stand beside it
in ``extra_info["harness_samples"]``. A record is plain JSON: no value in it needs this package to be read.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from harness.errors import UsageError
from harness.records.schema import fault

if TYPE_CHECKING:
    from harness.suite.matrix import Cell

SCHEMA = 1
FIELD = "harness"
SAMPLES = "harness_samples"


class MetricValue(TypedDict):
    """One figure of one metric; ``value`` is None where it is undefined. The rest is what its MetricSpec declares.

    ``interval`` is there for a figure that the answers alone give: by bootstrap over patients.
    """

    metric: str
    value: float | None
    unit: str
    better: str | None
    digits: int
    headline: bool
    exact: NotRequired[bool]
    per_machine: NotRequired[bool]
    gate: NotRequired[str]
    interval: NotRequired[Interval]


class Interval(TypedDict):
    """An estimate with its confidence interval at ``level``, and how that was found.

    The bounds are None where there are too few units for an interval; ``method`` then says so.
    """

    value: float
    low: float | None
    high: float | None
    level: float
    method: str


class SignalRecord(TypedDict):
    """A sign that the machine was disturbed: ``beyond`` its limit it contaminates the cell. None: not known here."""

    signal: str
    value: float | None
    limit: float
    beyond: bool


class ItselfRecord(TypedDict):
    """The reference timed against a copy of itself in the same run and profile.

    ``smallest_change`` is the relative change that the cell's number of processes would have detected with a power of
    80 %. ``disturbed`` tells that the machine moved meanwhile, a second time too.
    """

    sha256: str
    ratio: Interval
    per_process: list[float]
    smallest_change: float | None
    disturbed: bool


class Confirmation(TypedDict):
    """What fresh processes measured of a cell that was slower."""

    ratio: Interval
    per_process: list[float]
    signals: list[SignalRecord]


class VerdictRecord(TypedDict):
    """What the ratio says at a ``margin`` (0.01 is 1 %): faster, slower, same, inconclusive, or contaminated.

    ``p`` is adjusted for the cells of the matrix; ``processes_needed`` would settle an inconclusive cell.
    """

    kind: str
    margin: float
    p: float | None
    processes_needed: int | None
    reason: str
    confirmation: Confirmation | None


class Cost(TypedDict):
    """Seconds that the timing took on the clock, and those that the timed calls took."""

    wall: float
    calls: float


class Timing(TypedDict):
    """How the latency was measured; ``ratio`` is candidate over reference, the environment what each worker verified.

    Of the protocol "single" (study B's: the mean of one process) there is no more than the entries that all have.
    The others: ``steady``, whether the warm-up ended so; ``bootstrap``, a second interval of the ratio;
    ``per_process``, each process's ratio; ``canary``, the canary's nanoseconds, a list a process, in the order of time.
    """

    protocol: NotRequired[str]
    profile: dict[str, Any]
    processes: int
    pairs: int
    warmup: int
    ratio: Interval
    environment: list[dict[str, Any]]
    steady: NotRequired[bool | None]
    bootstrap: NotRequired[Interval | None]
    per_process: NotRequired[list[float]]
    involuntary_switches: NotRequired[list[int]]
    load: NotRequired[dict[str, Any]]
    signals: NotRequired[list[SignalRecord]]
    canary: NotRequired[list[list[int]]]
    itself: NotRequired[ItselfRecord]
    verdict: NotRequired[VerdictRecord]
    cost: NotRequired[Cost]


class ArtefactRecord(TypedDict):
    """The artefact behind a cell: its key, and the hash of the deployed file that was timed and evaluated."""

    key: str
    sha256: str


class Against(TypedDict):
    """The cell's model of an earlier run, measured again in this one beside the new model.

    ``timing`` has it as the reference; None, with the ``reason``, where it was not timed again. ``latency`` is the new
    model's median in these pairs, microseconds. ``sha256`` is that of its deployed file today; empty where there is
    none. ``same``: that is the new model's file. ``differences`` are the new model's figures less its figures.
    """

    run: str
    artefact: ArtefactRecord
    sha256: str
    same: bool
    timing: Timing | None
    latency: float | None
    reason: str
    figures: dict[str, MetricValue]
    differences: dict[str, Interval]


class StepRecord(TypedDict):
    """One step of the recipe: as the suite wrote it, what it reported, how long it took when it was built.

    ``facts`` is empty and ``seconds`` None when the store no longer has the step's own artefact.
    """

    step: str
    facts: dict[str, Any]
    seconds: float | None


class Record(TypedDict):
    """One cell."""

    schema: int
    suite: str
    matrix: str
    cell: str
    reference: str
    axes: dict[str, str | int]
    columns: str
    synthetic: bool
    preset: str
    device: str
    artefact: ArtefactRecord
    reference_artefact: ArtefactRecord
    steps: list[StepRecord]
    figures: dict[str, MetricValue]
    differences: dict[str, Interval]
    test_examples: int
    timing: Timing | None
    versions: dict[str, str]
    machine: NotRequired[dict[str, Any]]
    #: What the matrix declares for the gate.
    gate: NotRequired[dict[str, str]]
    against: NotRequired[Against]


class Left(TypedDict):
    """A cell that was selected and not measured: ``outcome`` is "skipped", "failed" or "not run", with the reason."""

    suite: str
    matrix: str
    cell: str
    outcome: str
    reason: str


def interval(value: float, low: float | None, high: float | None, level: float, method: str) -> Interval:
    """An Interval from its entries."""
    return {"value": value, "low": low, "high": high, "level": level, "method": method}


def read(file: Path) -> list[Record]:
    """The records of a benchmark JSON, in order. Raises UsageError for a file that has none."""
    return load(file)[1]


def load(file: Path) -> tuple[dict[str, Any], list[Record]]:
    """A benchmark JSON as it is, and its records in order. Raises UsageError for a file that has none."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no file {file}; a run writes one with --benchmark-json={file}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read as a benchmark JSON: {error}") from error
    benchmarks = document.get("benchmarks") if isinstance(document, Mapping) else None
    entries = benchmarks if isinstance(benchmarks, list) else []
    extras = [entry.get("extra_info") for entry in entries if isinstance(entry, Mapping)]
    records = [extra.get(FIELD) for extra in extras if isinstance(extra, Mapping)]
    found: list[Record] = [record for record in records if isinstance(record, dict)]  # type: ignore[misc]
    if not found:
        raise UsageError(f"{file} holds no record of this harness; make one: pytest SUITE.py --benchmark-json={file}")
    for record in found:
        if record.get("schema") != SCHEMA:
            raise UsageError(f"{file} has records of schema {record.get('schema')}; this version reads {SCHEMA}")
    return document, found


def documents_in(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What the artefacts of a benchmark JSON depend on, by their keys; empty where it does not say."""
    ours = document.get(FIELD)
    found = ours.get("documents") if isinstance(ours, Mapping) else None
    entries = found.items() if isinstance(found, Mapping) else ()
    return {key: entry for key, entry in entries if isinstance(entry, Mapping)}


def left_in(document: Mapping[str, Any]) -> list[Left]:
    """The cells of a benchmark JSON that were selected and not measured; empty where it does not say."""
    ours = document.get(FIELD)
    found = ours.get("left") if isinstance(ours, Mapping) else None
    entries = found if isinstance(found, list) else []
    return [entry for entry in entries if fault(entry, Left) is None]


def identity(record: Record) -> tuple[str, ...]:
    """What is measured again when it is in a later run too."""
    timing = record["timing"]
    protocol = "" if timing is None else timing.get("protocol", "paired")
    return (record["suite"], record["matrix"], record["cell"], record["preset"], protocol)


def left_of(
    cells: Iterable[Cell], records: Iterable[Record], reasons: Mapping[str, str], unsupported: Container[str]
) -> list[Left]:
    """Those of the selected cells that have no record, each with why.

    ``reasons`` are those of cells that were tried, by their names; cells that are ``unsupported`` have not failed.
    """
    measured = {(record["suite"], record["matrix"], record["cell"]) for record in records}
    left: list[Left] = []
    for cell in cells:
        if (cell.suite, cell.matrix, cell.id) in measured:
            continue
        if cell.skip is not None:
            outcome, reason = "skipped", cell.skip
        elif cell.name in reasons:
            outcome, reason = "skipped" if cell.name in unsupported else "failed", reasons[cell.name]
        else:  # pytest itself skipped it, or the run was interrupted
            outcome, reason = "not run", "selected, and not measured"
        left.append({"suite": cell.suite, "matrix": cell.matrix, "cell": cell.id, "outcome": outcome, "reason": reason})
    return left
