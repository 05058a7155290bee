"""From each variant of the page to its records: their facts, with what many share kept once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.records.record import Interval, Record
from harness.report.model import Cell, Report, Variant
from harness.report.rows import finite


class Shared:
    """Values that many records have, each once; ``index`` gives its place."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def index(self, value: Any) -> int:
        """The place of a value that is JSON."""
        key = json.dumps(value, sort_keys=True)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(json.loads(key, parse_constant=lambda _: None))
        return self._places[key]


def traces(variant: Variant, report: Report, shared: Shared) -> list[dict[str, Any]]:
    """The facts of each record of a variant; an entry that ends in @ is a place among the shared values."""
    return [_trace(cell, report, shared) for cell in variant.cells]


def _trace(cell: Cell, report: Report, shared: Shared) -> dict[str, Any]:
    record, run = cell.record, report.runs[cell.run]
    timing = record["timing"]
    found: dict[str, Any] = {
        "cell": record["cell"],
        "suite@": shared.index(f"{record['suite']}::{record['matrix']}"),
        "run file@": shared.index(str(run.path)),
        "run@": shared.index(f"{run.date:%Y-%m-%d %H:%M} UTC, commit {run.commit.id or 'unknown'}"),
        "preset@": shared.index(record["preset"]),
        "artefact key": record["artefact"]["key"],
        "artefact sha256": record["artefact"]["sha256"],
        "reference@": shared.index(record["reference"]),
        "reference key@": shared.index(record["reference_artefact"]["key"]),
        "reference sha256@": shared.index(record["reference_artefact"]["sha256"]),
        "steps@": shared.index([step["step"] for step in record["steps"]]),
        "figures": {name: finite(figure["value"]) for name, figure in record["figures"].items()},
        "differences": {name: _interval(entry) for name, entry in record["differences"].items()},
        "test examples@": shared.index(record["test_examples"]),
        "versions@": shared.index(record["versions"]),
        "machine@": shared.index(record.get("machine", {})),
    }
    if timing is not None:
        found |= {
            "latency / reference": _interval(timing["ratio"]),
            "how@": shared.index(_how(timing)),
        }
        if "verdict" in timing:
            verdict = timing["verdict"]
            found["verdict"] = f"{verdict['kind']}: {verdict['reason']}"
        if "itself" in timing:
            found["reference against itself@"] = shared.index(_interval(timing["itself"]["ratio"]))
    return found


def _how(timing: Mapping[str, Any]) -> dict[str, Any]:
    environment = {name: value for name, value in timing["environment"][0].items() if name not in ("pid", "affinity")}
    counts = {name: timing[name] for name in ("processes", "pairs")}
    return {"protocol": timing.get("protocol", "paired"), **counts, "environment of a worker": environment}


def _interval(interval: Interval) -> list[float | None]:
    return [finite(interval["value"]), finite(interval["low"]), finite(interval["high"])]


def plain_json(value: Record | Mapping[str, Any]) -> str:
    """JSON that may stand in a script element of a page: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
