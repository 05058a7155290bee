"""Make the tables of the report for files: the page and Markdown render them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.api.sections import MISSING, Table
from harness.records.record import Record, Timing
from harness.report.choice import Choice, choices, no_better_than_chance
from harness.report.model import (
    NONZERO_LEFT,
    Network,
    Report,
    Variant,
    by_cell,
    figure_of,
    figure_title,
    nonzero_share,
    secondary_sizes,
)
from harness.report.noise import protocol

#: The facts of a machine that are shown, in this order.
MACHINE = ("cpu", "microcode", "architecture", "cpus", "cores", "hypervisor", "memory_bytes", "system", "kernel",
           "governor", "turbo", "frequency_driver")  # fmt: skip


def choice_table(network: Network) -> Table | None:
    """The best variants within each margin, sure and probable; None if nothing was compared, or with a guess only."""
    if network.quality is None or len(network.variants) < 2 or no_better_than_chance(network) is not None:
        return None
    headers = ("loss at most", "certainty", "smallest", "size / reference", "fastest", "latency / reference")
    digits = network.quality.digits
    rows = tuple(_choice(choice, digits) for choice in choices(network))
    return Table(f"{network.title}: the best within a loss of {network.quality.name}", headers, rows)


def _choice(choice: Choice, digits: int) -> tuple[str, ...]:
    smallest, fastest = choice.smallest, choice.fastest
    rivals = f" (as fast: {_few(choice.as_fast)})" if choice.as_fast else ""
    return (
        f"{choice.margin:g}",
        "surely" if choice.sure else "probably",
        _with_difference(smallest, digits),
        MISSING if smallest is None or smallest.size_share is None else f"{100 * smallest.size_share:.1f} %",
        _with_difference(fastest, digits) + ("" if fastest is None else fastest.disturbance) + rivals,
        MISSING if fastest is None or fastest.ratio is None else fastest.ratio.text(3),
    )


def _with_difference(variant: Variant | None, digits: int) -> str:
    if variant is None:
        return MISSING
    if variant.is_reference:
        return f"{variant.label} (the reference)"
    return variant.label + (f" ({variant.difference.text(digits, '+')})" if variant.difference else "")


def _few(variants: Sequence[Variant], most: int = 3) -> str:
    names = ", ".join(variant.label for variant in variants[:most])
    return names + (f" and {len(variants) - most} more" if len(variants) > most else "")


def results_table(network: Network) -> Table:
    """One row for each variant: its options and its results."""
    quality, size = network.quality, network.size
    more = _secondary_columns(network)
    headers = (
        *network.axes,
        *(() if quality is None else (str(quality), f"{quality.name} - reference")),
        *(() if size is None else (str(size), "size / reference")),
        *more,
        "latency, us",
        "latency / reference",
        "verdict",
    )
    rows = tuple(
        _result(network, variant, [column[place] for column in more.values()])
        for place, variant in enumerate(network.variants)
    )
    return Table(f"{network.title}: all variants", headers, rows)


def _secondary_columns(network: Network) -> dict[str, list[str]]:
    """The columns of the secondary size metrics that are shown: one text for each variant."""
    records = network.records
    sizes, columns = secondary_sizes(records), {}
    if sizes.nonzero is not None:
        references = by_cell(records)
        cells = [[cell.record for cell in variant.cells] for variant in network.variants]
        shares = [nonzero_share(group, references, sizes.nonzero) for group in cells]
        columns[NONZERO_LEFT] = [MISSING if share is None else f"{100 * share:.1f} %" for share in shares]
    if sizes.file is not None and (network.size is None or network.size.name != sizes.file):
        file = figure_of(records, sizes.file)
        values = [_number(variant.mean(sizes.file), file.digits) for variant in network.variants]
        columns[figure_title(sizes.file, file)] = values
    return columns


def _result(network: Network, variant: Variant, more: Sequence[str]) -> tuple[str, ...]:
    cells = list(variant.options.values())
    if network.quality is not None:
        digits = network.quality.digits
        cells.append(MISSING if variant.quality is None else variant.quality.text(digits))
        cells.append(MISSING if variant.difference is None else variant.difference.text(digits, "+"))
    if network.size is not None:
        cells.append(_number(variant.size, network.size.digits))
        cells.append(MISSING if variant.size_share is None else f"{100 * variant.size_share:.1f} %")
    cells += [*more, _number(variant.latency, 1)]
    cells.append(MISSING if variant.ratio is None else variant.ratio.text(3))
    return (*cells, variant.verdict_text or MISSING)


def classes_table(network: Network) -> Table | None:
    """The quality of each class; None if the headline figure is no mean over classes."""
    if network.quality is None:
        return None
    prefix = f"{network.quality.name}_"
    names = dict.fromkeys(
        name for record in network.records for name, figure in record.figures.items()
        if name.startswith(prefix) and figure.metric == _metric(record, network.quality.name)
    )  # fmt: skip
    if len(names) < 2:
        return None
    digits = network.quality.digits
    rows = tuple(
        (variant.label, *(_number(variant.mean(name), digits) for name in names)) for variant in network.variants
    )
    headers = ("variant", *(name.removeprefix(prefix) for name in names))
    return Table(f"{network.title}: {network.quality.name} of each class", headers, rows)


def _metric(record: Record, name: str) -> str | None:
    return record.figures[name].metric if name in record.figures else None


def coverage_table(network: Network) -> Table | None:
    """The shares of each variant that are in int8, and its layers that are not; None if nothing is in int8."""
    rows = []
    for variant in network.variants:
        weights, macs = (variant.mean(network.roles.get(role)) for role in ("int8 weights", "int8 macs"))
        layers = _layers(variant)
        if weights or macs or layers:
            others = [f"{layer.get('path')} ({layer.get('dtype')})" for layer in layers if layer.get("dtype") != "int8"]
            shown = MISSING if not layers else ", ".join(others) if others else "none"
            rows.append((variant.label, f"{_number(weights, 1)} %", f"{_number(macs, 1)} %", shown))
    headers = ("variant", "weights in int8", "multiply-accumulates in int8", "layers not in int8")
    return Table(f"{network.title}: int8 coverage", headers, tuple(rows)) if rows else None


def _layers(variant: Variant) -> list[Mapping[str, Any]]:
    """The layers of the last step that reports them. Facts come from plugins and may have any form."""
    for step in reversed(variant.cells[0].record.steps):
        layers = step.facts.get("layers")
        if isinstance(layers, list) and layers and all(isinstance(layer, Mapping) for layer in layers):
            return layers
    return []


def unmeasured_table(report: Report) -> Table | None:
    """The cells that were selected and not measured, with the reasons."""
    rows = tuple(
        (f"{entry.matrix}[{entry.cell}]", entry.outcome, entry.reason, report.runs[place].path.name)
        for entry, place in report.unmeasured
    )
    headers = ("cell", "outcome", "reason", "run")
    return Table("Cells that were selected and not measured", headers, rows) if rows else None


def runs_table(report: Report) -> Table:
    """The run files, with their commits."""
    rows = tuple(
        (str(run.path), f"{run.date:%Y-%m-%d %H:%M} UTC", run.commit.short, run.commit.branch or MISSING,
         str(len(run.records)), ", ".join(sorted({record.preset for record in run.records})))
        for run in report.runs
    )  # fmt: skip
    return Table("The runs", ("file", "made at", "commit", "branch", "cells", "preset"), rows)


def environment_table(report: Report) -> Table:
    """The machine and the versions of each run; all values where its cells differ."""
    columns = []
    for run in report.runs:
        facts: dict[str, dict[str, None]] = {}
        for record in run.records:
            machine = record.machine
            for name in MACHINE:
                if machine.get(name) is not None:
                    facts.setdefault(name, {})[str(machine[name])] = None
            for name, version in record.versions.items():
                facts.setdefault(f"version of {name}", {})[version] = None
        timings: dict[str, list[Timing]] = {}
        for record in run.records:
            if (timing := record.timing) is not None:
                timings.setdefault(_setting(timing), []).append(timing)
        if timings:
            facts["timing"] = dict.fromkeys(map(protocol, timings.values()))
        columns.append(facts)
    names = dict.fromkeys(name for facts in columns for name in facts)
    rows = tuple((name, *("; ".join(facts.get(name, {})) or MISSING for facts in columns)) for name in names)
    headers = ("", *(run.path.name for run in report.runs))
    return Table("The environment", headers, rows)


def _setting(timing: Timing) -> str:
    """The settings that timings of one line share."""
    environment = timing.environment[0]
    return repr((timing.protocol, timing.pace, environment["threads"], environment["allocator"]))


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"


def present(tables: Iterable[Table | None]) -> list[Table]:
    """The tables that exist."""
    return [table for table in tables if table is not None]
