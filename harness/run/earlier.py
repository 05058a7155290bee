"""Measure the models of an earlier run again, beside the new ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from harness.errors import HarnessError, describe_error
from harness.measure.latency import Pair, Samples
from harness.plugin.manager import Plugins
from harness.policy.baseline import Baseline
from harness.policy.rules import FAIL_ON, LATENCY, check_figures
from harness.records.record import Against, Record, Timing
from harness.run.declarations import chosen_metrics
from harness.run.deployment import Deployer
from harness.run.options import Options
from harness.store.local import Store
from harness.suite.matrix import Cell

if TYPE_CHECKING:
    from harness.run.evaluation import CellContext

logger = logging.getLogger(__name__)
#: Times a cell in pairs with its earlier model.
Time = Callable[[Pair], tuple[Timing, Samples]]


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
        self, baseline: Baseline, plugins: Plugins, store: Store, deployer: Deployer, options: Options
    ) -> None:
        self._baseline = baseline
        self._plugins = plugins
        self._store = store
        self._deployer = deployer
        self._options = options

    def keys(self, cells: Iterable[Cell]) -> set[str]:
        """The keys of the earlier artefacts of these cells."""
        records = self._baseline.records
        return {records[cell.name].artefact.key for cell in cells if cell.name in records}

    def measure(self, cell: Cell, reference: CellContext, candidate: CellContext, time: Time) -> Against | None:
        """Measure the cell's earlier model beside the new one; None if the earlier run lacks the cell."""
        earlier = self._baseline.records.get(cell.name)
        if earlier is None:
            return None
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
        )
        try:
            return self._measured(against, earlier, cell, reference, candidate, time)
        except HarnessError as error:
            reason = f"its model could not be measured again: {error}"
        except Exception as error:  # its code may have been removed
            reason = f"its model could not be rebuilt: {describe_error(error)}"
        return msgspec.structs.replace(against, reason=reason)

    def _measured(
        self,
        against: Against,
        earlier: Record,
        cell: Cell,
        reference: CellContext,
        candidate: CellContext,
        time: Time,
    ) -> Against:
        from harness.run.evaluation import differences, figures

        replace = msgspec.structs.replace
        if earlier.axes["dataset"] != cell.dataset:
            return replace(against, reason=f"the earlier run is on {earlier.axes['dataset']}")
        key, margin = earlier.artefact.key, self._options.policy(cell.gate).latency
        artefact = self._store.get(key)
        if artefact is None:
            return replace(against, reason=f"its artefact {key[:12]} is not in the store")
        model = self._deployer.context(cell, artefact)
        against = replace(against, sha256=model.sha256)
        if model.sha256 == candidate.sha256:
            if model.sha256 != earlier.artefact.sha256:
                # The same key, but built again here or deployed differently: the earlier file is not available.
                return replace(against, reason="the file under its key differs from that of the earlier run")
            against = replace(against, same=True, reason="the same file")
        elif not self._options.timed or self._options.protocol_of(cell) == "single":
            against = replace(against, reason="the latency was not timed in pairs")
        elif margin is not None:
            inputs = self._deployer.inputs(cell)
            timing, samples = time(Pair(cell, model.file, candidate.file, inputs, margin, aa_file=reference.file))
            against = replace(against, timing=timing, latency=float(np.median(samples.candidate)) / 1000)
            model.samples = np.asarray(samples.arrays["reference"])
            self._deployer.measure_memory(cell, model)
            model.counter = self._deployer.counter(cell, model)
        chosen = chosen_metrics(cell, self._options, self._plugins)
        return replace(against, figures=figures(model, chosen), differences=differences(model, candidate, chosen))
