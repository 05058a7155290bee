"""Print a study in the terminal: tables of published figures beside the measured ones."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from harness.api.sections import MISSING
from harness.stats.estimates import Estimate
from harness.text import fit_table, format_margin, pluralize
from harness_studies.comparison import FigureComparison, StudyComparison
from harness_studies.orderings import Contrast, Ordering

RELATIONS = {"above": ">", "below": "<", "same": "=", "not below": ">=", "not above": "<="}


def study_text(study: StudyComparison, width: int = 120) -> str:
    """The study, its tables and its findings; tables wider than ``width`` are folded."""
    blocks = [_paragraphs([study.summary], width)]
    if study.remarks:
        blocks.append(_paragraphs(study.remarks, width))
    if not study.measured:
        blocks.append("No cell of this study was run.")
    tables = [(name, list(rows)) for name, rows in groupby(study.comparisons, key=lambda entry: entry.table)]
    blocks += [f"{_paragraphs([_heading(name, rows)], width)}\n\n{_table(rows, width)}" for name, rows in tables]
    blocks.append(f"Findings that are orderings\n\n{_orderings(study.orderings, width)}")
    blocks.append(_paragraphs((*study.rules, *study.notes), width))
    return "\n\n".join(blocks)


def _heading(name: str, rows: Sequence[FigureComparison]) -> str:
    margin = _common_margin(rows)
    details = [rows[0].where, "" if margin is None else f"margin {margin:,.{rows[0].digits}f}"]
    return f"{name} ({'; '.join(filter(None, details))})" if any(details) else name


def _common_margin(rows: Sequence[FigureComparison]) -> float | None:
    """The margin of the rows, if they share one; rows without a margin do not count."""
    margins = {row.margin for row in rows if row.margin is not None}
    return margins.pop() if len(margins) == 1 else None


def _table(rows: Sequence[FigureComparison], width: int) -> str:
    """A line for each published figure; empty columns are left out."""
    apart = _common_margin(rows) is None
    columns: dict[str, Callable[[FigureComparison], str]] = {
        "published": published,
        "measured": lambda row: estimate(row.measured, row.digits),
        "of": _of,
        "the study's choice": lambda row: estimate(row.named, row.digits),
        "measured - published": lambda row: estimate(row.difference, row.digits, "+"),
        "margin": lambda row: MISSING if row.margin is None or not apart else f"{row.margin:,.{row.digits}f}",
        "outcome": lambda row: _outcome(row.outcome, row.reason),
    }
    shown = {header: show for header, show in columns.items() if any(show(row) != MISSING for row in rows)}
    names = ["" if index and rows[index - 1].row == row.row else row.row for index, row in enumerate(rows)]
    body = [
        [name, f"{row.column}{_unit(row)}", *(show(row) for show in shown.values())]
        for name, row in zip(names, rows, strict=True)
    ]
    return fit_table(["", "", *shown], body, width)


def _unit(row: FigureComparison) -> str:
    return f", {row.unit}" if row.unit else ""


def _of(row: FigureComparison) -> str:
    """The seeds of the measured figure, and its choice among those that were run."""
    if row.measured is None:
        return MISSING
    seeds = ", ".join([_seeds(row.measured), *row.ways])
    if not row.choices:
        return seeds
    best = "best of " if len(row.choices) > 1 else ""
    return f"{seeds}, {row.chosen} ({best}{len(row.choices)} of {row.possible} run)"


def _seeds(measured: Estimate) -> str:
    return pluralize(measured.count, "seed")


def published(row: FigureComparison) -> str:
    """A published figure with its standard deviation and its choice: "0.9199 ±0.0009 1/L1"."""
    spread = "" if row.published.spread is None else f" ±{row.published.spread:.{row.digits}f}"
    return f"{_plain(row.published.value, row.digits)}{spread} {row.published.choice}".rstrip()


def _plain(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def estimate(value: Estimate | None, digits: int, sign: str = "") -> str:
    """An estimate with its interval: "0.9285 [0.9210, 0.9360]"."""
    if value is None:
        return MISSING
    return (dataclasses.replace(value, low=None) if value.low == value.high else value).text(digits, sign)


def _orderings(orderings: Sequence[Ordering], width: int) -> str:
    body = []
    for entry in orderings:
        if len(entry.contrasts) == 1:
            body.append([claim(entry), *_figures(entry, entry.contrasts[0]), _outcome(entry.outcome, entry.reason)])
            continue
        body.append([claim(entry), "", "", "", _outcome(entry.outcome, entry.reason)])
        for contrast in entry.contrasts:
            if contrast.outcome != "not run":
                outcome = _outcome(contrast.outcome, contrast.reason)
                body.append([f"  {contrast.label}", *_figures(entry, contrast), outcome])
    headers = ["", "published", "measured", "of", "outcome"]
    return fit_table(headers, body, width)


def claim(entry: Ordering) -> str:
    """The claim with the comparison: "... (latency a / b < 1)"."""
    what = f"{entry.figure} a / b" if entry.scale == "ratio" else f"{entry.figure} a - b"
    bar = "1" if entry.scale == "ratio" else "0"
    margin = ""
    if entry.margin:
        margin = f", within {format_margin(entry.margin) if entry.scale == 'ratio' else f'{entry.margin:g}'}"
    return f"{entry.claim} ({what} {RELATIONS[entry.relation]} {bar}{margin})"


def _figures(entry: Ordering, contrast: Contrast) -> list[str]:
    digits, sign = (3, "") if entry.scale == "ratio" else (entry.digits, "+")
    known = MISSING if contrast.published is None else f"{contrast.published:{sign}.{digits}f}"
    of = MISSING if contrast.measured is None else _seeds(contrast.measured)
    if contrast.measured is not None and contrast.measured.over not in ("seeds", ""):
        of += f", over {contrast.measured.over}"
    return [known, estimate(contrast.measured, digits, sign), of]


def _outcome(outcome: str, reason: str) -> str:
    return ": ".join(filter(None, (outcome, reason)))


def _paragraphs(texts: Iterable[str], width: int) -> str:
    return "\n".join("\n".join(textwrap.wrap(text, width)) for text in texts)
