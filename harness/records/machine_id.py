"""Identify a machine by the facts that must be equal for the timings of two runs to belong to one series.

The fingerprint has the model of its CPU, the architecture, the numbers of CPUs and cores, the
memory, the system, and whether it is virtual. It omits what updates change on the same machine: kernel,
microcode, governor, torch, allocator. Updates do move timings, which is why a series must continue across them. If they
were in the fingerprint, each would begin a new series and hide the change that it caused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

#: The entries of a record's ``machine`` that make the fingerprint.
ENTRIES = ("cpu", "architecture", "cpus", "cores", "memory_bytes", "system", "hypervisor")


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """A machine; None for facts that its system does not report. Compare two with `same_machine`, not by equality."""

    cpu: str | None = None
    architecture: str | None = None
    cpus: int | None = None
    cores: int | None = None
    memory_gb: int | None = None
    system: str | None = None
    hypervisor: bool | None = None

    @property
    def known(self) -> bool:
        """Whether the machine can be distinguished from others, which needs the model of its CPU."""
        return self.cpu is not None

    @property
    def digest(self) -> str:
        """Eight hex digits that identify the machine; "unknown" without the model of its CPU."""
        document = json.dumps(dataclasses.astuple(self))
        return hashlib.sha256(document.encode()).hexdigest()[:8] if self.known else "unknown"

    def __str__(self) -> str:
        if not self.known:
            return "unknown machine"
        descriptions = (
            self.cpu,
            self.architecture,
            _count(self.cpus, "CPU"),
            _count(self.cores, "core"),
            None if self.memory_gb is None else f"{self.memory_gb} GB",
            self.system,
            {True: "virtual", False: "not virtual", None: None}[self.hypervisor],
        )
        return ", ".join(description for description in descriptions if description)


def fingerprint(facts: Mapping[str, Any]) -> Fingerprint:
    """The machine that a record's ``machine`` describes; an unknown one if the model of the CPU is missing."""
    memory = _whole(facts.get("memory_bytes"))
    hypervisor = facts.get("hypervisor")
    return Fingerprint(
        cpu=_text(facts.get("cpu")),
        architecture=_text(facts.get("architecture")),
        cpus=_whole(facts.get("cpus")),
        cores=_whole(facts.get("cores")),
        # To the GB (2**30 bytes), because the kernel's own share changes with every update.
        memory_gb=None if memory is None else round(memory / 2**30),
        system=_text(facts.get("system")),
        hypervisor=hypervisor if isinstance(hypervisor, bool) else None,
    )


def same_machine(first: Fingerprint, second: Fingerprint) -> bool:
    """Whether timings of both may be compared. An unknown machine is never the same, not even as itself."""
    return first.known and first == second


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _count(number: int | None, noun: str) -> str | None:
    return None if number is None else f"{number} {noun}{'' if number == 1 else 's'}"
