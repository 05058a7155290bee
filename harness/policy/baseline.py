"""Read an earlier run, the baseline, and match its cells with those of a new run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from harness.errors import UsageError
from harness.records.changes import Documents, documented_code
from harness.records.record import Record, Unmeasured
from harness.records.runs import Commit, read

KEY = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The records of an earlier run by the names of their cells; of a cell recorded twice the last one."""

    file: Path
    records: Mapping[str, Record]
    documents: Documents
    commit: Commit = dataclasses.field(default_factory=Commit)

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
        return cls(file, with_code(records, run.documents), run.documents, run.commit)

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

    def lost(
        self, measured: Collection[str], unmeasured: Iterable[Unmeasured], suites: Mapping[str, Collection[str]] | None
    ) -> dict[str, str]:
        """Return the cells of the baseline that another run lacks although expected, with the reasons.

        The other run ``measured`` cells of these names, and left ``unmeasured`` ones out. ``suites`` maps each suite
        that it collected to the names of the cells that were not selected, which are not lost. It is None for run files
        without that section, where every missing cell is lost.
        """
        reasons = {cell.name: cell.description for cell in unmeasured}
        lost_cells = {}
        for name in self.records.keys() - set(measured):
            suite = self.records[name].suite
            if name in reasons:
                lost_cells[name] = reasons[name]
            elif suites is None:
                lost_cells[name] = "the later run has no record of it"
            elif suite in suites and name not in suites[suite]:
                lost_cells[name] = "the suite no longer declares it"
        return {name: lost_cells[name] for name in self.records if name in lost_cells}


def with_code(records: Mapping[str, Record], documents: Documents) -> dict[str, Record]:
    """Add the digests of code that the key documents hold to records of earlier versions, which have none."""
    return {
        name: record
        if record.code is not None
        else msgspec.structs.replace(record, code=documented_code(record.artefact.key, documents))
        for name, record in records.items()
    }


def _same_file(first: str, second: str) -> bool:
    shorter, longer = sorted((first, second), key=len)
    return shorter == longer or longer.endswith(f"/{shorter}")
