"""The report as one HTML file that opens from disk, loads nothing, and is readable without its script too."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

from harness.report.charts import Chart, drawn, network_charts, training_chart
from harness.report.choice import lead
from harness.report.estimate import OVER_SEEDS
from harness.report.left import file_figure, file_title
from harness.report.model import Network, Report
from harness.report.noise import notes
from harness.report.rows import DIGITS, FIELDS, rows
from harness.report.sections import (
    Table,
    choice_table,
    classes_table,
    coverage_table,
    environment_table,
    left_table,
    present,
    results_table,
    runs_table,
)
from harness.report.study_tables import StudySection
from harness.report.trace import Shared, plain_json, traces
from harness.report.training import courses

#: Without its script the page shows so many networks and rows; with it the table of results shows all.
NETWORKS, ROWS = 12, 200
#: Charts of larger networks, and of more, are drawn by the script alone.
DRAWN_VARIANTS, DRAWN_NETWORKS = 60, 3
#: A name is longer only in the tables of the records behind a row.
LONGEST = 300
#: And whole sentences, which have several names in them.
LONGEST_TEXT = 3000


def page(report: Report, studies: Sequence[StudySection], sections: Sequence[tuple[str, str]]) -> str:
    """The page; ``sections`` are titles and texts of plugins."""
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
        results=[_bounded(results_table(network)) for network in shown],
        pictures=list(_pictures(report)),
        classes=_all(classes_table(network) for network in shown),
        coverage=_all(coverage_table(network) for network in shown),
        noise=[(network.title, notes(network.records)[:ROWS]) for network in shown],
        left=_all([left_table(report)]),
        provenance=[runs_table(report), environment_table(report)],
        studies=studies,
        bounded=_bounded,
        sections=sections,
        style=_asset("page.css"),
        scripts=scripts,
        policy=_policy(scripts),
        island=plain_json(island(report, studies)),
        cut=_cut,
        cut_text=functools.partial(_cut, longest=LONGEST_TEXT),
    )


def island(report: Report, studies: Sequence[StudySection] = ()) -> dict[str, Any]:
    """All that the page's script reads: a row a variant, the facts of its records, and the charts without data."""
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
    trainings = [training_chart(*found) for found in courses(report)]
    return {
        "fields": FIELDS,
        "digits": DIGITS,
        "networks": networks,
        "trainings": [_whole(chart) for chart in trainings],
        "studies": [[_whole(chart) for chart in study.charts] for study in studies],
        "shared": shared.values,
    }


def _digits(shown: Any) -> dict[str, Any] | None:
    return None if shown is None else {"name": shown.name, "title": str(shown), "digits": shown.digits}


def _file(network: Network) -> dict[str, Any] | None:
    figure = file_figure(network.records)
    return None if figure is None else {"title": file_title(figure), "digits": figure["digits"]}


def _chart(chart: Chart) -> dict[str, Any]:
    return {"title": chart.title, "caption": chart.caption, "spec": chart.spec}


def _whole(chart: Chart) -> dict[str, Any]:
    """A chart with its data, which no filter acts on."""
    return _chart(chart) | {"values": chart.values}


def _pictures(report: Report) -> Iterator[tuple[str, str, str]]:
    """For a page without a script: the title, the caption and the drawing of each network's first chart."""
    for network in report.networks[:DRAWN_NETWORKS]:
        for chart in network_charts(network) if len(network.variants) <= DRAWN_VARIANTS else ():
            if chart.kind == "quality-latency":
                image = base64.b64encode(drawn(chart).encode()).decode()
                yield f"{network.title}: {chart.title}", chart.caption, f"data:image/svg+xml;base64,{image}"


def _all(tables: Any) -> list[Table]:
    return [_bounded(table) for table in present(tables)]


def _bounded(table: Table) -> Table:
    """The first rows of a long table, with a caption that says so."""
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
    """Vega, Vega-Lite and their embedding as one script; nothing in it ends the element that it stands in."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: Sequence[str]) -> str:
    """A content security policy: these very scripts run and no other, and nothing is loaded from anywhere.

    Vega makes functions of its expressions, which takes 'unsafe-eval'.
    """
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"
