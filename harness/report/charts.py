"""Make the charts of the report in Vega-Lite, for the page and as SVG and PNG files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.api.sections import Chart, Section
from harness.files import atomic_write
from harness.report.choice import OFF, ON
from harness.report.model import Network, Report
from harness.report.rows import level_order, rows
from harness.report.training import LearningCurve, learning_curves

#: The palette of Okabe and Ito, which colour-blind readers can distinguish; shapes and dashes repeat the distinction.
#: The lists differ in length, so the first thirty series all have different pairs.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross"]
DASHES: list[list[int]] = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4]]
#: More lines cannot be distinguished.
MAX_CURVES = 12
#: More levels do not fit on an axis.
MAX_LEVELS = 60
POINTS = (
    "Each point is a variant: {} against the difference in quality, with 95 % intervals. Filled: on the Pareto front, "
    "which the line follows. Hollow: perhaps on it. Faint: surely off it, because the whole intervals of another "
    "variant are better in both."
)
LINES = "{} by level of {}, one line for each other option, with 95 % intervals."
PARAMETERS_LEFT = " In brackets: the share of parameters left."
#: The name of the data in a specification; the page's script fills in and filters them.
DATA = "rows"

Spec = dict[str, Any]


def network_charts(network: Network) -> list[Chart]:
    """The charts of one network; those without data are left out."""
    values = rows(network)
    quality, size, axis = network.quality, network.size, network.columns
    names = list(dict.fromkeys(row["series"] for row in values))
    charts = []
    if quality is not None:
        up = f"{quality.name} less the reference's"
        fronts = [("latency", "ratio", "latency / reference"), ("size", "size", str(size))]
        charts += [
            framed(f"quality-{what}", f"Quality against {what}", POINTS.format(across),
                   _scatter(field, across, up, f"front_{what}", names), values)
            for what, field, across in fronts if _any_value(values, field) and _any_value(values, "difference")
        ]  # fmt: skip
    order = level_order(network)
    if 1 < len(order) <= MAX_LEVELS:
        along = LINES + (PARAMETERS_LEFT if _any_value(values, "parameter_share") else "")
        lines = [("latency", "ratio", "latency / reference"), ("size", "size", str(size)),
                 ("quality", "quality", "" if quality is None else quality.name)]  # fmt: skip
        charts += [
            framed(f"{what}-levels", f"{what.capitalize()} along {axis}", along.format(title, axis),
                   _levels(axis, order, field, title, names), values)
            for what, field, title in lines if _any_value(values, field)
        ]  # fmt: skip
    return charts


def training_chart(title: str, figure: str, curves: Sequence[LearningCurve]) -> Chart:
    """Quality on the validation split by epoch, one line for each model."""
    shown = curves[:MAX_CURVES]
    values = [
        {"model": curve.model, "epoch": epoch, "value": value, "low": low, "high": high, "seeds": curve.seeds}
        for curve in shown
        for epoch, (value, low, high) in enumerate(curve.points, 1)
    ]
    series = _series("model", [curve.model for curve in shown])
    x = {"field": "epoch", "type": "quantitative", "title": "epoch", "axis": {"tickMinStep": 1}}
    y = {"field": "value", "type": "quantitative", "title": f"{figure}, validation split", "scale": {"zero": False}}
    band = {"y": y | {"field": "low"}, "y2": {"field": "high"}, "color": series["color"]}
    hover = tips(model="model", epoch="epoch", seeds="seeds", **{figure: "value", "from": "low", "to": "high"})
    dots = {"x": x, "y": y, "color": series["color"], "shape": series["shape"], "tooltip": hover}
    lines = {"x": x, "y": y, "color": series["color"], "strokeDash": series["strokeDash"]}
    spec: Spec = {
        "layer": [
            {"mark": {"type": "area", "opacity": 0.08}, "encoding": {"x": x, **band}},
            {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": lines},
            {"mark": {"type": "point", "size": 22, "filled": True, "opacity": 1}, "encoding": dots},
        ],
    }
    text = (
        f"{figure} on the validation split after each epoch: the mean, and a band from the lowest to the highest seed."
    )
    if len(curves) > len(shown):
        text += f" The first {len(shown)} of {len(curves)} trainings are drawn."
    return framed("epochs", title, text, spec, values)


def all_charts(report: Report, sections: Sequence[Section] = ()) -> Iterator[tuple[str, Chart]]:
    """Every chart of a report, with the title of its network or section."""
    for network in report.networks:
        yield from ((network.title, chart) for chart in network_charts(network))
    for title, figure, curves in learning_curves(report):
        yield "training", training_chart(title, figure, curves)
    for section in sections:
        yield from ((chart.title, chart) for chart in section.charts)


def framed(kind: str, title: str, caption: str, spec: Spec, values: Sequence[Mapping[str, Any]]) -> Chart:
    """A chart with the settings that all charts share; those in ``spec`` take precedence."""
    frame = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": f"{title}. {caption}",
        "width": 420,
        "height": 280,
        "data": {"name": DATA},
    }
    return Chart(kind, title, caption, frame | spec, values)


def _scatter(across: str, title: str, up: str, state: str, names: Sequence[str]) -> Spec:
    """A specification of points with intervals in both directions, and a staircase through the front."""
    x = {"field": across, "type": "quantitative", "title": title, "scale": {"zero": False, "nice": True}}
    y = {"field": "difference", "type": "quantitative", "title": up, "scale": {"zero": False}}
    series = _series("series", names)
    faint = {"condition": {"test": f"datum.{state} === '{OFF}'", "value": 0.3}, "value": 0.75}
    ends = [("difference", {"x": x, "y": y | {"field": "difference_low"}, "y2": {"field": "difference_high"}})]
    if across == "ratio":
        ends.append(("ratio", {"x": x | {"field": "ratio_low"}, "x2": {"field": "ratio_high"}, "y": y}))
    bars = [
        {
            "mark": "rule",
            "transform": valid(f"{name}_low", f"{name}_high"),
            "encoding": end | {"color": series["color"], "opacity": faint},
        }
        for name, end in ends
    ]
    hover = tips(
        variant="label",
        **{"front of this chart": state, "latency / reference": "ratio", "from": "ratio_low", "to": "ratio_high"},
        **{up: "difference", "from ": "difference_low", "to ": "difference_high"},
        size="size",
        verdict="verdict",
    )
    points = [
        {
            "mark": {"type": "point", "size": 70, "strokeWidth": 1.6, "filled": filled},
            "transform": [{"filter": f"datum.{state} {'===' if filled else '!=='} '{ON}'"}],
            "encoding": {"x": x, "y": y, "opacity": faint, "tooltip": hover}
            | {channel: series[channel] for channel in ("color", "shape")},
        }
        for filled in (True, False)
    ]
    line: Spec = {"type": "line", "interpolate": "step-after", "strokeWidth": 1.2}
    return {
        "transform": valid(across, "difference"),
        "layer": [
            {
                "mark": {"type": "rule", "strokeDash": [3, 3], "opacity": 0.6},
                "encoding": {"y": {"datum": 0, "type": "quantitative"}},
            },
            {
                "mark": line,
                "transform": [{"filter": f"datum.{state} === '{ON}'"}],
                "encoding": {"x": x, "y": y, "order": {"field": across}, "color": {"value": "#888"}},
            },
            *bars,
            *points,
        ],
    }


def _levels(axis: str, order: Sequence[str], up: str, title: str, names: Sequence[str]) -> Spec:
    """A specification of lines along the levels of compression, with intervals where there are any."""
    labels: Spec = {"labelLimit": 160, "labelAngle": -30 if len(order) > 3 else 0}
    axis_spec = {"title": f"{axis} (parameters left)", "axis": labels}
    x: Spec = {"field": "level", "type": "ordinal", "sort": list(order)} | axis_spec
    y = {"field": up, "type": "quantitative", "title": title, "scale": {"zero": up != "quality"}}
    series = _series("series", names)
    bounds = {} if up == "size" else {"from": f"{up}_low", "to": f"{up}_high"}
    hover = tips(variant="label", **{title: up}, **bounds, verdict="verdict")
    layers: list[Spec] = [
        {"mark": "line", "encoding": {"x": x, "y": y, "color": series["color"], "strokeDash": series["strokeDash"]}},
        {
            "mark": {"type": "point", "filled": True, "size": 50, "opacity": 1},
            "encoding": {"x": x, "y": y, "color": series["color"], "shape": series["shape"], "tooltip": hover},
        },
    ]
    if bounds:
        ends = {"y": y | {"field": f"{up}_low"}, "y2": {"field": f"{up}_high"}}
        rule = {"mark": {"type": "rule", "opacity": 0.6}, "transform": valid(*bounds.values())}
        layers.insert(1, rule | {"encoding": {"x": x, **ends, "color": series["color"]}})
    return {"transform": valid(up), "layer": layers}


def _series(field: str, names: Sequence[str]) -> Spec:
    """The channels that distinguish series, with one legend for all of them."""
    legend = {"orient": "bottom", "title": None, "labelLimit": 190, "symbolLimit": 24, "symbolOpacity": 1}
    plain = {"field": field, "type": "nominal", "sort": None, "legend": legend}
    return {
        channel: plain | {"scale": {"domain": list(names), "range": values}}
        for channel, values in (("color", COLOURS), ("shape", SHAPES), ("strokeDash", DASHES))
    }


def tips(**fields: str) -> list[Spec]:
    """The tooltip of a point: titles and their fields."""
    return [{"field": field, "title": title} for title, field in fields.items()]


def valid(*fields: str) -> list[Spec]:
    """A transform that drops rows without these fields."""
    return [{"filter": " && ".join(f"isValid(datum.{field})" for field in fields)}]


def _any_value(values: Sequence[Mapping[str, Any]], field: str) -> bool:
    return any(row[field] is not None for row in values)


def to_svg(chart: Chart) -> str:
    """The chart as SVG; the same records give the same bytes."""
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg(with_data(chart), config=PAPER)
    return svg


def with_data(chart: Chart) -> Spec:
    """The specification with its data."""
    return {**chart.spec, "data": {"name": DATA, "values": list(chart.values)}}


#: The style for papers.
PAPER: Spec = {
    "background": "white",
    "axis": {"grid": True, "gridColor": "#eee"},
    "view": {"stroke": None},
    "legend": {"columns": 2},
}


def write_figures(report: Report, sections: Sequence[Section], folder: Path) -> list[Path]:
    """Write every chart as SVG and PNG into a folder. Raises StoreError if one cannot be written."""
    import vl_convert

    written = []
    for number, (name, chart) in enumerate(all_charts(report, sections), 1):
        svg = to_svg(chart)
        stem = f"{number:02}-{slug(name)}-{chart.kind}"
        for file, content in ((f"{stem}.svg", svg.encode()), (f"{stem}.png", vl_convert.svg_to_png(svg, scale=2))):
            with atomic_write(folder / file, "or name another folder with --figures", sync=False) as temporary:
                temporary.write_bytes(content)
            written.append(folder / file)
    return written


def slug(name: str) -> str:
    """A file name that every file system accepts."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "network"
