"""Measure the models of an earlier run again, beside the new ones.

A model's code is part of it where the deployed file does not hold the whole program. If that code is the same today,
both models are timed in one process. Otherwise the earlier model runs under the code of the earlier run's commit.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
import numpy as np

from harness.errors import CellError, HarnessError, describe_error
from harness.measure.latency import LatencyTimer, Pair, Samples
from harness.plugin.manager import Plugins
from harness.plugin.program import present_code
from harness.policy.baseline import Baseline
from harness.policy.rules import FAIL_ON, LATENCY, check_figures
from harness.records.record import Against, Timing
from harness.run.declarations import chosen_metrics
from harness.run.deployment import Deployer
from harness.run.earlier_code import EarlierCode
from harness.run.options import Options
from harness.store.entry import Artefact
from harness.store.local import Store
from harness.suite.matrix import Cell

if TYPE_CHECKING:
    from harness.measure.pool import Workers
    from harness.run.evaluation import CellContext

logger = logging.getLogger(__name__)
#: Times a cell in pairs with its earlier model; with another timer than the run's where the code differs.
Time = Callable[[Pair, LatencyTimer | None], tuple[Timing, Samples]]


def check_gate_rules(cells: Sequence[Cell], plugins: Plugins, options: Options) -> None:
    """Raise UsageError for a gate rule that applies to no figure of these cells, before hours of building."""
    from harness.run.declarations import specs_of

    better_sides: dict[str, str | None] = {}
    for cell in cells:
        layout = plugins.architectures.get(cell.architecture).layout
        task = plugins.datasets.get(cell.dataset).task_in(layout)
        for name in plugins.metrics:
            better_sides.update({spec.name: spec.better for spec in specs_of(name, task, plugins)})
    declared = {figure for cell in cells for figure in cell.gate}
    check_figures([*options.rules, *sorted(declared)], better_sides)
    for figure in options.project_rules.keys() - better_sides.keys() - {LATENCY, FAIL_ON}:
        logger.warning(
            f"pyproject.toml: [tool.harness.gate] has a rule for {figure!r}, but no cell of this run has that figure"
        )


class EarlierModels:
    """The models of an earlier run, by the cells that they were made for."""

    def __init__(
        self,
        baseline: Baseline,
        plugins: Plugins,
        store: Store,
        deployer: Deployer,
        options: Options,
        folder: Path,
        pool: Callable[[], Workers],
    ) -> None:
        """``folder`` is for temporary files, ``pool`` gives the workers of the present code."""
        self._baseline = baseline
        self._plugins = plugins
        self._store = store
        self._deployer = deployer
        self._options = options
        self._folder = folder
        self._pool = pool
        self._here = Path.cwd()
        #: The code of the earlier run's commit, or why it cannot be had.
        self._code: EarlierCode | CellError | None = None
        self._timer: LatencyTimer | None = None
        self._earlier_deployer = deployer.under(lambda: self._earlier_code.workers, "earlier")

    def close(self) -> None:
        """End the workers of the earlier code, and remove its files."""
        if isinstance(self._code, EarlierCode):
            self._code.close()
        self._code = None

    def keys(self, cells: Iterable[Cell]) -> set[str]:
        """The keys of the earlier artefacts of these cells."""
        records = self._baseline.records
        return {records[cell.name].artefact.key for cell in cells if cell.name in records}

    def measure(self, cell: Cell, reference: CellContext, candidate: CellContext, time: Time) -> Against | None:
        """Measure the cell's earlier model beside the new one; None if the earlier run lacks the cell."""
        earlier = self._baseline.records.get(cell.name)
        if earlier is None:
            return None
        code = earlier.code or {}
        present = present_code(self._plugins, code)
        changed = [name for name, digest in code.items() if present.get(name) != digest]
        against = Against(
            run=self._baseline.file.name,
            artefact=earlier.artefact,
            sha256="",
            same=False,
            timing=None,
            latency=None,
            reason="",
            figures={},
            differences={},
            code=code,
            code_changed=bool(changed),
        )
        if earlier.axes["dataset"] != cell.dataset:
            return msgspec.structs.replace(against, reason=f"the earlier run is on {earlier.axes['dataset']}")
        try:
            artefact = self._store.get(earlier.artefact.key)
            if artefact is None:
                reason = f"its artefact {earlier.artefact.key[:12]} is not in the store"
                return msgspec.structs.replace(against, reason=reason)
            deployed = self._store.deployable(earlier.artefact.deployable) if earlier.artefact.deployable else None
            if changed:
                return self._measured_under_earlier_code(against, artefact, deployed, cell, candidate, time)
            return self._measured(against, artefact, deployed, cell, reference, candidate, time)
        except HarnessError as error:
            reason = f"its model could not be measured again: {error}"
        except Exception as error:  # its code may have been removed
            reason = f"its model could not be rebuilt: {describe_error(error)}"
        return msgspec.structs.replace(against, reason=reason)

    def _measured(
        self,
        against: Against,
        artefact: Artefact,
        deployed: Artefact | None,
        cell: Cell,
        reference: CellContext,
        candidate: CellContext,
        time: Time,
    ) -> Against:
        """Measure the earlier model under the present code: the very file that was deployed, if it is a program."""
        replace = msgspec.structs.replace
        holds_program = self._plugins.runtimes.get(cell.runtime).holds_program
        if deployed is not None and holds_program and deployed.sha256 != candidate.sha256:
            model = self._deployer.context_of_file(cell, artefact, deployed)
        else:
            model = self._deployer.context(cell, artefact)
        against = replace(against, sha256=model.sha256)
        if holds_program and model.sha256 != against.artefact.sha256:
            # The runtime of today would write another file of the earlier artefact.
            return replace(against, reason="the file that the earlier run deployed is not in the store")
        if model.sha256 != candidate.sha256:
            against = self._timed(against, cell, model, candidate, lambda pair: time(pair, None), reference)
        elif model.sha256 == against.artefact.sha256:
            against = replace(against, same=True, reason="the same file")
        else:
            # The same key, but built again here or deployed differently: the earlier file is not available.
            return replace(against, reason="the file under its key differs from that of the earlier run")
        return self._compared(against, cell, model, candidate)

    def _measured_under_earlier_code(
        self,
        against: Against,
        artefact: Artefact,
        deployed: Artefact | None,
        cell: Cell,
        candidate: CellContext,
        time: Time,
    ) -> Against:
        """Measure the earlier model under the code of its commit. Raises CellError if that cannot be had."""
        code = self._earlier_code
        digests = code.workers.code(cell.profile, against.code)
        wrong = [name for name, digest in against.code.items() if digests.get(name) != digest]
        if wrong:
            raise CellError(
                f"commit {code.commit[:7]} does not have the code of {' and '.join(wrong)} that the earlier run used; "
                "only code that is imported from a checkout can be had again (pip install -e)"
            )
        model = self._earlier_deployer.context_of_file(cell, artefact, deployed)
        if model.sha256 != against.artefact.sha256:
            raise CellError("the file under its key differs from that of the earlier run")
        model.foreign = f"its code is that of commit {code.commit[:7]}"
        against = msgspec.structs.replace(against, sha256=model.sha256, commit=code.commit)
        against = self._timed(against, cell, model, candidate, lambda pair: time(pair, self._versioned_timer), None)
        return self._compared(against, cell, model, candidate)

    def _timed(
        self,
        against: Against,
        cell: Cell,
        model: CellContext,
        candidate: CellContext,
        time: Callable[[Pair], tuple[Timing, Samples]],
        aa_context: CellContext | None,
    ) -> Against:
        """Time the earlier model in pairs with the new one, unless this run times nothing in pairs."""
        margin = self._options.policy(cell.gate).latency
        if not self._options.timed or self._options.protocol_of(cell) == "single":
            return msgspec.structs.replace(against, reason="the latency was not timed in pairs")
        if margin is None:
            return against
        inputs = self._deployer.inputs(cell)
        pair = Pair(cell, model.file, candidate.file, inputs, margin)
        if aa_context is not None:
            aa_file, aa_runtime = aa_context.file, aa_context.runtime.name
            pair = dataclasses.replace(pair, aa_file=aa_file, aa_runtime=aa_runtime)
        timing, samples = time(pair)
        model.samples = np.asarray(samples.arrays["reference"])
        deployer = self._earlier_deployer if against.code_changed else self._deployer
        deployer.measure_memory(cell, model)
        model.counter = deployer.counter(cell, model)
        return msgspec.structs.replace(against, timing=timing, latency=float(np.median(samples.candidate)) / 1000)

    def _compared(self, against: Against, cell: Cell, model: CellContext, candidate: CellContext) -> Against:
        """Add the earlier model's figures, and the new model's differences from these."""
        from harness.run.evaluation import differences, figures

        chosen = chosen_metrics(cell, self._options, self._plugins)
        model.reference = candidate.reference
        values = figures(model, chosen, partial=against.code_changed)
        return msgspec.structs.replace(against, figures=values, differences=differences(model, candidate, chosen))

    @property
    def _earlier_code(self) -> EarlierCode:
        """The code of the earlier run's commit. Raises CellError if it cannot be had; the first error counts."""
        if self._code is None:
            try:
                self._code = EarlierCode(self._baseline.commit, self._folder / "earlier-code", self._here)
            except CellError as error:
                self._code = error
        if isinstance(self._code, CellError):
            raise self._code
        return self._code

    @property
    def _versioned_timer(self) -> LatencyTimer:
        """The timer that times both versions of the code, in processes of their own."""
        if self._timer is None:
            from harness.measure.versions import VersionedWorkers

            workers = VersionedWorkers(self._earlier_code.workers, self._pool())
            self._timer = LatencyTimer(cast("Workers", workers), self._options.preset)  # it times pairs only
        return self._timer
