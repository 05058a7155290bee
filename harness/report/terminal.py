"""Print the report in the terminal: a table for each network, the sections of plugins, and a summary."""

from __future__ import annotations

import collections
import functools
import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from tabulate import tabulate

from harness.api.sections import MISSING, ReportContext, Section
from harness.errors import UsageError, nearest
from harness.plugin.manager import Plugins
from harness.records.record import Interval, Record, to_json
from harness.report.choice import lead
from harness.report.model import (
    NONZERO_LEFT,
    References,
    RunCell,
    by_cell,
    figure_title,
    heading,
    network_key,
    networks_of,
    nonzero_share,
    secondary_sizes,
    step_axes,
    warnings_of,
)
from harness.report.noise import CONTAMINATED, REGIMES, VERDICTS, notes
from harness.run.declarations import figures_by_role
from harness.text import fit_table, format_margin, one_line, printable

QUALITY = (
    "[low, high]: 95 % interval; for differences in quality by bootstrap over patients, or examples without them. "
    "±: standard deviation over seeds."
)
RATIO = (
    "latency / reference: measured in pairs of calls, with Student's t interval over processes{}. The latencies above "
    "it were measured at different moments, so their quotient is less reliable."
)
T = TypeVar("T")
Show = Callable[[Sequence[Record]], str]


def report_text(records: Sequence[Record], plugins: Plugins, width: int = 120) -> str:
    """The whole report as text; tables wider than ``width`` are folded."""
    sections = plugins.sections(list(map(to_json, records)), ReportContext(None, width, plugins.things))
    shown = [section_text(section, width) for section in sections if not section.on_request]
    return "\n\n".join([network_tables(records, width), *shown, _summary(records, width)])


def named_section(records: Sequence[Record], plugins: Plugins, name: str, width: int = 120) -> str:
    """The section of this name as text. Raises UsageError if it could not be made, or with the nearest names."""
    sections = plugins.sections(list(map(to_json, records)), ReportContext(name, width, plugins.things))
    known = {section.title.casefold(): section for section in sections if not section.name}
    known |= {section.name.casefold(): section for section in sections if section.name}
    if name.casefold() not in known:
        names = [section.name or section.title for section in known.values()]
        raise UsageError(f"the report has no section {name!r}{nearest(name, names)}")
    section = known[name.casefold()]
    if section.failed:
        raise UsageError(" ".join(section.paragraphs))
    return section_text(section, width)


def section_text(section: Section, width: int) -> str:
    """A section as text, without its charts."""
    blocks = [textwrap.fill(paragraph, width) for paragraph in section.paragraphs]
    blocks += filter(None, [section.text])
    for table in section.tables:
        shown = fit_table(table.headers, table.rows, width)
        blocks.append(f"{textwrap.fill(table.caption, width)}\n\n{shown}")
    notes = [textwrap.fill(note, width, initial_indent="- ", subsequent_indent="  ") for note in section.notes]
    blocks += filter(None, ["\n".join(notes)])
    return printable("\n\n".join(["\n".join([section.title, "=" * len(section.title)]), *blocks]))


def network_tables(records: Sequence[Record], width: int = 120) -> str:
    """One table for each network and environment, in the order of the records. Seeds are averaged.

    In tables wider than ``width``, intervals stand below their estimates.
    """
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(network_key(record), []).append(record)
    legends = [QUALITY]
    timings = [record.timing for record in records if record.timing is not None]
    if any(timing.ratio.low is not None for timing in timings):
        widened = any(timing.recorded_aa_runs for timing in timings)  # not in files of version 0.1
        legends.append(RATIO.format(", widened by the A/A runs" if widened else ""))
    if timings:
        legends.append(REGIMES)
    if any(record.verdict for record in records):
        legends.append(VERDICTS)
    if any(record.contaminated for record in records):
        legends.append(CONTAMINATED)
    return "\n\n".join([*(_table(group, width) for group in groups.values()), *legends])


def _table(records: Sequence[Record], width: int) -> str:
    first = records[0]
    column_axis = first.columns
    row_axes = [name for name in step_axes(first) if name != column_axis]
    columns = _unique(str(record.axes[column_axis]) for record in records)
    rows = _unique(tuple(str(record.axes[name]) for name in row_axes) for record in records)
    body = []
    for title, show in _blocks(records):
        for index, row in enumerate(rows):
            line = [title if index == 0 else "", *row]
            for column in columns:
                cells = [
                    record
                    for record in records
                    if str(record.axes[column_axis]) == column
                    and tuple(str(record.axes[name]) for name in row_axes) == row
                ]
                line.append(show(cells) if cells else MISSING)
            body.append(line)
        body.append([])
    parameters = figures_by_role(records).get("parameters")
    shares = {column: _parameter_share(records, parameters, column_axis, column) for column in columns}
    label = "\nparameters left" if any(shares.values()) else ""
    headers = [label, *row_axes, *(f"{column}\n{shares[column]}" for column in columns)]
    text = _plain_table(headers, body[:-1])
    if max(map(len, text.splitlines())) > width:
        text = _plain_table(headers, [[entry.replace(" [", "\n[") for entry in line] for line in body[:-1]])
    return "\n".join([heading(records), "", text, *([""] if (lines := notes(records)) else []), *lines])


def _plain_table(headers: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return tabulate(body, headers=headers, tablefmt="plain", disable_numparse=True)


def _blocks(records: Sequence[Record]) -> list[tuple[str, Show]]:
    """The rows of a table: headline figures, secondary sizes that are shown, the ratio and the verdict.

    Each has a title and a function that formats a group of cells.
    """
    sizes = secondary_sizes(records)
    blocks: list[tuple[str, Show]] = []
    for name, figure in records[0].figures.items():
        if name == sizes.nonzero and not figure.headline:
            blocks.append((NONZERO_LEFT, functools.partial(_nonzero, name, by_cell(records))))
        elif figure.headline or name == sizes.file:
            blocks.append((figure_title(name, figure), functools.partial(_figure, name)))
            if name in records[0].differences:
                blocks.append((f"{name} - reference", functools.partial(_difference, name)))
    if any(record.timing is not None for record in records):
        blocks.append(("latency / reference", _ratio))
    margins = {verdict.margin for record in records if (verdict := record.verdict) is not None}
    if margins:
        blocks.append((f"verdict at {', '.join(map(format_margin, sorted(margins)))}", _verdict))
    return blocks


def _difference(name: str, cells: Sequence[Record]) -> str:
    return _interval([cell.differences[name] for cell in cells], 4, "+")


def _ratio(cells: Sequence[Record]) -> str:
    return _interval([timing.ratio for cell in cells if (timing := cell.timing) is not None], 3)


def _nonzero(name: str, references: References, cells: Sequence[Record]) -> str:
    share = nonzero_share(cells, references, name)
    return MISSING if share is None else f"{100 * share:.2f} %"


def _verdict(cells: Sequence[Record]) -> str:
    verdicts = [entry for cell in cells if (entry := cell.verdict) is not None]
    if len(verdicts) == 1 and verdicts[0].processes_needed is not None:
        return f"{verdicts[0].kind} ({verdicts[0].processes_needed})"
    counts = collections.Counter(entry.kind for entry in verdicts)
    if len(counts) == 1:
        return str(next(iter(counts)))
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or MISSING


def _figure(name: str, cells: Sequence[Record]) -> str:
    values = [cell.figures[name].value for cell in cells if name in cell.figures]
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    digits = cells[0].figures[name].digits
    mean = f"{statistics.fmean(known):,.{digits}f}"
    return mean if len(set(known)) == 1 else f"{mean} ±{statistics.stdev(known):,.{digits}f}"


def _interval(intervals: Sequence[Interval], digits: int, sign: str = "") -> str:
    if not intervals:
        return MISSING
    values = [interval.value for interval in intervals]
    mean = f"{statistics.fmean(values):{sign}.{digits}f}"
    if len(values) > 1 and len(set(values)) == 1:
        return mean
    if len(values) > 1:
        return f"{mean} ±{statistics.stdev(values):.{digits}f}"
    low, high = intervals[0].low, intervals[0].high
    return mean if low is None or high is None else f"{mean} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _parameter_share(records: Sequence[Record], parameters: str | None, axis: str, option: str) -> str:
    """The share of parameters that remains, from a cell that differs from its reference only in ``axis``."""
    if parameters is None:
        return ""
    references = by_cell(records)
    for record in records:
        reference = references.get(record.reference)
        if reference is None or str(record.axes[axis]) != option:
            continue
        if all(record.axes[name] == reference.axes[name] for name in record.axes if name != axis):
            part, whole = (entry.value(parameters) for entry in (record, reference))
            return f"{100 * part / whole:.2f} %" if part and whole else ""
    return ""


def _summary(records: Sequence[Record], width: int) -> str:
    """State in words which compression to choose for each network."""
    networks = networks_of(RunCell(record, 0) for record in records)
    lines = [*warnings_of(networks), *(f"{network.title}: {lead(network)}" for network in networks)]
    wrapped = (textwrap.fill(one_line(line), max(width, 40), subsequent_indent="  ") for line in lines)
    return "\n".join(["Summary", "=======", "", *wrapped])


def _unique(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))
