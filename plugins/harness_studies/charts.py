"""Draw the charts of a study: how far each measured figure lies from the published one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.api.sections import Chart
from harness.report import COLOURS, SHAPES, Spec, framed, tips, valid
from harness_studies.comparison import FigureComparison, StudyComparison

CAPTION = (
    "{}, measured - published, with the 95 % interval that it is judged by. The line at 0 is the published figure{}. "
    "A figure without an interval was measured on other data, or both sides have one run only."
)
BAND = ", the band is the margin of {:g}"
#: The height in pixels of each figure's line.
LINE = 20
#: Colour and shape of each outcome.
LOOKS = {
    "reproduced": (COLOURS[2], SHAPES[0]),
    "differs": (COLOURS[1], SHAPES[1]),
    "inconclusive": (COLOURS[4], SHAPES[2]),
    "other data": (COLOURS[5], SHAPES[3]),
}


def study_charts(study: StudyComparison) -> list[Chart]:
    """A chart for each table and figure that was measured, except exact figures and those that are not judged."""
    groups: dict[tuple[str, str], list[FigureComparison]] = {}
    for entry in study.comparisons:
        difference = entry.difference
        if difference is not None and difference.method != "exact" and entry.outcome != "not comparable":
            groups.setdefault((entry.table, entry.figure), []).append(entry)
    return [_chart(study.name, *names, entries) for names, entries in groups.items()]


def _chart(study: str, table: str, figure: str, entries: Sequence[FigureComparison]) -> Chart:
    margins = {entry.margin for entry in entries}
    margin = margins.pop() if len(margins) == 1 else None
    several = len({entry.column for entry in entries}) > 1
    values = [_value(entry, f"{entry.row}, {entry.column}" if several else entry.row) for entry in entries]
    caption = CAPTION.format(figure, "" if margin is None else BAND.format(margin))
    title = f"Study {study}, {table}" + ("" if figure in table else f", {figure}")
    spec = _spec(f"{figure}, measured - published", margin, values)
    return framed("published", title, caption, spec, values)


def _value(entry: FigureComparison, place: str) -> Mapping[str, Any]:
    difference, measured = entry.difference, entry.measured
    bounds = {}
    if difference is not None:
        bounds = {"difference": difference.value, "low": difference.low, "high": difference.high}
    return {
        "place": place,
        "outcome": entry.outcome,
        "published": entry.published.value,
        **({} if measured is None else {"measured": measured.value, "seeds": measured.count}),
        **bounds,
    }


def _spec(title: str, margin: float | None, values: Sequence[Mapping[str, Any]]) -> Spec:
    places = [value["place"] for value in values]
    y = {"field": "place", "type": "nominal", "sort": places, "title": None, "axis": {"labelLimit": 150}}
    x = {"field": "difference", "type": "quantitative", "title": title}
    outcomes = {value["outcome"] for value in values}
    looks = {outcome: look for outcome, look in LOOKS.items() if outcome in outcomes}
    legend = {"orient": "bottom", "title": None}
    colour, shape = (
        {"field": "outcome", "type": "nominal", "legend": legend, "scale": {"domain": list(looks), "range": channel}}
        for channel in zip(*looks.values(), strict=True)
    )
    names = ("place", "published", "measured", "difference", "low", "high", "outcome", "seeds")
    bounds = {"x": x | {"field": "low"}, "x2": {"field": "high"}}
    once: Spec = {"data": {"values": [{}]}}
    back: list[Spec] = []
    if margin is not None:
        ends = {"x": {"datum": -margin, "type": "quantitative"}, "x2": {"datum": margin}}
        back.append(once | {"mark": {"type": "rect", "opacity": 0.1, "color": "#888"}, "encoding": ends})
    zero = {"x": {"datum": 0, "type": "quantitative"}}
    return {
        "height": LINE * len(values),
        "layer": [
            *back,
            once | {"mark": {"type": "rule", "opacity": 0.6}, "encoding": zero},
            {"mark": "rule", "transform": valid("low", "high"), "encoding": {"y": y, **bounds, "color": colour}},
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "shape": shape,
                    "tooltip": tips(**{name: name for name in names}),
                },
            },
        ],
    }
