"""The studies in the report: published beside measured for whatever of a study was run, with how much of it was."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from itertools import groupby

from harness.errors import UsageError
from harness.plugin.manager import Plugins
from harness.records.record import Record
from harness.report.charts import Chart
from harness.report.sections import MISSING, Table
from harness.report.studies import claim, estimate, published
from harness.report.study_figures import study_charts
from harness.studies import Comparison, Contrast, Ordering, StudyComparison, compare


@dataclasses.dataclass(frozen=True)
class StudySection:
    """What the report says of one study: what it is, how much came out how, its tables and charts, how to read them."""

    title: str
    summary: str
    counts: str
    remarks: tuple[str, ...]
    tables: tuple[Table, ...]
    rules: tuple[str, ...]
    charts: tuple[Chart, ...] = ()


def study_sections(records: Sequence[Record], plugins: Plugins) -> list[StudySection]:
    """A section for each study of which anything was run; a study whose file is not in order says so in its place."""
    found = []
    for name in plugins.studies:
        try:
            study = compare(plugins.studies.get(name), records, plugins)
        except UsageError as error:
            found.append(StudySection(f"Study {name}", str(error), "", (), (), ()))
            continue
        if study.measured:
            found.append(_section(study))
    return found


def _section(study: StudyComparison) -> StudySection:
    outcomes = collections.Counter(entry.outcome for entry in study.comparisons)
    verdicts = collections.Counter(entry.outcome for entry in study.orderings)
    counts = f"Of {len(study.comparisons)} published figures: {_counted(outcomes)}."
    if study.orderings:
        counts += f" Of {len(study.orderings)} findings that are orderings: {_counted(verdicts)}."
    run = [entry for entry in study.comparisons if entry.measured is not None]
    tables = [
        _table(name, list(rows)) for name, rows in groupby(run, key=lambda entry: f"{entry.table} ({entry.where})")
    ]
    if any(entry.outcome != "not run" for entry in study.orderings):
        tables.insert(0, _findings(study.orderings))
    return StudySection(
        title=f"Study {study.name}: published beside measured",
        summary=f"{study.title}. {study.citation}, doi:{study.doi}. Task: {study.task}.",
        counts=counts,
        remarks=study.remarks,
        tables=tuple(tables),
        rules=(*study.rules, *study.notes),
        charts=tuple(study_charts(study)),
    )


def _counted(outcomes: collections.Counter[str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())


def _table(caption: str, rows: Sequence[Comparison]) -> Table:
    headers = ("model", "figure of", "published", "measured", "seeds", "measured - published", "within", "outcome")
    return Table(caption, headers, tuple(map(_row, rows)))


def _row(entry: Comparison) -> tuple[str, ...]:
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
    """The findings of which anything was run; the pair of a finding that has only one stands in its row."""
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
