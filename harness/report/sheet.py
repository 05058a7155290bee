"""Write the report as CSV: one row for each cell, with all figures and the keys of its record."""

from __future__ import annotations

import csv
import io
from typing import Any

from harness.records.record import Interval
from harness.report.model import Report, RunCell

ENTRIES = ("suite", "matrix", "cell", "reference", "preset", "synthetic")
BOUNDS = ("low", "high")
#: First characters that a spreadsheet reads as the beginning of a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def sheet(report: Report) -> str:
    """The cells in the order of the report. A column exists if any cell has it; numbers keep all digits."""
    cells = [cell for network in report.networks for variant in network.variants for cell in variant.cells]
    rows = [_row(cell, report) for cell in cells]
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, [_inert(name) for name in columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows({_inert(name): _inert(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _row(cell: RunCell, report: Report) -> dict[str, Any]:
    record, run = cell.record, report.runs[cell.run]
    row: dict[str, Any] = {name: getattr(record, name) for name in ENTRIES}
    row |= dict(record.axes)
    for name, figure in record.figures.items():
        row[name] = figure.value
        row |= _bounds(name, figure.interval)
    for name, difference in record.differences.items():
        row[f"{name} - reference"] = difference.value
        row |= _bounds(f"{name} - reference", difference)
    if (timing := record.timing) is not None:
        row["latency / reference"] = timing.ratio.value
        row |= _bounds("latency / reference", timing.ratio)
    return row | {
        "verdict": "" if record.verdict is None else record.verdict.kind,
        "artefact": record.artefact.key,
        "sha256": record.artefact.sha256,
        "reference artefact": record.reference_artefact.key,
        "reference sha256": record.reference_artefact.sha256,
        "run": str(run.path),
        "made at": run.date.isoformat(),
        "commit": run.commit.id or "",
    }


def _bounds(name: str, interval: Interval | None) -> dict[str, float | None]:
    return {} if interval is None else {f"{name} ({bound})": getattr(interval, bound) for bound in BOUNDS}


def _inert(value: Any) -> Any:
    """Mark text that a spreadsheet would read as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
