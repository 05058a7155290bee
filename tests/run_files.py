"""What tests of runs share: the JSON of complete records, and run files of made-up runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import records

MACHINE: dict[str, Any] = {
    "cpu": "Some CPU",
    "microcode": "0x1",
    "architecture": "x86_64",
    "cpus": 2,
    "cores": 1,
    "hypervisor": True,
    "memory_bytes": 16 * 2**30,
    "kernel": "6.1",
    "system": "Linux",
}
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def cell(ratio: float | None = 1.0, error: float = 0.001, **changes: Any) -> Any:
    """The JSON of a complete record; ``error`` is the ratio's relative standard error, of four processes.

    ``changes`` are its axes, its figures, its ``machine`` (None: without), entries of its ``timing``, or its own.
    """
    half = 3.182 * error
    bounds = None if ratio is None else (ratio, ratio * math.exp(-half), ratio * math.exp(half))
    made = records.record(**{"ratio": bounds} | changes)
    made["figures"]["parameters"].pop("role")  # as in records of version 0.1; the metric size declares it
    made["figures"]["file_size"] = {**made["figures"]["parameters"], "metric": "size", "unit": "kB", "headline": False}
    made["figures"]["parameters"] |= {"metric": "size", "headline": False, "digits": 0}
    made["figures"]["auroc"] |= {"metric": "quality", "better": "higher"}
    if made["timing"] is not None:
        made["timing"] |= changes.get("timing", {})
    made |= {name: value for name, value in changes.items() if name in ENTRIES}
    machine = changes.get("machine", MACHINE)
    if machine is not None:
        made["machine"] = dict(machine)
    return made


ENTRIES = ("suite", "matrix", "cell", "reference", "preset", "device", "artefact", "reference_artefact", "versions",
           "test_examples")  # fmt: skip


def contaminated(**changes: Any) -> Any:
    """The JSON of a record whose timing was disturbed."""
    return cell(timing={"verdict": records.verdict("contaminated", "steal")}, **changes)


def write(file: Path, made: Sequence[Any], day: float = 0, **entries: Any) -> Path:
    """A run file of these records, made so many days after `START` from a commit of its own."""
    date = START + timedelta(days=day)
    commit = {"id": f"{round(day * 1000) + 1:040x}"[::-1], "branch": "main", "dirty": False, "time": None}
    benchmarks = [{"name": "x", "extra_info": {"harness": record}} for record in made]
    document = {"datetime": date.isoformat(), "commit_info": commit, "benchmarks": benchmarks} | entries
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    return file


def write_all(folder: Path, runs: Iterable[Sequence[Any]]) -> list[Path]:
    """A file a run, a day apart."""
    return [write(folder / f"run{day:03}.json", made, day) for day, made in enumerate(runs)]
