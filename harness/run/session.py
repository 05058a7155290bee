"""One run: from the selected cells to their records. It knows no pytest."""

from __future__ import annotations

import collections
import dataclasses
import logging
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from harness.api import Profile
from harness.build import plan as planning
from harness.data.library import Library
from harness.errors import CellError, HarnessError, MeasureError, UsageError, describe_error
from harness.measure import machine
from harness.measure.latency import LatencyTimer, Pair, Samples
from harness.measure.profile import worker_environment
from harness.plugin.manager import KERNEL, Plugins
from harness.policy.baseline import Baseline
from harness.policy.rules import FAIL_ON, LATENCY, Policy, check_figures, policy
from harness.progress import Display
from harness.records.record import SCHEMA, Against, ArtefactRef, Record, StepRecord, Timing, to_json
from harness.run.deployment import Deployment
from harness.store.local import Store
from harness.store.shared import SharedStore
from harness.suite.matrix import Cell
from harness.suite.presets import Preset
from harness.text import DEFAULT_MARGIN, format_duration, pluralize

if TYPE_CHECKING:
    from harness.build.executor import Executor
    from harness.measure.pool import Workers
    from harness.run.evaluation import CellContext

logger = logging.getLogger(__name__)
#: What cells are timed beside.
REFERENCE, EARLIER = "reference", "model of the earlier run"
PACKAGES = ("torch", "numpy", "scipy", "pytest-benchmark")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says about a run."""

    preset: Preset
    store: Path
    data: str | None = None
    device: str = "cpu"
    #: False evaluates cells without timing them.
    timed: bool = True
    #: The relative difference in latency that matters: verdicts are given at it.
    margin: float = DEFAULT_MARGIN
    #: How all cells are timed, whatever their matrix says.
    protocol: str | None = None
    #: The URL of a store that machines share.
    shared: str | None = None
    #: The run whose models are measured again, and the gate's rules: the project's, and those of the command line.
    baseline: Baseline | None = None
    project_rules: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rules: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def policy(self, declared: Mapping[str, str], defaults: Mapping[str, str] = MappingProxyType({})) -> Policy:
        """The policy for a cell whose matrix declares these rules, over the defaults that metrics declare."""
        return policy(defaults, self.project_rules, declared, self.rules)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A cell's record and its samples; None when nothing was timed. ``finalize_verdicts`` adds the verdict."""

    record: Record
    samples: Samples | None


class Session:
    """Builds, times and evaluates cells; a context manager that leaves no worker and no temporary file behind."""

    def __init__(
        self,
        selected: Sequence[Cell],
        known: Mapping[str, Cell],
        plugins: Plugins,
        options: Options,
        stream: TextIO | None,
    ) -> None:
        """``selected`` are the cells to run; ``known`` has all cells by name, for references that are not selected."""
        self.options = options
        self.plugins = plugins
        self.display = Display(stream)
        shared = None if options.shared is None else SharedStore(options.shared)
        self.store = Store(options.store, shared)
        self.library = Library(plugins, self.store, options.data, self.display)
        self.chosen = list(selected)
        self.selected = [cell for cell in selected if cell.skip is None and cell.problem is None]
        for problem in dict.fromkeys(cell.problem for cell in selected if cell.skip is None and cell.problem):
            count = sum(cell.problem == problem for cell in selected)
            logger.warning(f"{pluralize(count, 'cell')} cannot run: {problem}")
        self._references = {cell.name: known[cell.reference_name] for cell in self.selected}
        self._unmeasurable = self._check_profiles() if options.timed else {}
        self.baseline = None
        if options.baseline is not None:
            self._check_rules()
            self.baseline = options.baseline.aligned({cell.suite for cell in known.values()})
        measurable = [cell for cell in self.selected if cell.profile not in self._unmeasurable]
        cells = {cell.name: cell for own in measurable for cell in (own, self._references[own.name])}
        self.plan = planning.make(cells.values(), plugins, self.library.fingerprint, options.preset, options.device)
        words = collections.Counter(str(error) for error in self.plan.problems.values())
        for problem, count in words.items():
            logger.warning(f"{pluralize(count, 'cell')} cannot run: {problem}")
        if untrained := [cell for cell in self.plan.untrained() if cell in {own.name for own in self.selected}]:
            named = f"{untrained[0]} and {len(untrained) - 1} more" if len(untrained) > 1 else untrained[0]
            logger.warning(f"no step of its recipe trains the network of {named}")
        self._executor: Executor | None = None
        self._workers: Workers | None = None
        #: By what the cells are compared with, and the margin.
        self._timekeepers: dict[tuple[str, float], LatencyTimer] = {}
        self._machine = machine.facts()
        self._scratch = self.store.scratch()
        evaluation = options.preset.evaluation
        folder = self._scratch.folder
        self.deployment = Deployment(plugins, self.library, evaluation, folder, self._pool)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and remove the temporary files."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None
        self._scratch.close()

    @property
    def executor(self) -> Executor:
        """What builds; making it loads torch."""
        if self._executor is None:
            import torch

            from harness.build.executor import Executor

            if self.options.device != "cpu" and not torch.cuda.is_available():
                raise UsageError(f"--harness-device {self.options.device}: torch sees no such device here; use cpu")
            self._executor = Executor(self.plan, self.plugins, self.library, self.store, self.display)
        return self._executor

    def _check_profiles(self) -> dict[Profile, MeasureError]:
        """The profiles that cannot be had on this machine, found before hours are spent on what is to be timed."""
        problems: dict[Profile, MeasureError] = {}
        for profile in dict.fromkeys(cell.profile for cell in self.selected):
            try:
                worker_environment(profile)
            except MeasureError as error:
                problems[profile] = error
                count = sum(cell.profile == profile for cell in self.selected)
                logger.warning(f"{pluralize(count, 'cell')} cannot be timed: {error}")
        return problems

    def _check_rules(self) -> None:
        """Raise UsageError for a rule of the gate that can judge nothing, before hours are spent."""
        from harness.run.declarations import specs_of

        known: dict[str, str | None] = {}
        for cell in self.selected:
            layout = self.plugins.architectures.get(cell.architecture).layout
            task = self.plugins.datasets.get(cell.dataset).task_in(layout)
            for name in self.plugins.metrics:
                given = specs_of(name, task, self.plugins)
                known.update({figure.name: figure.better for figure in given})
        declared = {figure for cell in self.selected for figure in cell.gate}
        check_figures([*self.options.rules, *sorted(declared)], known)
        for figure in self.options.project_rules.keys() - known.keys() - {LATENCY, FAIL_ON}:
            logger.warning(f"[tool.harness.gate] has a rule for {figure!r}, which no cell of this run has")

    def build(self) -> None:
        """Build what the store lacks, before anything is timed."""
        executor = self.executor
        missing = self.plan.needed(self.store.has)
        if missing:
            from harness.build.estimate import Estimate

            estimate = Estimate(self.plan, self.plugins, self.store)
            duration = format_duration(sum(map(estimate.build, missing)))
            logger.info(f"{pluralize(len(missing), 'step')} to build, in about {duration}")
        executor.build_all()
        earlier = {} if self.baseline is None else self.baseline.records
        models = {earlier[cell.name].artefact.key for cell in self.selected if cell.name in earlier}
        for key in models:  # fetched now, for nothing else may go on while cells are timed
            self.store.get(key)
        self.store.share(models | self.plan.nodes.keys())

    def measure(self, cell: Cell) -> Measured:
        """Time the cell against its reference, evaluate both, and write the record.

        Raises Unsupported when a step cannot handle the network, and another HarnessError for what failed.
        """
        if cell.profile in self._unmeasurable:
            raise self._unmeasurable[cell.profile]
        reference = self._references[cell.name]
        candidate_artefact = self.executor.build(self._key(cell))
        reference_artefact = self.executor.build(self._key(reference))
        evidence = self.deployment.evidence(cell, candidate_artefact)
        base = self.deployment.evidence(reference, reference_artefact)
        timing, samples = None, None
        if self.options.timed:
            pair = Pair(cell, base.file, evidence.file, self.deployment.inputs(cell))
            timing, samples = self._time(pair)
            if samples.candidate_sha256 != evidence.sha256 or samples.reference_sha256 != base.sha256:
                raise CellError(
                    f"a deployed file of {cell.id} changed between its evaluation and its timing; run again"
                )
            evidence.samples = samples.candidate
            self.deployment.measure_memory(cell, evidence)
        from harness.run.evaluation import differences, figures

        metric_values = figures(evidence)
        metric_differences = differences(base, evidence)
        against = None
        if self.baseline is not None and cell.name in self.baseline.records:
            earlier = self.baseline.records[cell.name]
            against = self._against(self.baseline.file, earlier, cell, base, evidence)
        record = Record(
            schema=SCHEMA,
            suite=cell.suite,
            matrix=cell.matrix,
            cell=cell.id,
            reference=reference.id,
            axes=dict(cell.axes),
            columns=cell.columns,
            synthetic=self.plugins.datasets.get(cell.dataset).synthetic,
            preset=self.options.preset.name,
            device=self.options.device,
            artefact=ArtefactRef(candidate_artefact.key, evidence.sha256),
            reference_artefact=ArtefactRef(reference_artefact.key, base.sha256),
            steps=self._steps(self._key(cell)),
            figures=metric_values,
            differences=metric_differences,
            test_examples=len(evidence.targets),
            timing=timing,
            machine=dict(self._machine),
            versions={
                "python": platform.python_version(),
                "harness": KERNEL.version,
                **{name: version(name) for name in PACKAGES},
            },
            gate=dict(cell.gate),
            against=against,
        )
        # Plugins get a plain mapping of their own: what one does to it reaches neither the record nor another plugin.
        self.plugins.notify("harness_cell_finished", record=to_json(record))
        return Measured(record, samples)

    def _key(self, cell: Cell) -> str:
        if cell.name in self.plan.problems:
            raise self.plan.problems[cell.name]
        return self.plan.artefacts[cell.name]

    def _against(
        self, file: Path, earlier: Record, cell: Cell, reference: CellContext, evidence: CellContext
    ) -> Against:
        """What the cell's model of an earlier run is now, beside the new one."""
        from harness.run.evaluation import differences, figures

        found = Against(
            run=file.name,
            artefact=earlier.artefact,
            sha256="",
            same=False,
            timing=None,
            latency=None,
            reason="",
            figures={},
            differences={},
        )
        key, margin = earlier.artefact.key, self.options.policy(cell.gate).latency
        if earlier.axes["dataset"] != cell.dataset:
            found.reason = f"the earlier run is on {earlier.axes['dataset']}"
            return found
        artefact = self.store.get(key)
        if artefact is None:
            found.reason = f"its artefact {key[:12]} is not in the store"
            return found
        try:
            before = self.deployment.evidence(cell, artefact)
            found.sha256 = before.sha256
            if before.sha256 == evidence.sha256 != earlier.artefact.sha256:
                # The same key, but built anew here, or deployed otherwise: the file of then is not had.
                found.reason = "under its key there is another file than the earlier run had"
                return found
            if before.sha256 == evidence.sha256:
                found.same, found.reason = True, "the same file"
            elif not self.options.timed or self._protocol(cell) == "single":
                found.reason = "the latency was not timed in pairs"
            elif margin is not None:
                pair = Pair(cell, before.file, evidence.file, self.deployment.inputs(cell), steady=reference.file)
                found.timing, samples = self._keeper(EARLIER, margin).time(pair)
                found.latency = float(np.median(samples.candidate)) / 1000
                before.samples = np.asarray(samples.kept["reference"])
                self.deployment.measure_memory(cell, before)
            found.figures = figures(before)
            found.differences = differences(before, evidence)
        except HarnessError as error:
            found.reason = f"its model could not be measured again: {error}"
        except Exception as error:  # the code that made it may be gone
            found.reason = f"its model could not be rebuilt: {describe_error(error)}"
        return found

    def _time(self, pair: Pair) -> tuple[Timing, Samples]:
        keeper = self._keeper(REFERENCE, self.options.margin)
        return keeper.time_single(pair) if self._protocol(pair.cell) == "single" else keeper.time(pair)

    def _protocol(self, cell: Cell) -> str:
        return self.options.protocol or cell.protocol

    def _keeper(self, versus: str, margin: float) -> LatencyTimer:
        if (versus, margin) not in self._timekeepers:
            keeper = LatencyTimer(self._pool(), self.options.preset, margin, versus)
            self._timekeepers[versus, margin] = keeper
        return self._timekeepers[versus, margin]

    def documents(self, records: Sequence[Record]) -> dict[str, Mapping[str, Any]]:
        """What the artefacts of these records depend on: each document by its key, ancestors included."""
        keys = {ref.key for record in records for ref in (record.artefact, record.reference_artefact)}
        return {node.key: node.document for key in sorted(keys) for node in self.plan.lineage(key)}

    def finalize_verdicts(self, confirm: bool = True) -> None:
        """Judge the latencies of all cells measured so far, and write the verdicts into their records.

        ``confirm`` times those that are slower again, by fresh processes; without it none is called slower.
        """
        for keeper in self._timekeepers.values():
            keeper.finalize_verdicts(confirm)

    def _pool(self) -> Workers:
        if self._workers is None:
            from harness.measure.pool import Workers

            self._workers = Workers()
        return self._workers

    def _steps(self, key: str) -> list[StepRecord]:
        rows: list[StepRecord] = []
        lineage = self.plan.lineage(key)
        descriptions = self.store.describe([node.key for node in lineage])
        for node in lineage:
            if node.step is not None:
                made = descriptions.get(node.key)  # an ancestor may be gone: it is not needed any more
                facts, seconds = ({}, None) if made is None else (dict(made.facts), made.seconds)
                rows.append(StepRecord(planning.describe(node.step), facts, seconds))
        return rows
