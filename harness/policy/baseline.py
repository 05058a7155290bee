"""An earlier run whose models are measured again beside the new ones."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from harness.errors import UsageError
from harness.records.changes import Documents
from harness.records.record import Record
from harness.records.runs import read

KEY = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The records of an earlier run by their cells' names; of a cell that was recorded twice the last counts."""

    file: Path
    records: Mapping[str, Record]
    documents: Documents

    @classmethod
    def of(cls, file: Path, preset: str) -> Baseline:
        """Read a run's file. Raises UsageError when it holds nothing that was run at this preset."""
        run = read(file)
        fitting = {record.name: record for record in run.records if record.preset == preset}
        if not fitting:
            presets = ", ".join(sorted({record.preset for record in run.records}))
            raise UsageError(
                f"{file} was run at preset {presets}, which cannot be compared with {preset}: choose the same with "
                "--harness-preset"
            )
        for name, record in fitting.items():
            if not KEY.fullmatch(record.artefact.key):
                raise UsageError(f"{file} is damaged: the artefact of {name} has no key; restore it, or run again")
        return cls(file, fitting, run.documents)

    def aligned(self, suites: Collection[str]) -> Baseline:
        """The same with the suites' names of this run: pytest names a file from its root, which may be another today.

        A suite is known again when the end of one path is the other, and of no third. Raises UsageError when none is.
        """
        before = {record.suite for record in self.records.values()}
        names = {}
        for suite in before - set(suites):
            again = [entry for entry in set(suites) - before if _same_file(entry, suite)]
            if len(again) == 1 and sum(_same_file(again[0], other) for other in before) == 1:
                names[suite] = again[0]
        records: dict[str, Record] = {}
        for record in self.records.values():
            renamed = msgspec.structs.replace(record, suite=names.get(record.suite, record.suite))
            records[renamed.name] = renamed
        if suites and not any(record.suite in suites for record in records.values()):
            theirs = ", ".join(sorted({record.suite for record in self.records.values()}))
            raise UsageError(
                f"{self.file} is of other suites ({theirs}) than this run ({', '.join(sorted(suites))}), so there is "
                "nothing to compare: name a run of the same suite"
            )
        return dataclasses.replace(self, records=records)

    def lost(self, suites: Collection[str], known: Iterable[str], unmeasured: Mapping[str, str]) -> dict[str, str]:
        """The cells that this run should have and has not, each with the reason.

        ``suites`` are those that were collected, ``known`` all of their cells, and ``unmeasured`` the selected cells
        that were not measured, with why. A cell that exists and was not selected is not lost.
        """
        known = set(known)
        lost = {}
        for name, record in self.records.items():
            if record.suite in suites and name not in known:
                lost[name] = "the suite declares it no more"
            elif name in unmeasured:
                lost[name] = unmeasured[name]
        return lost


def _same_file(first: str, second: str) -> bool:
    shorter, longer = sorted((first, second), key=len)
    return shorter == longer or longer.endswith(f"/{shorter}")
