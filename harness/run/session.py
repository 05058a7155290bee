"""Conduct one run: from the selected cells to their records. Independent of pytest."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from harness.build.plan import Plan
from harness.data.library import Library
from harness.errors import CellError, HarnessError, UsageError
from harness.measure.latency import LatencyTimer, Pair, SampleArrays, Samples
from harness.plugin.manager import Plugins
from harness.progress import Display
from harness.records.record import ArtefactRef, Record, Timing
from harness.records.runs import read_records
from harness.records.verdicts import Versus
from harness.run.confirmation import Confirmations
from harness.run.declarations import chosen_metrics
from harness.run.deployment import Deployer, packages_of
from harness.run.earlier import EarlierModels, check_gate_rules
from harness.run.options import Options
from harness.run.planner import Planner
from harness.run.recorder import Recorder
from harness.store.local import Store
from harness.store.shared import SharedStore, models_of
from harness.suite.matrix import Cell
from harness.text import pluralize

if TYPE_CHECKING:
    from harness.build.executor import Executor
    from harness.measure.pool import Workers

logger = logging.getLogger(__name__)


class Session:
    """Builds, times and evaluates cells. As a context manager, it ends its workers and removes its temporary files."""

    def __init__(
        self,
        selected: Sequence[Cell],
        cells_by_name: Mapping[str, Cell],
        plugins: Plugins,
        options: Options,
        stream: TextIO | None,
    ) -> None:
        """``selected`` are the cells to run. ``cells_by_name`` has all cells, for references that are not selected."""
        self.options = options
        self.plugins = plugins
        self.display = Display(stream)
        trusted = None if options.trusted is None else models_of(options.trusted)
        shared = None if options.shared is None else SharedStore(options.shared, trusted)
        self.store = Store(options.store, shared)
        self.library = Library(plugins, self.store, options.data, self.display)
        self.planner = Planner(selected, cells_by_name, plugins, self.library.fingerprint, options)
        self.baseline = None
        if options.baseline is not None:
            check_gate_rules(self.planner.runnable, plugins, options)
            self.baseline = options.baseline.aligned({cell.suite for cell in cells_by_name.values()})
        for cell in self.planner.runnable:
            chosen_metrics(cell, options, plugins)  # before hours of building
        self.recorder = Recorder(self.planner, plugins, self.store, options)
        self._executor: Executor | None = None
        self._workers: Workers | None = None
        self._timer: LatencyTimer | None = None
        self._confirmations = Confirmations()
        #: The samples of each cell's timings, by the model beside it.
        self.samples: dict[str, dict[Versus, SampleArrays]] = {}
        #: The samples of A/A runs that no run file has yet: whoever writes them removes them here.
        self.aa_samples: list[SampleArrays] = []
        self._known_aa_runs: set[int] = set()
        self._scratch = self.store.scratch()
        self._deployer = Deployer(
            plugins, self.library, self.store, options.preset.evaluation, self._scratch.folder, lambda: self._pool
        )
        self._earlier = None
        if self.baseline is not None:
            self._earlier = EarlierModels(
                self.baseline, plugins, self.store, self._deployer, options, self._scratch.folder, lambda: self._pool
            )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and remove the temporary files."""
        if self._earlier is not None:
            self._earlier.close()
        if self._workers is not None:
            self._workers.close()
            self._workers = None
        self._scratch.close()

    @property
    def plan(self) -> Plan:
        return self.planner.plan

    @property
    def executor(self) -> Executor:
        """The executor; creating it imports torch."""
        if self._executor is None:
            import torch

            from harness.build.executor import Executor

            if self.options.device != "cpu" and not torch.cuda.is_available():
                raise UsageError(f"--harness-device {self.options.device}: torch sees no such device here; use cpu")
            self._executor = Executor(self.plan, self.plugins, self.library, self.store, self.display)
        return self._executor

    def build(self) -> None:
        """Build the artefacts that the store lacks, before anything is timed."""
        executor = self.executor
        missing = self.plan.needed(self.store.has)
        if missing:
            from harness.build.estimate import NONE_BUILT, DurationEstimate

            duration = DurationEstimate(self.plugins, self.store).total(missing)
            logger.info(f"{pluralize(len(missing), 'step')} to build; time: {duration.text('step', NONE_BUILT)}")
        executor.build_all()
        earlier = set() if self._earlier is None else self._earlier.keys(self.planner.runnable)
        for key in earlier:  # fetch now, because a download would disturb timings
            self.store.get(key)
        self.store.share(earlier | self.plan.nodes.keys())

    def measure(self, cell: Cell) -> tuple[Record, Samples | None]:
        """Time the cell against its reference, evaluate both, and record it. Returns no samples if nothing was timed.

        Raises Unsupported when a step cannot handle the network, and another HarnessError for what failed.
        """
        from harness.build.artefact import code_of
        from harness.run.evaluation import details, differences, figures

        self.planner.check_profile(cell)
        reference = self.planner.reference_of(cell)
        artefact = self.executor.build(self.planner.key_of(cell))
        reference_artefact = self.executor.build(self.planner.key_of(reference))
        candidate = self._deployer.context(cell, artefact)
        base = self._deployer.context(reference, reference_artefact)
        timing, samples = None, None
        if self.options.timed:
            pair = Pair(
                cell,
                base.file,
                candidate.file,
                self._deployer.inputs(cell),
                self.options.margin,
                reference_runtime=reference.runtime,
            )
            timing, samples = self._time(pair)
            if samples.candidate_sha256 != candidate.sha256 or samples.reference_sha256 != base.sha256:
                raise CellError(
                    f"a deployed file of {cell.id} changed between its evaluation and its timing; run again"
                )
            candidate.samples = samples.candidate
            self._deployer.measure_memory(cell, candidate)
            candidate.counter = self._deployer.counter(cell, candidate)
        chosen = chosen_metrics(cell, self.options, self.plugins)
        base.reference = candidate.reference = base
        values = figures(candidate, chosen)
        changes = differences(base, candidate, chosen)
        against = None
        if self._earlier is not None:
            against = self._earlier.measure(cell, base, candidate, functools.partial(self._time, versus="earlier"))
        record = self.recorder.add(
            cell,
            ArtefactRef(artefact.key, candidate.sha256, candidate.deployable),
            ArtefactRef(reference_artefact.key, base.sha256, base.deployable),
            values,
            changes,
            len(candidate.targets),
            candidate.deployment,
            timing,
            against,
            code_of(artefact.file, candidate.file, cell.runtime, self.plugins),
            details(candidate, chosen),
        )
        return record, samples

    def cells_measured_in(self, file: Path) -> set[str]:
        """Return the names of the selected cells that a run file has, of the same models, with the same options.

        Raises UsageError for a file that is no run.
        """
        records = {record.name: record for record in read_records(file)}
        names = {
            cell.name
            for cell in self.planner.runnable
            if cell.name in records and self._would_repeat(cell, records[cell.name])
        }
        logger.info(f"{len(names)} of {pluralize(len(self.planner.selected), 'cell')} are in {file}; the others follow")
        return names

    def _would_repeat(self, cell: Cell, record: Record) -> bool:
        """Whether measuring the cell again would repeat this record, but for the noise of its timing."""
        try:
            key, reference_key = self.planner.key_of(cell), self.planner.key_of(self.planner.reference_of(cell))
        except (HarnessError, KeyError):  # it cannot be built, or not be timed here
            return False
        options, timing, deployment = self.options, record.timing, record.deployment
        runtime = self.plugins.runtimes.get(cell.runtime)
        return (
            (record.artefact.key, record.reference_artefact.key) == (key, reference_key)
            and (record.preset, record.device) == (options.preset.name, options.device)
            and (timing is not None) == options.timed
            and (timing is None or timing.margin in (None, options.margin))
            and (
                deployment is None
                or (deployment.version, deployment.packages) == (runtime.version, packages_of(runtime))
            )
        )

    def finalize_verdicts(self, confirm: bool = True) -> None:
        """Decide the verdicts on all cells recorded so far.

        With ``confirm``, those that look slower are first timed again, in fresh processes. Otherwise none is called
        slower.
        """
        try:
            if confirm:
                self._confirmations.run(self.recorder.records)
        finally:
            self.recorder.decide_verdicts(self._confirmations)

    def _time(
        self, pair: Pair, timer: LatencyTimer | None = None, versus: Versus = "reference"
    ) -> tuple[Timing, Samples]:
        """Time a pair, with the timer of this run unless another is given."""
        if timer is None:
            timer = self._timer = self._timer or LatencyTimer(self._pool, self.options.preset)
        if self.options.protocol_of(pair.cell) == "single":
            timing, samples = timer.time_single(pair)
        else:
            self._confirmations.remember(pair, versus, timer)
            timing, samples = timer.time(pair)
        self.samples.setdefault(pair.cell.name, {})[versus] = samples.arrays
        for arrays in samples.aa_runs:
            if id(arrays) not in self._known_aa_runs:  # the timer keeps them, so no other object gets this number
                self._known_aa_runs.add(id(arrays))
                self.aa_samples.append(arrays)
        return timing, samples

    @property
    def _pool(self) -> Workers:
        if self._workers is None:
            from harness.measure.pool import Workers

            self._workers = Workers()
        return self._workers
