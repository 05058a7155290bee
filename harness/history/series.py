"""The history of a suite: its figures as series over the runs of one machine, and where these changed."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from harness.api import Profile
from harness.keys import to_jsonable
from harness.records.changes import Documents, cell_changes, surrounding_changes
from harness.records.machine_id import Fingerprint
from harness.records.record import Interval, Record
from harness.records.runs import Run
from harness.run.declarations import declaration
from harness.stats.changepoints import LEAST_RUNS, Scale, change_points

#: The latency relative to the reference, which is no figure of a metric.
RATIO = "latency / reference"
#: What is measured in these is clock time.
CLOCK = ("ns", "us", "µs", "ms", "s")
#: What a profile has where a record does not say: an entry that a later version added has its default until then.
PROFILE: dict[str, Any] = to_jsonable(Profile())
#: Beyond it, or as near to 0, a figure is nonsense, and arithmetic with it too.
LARGEST = 1e100


@dataclasses.dataclass(frozen=True)
class Setting:
    """What runs must have in common for their figures to make one series. ``profile`` is JSON with sorted names.

    ``protocol`` is "not timed" where there is no latency.
    """

    machine: Fingerprint
    suite: str
    matrix: str
    preset: str
    device: str
    synthetic: bool
    protocol: str
    profile: str


@dataclasses.dataclass(frozen=True)
class Point:
    """A figure in run number ``run``; ``left_out`` says why it does not count: "contaminated", "undefined", ...

    ``error`` is its standard error, of the logarithm for a ratio; it and the interval are None where not known.
    """

    run: int
    value: float | None
    low: float | None = None
    high: float | None = None
    error: float | None = None
    left_out: str = ""


@dataclasses.dataclass(frozen=True)
class LevelChange:
    """A change of level between two runs, which are those that count next to it, and what differs between these."""

    last: int
    first: int
    before: float
    after: float
    relative: float | None
    worse: bool | None
    cell: tuple[str, ...]
    environment: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Series:
    """One figure of one cell over the runs that have it."""

    cell: str
    figure: str
    unit: str
    digits: int
    scale: Scale
    points: tuple[Point, ...]
    changes: tuple[LevelChange, ...]

    @property
    def counted(self) -> list[Point]:
        """The points that count."""
        return [point for point in self.points if not point.left_out]

    @property
    def clock(self) -> bool:
        """Whether it is clock time, which separate runs do not measure alike."""
        return self.unit in CLOCK

    @property
    def enough(self) -> bool:
        """Whether the runs are enough for a change to be told."""
        return len(self.counted) >= (2 if self.scale == "exact" else LEAST_RUNS)


@dataclasses.dataclass(frozen=True)
class Group:
    """All series of one setting. ``appeared`` has the cells new with a run, ``vanished`` those last seen in it."""

    setting: Setting
    runs: tuple[int, ...]
    cells: tuple[str, ...]
    series: tuple[Series, ...]
    appeared: Mapping[int, Sequence[str]]
    vanished: Mapping[int, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class History:
    """Groups over ``runs``, which are in the order of time; ``unknown`` are runs with cells of an unknown machine."""

    runs: tuple[Run, ...]
    margin: float
    groups: tuple[Group, ...]
    unknown: tuple[int, ...]


def history(runs: Sequence[Run], margin: float) -> History:
    """The series of ``runs``, which are in the order of time, with the changes by more than ``margin``."""
    found: dict[Setting, dict[str, dict[int, Record]]] = {}
    unknown = []
    for number, run in enumerate(runs):
        for record in run.records:
            setting = _setting(record)
            if setting.machine.known:
                found.setdefault(setting, collections.defaultdict(dict))[record.cell][number] = record
            elif number not in unknown:
                unknown.append(number)
    documents = [run.documents for run in runs]
    groups = [_group(setting, cells, documents, margin) for setting, cells in found.items()]
    return History(tuple(runs), margin, tuple(groups), tuple(unknown))


def _setting(record: Record) -> Setting:
    timing = record.timing
    return Setting(
        machine=record.fingerprint,
        suite=record.suite,
        matrix=record.matrix,
        preset=record.preset,
        device=record.device,
        synthetic=record.synthetic,
        protocol=record.protocol or "not timed",
        profile="" if timing is None else json.dumps(PROFILE | timing.profile, sort_keys=True),
    )


def _group(
    setting: Setting, cells: Mapping[str, Mapping[int, Record]], documents: Sequence[Documents], margin: float
) -> Group:
    runs = sorted({number for records in cells.values() for number in records})
    appeared: dict[int, list[str]] = collections.defaultdict(list)
    vanished: dict[int, list[str]] = collections.defaultdict(list)
    series = []
    for cell, records in cells.items():
        if min(records) != runs[0]:
            appeared[min(records)].append(cell)
        if max(records) != runs[-1]:
            vanished[max(records)].append(cell)
        series += [_series(cell, name, records, documents, margin) for name in _figures(records)]
    return Group(setting, tuple(runs), tuple(cells), tuple(series), dict(appeared), dict(vanished))


def _figures(records: Mapping[int, Record]) -> list[str]:
    """Name the figures to follow: the ratio, the headlines, and what the gate judges by default."""
    names: dict[str, None] = {}
    if any(record.timing is not None for record in records.values()):
        names[RATIO] = None
    for number in sorted(records, reverse=True):
        for name, figure in records[number].figures.items():
            if figure.headline or declaration(name, figure).gate is not None:
                names[name] = None
    return list(names)


def _series(
    cell: str, name: str, records: Mapping[int, Record], documents: Sequence[Documents], margin: float
) -> Series:
    unit, digits = "", 3
    scale: Scale = "ratio"
    better: str | None = "lower"
    last = records[max(records)]
    reference = last.reference
    points = []
    for number, record in records.items():
        if name == RATIO:
            points.append(_ratio(number, record, reference))
        elif name in record.figures:
            figure = record.figures[name]
            unit, digits, better = figure.unit, figure.digits, figure.better
            scale = "ratio" if unit in CLOCK else "exact" if declaration(name, figure).exact else "plain"
            points.append(_figure(number, record, name))
    counted = [point for point in points if not point.left_out]
    values = [point.value for point in counted if point.value is not None]
    changes = []
    for found in change_points(values, [point.error for point in counted], scale, margin):
        before, after = counted[found.index - 1].run, counted[found.index].run
        changes.append(
            LevelChange(
                last=before,
                first=after,
                before=found.before,
                after=found.after,
                relative=found.relative,
                worse={"lower": found.after > found.before, "higher": found.after < found.before}.get(better or ""),
                cell=tuple(cell_changes(records[before], records[after], documents[before], documents[after])),
                environment=tuple(surrounding_changes(records[before], records[after])),
            )
        )
    return Series(cell, name, unit, digits, scale, tuple(points), tuple(changes))


def _ratio(number: int, record: Record, reference: str) -> Point:
    timing = record.timing
    if timing is None:
        return Point(number, None, left_out="not timed")
    ratio = timing.ratio
    value = _number(ratio.value, positive=True)
    low, high = _number(ratio.low, positive=True), _number(ratio.high, positive=True)
    error = _error_of_log(ratio, low, high, timing.processes)
    left_out = "undefined" if value is None else ("contaminated" if record.disturbed else "")
    if record.reference != reference:
        left_out = "of another reference"
    return Point(number, value, low, high, error, left_out)


def _figure(number: int, record: Record, name: str) -> Point:
    """A metric's figure. The interval of one by bootstrap over patients is shown, and is no error between runs.

    The same patients answer in every run: what their choice adds to a figure it adds to all.
    """
    figure = record.figures[name]
    clock = figure.unit in CLOCK
    value = _number(figure.value, positive=clock)
    interval = figure.interval
    low, high = (None, None) if interval is None else (_number(interval.low), _number(interval.high))
    left_out = "undefined" if value is None else ("contaminated" if record.disturbed else "") if clock else ""
    return Point(number, value, low, high, left_out=left_out)


def _error_of_log(ratio: Interval, low: float | None, high: float | None, processes: int) -> float | None:
    """The standard error behind Student's interval over processes; None without one."""
    if low is None or high is None or not low < high or processes < 2 or not 0 < ratio.level < 1:
        return None
    return math.log(high / low) / 2 / _student(ratio.level, min(processes, 10**6))


@functools.cache
def _student(level: float, processes: int) -> float:
    return float(stats.t.ppf((1 + level) / 2, processes - 1))


def _number(value: Any, positive: bool = False) -> float | None:
    """A figure that one can reckon with, else None."""
    try:
        number = float(value)
    except (TypeError, OverflowError):
        return None
    if not abs(number) < LARGEST or (positive and number < 1 / LARGEST):
        return None
    return number
