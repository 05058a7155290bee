"""Format a history as text for a terminal and as JSON for programs."""

from __future__ import annotations

import collections
import itertools
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from harness.history.series import History, LevelChange, Series, SeriesGroup, Setting
from harness.records.runs import labels
from harness.stats.changepoints import LEAST_RUNS
from harness.text import format_margin, one_line, pluralize, printable

MISSING = "-"
SYNTHETIC = "SYNTHETIC DATA: these figures say nothing about the real world"
CLOCK_NOTE = (
    "(clock): clock time. It differs between runs with the state of the machine; the latency relative to the "
    "reference, timed in the same run, is more reliable."
)
#: The number of names in a list, unless everything is to be shown.
NAMES = 6


def history_text(history: History, width: int = 120, everything: bool = False) -> str:
    """Return tables by machine and matrix of the figures that changed, or of all with ``everything``."""
    names = labels(history.runs)
    paragraphs = [f"{pluralize(len(names), 'run')}: {names[0]}" + (f" to {names[-1]}" if len(names) > 1 else "")]
    for machine, groups in itertools.groupby(_by_machine(history.groups), key=lambda group: group.setting.machine):
        paragraphs.append(_wrap(f"{machine} (machine {machine.digest})", width))
        paragraphs += [_group(group, names, width, everything) for group in groups]
    if history.unknown:
        runs = _list([names[run] for run in history.unknown], everything)
        text = (
            f"Not compared: {pluralize(len(history.unknown), 'run')} with cells of an unknown machine, whose records "
            f"do not say where they were timed: {runs}."
        )
        paragraphs.append(_wrap(text, width))
    if any(len(group.runs) > 1 for group in history.groups):
        paragraphs.append(_wrap(_legend(history, everything), width))
    return printable("\n\n".join(paragraphs))


def describe_setting(setting: Setting) -> str:
    """Return on one line what the runs of a group have in common, apart from their machine."""
    facts = [f"{setting.suite}, matrix {setting.matrix}", f"preset {setting.preset}", f"trained on {setting.device}"]
    if setting.profile:
        facts += [f"protocol {setting.protocol}", *_profile(json.loads(setting.profile))]
    else:
        facts.append(setting.protocol)
    return one_line(", ".join(facts))


def format_change(change: LevelChange) -> str:
    """Return a change in per cent, and whether it is worse: "+10.1 %, worse"."""
    share = "from 0" if change.relative is None else f"{100 * change.relative:+,.1f} %"
    if change.relative is not None and abs(change.relative) < 0.0005:
        share = f"{100 * change.relative:+.2g} %"
    return share + {True: ", worse", False: ", better", None: ""}[change.worse]


def history_document(history: History, remarks: Sequence[str] = ()) -> dict[str, Any]:
    """Return the history as JSON; numbers of runs are indices into its ``runs``, which are in order of time."""
    return {
        "margin": history.margin,
        "least_runs": LEAST_RUNS,
        "runs": [
            {
                "file": str(run.path),
                "date": run.date.isoformat(),
                "commit": run.commit.id,
                "branch": run.commit.branch,
                "dirty": run.commit.dirty,
            }
            for run in history.runs
        ],
        "unknown_machine": list(history.unknown),
        "remarks": list(remarks),
        "groups": [_group_document(group) for group in _by_machine(history.groups)],
    }


# ------------------------------------------------------------------------------------------------------------ text


def _by_machine(groups: Sequence[SeriesGroup]) -> list[SeriesGroup]:
    """Sort the groups by the first appearance of their machine."""
    order = list(dict.fromkeys(group.setting.machine for group in groups))
    return sorted(groups, key=lambda group: order.index(group.setting.machine))


def _group(group: SeriesGroup, names: Sequence[str], width: int, everything: bool) -> str:
    runs = [names[run] for run in group.runs]
    lines = [_wrap(describe_setting(group.setting), width)]
    lines.append(f"{pluralize(len(runs), 'run')}, {runs[0]}" + (f" to {runs[-1]}" if len(runs) > 1 else ""))
    if group.setting.synthetic:
        lines.append(SYNTHETIC)
    shown = [series for series in group.series if everything or series.changes]
    if shown:
        lines += ["", *_table(group, shown, names, width)]
    notes = [*_around(group, names), *_summary(group, everything), *_present(group, names, everything)]
    return "\n".join([*lines, "", *(_wrap(note, width) for note in notes)])


def _table(group: SeriesGroup, shown: Sequence[Series], names: Sequence[str], width: int) -> Iterator[str]:
    rows = []
    cell = None
    for series in shown:
        counted = series.counted
        count = str(len(counted)) + ("" if len(counted) == len(group.runs) else f" of {len(group.runs)}")
        ends = [_value(counted[end].value, series) if counted else MISSING for end in (0, -1)]
        rows.append([one_line(series.cell) if series.cell != cell else "", one_line(title(series)), count, *ends])
        cell = series.cell
    head, *lines = tabulate(
        rows, ["cell", "figure", "runs", "first", "last"], tablefmt="plain", disable_numparse=True
    ).splitlines()
    yield head
    for series, line in zip(shown, lines, strict=True):
        yield line
        for change in series.changes:
            levels = f"{_value(change.before, series)} -> {_value(change.after, series)} ({format_change(change)})"
            text = "; ".join([f"{names[change.first]}: {levels}", *change.cell])
            yield _wrap(one_line(text), width, "    ")


def title(series: Series) -> str:
    """Return a figure's name with its unit, marked if it is clock time."""
    return series.figure + (f", {series.unit}" if series.unit else "") + (" (clock)" if series.clock else "")


def _around(group: SeriesGroup, names: Sequence[str]) -> Iterator[str]:
    """Yield what else differs between the runs on both sides of each change, once for each pair of runs."""
    pairs = {(change.last, change.first, change.environment) for series in group.series for change in series.changes}
    if pairs:
        yield "What else changed there:"
    for last, first, environment in sorted(pairs):
        text = "; ".join(environment) or "nothing that is recorded"
        yield f"{names[last]} -> {names[first]}: {one_line(text)}."


def _summary(group: SeriesGroup, everything: bool) -> Iterator[str]:
    if len(group.runs) == 1:
        yield "Only one run: there is nothing to compare it with yet."
        return
    changed = {series.cell for series in group.series if series.changes}
    few = {series.cell for series in group.series if not series.enough} - changed
    unchanged = len(group.cells) - len(changed) - len(few)
    if unchanged:
        yield f"{pluralize(unchanged, 'cell')} without a change{'' if everything else ' (--all lists them)'}."
    if few:
        yield (
            f"{pluralize(len(few), 'cell')} with too few runs (fewer than {LEAST_RUNS}) to distinguish a change "
            "from noise."
        )
    for figure, series in itertools.groupby(sorted(group.series, key=title), key=title):
        points = [(point, each.cell) for each in series for point in each.points if point.left_out]
        reasons = collections.Counter(point.left_out for point, _ in points)
        if reasons:
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            cells = pluralize(len({cell for _, cell in points}), "cell")
            yield f"Left out of {one_line(figure)}: {counts} (in {cells})."


def _present(group: SeriesGroup, names: Sequence[str], everything: bool) -> Iterator[str]:
    for run, cells in sorted(group.appeared.items()):
        yield f"New with {names[run]}: {_list(cells, everything)}."
    for run, cells in sorted(group.vanished.items()):
        yield f"Last seen in {names[run]}: {_list(cells, everything)}."


def _legend(history: History, everything: bool) -> str:
    shown = [series for group in history.groups for series in group.series if everything or series.changes]
    text = (
        f"A change is a change of level by more than {format_margin(history.margin)}; of an exact figure, by any "
        "amount. The levels are medians. At most 1 in 20 stationary series shows one."
    )
    if any("artefact" in line for series in shown for change in series.changes for line in change.cell):
        text += " harness explain KEY KEY prints why two artefacts differ."
    return f"{text} {CLOCK_NOTE}" if any(series.clock for series in shown) else text


def _profile(profile: Mapping[str, Any]) -> Iterator[str]:
    """Yield the name of a profile, then its entries, as text."""
    if profile.get("name"):
        yield f"profile {profile['name']}"
    for name, value in profile.items():
        if name != "name":
            words = value if isinstance(value, list) else [value]
            yield f"{name} {' or '.join(_word(word) for word in words)}"


def _word(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _value(value: float | None, series: Series) -> str:
    if value is None:
        return MISSING
    return f"{value:.6g}" if abs(value) >= 1e12 else f"{value:,.{min(max(series.digits, 0), 12)}f}"


def _list(names: Iterable[str], everything: bool) -> str:
    lines = list(map(one_line, names))
    if not everything and len(lines) > NAMES:
        lines = [*lines[:NAMES], f"and {len(lines) - NAMES} more"]
    return ", ".join(lines)


def _wrap(text: str, width: int, indent: str = "") -> str:
    """Wrap to lines of at most this width, unless a name is longer: names are never split."""
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent and indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


# ------------------------------------------------------------------------------------------------------------ JSON


def _group_document(group: SeriesGroup) -> dict[str, Any]:
    setting = group.setting
    return {
        "machine": {"text": str(setting.machine), "digest": setting.machine.digest},
        "suite": setting.suite,
        "matrix": setting.matrix,
        "preset": setting.preset,
        "device": setting.device,
        "synthetic": setting.synthetic,
        "protocol": setting.protocol,
        "profile": json.loads(setting.profile) if setting.profile else None,
        "runs": list(group.runs),
        "cells": list(group.cells),
        "appeared": [{"run": run, "cells": list(cells)} for run, cells in sorted(group.appeared.items())],
        "vanished": [{"run": run, "cells": list(cells)} for run, cells in sorted(group.vanished.items())],
        "series": [_series_document(series) for series in group.series],
    }


def _series_document(series: Series) -> dict[str, Any]:
    return {
        "cell": series.cell,
        "figure": series.figure,
        "unit": series.unit,
        "scale": series.scale,
        "clock": series.clock,
        "enough": series.enough,
        "points": [
            {
                "run": point.run,
                "value": point.value,
                "low": point.low,
                "high": point.high,
                "left_out": point.left_out or None,
            }
            for point in series.points
        ],
        "changes": [
            {
                "last": change.last,
                "first": change.first,
                "before": change.before,
                "after": change.after,
                "relative": change.relative,
                "worse": change.worse,
                "cell": list(change.cell),
                "environment": list(change.environment),
            }
            for change in series.changes
        ],
    }
