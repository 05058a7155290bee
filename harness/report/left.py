"""What is left of a network in figures that are no headlines: weights that are not zero, and the deployed file.

Both mostly follow what a table shows anyway, the parameters and the ``state_dict``. They are told where they do not:
where single weights were made zero, and where the deployed form stores less than the ``state_dict``, or more.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from harness.records.record import MetricValue, Record

NONZERO, FILE = "nonzero", "file_size"
NONZERO_LEFT = "nonzero left"
#: Rounding to 8 bits makes up to 3 % of the weights zero, and saves nothing by it.
SPARSER = 0.05
#: Containers differ by some kilobytes, which is up to a tenth of a small network.
APART = 0.1

Bases = Mapping[str, Record]


def bases(records: Sequence[Record]) -> Bases:
    """The records by their cells' names, among which each finds its reference."""
    return {record["cell"]: record for record in records}


def telling(records: Sequence[Record]) -> frozenset[str]:
    """Which of the two figures say more than parameters and ``state_size`` do, in any of a network's cells."""
    found = set()
    known = bases(records)
    for record in records:
        base = known.get(record["reference"])
        if base is None:
            continue
        dense, whole = (_quotient(entry, NONZERO, entry, "parameters") for entry in (record, base))
        if dense is not None and whole is not None and whole - dense > SPARSER:
            found.add(NONZERO)
        file, state = (_quotient(record, name, base, name) for name in (FILE, "state_size"))
        if file is not None and state is not None and abs(file - state) > APART:
            found.add(FILE)
    return frozenset(found)


def file_figure(records: Sequence[Record]) -> MetricValue | None:
    """The deployed file's figure, as a record has it, where it is `telling`."""
    if FILE not in telling(records):
        return None
    figure: MetricValue = next(record["figures"][FILE] for record in records if FILE in record["figures"])
    return figure


def file_title(figure: MetricValue) -> str:
    """The deployed file's size with its unit, as tables and charts have figures."""
    return f"{FILE}, {figure['unit']}" if figure["unit"] else FILE


def nonzero_share(cells: Sequence[Record], known: Bases) -> float | None:
    """The share of their references' non-zero parameters that cells have, on average; None where it is not known."""
    pairs = [(cell, base) for cell in cells if (base := known.get(cell["reference"])) is not None]
    found = [_quotient(cell, NONZERO, base, NONZERO) for cell, base in pairs]
    shares = [share for share in found if share is not None]
    return statistics.fmean(shares) if shares else None


def _quotient(above: Record, name: str, below: Record, other: str) -> float | None:
    part, whole = above["figures"].get(name), below["figures"].get(other)
    if part is None or whole is None or part["value"] is None or not whole["value"]:
        return None
    return float(part["value"] / whole["value"])
