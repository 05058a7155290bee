"""Write the report as one HTML file. It opens from disk, loads nothing, and is readable without its script."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from harness.api.sections import Chart, Section, Table
from harness.records.record import Interval, Record, Timing
from harness.report.charts import network_charts, to_svg, training_chart
from harness.report.choice import lead
from harness.report.model import OVER_SEEDS, Network, Report, RunCell, Variant, figure_of, figure_title, secondary_sizes
from harness.report.noise import REGIMES, notes
from harness.report.rows import DIGITS, FIELDS, finite, rows
from harness.report.tables import (
    choice_table,
    classes_table,
    coverage_table,
    environment_table,
    present,
    results_table,
    runs_table,
    unmeasured_table,
)
from harness.report.training import learning_curves

#: How many networks and rows the page shows without its script; with it, the table of results shows all.
NETWORKS, ROWS = 12, 200
#: Limits for charts that are drawn for the page without its script.
DRAWN_VARIANTS, DRAWN_NETWORKS = 60, 3
#: Longer names are cut, except in the records behind a row.
LONGEST = 300
#: Longer sentences, which may hold several names, are cut.
LONGEST_TEXT = 3000


def page(report: Report, sections: Sequence[Section]) -> str:
    """The page; ``sections`` are those of plugins."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_library(), _asset("page.js")]
    shown = report.networks[:NETWORKS]
    return environment.get_template("page.html").render(
        report=report,
        networks=shown,
        more=len(report.networks) - len(shown),
        lead=lead,
        choices=choice_table,
        over_seeds=OVER_SEEDS,
        regimes=REGIMES,
        results=[_bounded(results_table(network)) for network in shown],
        pictures=list(_pictures(report)),
        classes=_all(classes_table(network) for network in shown),
        coverage=_all(coverage_table(network) for network in shown),
        noise=[(network.title, notes(network.records)[:ROWS]) for network in shown],
        unmeasured=_all([unmeasured_table(report)]),
        provenance=[runs_table(report), environment_table(report)],
        bounded=_bounded,
        sections=sections,
        style=_asset("page.css"),
        scripts=scripts,
        policy=_policy(scripts),
        island=script_json(island(report, sections)),
        cut=_cut,
        cut_text=functools.partial(_cut, longest=LONGEST_TEXT),
    )


def island(report: Report, sections: Sequence[Section] = ()) -> dict[str, Any]:
    """The data for the script of the page: a row for each variant, the facts of its records, charts without data."""
    shared = Shared()
    networks = [
        {
            "title": network.title,
            "heading": network.heading,
            "axes": network.axes,
            "columns": network.columns,
            "quality": _digits(network.quality),
            "size": _digits(network.size),
            "file": _file(network),
            "rows": [[row[field] for field in FIELDS] for row in rows(network)],
            "options": [list(variant.options.values()) for variant in network.variants],
            "traces": [traces(variant, report, shared) for variant in network.variants],
            "charts": [_chart(chart) for chart in network_charts(network)],
        }
        for network in report.networks
    ]
    trainings = [training_chart(*curves) for curves in learning_curves(report)]
    return {
        "fields": FIELDS,
        "digits": DIGITS,
        "networks": networks,
        "trainings": [_whole(chart) for chart in trainings],
        "sections": [[_whole(chart) for chart in section.charts] for section in sections],
        "shared": shared.values,
    }


def _digits(shown: Any) -> dict[str, Any] | None:
    return None if shown is None else {"name": shown.name, "title": str(shown), "digits": shown.digits}


def _file(network: Network) -> dict[str, Any] | None:
    name = secondary_sizes(network.records).file
    if name is None:
        return None
    figure = figure_of(network.records, name)
    return {"title": figure_title(name, figure), "digits": figure.digits}


def _chart(chart: Chart) -> dict[str, Any]:
    return {"title": chart.title, "caption": chart.caption, "spec": chart.spec}


def _whole(chart: Chart) -> dict[str, Any]:
    """A chart with its data, for charts that the page does not filter."""
    return _chart(chart) | {"values": chart.values}


def _pictures(report: Report) -> Iterator[tuple[str, str, str]]:
    """Title, caption and drawing of each network's first chart, for a page without a script."""
    for network in report.networks[:DRAWN_NETWORKS]:
        for chart in network_charts(network) if len(network.variants) <= DRAWN_VARIANTS else ():
            if chart.kind == "quality-latency":
                image = base64.b64encode(to_svg(chart).encode()).decode()
                yield f"{network.title}: {chart.title}", chart.caption, f"data:image/svg+xml;base64,{image}"


def _all(tables: Any) -> list[Table]:
    return [_bounded(table) for table in present(tables)]


def _bounded(table: Table) -> Table:
    """The first rows of a long table, with a caption that states it."""
    if len(table.rows) <= ROWS:
        return table
    caption = f"{table.caption} (the first {ROWS} of {len(table.rows)}; the report as CSV has all)"
    return Table(caption, table.headers, table.rows[:ROWS])


def _cut(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def _asset(name: str) -> str:
    return (files("harness.report") / "templates" / name).read_text(encoding="utf-8")


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, escaped so that nothing in it ends the script element."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: Sequence[str]) -> str:
    """A content security policy that runs exactly these scripts and loads nothing.

    Vega compiles its expressions, which needs 'unsafe-eval'.
    """
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"


# ---------------------------------------------------------------------- the records behind a row


class Shared:
    """Values that many records share, each stored once; ``index`` returns the position."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def index(self, value: Any) -> int:
        """The position of a value that is JSON."""
        key = json.dumps(value, sort_keys=True)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(json.loads(key, parse_constant=lambda _: None))
        return self._places[key]


def traces(variant: Variant, report: Report, shared: Shared) -> list[dict[str, Any]]:
    """The facts of each record of a variant; an entry whose name ends in @ is a position among the shared values."""
    return [_trace(cell, report, shared) for cell in variant.cells]


def _trace(cell: RunCell, report: Report, shared: Shared) -> dict[str, Any]:
    record, run = cell.record, report.runs[cell.run]
    timing = record.timing
    facts: dict[str, Any] = {
        "cell": record.cell,
        "suite@": shared.index(f"{record.suite}::{record.matrix}"),
        "run file@": shared.index(str(run.path)),
        "run@": shared.index(f"{run.date:%Y-%m-%d %H:%M} UTC, commit {run.commit.id or 'unknown'}"),
        "preset@": shared.index(record.preset),
        "artefact key": record.artefact.key,
        "artefact sha256": record.artefact.sha256,
        "reference@": shared.index(record.reference),
        "reference key@": shared.index(record.reference_artefact.key),
        "reference sha256@": shared.index(record.reference_artefact.sha256),
        "steps@": shared.index([step.step for step in record.steps]),
        "figures": {name: finite(figure.value) for name, figure in record.figures.items()},
        "differences": {name: _interval(entry) for name, entry in record.differences.items()},
        "test examples@": shared.index(record.test_examples),
        "versions@": shared.index(record.versions),
        "machine@": shared.index(record.machine),
    }
    if timing is not None:
        facts |= {
            "latency / reference": _interval(timing.ratio),
            "how@": shared.index(_how(timing)),
        }
        if (verdict := timing.verdict) is not None:
            facts["verdict"] = f"{verdict.kind}: {verdict.reason}"
        if timing.aa_runs:
            facts["A/A run@"] = shared.index(_interval(timing.aa_runs[-1].ratio))
    return facts


def _how(timing: Timing) -> dict[str, Any]:
    environment = {name: value for name, value in timing.environment[0].items() if name not in ("pid", "affinity")}
    counts = {"processes": timing.processes, "pairs": timing.pairs}
    return {"protocol": timing.protocol, "pace": timing.pace, **counts, "environment of a worker": environment}


def _interval(interval: Interval) -> list[float | None]:
    return [finite(interval.value), finite(interval.low), finite(interval.high)]


def script_json(value: Record | Mapping[str, Any]) -> str:
    """JSON for a script element of a page: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
