"""Write the report as Markdown, for a repository or a comment. Markup in names is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.api.sections import Section, Table
from harness.report.choice import lead
from harness.report.model import OVER_SEEDS, Network, Report
from harness.report.noise import REGIMES, notes
from harness.report.tables import (
    choice_table,
    classes_table,
    coverage_table,
    environment_table,
    present,
    results_table,
    runs_table,
    unmeasured_table,
)
from harness.text import escape_markdown


def markdown(report: Report, sections: Sequence[Section]) -> str:
    """The whole report; ``sections`` are those of plugins."""
    parts = ["# Compression report", *(f"**{escape_markdown(warning)}**" for warning in report.warnings), "## Summary"]
    for network in report.networks:
        parts += [f"### {escape_markdown(network.title)}", escape_markdown(lead(network))]
    parts.append("## Results")
    parts.append(f"In brackets: 95 % intervals. {OVER_SEEDS} {escape_markdown(REGIMES)}")
    for network in report.networks:
        parts += [f"### {escape_markdown(network.heading)}", *_network(network)]
    for section in sections:
        parts += [f"## {escape_markdown(section.title)}", *map(escape_markdown, section.paragraphs)]
        if section.text:
            parts.append(_verbatim(section.text))
        for table in section.tables:
            parts += [f"{escape_markdown(table.caption)}:", _table(table)]
        if section.notes:
            parts.append("\n".join(f"- {escape_markdown(note)}" for note in section.notes))
    parts.append("## Skipped and failed")
    unmeasured = unmeasured_table(report)
    parts.append("No selected cell is recorded as skipped or failed." if unmeasured is None else _table(unmeasured))
    parts += ["## Environment and provenance", *map(_table, (runs_table(report), environment_table(report)))]
    return "\n\n".join(parts) + "\n"


def _network(network: Network) -> Iterator[str]:
    tables = (choice_table(network), results_table(network), classes_table(network), coverage_table(network))
    for table in present(tables):
        yield f"{escape_markdown(table.caption)}:"
        yield _table(table)
    lines = notes(network.records)
    if lines:
        yield "\n".join(f"- {escape_markdown(line)}" for line in lines)


def _table(table: Table) -> str:
    rule = "|" + "|".join("---:" if number else "---" for number in table.numeric) + "|"
    return "\n".join([_row(table.headers), rule, *map(_row, table.rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(escape_markdown, cells)) + " |"


def _verbatim(text: str) -> str:
    """Preformatted text: indented, so that no fence within it ends the block."""
    return "\n".join(f"    {line}" for line in text.splitlines())
