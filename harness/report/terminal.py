"""What is printed of records: the tables, then the sections that plugins add."""

from __future__ import annotations

from collections.abc import Sequence

from harness.plugins import Plugins
from harness.record import Record
from harness.report.tables import tables


def report_text(records: Sequence[Record], plugins: Plugins, width: int = 120) -> str:
    """The whole report as text; a table that is wider than ``width`` is folded."""
    sections = plugins.notify("harness_report_section", "a title and a text", records=records)
    return "\n\n".join(
        [tables(records, width), *(f"{title}\n{'=' * len(title)}\n\n{text}" for title, text in sections)]
    )
