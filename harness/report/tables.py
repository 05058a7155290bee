"""Tables in the terminal, from records alone: a network each, compressions in rows, what is left in columns."""

from __future__ import annotations

import collections
import functools
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from tabulate import tabulate

from harness.records.record import Interval, Record
from harness.report.left import FILE, NONZERO, NONZERO_LEFT, Bases, bases, nonzero_share, telling
from harness.report.noise import VERDICTS, notes, protocol, verdict
from harness.text import format_margin

MISSING = "-"
QUALITY = "[low, high]: 95 % interval; of a difference in quality by bootstrap over patients. ±: deviation over seeds."
RATIO = (
    "latency / reference: of calls in pairs, with an interval by Student's t over processes; the latencies above it "
    "were taken at different moments, and their quotient says less."
)
T = TypeVar("T")
Show = Callable[[Sequence[Record]], str]


def tables(records: Sequence[Record], width: int = 120) -> str:
    """One table for every network and environment, in the order in which records have them. Seeds are averaged.

    In a table that is wider than ``width`` the intervals go below their estimates.
    """
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(network(record), []).append(record)
    legends = [QUALITY]
    if any(timing["ratio"]["low"] is not None for record in records if (timing := record["timing"]) is not None):
        legends.append(RATIO)
    if any(map(verdict, records)):
        legends.append(VERDICTS)
    return "\n\n".join([*(_table(group, width) for group in groups.values()), *legends])


def network(record: Record) -> tuple[str, ...]:
    """What cells of one table share: everything but their steps and their seed."""
    axes = record["axes"]
    fixed = (str(axes[name]) for name in ("dataset", "architecture", "runtime", "profile"))
    timing = record["timing"]
    found = verdict(record)
    margin = "" if found is None else str(found["margin"])
    how = () if timing is None else (timing.get("protocol", "paired"), str(timing["processes"]), margin)
    return (record["suite"], record["matrix"], record["preset"], record["device"], *fixed, *how)


def _table(records: Sequence[Record], width: int) -> str:
    first = records[0]
    column_axis = first["columns"]
    row_axes = [name for name in step_axes(first) if name != column_axis]
    columns = _unique(str(record["axes"][column_axis]) for record in records)
    rows = _unique(tuple(str(record["axes"][name]) for name in row_axes) for record in records)
    body = []
    for title, show in _blocks(records):
        for index, row in enumerate(rows):
            line = [title if index == 0 else "", *row]
            for column in columns:
                cells = [
                    record
                    for record in records
                    if str(record["axes"][column_axis]) == column
                    and tuple(str(record["axes"][name]) for name in row_axes) == row
                ]
                line.append(show(cells) if cells else MISSING)
            body.append(line)
        body.append([])
    left = {column: _left(records, column_axis, column) for column in columns}
    label = "\nparameters left" if any(left.values()) else ""
    headers = [label, *row_axes, *(f"{column}\n{left[column]}" for column in columns)]
    text = _laid_out(headers, body[:-1])
    if max(map(len, text.splitlines())) > width:
        text = _laid_out(headers, [[entry.replace(" [", "\n[") for entry in line] for line in body[:-1]])
    return "\n".join([heading(records), "", text, *([""] if (said := notes(records)) else []), *said])


def _laid_out(headers: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return tabulate(body, headers=headers, tablefmt="plain", disable_numparse=True)


def heading(records: Sequence[Record]) -> str:
    """What the records of one network share, and a warning where its data are made up."""
    first = records[0]
    axes = first["axes"]
    seeds = _unique(str(record["axes"]["seed"]) for record in records)
    parts = [
        f"{axes['architecture']} on {axes['dataset']}",
        f"matrix {first['matrix']}",
        f"preset {first['preset']}",
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}",
        f"{first['test_examples']} test examples",
    ]
    if axes["runtime"] != "torch":
        parts.append(f"runtime {axes['runtime']}")
    if axes["profile"]:
        parts.append(f"profile {axes['profile']}")
    timings = [timing for record in records if (timing := record["timing"]) is not None]
    if timings:
        parts.append(protocol(timings))
    note = "\nSYNTHETIC DATA: these figures say nothing about the real world" if first["synthetic"] else ""
    return ", ".join(parts) + note


def _blocks(records: Sequence[Record]) -> list[tuple[str, Show]]:
    """The figures to show, each with how a group of cells shows it: the metrics' headlines, then the ratio.

    Non-zero weights and the deployed file are shown too where they tell more than the headlines.
    """
    told = telling(records)
    blocks: list[tuple[str, Show]] = []
    for name, figure in records[0]["figures"].items():
        if name == NONZERO and name in told and not figure["headline"]:
            blocks.append((NONZERO_LEFT, functools.partial(_nonzero, bases(records))))
        elif figure["headline"] or (name == FILE and name in told):
            unit = f", {figure['unit']}" if figure["unit"] else ""
            blocks.append((f"{name}{unit}", functools.partial(_figure, name)))
            if name in records[0]["differences"]:
                blocks.append((f"{name} - reference", functools.partial(_difference, name)))
    if any(record["timing"] is not None for record in records):
        blocks.append(("latency / reference", _ratio))
    margins = {found["margin"] for record in records if (found := verdict(record)) is not None}
    if margins:
        blocks.append((f"verdict at {', '.join(map(format_margin, sorted(margins)))}", _verdict))
    return blocks


def _difference(name: str, cells: Sequence[Record]) -> str:
    return _interval([cell["differences"][name] for cell in cells], 4, "+")


def _ratio(cells: Sequence[Record]) -> str:
    return _interval([timing["ratio"] for cell in cells if (timing := cell["timing"]) is not None], 3)


def _nonzero(known: Bases, cells: Sequence[Record]) -> str:
    share = nonzero_share(cells, known)
    return MISSING if share is None else f"{100 * share:.2f} %"


def _verdict(cells: Sequence[Record]) -> str:
    found = [entry for entry in map(verdict, cells) if entry is not None]
    if len(found) == 1 and found[0]["processes_needed"] is not None:
        return f"{found[0]['kind']} ({found[0]['processes_needed']})"
    counts = collections.Counter(entry["kind"] for entry in found)
    if len(counts) == 1:
        return str(next(iter(counts)))
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or MISSING


def _figure(name: str, cells: Sequence[Record]) -> str:
    values = [cell["figures"][name]["value"] for cell in cells if name in cell["figures"]]
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    digits = cells[0]["figures"][name]["digits"]
    mean = f"{statistics.fmean(known):,.{digits}f}"
    return mean if len(set(known)) == 1 else f"{mean} ±{statistics.stdev(known):,.{digits}f}"


def _interval(intervals: Sequence[Interval], digits: int, sign: str = "") -> str:
    if not intervals:
        return MISSING
    values = [interval["value"] for interval in intervals]
    mean = f"{statistics.fmean(values):{sign}.{digits}f}"
    if len(values) > 1 and len(set(values)) == 1:
        return mean
    if len(values) > 1:
        return f"{mean} ±{statistics.stdev(values):.{digits}f}"
    low, high = intervals[0]["low"], intervals[0]["high"]
    return mean if low is None or high is None else f"{mean} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _left(records: Sequence[Record], axis: str, option: str) -> str:
    """The share of parameters that is left, from a cell that differs from its reference in ``axis`` alone."""
    for record in records:
        base = next((other for other in records if other["cell"] == record["reference"]), None)
        if base is None or str(record["axes"][axis]) != option:
            continue
        if all(record["axes"][name] == base["axes"][name] for name in record["axes"] if name != axis):
            if "parameters" not in record["figures"]:
                return ""
            mine, whole = (entry["figures"]["parameters"]["value"] for entry in (record, base))
            return f"{100 * mine / whole:.2f} %" if mine and whole else ""
    return ""


def step_axes(record: Record) -> list[str]:
    """The axes that say what was done to a network."""
    return [name for name in record["axes"] if name not in ("dataset", "architecture", "runtime", "profile", "seed")]


def _unique(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))
