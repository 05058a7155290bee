"""Make the sections of the report that set published figures beside measured ones."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from itertools import groupby

from harness.api.sections import MISSING, ReportContext, Section, Table
from harness.errors import UsageError
from harness_studies.charts import study_charts
from harness_studies.comparison import FigureComparison, StudyComparison, compare
from harness_studies.match import Record
from harness_studies.orderings import Contrast, Ordering
from harness_studies.text import claim, estimate, published, study_text


def study_sections(records: Sequence[Record], context: ReportContext) -> list[Section]:
    """A section for each study. A report in the terminal shows a study only on request, and then all of it."""
    return list(_sections(records, context))


def _sections(records: Sequence[Record], context: ReportContext) -> Iterator[Section]:
    for name, study in context.things["study"].items():
        title = f"Study {name}"
        if not context.wants(name) or (context.section is None and context.width is not None):
            yield Section(title, name=name, on_request=True)
            continue
        try:
            comparison = compare(study, records, context.things["step"])
        except UsageError as error:
            yield Section(title, (str(error),), name=name, failed=True)
            continue
        if context.width is None:
            yield _section(comparison)
        else:
            yield Section(comparison.heading, text=study_text(comparison, context.width), name=name)


def _section(study: StudyComparison) -> Section:
    outcomes = collections.Counter(entry.outcome for entry in study.comparisons)
    verdicts = collections.Counter(entry.outcome for entry in study.orderings)
    counts = f"Of {len(study.comparisons)} published figures: {_counts(outcomes)}."
    if study.orderings:
        counts += f" Of {len(study.orderings)} findings that are orderings: {_counts(verdicts)}."
    run = [entry for entry in study.comparisons if entry.measured is not None]
    tables = [
        _table(name, list(rows)) for name, rows in groupby(run, key=lambda entry: f"{entry.table} ({entry.where})")
    ]
    if any(entry.outcome != "not run" for entry in study.orderings):
        tables.insert(0, _findings(study.orderings))
    return Section(
        title=study.heading,
        paragraphs=(study.summary, counts, *study.remarks),
        charts=tuple(study_charts(study)),
        tables=tuple(tables),
        notes=(*study.rules, *study.notes),
        name=study.name,
        on_request=not study.measured,
    )


def _counts(outcomes: collections.Counter[str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())


def _table(caption: str, rows: Sequence[FigureComparison]) -> Table:
    headers = ("model", "figure of", "published", "measured", "seeds", "measured - published", "within", "outcome")
    return Table(caption, headers, tuple(map(_row, rows)))


def _row(entry: FigureComparison) -> tuple[str, ...]:
    return (
        entry.row,
        f"{entry.column}, {entry.unit}" if entry.unit else entry.column,
        published(entry),
        estimate(entry.measured, entry.digits),
        MISSING if entry.measured is None else ", ".join(filter(None, (str(entry.measured.count), entry.chosen))),
        estimate(entry.difference, entry.digits, "+"),
        MISSING if entry.margin is None else f"{entry.margin:,.{entry.digits}f}",
        _outcome(entry.outcome, entry.reason),
    )


def _findings(orderings: Sequence[Ordering]) -> Table:
    """The findings with pairs that were run; a finding with only one pair takes one row."""
    rows: list[tuple[str, ...]] = []
    for entry in orderings:
        run = [contrast for contrast in entry.contrasts if contrast.outcome != "not run"]
        if len(entry.contrasts) == 1 == len(run):
            rows.append((claim(entry), run[0].label, *_contrast(entry, run[0])[2:]))
        elif run:
            rows.append((claim(entry), "", _outcome(entry.outcome, entry.reason), "", ""))
            rows += [_contrast(entry, contrast) for contrast in run]
    return Table("Findings that are orderings", ("finding", "of", "outcome", "published", "measured"), tuple(rows))


def _contrast(entry: Ordering, contrast: Contrast) -> tuple[str, ...]:
    digits, sign = (3, "") if entry.scale == "ratio" else (entry.digits, "+")
    known = MISSING if contrast.published is None else f"{contrast.published:{sign}.{digits}f}"
    measured = estimate(contrast.measured, digits, sign)
    return ("", contrast.label, _outcome(contrast.outcome, contrast.reason), known, measured)


def _outcome(outcome: str, reason: str) -> str:
    return ": ".join(filter(None, (outcome, reason)))
