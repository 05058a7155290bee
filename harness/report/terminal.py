"""What is printed of records: the tables, then the sections that plugins add, and the summary."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from harness.plugin.manager import Plugins
from harness.records.record import Record
from harness.report.choice import lead
from harness.report.model import Cell, networks_of, warnings_of
from harness.report.tables import tables
from harness.text import one_line


def report_text(records: Sequence[Record], plugins: Plugins, width: int = 120) -> str:
    """The whole report as text; a table that is wider than ``width`` is folded."""
    sections = plugins.notify("harness_report_section", "a title and a text", records=records)
    added = (f"{title}\n{'=' * len(title)}\n\n{text}" for title, text in sections)
    return "\n\n".join([tables(records, width), *added, _summary(records, width)])


def _summary(records: Sequence[Record], width: int) -> str:
    """Which compression to choose of each network, in words."""
    networks = networks_of(Cell(record, 0) for record in records)
    lines = [*warnings_of(networks), *(f"{network.title}: {lead(network)}" for network in networks)]
    wrapped = (textwrap.fill(one_line(line), max(width, 40), subsequent_indent="  ") for line in lines)
    return "\n".join(["Summary", "=======", "", *wrapped])
