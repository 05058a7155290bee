"""Read an earlier run, the baseline, and match its cells with those of a new run."""

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
    """The records of an earlier run by the names of their cells; of a cell recorded twice the last one."""

    file: Path
    records: Mapping[str, Record]
    documents: Documents

    @classmethod
    def of(cls, file: Path, preset: str) -> Baseline:
        """Read a run file. Raises UsageError if it has no record at this preset, or is damaged."""
        run = read(file)
        records = {record.name: record for record in run.records if record.preset == preset}
        if not records:
            presets = ", ".join(sorted({record.preset for record in run.records}))
            raise UsageError(
                f"{file} was run at preset {presets}, which cannot be compared with {preset}; choose the same "
                "preset with --harness-preset"
            )
        for name, record in records.items():
            if not KEY.fullmatch(record.artefact.key):
                raise UsageError(
                    f"{file} is damaged: the artefact of {name} has no key; restore the file, or run again"
                )
        return cls(file, records, run.documents)

    def aligned(self, suites: Collection[str]) -> Baseline:
        """Return the baseline with this run's names of the suites, as pytest's root may have changed.

        Two suites match if one path ends with the other, and no third one does. Raises UsageError if none matches.
        """
        before = {record.suite for record in self.records.values()}
        names = {}
        for suite in before - set(suites):
            matches = [name for name in set(suites) - before if _same_file(name, suite)]
            if len(matches) == 1 and sum(_same_file(matches[0], suite_name) for suite_name in before) == 1:
                names[suite] = matches[0]
        records: dict[str, Record] = {}
        for record in self.records.values():
            renamed = msgspec.structs.replace(record, suite=names.get(record.suite, record.suite))
            records[renamed.name] = renamed
        if suites and not any(record.suite in suites for record in records.values()):
            theirs = ", ".join(sorted({record.suite for record in self.records.values()}))
            raise UsageError(
                f"nothing to compare: {self.file} holds other suites ({theirs}) than this run "
                f"({', '.join(sorted(suites))}); name a run of the same suite"
            )
        return dataclasses.replace(self, records=records)

    def lost(self, suites: Collection[str], declared: Iterable[str], unmeasured: Mapping[str, str]) -> dict[str, str]:
        """Return the cells of the baseline that this run lacks although expected, with the reasons.

        ``suites`` were collected, ``declared`` are all of their cells, and ``unmeasured`` maps the selected cells that
        were not measured to the reason. A cell that exists, but was not selected, is not lost.
        """
        declared = set(declared)
        reasons = {}
        for name, record in self.records.items():
            if record.suite in suites and name not in declared:
                reasons[name] = "the suite no longer declares it"
            elif name in unmeasured:
                reasons[name] = unmeasured[name]
        return reasons


def _same_file(first: str, second: str) -> bool:
    shorter, longer = sorted((first, second), key=len)
    return shorter == longer or longer.endswith(f"/{shorter}")
