"""Which machine a record is of: runs of one machine form a series, and only they are compared by their own clocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What makes another machine. Not the kernel, the microcode, the governor or any library: those change on a machine
#: while it stays the same one, and are told where a figure changes (harness.changes).
FACTS = ("cpu", "architecture", "cpus", "cores", "hypervisor", "system")
GIGABYTE = 1_000_000_000


def fingerprint(record: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """The facts that tell this machine from others, its memory to the gigabyte among them; None where none is known."""
    machine = record.get("machine")
    if not machine or machine.get("cpu") is None:
        return None
    memory = machine.get("memory_bytes")
    return (*(machine.get(name) for name in FACTS), None if memory is None else round(memory / GIGABYTE))


def same_machine(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two records are known to be of one kind of machine; what is not known is not the same."""
    found = fingerprint(first)
    return found is not None and found == fingerprint(second)
