"""The history of a suite for the terminal, and for programs: what changed, when, and what else changed there."""

from __future__ import annotations

import collections
import itertools
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from harness.history.series import Group, History, LevelChange, Series, Setting
from harness.records.runs import labels
from harness.stats.changepoints import LEAST_RUNS
from harness.text import format_margin, one_line, pluralize, printable

MISSING = "-"
SYNTHETIC = "SYNTHETIC DATA: these figures say nothing about the real world"
CLOCK = (
    "(clock): clock time. Separate runs differ in it with the state of the machine; the latency relative to the "
    "reference, timed in the same run, says more."
)
#: So many names are listed, unless all are asked for.
NAMES = 6


def history_text(history: History, width: int = 120, everything: bool = False) -> str:
    """Tables by machine and matrix: the figures that changed, or with ``everything`` all of them."""
    names = labels(history.runs)
    parts = [f"{pluralize(len(names), 'run')}: {names[0]}" + (f" to {names[-1]}" if len(names) > 1 else "")]
    for machine, groups in itertools.groupby(_by_machine(history.groups), key=lambda group: group.setting.machine):
        parts.append(_wrap(f"{machine} (machine {machine.digest})", width))
        parts += [_group(group, names, width, everything) for group in groups]
    if history.unknown:
        runs = _list([names[run] for run in history.unknown], everything)
        text = (
            f"Compared with nothing: {pluralize(len(history.unknown), 'run')} with cells of an unknown machine, whose "
            f"records do not say where they were timed: {runs}."
        )
        parts.append(_wrap(text, width))
    if any(len(group.runs) > 1 for group in history.groups):
        parts.append(_wrap(_legend(history, everything), width))
    return printable("\n\n".join(parts))


def about(setting: Setting) -> str:
    """What the runs of a group have in common besides their machine, on one line."""
    parts = [f"{setting.suite}, matrix {setting.matrix}", f"preset {setting.preset}", f"trained on {setting.device}"]
    if setting.profile:
        parts += [f"protocol {setting.protocol}", *_profile(json.loads(setting.profile))]
    else:
        parts.append(setting.protocol)
    return one_line(", ".join(parts))


def relative(change: LevelChange) -> str:
    """A change in per cent, and whether it is for the worse: "+10.1 %, worse"."""
    share = "from 0" if change.relative is None else f"{100 * change.relative:+,.1f} %"
    if change.relative is not None and abs(change.relative) < 0.0005:
        share = f"{100 * change.relative:+.2g} %"
    return share + {True: ", worse", False: ", better", None: ""}[change.worse]


def history_document(history: History, remarks: Sequence[str] = ()) -> dict[str, Any]:
    """The history as JSON; runs are numbered in the order of time, and all that names a run is such a number."""
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


def _by_machine(groups: Sequence[Group]) -> list[Group]:
    """The groups of each machine together, otherwise in their order."""
    order = list(dict.fromkeys(group.setting.machine for group in groups))
    return sorted(groups, key=lambda group: order.index(group.setting.machine))


def _group(group: Group, names: Sequence[str], width: int, everything: bool) -> str:
    runs = [names[run] for run in group.runs]
    lines = [_wrap(about(group.setting), width)]
    lines.append(f"{pluralize(len(runs), 'run')}, {runs[0]}" + (f" to {runs[-1]}" if len(runs) > 1 else ""))
    if group.setting.synthetic:
        lines.append(SYNTHETIC)
    shown = [series for series in group.series if everything or series.changes]
    if shown:
        lines += ["", *_table(group, shown, names, width)]
    notes = [*_around(group, names), *_summary(group, everything), *_present(group, names, everything)]
    return "\n".join([*lines, "", *(_wrap(note, width) for note in notes)])


def _table(group: Group, shown: Sequence[Series], names: Sequence[str], width: int) -> Iterator[str]:
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
            levels = f"{_value(change.before, series)} -> {_value(change.after, series)} ({relative(change)})"
            text = "; ".join([f"{names[change.first]}: {levels}", *change.cell])
            yield _wrap(one_line(text), width, "    ")


def title(series: Series) -> str:
    """A figure's name with its unit, and whether it is clock time."""
    return series.figure + (f", {series.unit}" if series.unit else "") + (" (clock)" if series.clock else "")


def _around(group: Group, names: Sequence[str]) -> Iterator[str]:
    """What else differs between the runs on both sides of each change, once for all that changed there."""
    found = {(change.last, change.first, change.environment) for series in group.series for change in series.changes}
    if found:
        yield "What else changed there:"
    for last, first, environment in sorted(found):
        what = "; ".join(environment) or "nothing that is recorded"
        yield f"{names[last]} -> {names[first]}: {one_line(what)}."


def _summary(group: Group, everything: bool) -> Iterator[str]:
    if len(group.runs) == 1:
        yield "One run: there is nothing to compare it with yet."
        return
    changed = {series.cell for series in group.series if series.changes}
    few = {series.cell for series in group.series if not series.enough} - changed
    calm = len(group.cells) - len(changed) - len(few)
    if calm:
        yield f"{pluralize(calm, 'cell')} without a change{'' if everything else ' (--all lists them)'}."
    if few:
        short = f"too few runs count (fewer than {LEAST_RUNS}) to tell a change from noise"
        yield f"{pluralize(len(few), 'cell')} of which {short}."
    for figure, series in itertools.groupby(sorted(group.series, key=title), key=title):
        points = [(point, each.cell) for each in series for point in each.points if point.left_out]
        reasons = collections.Counter(point.left_out for point, _ in points)
        if reasons:
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            cells = pluralize(len({cell for _, cell in points}), "cell")
            yield f"Left out of {one_line(figure)}: {counts} (in {cells})."


def _present(group: Group, names: Sequence[str], everything: bool) -> Iterator[str]:
    for run, cells in sorted(group.appeared.items()):
        yield f"New with {names[run]}: {_list(cells, everything)}."
    for run, cells in sorted(group.vanished.items()):
        yield f"Last seen in {names[run]}: {_list(cells, everything)}."


def _legend(history: History, everything: bool) -> str:
    shown = [series for group in history.groups for series in group.series if everything or series.changes]
    text = (
        f"A change is one of level, by more than {format_margin(history.margin)} (in sizes and counts by anything); "
        "the levels are medians. Of series that only vary as before, at most 1 in 20 shows one."
    )
    if any("artefact" in line for series in shown for change in series.changes for line in change.cell):
        text += " harness explain KEY KEY says why two artefacts differ."
    return f"{text} {CLOCK}" if any(series.clock for series in shown) else text


def _profile(profile: Mapping[str, Any]) -> Iterator[str]:
    """A profile in words: its name, then its entries."""
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
    found = list(map(one_line, names))
    cut = found if everything or len(found) <= NAMES else [*found[:NAMES], f"and {len(found) - NAMES} more"]
    return ", ".join(cut)


def _wrap(text: str, width: int, indent: str = "") -> str:
    """Lines of at most this width, where no name is longer; names are never divided."""
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent and indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


# ------------------------------------------------------------------------------------------------------------ JSON


def _group_document(group: Group) -> dict[str, Any]:
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
