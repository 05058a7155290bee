"""Make the records of a run: each is complete when its cell is done, except for the verdict."""

from __future__ import annotations

import platform
from collections.abc import Container, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from harness.build import plan as planning
from harness.errors import CellError, UsageError
from harness.measure import machine
from harness.measure.latency import SampleArrays
from harness.plugin.manager import KERNEL, Plugins
from harness.records.record import (
    SCHEMA,
    Against,
    ArtefactRef,
    DeploymentRecord,
    Interval,
    MetricValue,
    Record,
    StepRecord,
    Timing,
    Unmeasured,
    checksum,
    decode,
    to_json,
)
from harness.records.samples import encode
from harness.records.verdicts import TimingId, Verdicts, attach, decide, verdict_sections
from harness.run.confirmation import Confirmations
from harness.run.options import Options
from harness.run.planner import Planner
from harness.store.local import Store
from harness.suite.matrix import Cell

PACKAGES = ("torch", "numpy", "scipy", "pytest-benchmark")


class Recorder:
    """Makes and collects records, and decides their verdicts together."""

    def __init__(self, planner: Planner, plugins: Plugins, store: Store, options: Options) -> None:
        self.records: list[Record] = []
        self._verdicts: Verdicts = {}
        self._confirmation_samples: Mapping[TimingId, SampleArrays] = {}
        self._planner = planner
        self._plugins = plugins
        self._store = store
        self._options = options
        self._machine = machine.facts()
        self._versions = {
            "python": platform.python_version(),
            "harness": KERNEL.version,
            **{name: version(name) for name in PACKAGES},
        }

    def add(
        self,
        cell: Cell,
        artefact: ArtefactRef,
        reference_artefact: ArtefactRef,
        figures: dict[str, MetricValue],
        differences: dict[str, Interval],
        test_examples: int,
        deployment: DeploymentRecord | None,
        timing: Timing | None,
        against: Against | None,
        code: dict[str, str],
        details: dict[str, Any],
    ) -> Record:
        """Make the record of a measured cell, add it to ``records``, and notify the plugins.

        Raises CellError for a value of a plugin that the run file could not hold.
        """
        record = Record(
            schema=SCHEMA,
            suite=cell.suite,
            matrix=cell.matrix,
            cell=cell.id,
            reference=self._planner.reference_of(cell).id,
            axes=dict(cell.axes),
            columns=cell.columns,
            synthetic=self._plugins.datasets.get(cell.dataset).synthetic,
            preset=self._options.preset.name,
            device=self._options.device,
            artefact=artefact,
            reference_artefact=reference_artefact,
            steps=self._steps(self._planner.key_of(cell)),
            figures=figures,
            differences=differences,
            test_examples=test_examples,
            deployment=deployment,
            timing=timing,
            machine=dict(self._machine),
            versions=dict(self._versions),
            code=code,
            gate=dict(cell.gate),
            against=against,
            details=details,
        )
        try:
            document = to_json(record)
            checksum(document)
            decode(document)
        except (TypeError, ValueError, UsageError) as error:
            raise CellError(
                f"the record of {cell.id} could not be read again ({error}): a plugin gave a value that no record "
                "holds; correct the plugin"
            ) from error
        # Each plugin gets its own mapping, so that changes reach neither the record nor other plugins.
        self._plugins.notify("harness_cell_finished", record=to_json(record))
        self.records.append(record)
        return record

    def decide_verdicts(self, confirmations: Confirmations) -> None:
        """Decide the verdicts on all records, and attach them to ``records``."""
        self._confirmation_samples = confirmations.samples
        self._verdicts = decide(self.records, confirmations.results)
        self.records = attach(self.records, self._verdicts)

    def sections(self) -> dict[str, Any]:
        """The sections of a run file: key documents, verdicts, and samples of confirmations."""
        samples: dict[str, dict[str, Any]] = {}
        for (name, versus), arrays in self._confirmation_samples.items():
            samples.setdefault(name, {})[versus] = encode(arrays)
        sections = {"documents": self.documents(self.records), **verdict_sections(self._verdicts)}
        return sections | ({"confirmation_samples": samples} if samples else {})

    def documents(self, records: Sequence[Record]) -> dict[str, Mapping[str, Any]]:
        """The key documents of the records' artefacts and of their ancestors, by key."""
        keys = {ref.key for record in records for ref in (record.artefact, record.reference_artefact)}
        return {node.key: node.document for key in sorted(keys) for node in self._planner.plan.lineage(key)}

    def unmeasured(self, reasons: Mapping[str, str], unsupported: Container[str]) -> list[Unmeasured]:
        """The selected cells that have no record, each with the reason.

        ``reasons`` has, by cell name, why a cell that was tried has none. A cell in ``unsupported`` is skipped, not
        failed.
        """
        measured = {record.name for record in self.records}
        missing = []
        for cell in self._planner.selected:
            if cell.name in measured:
                continue
            if cell.skip is not None:
                outcome, reason = "skipped", cell.skip
            elif cell.name in reasons:
                outcome, reason = "skipped" if cell.name in unsupported else "failed", reasons[cell.name]
            else:  # skipped by pytest itself, or the run was interrupted
                outcome, reason = "not run", "selected, and not measured"
            missing.append(
                Unmeasured(suite=cell.suite, matrix=cell.matrix, cell=cell.id, outcome=outcome, reason=reason)
            )
        return missing

    def _steps(self, key: str) -> list[StepRecord]:
        rows: list[StepRecord] = []
        lineage = self._planner.plan.lineage(key)
        descriptions = self._store.describe([node.key for node in lineage])
        for node in lineage:
            if node.step is not None:
                description = descriptions.get(node.key)  # garbage collection may have removed an ancestor
                facts, seconds = ({}, None) if description is None else (dict(description.facts), description.seconds)
                rows.append(StepRecord(planning.describe(node.step), facts, seconds))
        return rows
