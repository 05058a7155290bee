"""Draw the history of the latency ratios: a panel for each series, with intervals, levels and changes."""

from __future__ import annotations

import math
import statistics
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.files import atomic_write
from harness.history.series import RATIO, History, LevelChange, Point, Series, SeriesGroup
from harness.history.text import SYNTHETIC, describe_setting, format_change
from harness.records.runs import labels
from harness.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

SUFFIXES = (".svg", ".png", ".pdf")
#: The number of panels and of columns of a page; the figure says how many series do not fit.
PANELS, COLUMNS = 24, 3
#: The number of changes with a label in a panel, the latest ones; every change has a line.
LABELS = 5
#: The width of a letter in a label, as a share of the panel.
LETTER = 0.015
#: The longest name of a run in a label: date, time and commit.
LONGEST = 35
#: The colours of Okabe and Ito, which colour-blind readers can distinguish; shapes repeat the information.
RUNS, LEVEL, CHANGE, OTHER = "#0072B2", "#000000", "#D55E00", "#666666"


def check_suffix(file: Path) -> None:
    """Raise UsageError if the file's suffix names no supported format."""
    if file.suffix.lower() not in SUFFIXES:
        forms = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        raise UsageError(f"cannot draw {file}: the format is unknown; name a file {forms} with --figure")


def draw(history: History, file: Path) -> None:
    """Draw the history into a file in the format of its suffix; the same history gives the same bytes.

    Raises UsageError if there is no ratio to draw, StoreError if the file cannot be written.
    """
    check_suffix(file)
    import matplotlib

    # Text stays text in SVG; constant ids and no dates make the bytes reproducible.
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "harness", "font.size": 7}
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}[file.suffix.lower()]
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the font may lack a script; SVG holds the text anyway
        figure = _figure(history)
        with atomic_write(file, "or name another with --figure") as temporary:
            figure.savefig(temporary, format=file.suffix[1:].lower(), dpi=150, metadata=metadata)


def _figure(history: History) -> Figure:
    from matplotlib.figure import Figure

    drawable = [
        (group, series)
        for group in history.groups
        for series in group.series
        if series.figure == RATIO and any(point.value is not None for point in series.points)
    ]
    if not drawable:
        raise UsageError("there is no ratio of latencies to draw: no run of a known machine has one; name other runs")
    drawable.sort(key=lambda entry: not entry[1].changes)
    shown = drawable[:PANELS]
    groups = _unique(group for group, _ in shown)
    names = labels(history.runs)
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    width = max(3.6 * columns, 6.5)
    note = ""
    if len(drawable) > PANELS:
        note = f"; {PANELS} of {len(drawable)} series are drawn, those with a change first"
    head = [f"{RATIO} of separate runs in the order of time{note}", *_head(groups, names, round(18 * width))]
    figure = Figure(figsize=(width, 1.75 * rows + 0.14 * len(head) + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in list(grid.flat)[len(shown) :]:
        axes.set_axis_off()
    for axes, (group, series) in zip(grid.flat, shown, strict=False):
        _panel(axes, group, series, history, names)
        number = f"[{groups.index(group) + 1}] " if len(groups) > 1 else ""
        axes.set_title(number + one_line(series.cell), fontsize=7, loc="left", parse_math=False)
    figure.suptitle("\n".join(head), x=0.01, ha="left", fontsize=7, parse_math=False)
    figure.legend(handles=_legend(), loc="outside lower left", ncols=5 if columns == COLUMNS else 3, frameon=False)
    return figure


def _head(groups: Sequence[SeriesGroup], names: Sequence[str], width: int) -> list[str]:
    """Return the lines about each group: its machine, and what its runs have in common."""
    lines = []
    for number, group in enumerate(groups, 1):
        text = f"[{number}] " if len(groups) > 1 else ""
        text += f"{one_line(str(group.setting.machine))}; {describe_setting(group.setting)}; {names[group.runs[0]]}"
        text += f" to {names[group.runs[-1]]}" if len(group.runs) > 1 else ""
        lines += textwrap.wrap(text, width, break_on_hyphens=False)
        lines += [SYNTHETIC] if group.setting.synthetic else []
    return lines


def _panel(axes: Axes, group: SeriesGroup, series: Series, history: History, names: Sequence[str]) -> None:
    places = {run: place for place, run in enumerate(group.runs)}
    size = 3.0 if len(places) <= 40 else 1.6
    low, high = _limits(series)
    top = high + 0.2 * len(series.changes[-LABELS:]) * (high - low)
    axes.set_ylim(low, top)
    axes.set_xlim(-0.6, len(places) - 0.4)
    if low < 1 < top:
        axes.axhline(1, color=OTHER, linewidth=0.6, linestyle=":")
    counted = series.counted
    bounds = [(places[point.run], point.low, point.high) for point in counted if None not in (point.low, point.high)]
    if bounds:
        axes.vlines(*zip(*bounds, strict=True), color=RUNS, linewidth=0.8, alpha=0.5)
    axes.plot([places[point.run] for point in counted], _values(counted), "o", color=RUNS, markersize=size)
    excluded = [point for point in series.points if point.left_out and point.value is not None]
    edge = [min(max(value, low), top) for value in _values(excluded)]
    if excluded:  # an empty plot has no extent, which breaks the layout
        axes.plot([places[point.run] for point in excluded], edge, "x", color=OTHER, markersize=size + 1, clip_on=False)
    _levels(axes, series, places)
    _labels(axes, series, places, names)
    _ticks(axes, group, history)


def _labels(axes: Axes, series: Series, places: Mapping[int, int], names: Sequence[str]) -> None:
    """Draw a line at each change, and the labels of the latest changes below one another, moved into the panel."""
    share = 1 / (len(places) + 0.2)  # the width of a run, as a share of the axis
    for change in series.changes:
        axes.axvline(_between(change, places), color=CHANGE, linewidth=1, linestyle="--")
    shown = series.changes[-LABELS:]
    line = 0.2 / (1 + 0.2 * len(shown))
    for number, change in enumerate(shown):
        text = f"{names[change.first][:LONGEST]}: {format_change(change)}"
        half = min(0.5, len(text) * LETTER / 2)
        axes.text(
            min(max((_between(change, places) + 0.6) * share, half), 1 - half),
            1 - (number + 0.15) * line,
            text,
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=6,
            color=CHANGE,
            parse_math=False,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        ).set_in_layout(False)


def _between(change: LevelChange, places: Mapping[int, int]) -> float:
    return (places[change.last] + places[change.first]) / 2


def _levels(axes: Axes, series: Series, places: Mapping[int, int]) -> None:
    """Draw a line at the median of the runs between two changes."""
    if not series.changes:
        return
    counted = [point.run for point in series.counted]
    begins = [counted[0], *(change.first for change in series.changes)]
    ends = [*(change.last for change in series.changes), counted[-1]]
    levels = [series.changes[0].before, *(change.after for change in series.changes)]
    for begin, end, level in zip(begins, ends, levels, strict=True):
        axes.plot([places[begin] - 0.3, places[end] + 0.3], [level, level], color=LEVEL, linewidth=1)


def _limits(series: Series) -> tuple[float, float]:
    """Return the limits of the vertical axis: the values that count, with intervals unless unusually wide."""
    points = series.counted or series.points
    values = _values(points)
    half = [(point.high - point.low) / 2 for point in points if point.low is not None and point.high is not None]
    reach = 1.5 * statistics.median(half) if half else 0.0
    low, high = min(values) - reach, max(values) + reach
    room = max(0.05 * (high - low), 0.005 * abs(high))
    return low - room, high + room


def _values(points: Iterable[Point]) -> list[float]:
    return [point.value for point in points if point.value is not None]


def _ticks(axes: Axes, group: SeriesGroup, history: History) -> None:
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    last = len(group.runs) - 1
    places = [0] if last == 0 else [0, last]
    axes.set_xticks(places, [f"{history.runs[group.runs[place]].date:%Y-%m-%d}" for place in places])
    axes.set_xticks(range(last + 1) if last < 100 else [], minor=True)
    if last:
        axes.get_xticklabels()[0].set_horizontalalignment("left")
        axes.get_xticklabels()[-1].set_horizontalalignment("right")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))


def _legend() -> list[Line2D]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=RUNS, marker="o", markersize=3, linewidth=0.8, label="a run, with its interval"),
        Line2D([], [], color=OTHER, marker="x", markersize=4, linestyle="", label="left out, e.g. contaminated"),
        Line2D([], [], color=LEVEL, linewidth=1, label="level about a change"),
        Line2D([], [], color=CHANGE, linewidth=1, linestyle="--", label="change"),
        Line2D([], [], color=OTHER, linewidth=0.6, linestyle=":", label="as fast as the reference"),
    ]


def _unique(groups: Iterable[SeriesGroup]) -> list[SeriesGroup]:
    unique: list[SeriesGroup] = []
    for group in groups:
        if not any(group is other for other in unique):
            unique.append(group)
    return unique
