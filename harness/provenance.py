"""What differs between two runs of a cell apart from its figures: versions, the machine's software, the artefact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.fingerprint import ENTRIES
from harness.record import Record

#: Entries of a worker's environment that differ from process to process, or that ``versions`` has too.
PASSING = ("pid", "affinity", "torch", "python")
#: So many digits tell keys and hashes apart; ``harness explain`` takes them.
DIGITS = 12


def environment_differences(before: Record, after: Record) -> list[str]:
    """A line for each difference in what surrounds the cell: "torch 2.12.0 -> 2.13.0".

    What the machine's fingerprint is made of is left out: runs of two machines are not compared.
    """
    old, new = _environment(before), _environment(after)
    return [
        f"{name} {old.get(name, '-')} -> {new.get(name, '-')}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


def cell_differences(before: Record, after: Record) -> list[str]:
    """A line for each difference in what the cell is: its artefact, its reference's, and the test examples."""
    return list(_cell_differences(before, after))


def _cell_differences(before: Record, after: Record) -> Iterator[str]:
    yield from _artefact("artefact", dict(before["artefact"]), dict(after["artefact"]))
    if before["cell"] != before["reference"]:
        old, new = before["reference_artefact"], after["reference_artefact"]
        yield from _artefact("reference's artefact", dict(old), dict(new))
    if before["test_examples"] != after["test_examples"]:
        yield f"test examples {before['test_examples']} -> {after['test_examples']}"


def _artefact(name: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    if old["key"] != new["key"]:
        yield f"{name} {old['key'][:DIGITS]} -> {new['key'][:DIGITS]}"
    elif old["sha256"] != new["sha256"]:
        yield f"{name} has the same key and another file, {old['sha256'][:DIGITS]} -> {new['sha256'][:DIGITS]}"


def _environment(record: Record) -> dict[str, str]:
    facts: dict[str, str] = {name: str(value) for name, value in record["versions"].items()}
    facts |= {name: _shown(value) for name, value in record.get("machine", {}).items() if name not in ENTRIES}
    timing = record["timing"]
    if timing is not None:
        facts["processes"] = str(timing["processes"])
        workers = timing["environment"]
        for name in dict.fromkeys(name for worker in workers for name in worker if name not in PASSING):
            facts[name] = ", ".join(dict.fromkeys(_shown(worker.get(name)) for worker in workers))
    return facts


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "unknown" if value is None else str(value)
