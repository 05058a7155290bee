"""Follow the figures of a suite over the runs of one machine, and find where they changed."""

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
from harness.records.record import Record
from harness.records.runs import Run
from harness.run.declarations import declaration
from harness.stats.changepoints import LEAST_RUNS, Scale, change_points
from harness.stats.verdict import LEVEL

#: The latency relative to the reference, which the harness itself measures.
RATIO = "latency / reference"
#: Units of clock time.
CLOCK_UNITS = ("ns", "us", "µs", "ms", "s")
#: The entries that a record's profile lacks, because a later version added them, have their defaults.
DEFAULT_PROFILE: dict[str, Any] = to_jsonable(Profile())
#: Larger figures, and ratios below its inverse, count as undefined: arithmetic with them could overflow.
LARGEST = 1e100


@dataclasses.dataclass(frozen=True)
class Setting:
    """What runs must have in common to form one series.

    ``profile`` is JSON with sorted names, empty if not timed; ``protocol`` is then "not timed".
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
    """A figure in run number ``run``; ``left_out`` says why it does not count, as "contaminated" or "undefined".

    ``error`` is its standard error, of the logarithm for a ratio. It and the bounds are None if unknown.
    """

    run: int
    value: float | None
    low: float | None = None
    high: float | None = None
    error: float | None = None
    left_out: str = ""


@dataclasses.dataclass(frozen=True)
class LevelChange:
    """A change of level between the runs ``last`` and ``first``, and what else differs between the two.

    ``before`` and ``after`` are the levels, ``relative`` is their relative difference, None from a level of 0.
    ``worse`` is None if the figure has no better side.
    """

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
        """The points that are not left out."""
        return [point for point in self.points if not point.left_out]

    @property
    def clock(self) -> bool:
        """Whether it is clock time, which differs between runs with the state of the machine."""
        return self.unit in CLOCK_UNITS

    @property
    def enough(self) -> bool:
        """Whether there are enough runs to detect a change."""
        return len(self.counted) >= (2 if self.scale == "exact" else LEAST_RUNS)


@dataclasses.dataclass(frozen=True)
class SeriesGroup:
    """All series of one setting. ``appeared`` lists a run's new cells, ``vanished`` the cells last seen in it."""

    setting: Setting
    runs: tuple[int, ...]
    cells: tuple[str, ...]
    series: tuple[Series, ...]
    appeared: Mapping[int, Sequence[str]]
    vanished: Mapping[int, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class History:
    """Groups of series over ``runs`` in order of time; ``unknown`` are the runs with cells of an unknown machine."""

    runs: tuple[Run, ...]
    margin: float
    groups: tuple[SeriesGroup, ...]
    unknown: tuple[int, ...]


def history(runs: Sequence[Run], margin: float) -> History:
    """Return the series of ``runs``, given in order of time, with the changes by more than ``margin``."""
    by_setting: dict[Setting, dict[str, dict[int, Record]]] = {}
    unknown = []
    for number, run in enumerate(runs):
        for record in run.records:
            setting = _setting(record)
            if setting.machine.known:
                by_setting.setdefault(setting, collections.defaultdict(dict))[record.cell][number] = record
            elif number not in unknown:
                unknown.append(number)
    documents = [run.documents for run in runs]
    groups = [_group(setting, cells, documents, margin) for setting, cells in by_setting.items()]
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
        profile="" if timing is None else json.dumps(DEFAULT_PROFILE | timing.profile, sort_keys=True),
    )


def _group(
    setting: Setting, cells: Mapping[str, Mapping[int, Record]], documents: Sequence[Documents], margin: float
) -> SeriesGroup:
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
    return SeriesGroup(setting, tuple(runs), tuple(cells), tuple(series), dict(appeared), dict(vanished))


def _figures(records: Mapping[int, Record]) -> list[str]:
    """Return the figures to follow: the ratio, the headlines, and those that the gate judges by default."""
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
            scale = "ratio" if unit in CLOCK_UNITS else "exact" if declaration(name, figure).exact else "plain"
            points.append(_figure(number, record, name))
    counted = [point for point in points if not point.left_out]
    values = [point.value for point in counted if point.value is not None]
    changes = []
    for change in change_points(values, [point.error for point in counted], scale, margin):
        before, after = counted[change.index - 1].run, counted[change.index].run
        changes.append(
            LevelChange(
                last=before,
                first=after,
                before=change.before,
                after=change.after,
                relative=change.relative,
                worse={"lower": change.after > change.before, "higher": change.after < change.before}.get(better or ""),
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
    level = 1 - (1 - ratio.level) * timing.level / LEVEL  # the interval holds over all looks
    error = _error_of_log(level, low, high, timing.processes)
    left_out = "undefined" if value is None else ("contaminated" if record.contaminated else "")
    if record.reference != reference:
        left_out = "of another reference"
    return Point(number, value, low, high, error, left_out)


def _figure(number: int, record: Record, name: str) -> Point:
    """A metric's figure.

    The bootstrap interval over test examples is shown, but is no error between runs: all runs use the same examples,
    so their choice shifts the figures of all runs alike.
    """
    figure = record.figures[name]
    clock = figure.unit in CLOCK_UNITS
    value = _number(figure.value, positive=clock)
    interval = figure.interval
    low, high = (None, None) if interval is None else (_number(interval.low), _number(interval.high))
    left_out = "undefined" if value is None else ("contaminated" if record.contaminated else "") if clock else ""
    return Point(number, value, low, high, left_out=left_out)


def _error_of_log(level: float, low: float | None, high: float | None, processes: int) -> float | None:
    """Return the standard error behind Student's t interval over processes; None without an interval.

    The A/A runs may have widened it with other degrees of freedom, which makes the error approximate.
    """
    if low is None or high is None or not low < high or processes < 2 or not 0 < level < 1:
        return None
    return math.log(high / low) / 2 / _student(level, min(processes, 10**6))


@functools.cache
def _student(level: float, processes: int) -> float:
    return float(stats.t.ppf((1 + level) / 2, processes - 1))


def _number(value: Any, positive: bool = False) -> float | None:
    """Return a value that arithmetic can use, else None."""
    try:
        number = float(value)
    except (TypeError, OverflowError):
        return None
    if not abs(number) < LARGEST or (positive and number < 1 / LARGEST):
        return None
    return number
