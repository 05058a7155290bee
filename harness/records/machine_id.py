"""The fingerprint of a machine: what must be equal for the timings of two runs to belong to one series.

It has what a machine is: the model of its CPU, the architecture, the numbers of CPUs and cores, the memory, the system,
and whether it is virtual. What is updated on a machine that stays the same is left out: kernel, microcode, governor,
torch, allocator. They do move timings, and so one wants to see the series before and after; were they in the
fingerprint, each update would begin a new series and hide the very change that it made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

#: The entries of a record's ``machine`` that the fingerprint is made of.
ENTRIES = ("cpu", "architecture", "cpus", "cores", "memory_bytes", "system", "hypervisor")


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """A machine; None for what its system did not tell. Compare two by `same_machine`, not by equality."""

    cpu: str | None = None
    architecture: str | None = None
    cpus: int | None = None
    cores: int | None = None
    memory_gb: int | None = None
    system: str | None = None
    hypervisor: bool | None = None

    @property
    def known(self) -> bool:
        """Whether the machine can be told from others at all: without the model of its CPU it cannot."""
        return self.cpu is not None

    @property
    def digest(self) -> str:
        """Eight hex digits that stand for the machine; "unknown" for one that is not known."""
        document = json.dumps(dataclasses.astuple(self))
        return hashlib.sha256(document.encode()).hexdigest()[:8] if self.known else "unknown"

    def __str__(self) -> str:
        if not self.known:
            return "unknown machine"
        parts = (
            self.cpu,
            self.architecture,
            _count(self.cpus, "CPU"),
            _count(self.cores, "core"),
            None if self.memory_gb is None else f"{self.memory_gb} GB",
            self.system,
            {True: "virtual", False: "not virtual", None: None}[self.hypervisor],
        )
        return ", ".join(part for part in parts if part)


def fingerprint(record: Mapping[str, Any]) -> Fingerprint:
    """The machine of a cell's record; an unknown one when the record does not have it, or not the CPU's model."""
    machine = record.get("machine")
    facts: Mapping[str, Any] = machine if isinstance(machine, Mapping) else {}
    memory = _whole(facts.get("memory_bytes"))
    hypervisor = facts.get("hypervisor")
    return Fingerprint(
        cpu=_text(facts.get("cpu")),
        architecture=_text(facts.get("architecture")),
        cpus=_whole(facts.get("cpus")),
        cores=_whole(facts.get("cores")),
        # To the GB (2**30 bytes), as what the kernel keeps of it for itself changes with every update.
        memory_gb=None if memory is None else round(memory / 2**30),
        system=_text(facts.get("system")),
        hypervisor=hypervisor if isinstance(hypervisor, bool) else None,
    )


def same_machine(first: Fingerprint, second: Fingerprint) -> bool:
    """Whether timings of both may be compared. An unknown machine is the same as no other, not even as itself."""
    return first.known and first == second


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _count(number: int | None, what: str) -> str | None:
    return None if number is None else f"{number} {what}{'' if number == 1 else 's'}"
