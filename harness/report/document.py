"""The report as Markdown, for a repository or a comment: the summary, then the tables; nothing in a name is markup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.gate.markdown import plain
from harness.report.choice import lead
from harness.report.estimate import OVER_SEEDS
from harness.report.model import Network, Report
from harness.report.noise import notes
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


def markdown(report: Report, studies: Sequence[StudySection], sections: Sequence[tuple[str, str]]) -> str:
    """The whole report; ``sections`` are titles and texts of plugins."""
    parts = ["# Compression report", *(f"**{plain(warning)}**" for warning in report.warnings), "## Summary"]
    for network in report.networks:
        parts += [f"### {plain(network.title)}", plain(lead(network))]
    parts.append("## Results")
    parts.append(f"In brackets: 95 % intervals. {OVER_SEEDS}")
    for network in report.networks:
        parts += [f"### {plain(network.heading)}", *_network(network)]
    for study in studies:
        parts += [f"## {plain(study.title)}", plain(study.summary), plain(study.counts), *map(plain, study.remarks)]
        for table in study.tables:
            parts += [f"{plain(table.caption)}:", _table(table)]
        parts.append("\n".join(f"- {plain(rule)}" for rule in study.rules))
    for title, text in sections:
        parts += [f"## {plain(title)}", _verbatim(text)]
    parts.append("## Not measured")
    left = left_table(report)
    parts.append("No run says of any cell that it was selected and not measured." if left is None else _table(left))
    parts += ["## Environment and provenance", *map(_table, (runs_table(report), environment_table(report)))]
    return "\n\n".join(parts) + "\n"


def _network(network: Network) -> Iterator[str]:
    tables = (choice_table(network), results_table(network), classes_table(network), coverage_table(network))
    for table in present(tables):
        yield f"{plain(table.caption)}:"
        yield _table(table)
    said = notes(network.records)
    if said:
        yield "\n".join(f"- {plain(line)}" for line in said)


def _table(table: Table) -> str:
    rule = "|" + "|".join("---:" if number else "---" for number in table.numeric) + "|"
    return "\n".join([_row(table.headers), rule, *map(_row, table.rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(plain, cells)) + " |"


def _verbatim(text: str) -> str:
    """Text as it is: indented, so that no fence within ends it."""
    return "\n".join(f"    {line}" for line in text.splitlines())
