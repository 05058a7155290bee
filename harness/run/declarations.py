"""Look up the declarations of figures by their metrics, for a run and for files of earlier runs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from harness.api import MetricSpec, Role, Task
from harness.api.data import KINDS
from harness.errors import CellError, HarnessError, UsageError, nearest
from harness.plugin.manager import Plugins, installed
from harness.policy.rules import parse_tolerance
from harness.records.record import MetricValue, Record
from harness.run.options import Options
from harness.suite.matrix import Cell

#: Stand for the task of earlier runs, which their files lack; figures with a gate rule depend on the kind alone.
ANY_TASKS = tuple(Task((1,), ("label", "other")[: 1 + (kind == "multiclass")], kind) for kind in KINDS)


def specs_of(name: str, task: Task, plugins: Plugins) -> tuple[MetricSpec, ...]:
    """Return the figures that the metric ``name`` declares for a task. Raises CellError when they are not valid."""
    metric = plugins.metrics.get(name)

    def specs() -> tuple[MetricSpec, ...]:
        return tuple(metric.specs(task))  # specs() may be a generator

    declared: tuple[MetricSpec, ...] = plugins.call(metric, specs)
    for spec in declared:
        if not isinstance(spec, MetricSpec):
            raise CellError(f"specs() of metric {name!r} returns {spec!r}, which is not a harness.MetricSpec")
        if spec.gate is not None:
            try:
                parse_tolerance(spec.name, spec.gate)
            except UsageError as error:
                raise CellError(f"specs() of metric {name!r}: {error}") from None
    return declared


def chosen_metrics(cell: Cell, options: Options, plugins: Plugins) -> frozenset[str]:
    """Return the metrics that the cell's matrix or the options name. Raises UsageError for an unknown one."""
    for place, names in ((f"matrix {cell.matrix}", cell.metrics), ("--harness-metrics", options.metrics)):
        for name in names:
            if name not in plugins.metrics:
                raise UsageError(f"{place} names metric {name!r}{nearest(name, plugins.metrics)}")
    return frozenset({*cell.metrics, *options.metrics})


def declaration(name: str, figure: MetricValue) -> MetricSpec:
    """Return the declaration of the figure ``name`` of a record.

    Records of version 0.1 hold neither ``exact``, ``per_machine``, ``gate`` nor ``role``, and early ones of 0.2 no
    ``chance``; there, the installed metric's declaration counts.
    """
    installed = _specs().get((figure.metric, name))
    if installed is not None and not (figure.exact or figure.per_machine or figure.gate is not None or figure.role):
        return installed
    return MetricSpec(
        name,
        unit=figure.unit,
        better=figure.better,  # type: ignore[arg-type]
        digits=figure.digits,
        headline=figure.headline,
        exact=figure.exact,
        per_machine=figure.per_machine,
        gate=figure.gate,
        role=figure.role,  # type: ignore[arg-type]
        chance=figure.chance if figure.chance is not None or installed is None else installed.chance,
    )


def figures_by_role(records: Iterable[Record]) -> dict[Role, str]:
    """Return the names of the figures that have a role; where two figures have the same role, the first one's."""
    figures: dict[str, MetricValue] = {}
    for record in records:
        for name, figure in record.figures.items():
            figures.setdefault(name, figure)
    names: dict[Role, str] = {}
    for name, figure in figures.items():
        if (role := declaration(name, figure).role) is not None:
            names.setdefault(role, name)
    return names


def default_rules(records: Iterable[Record]) -> dict[str, str]:
    """Return the gate rules that metrics declare, figure to tolerance: the installed ones', then the records'.

    The rules of a later record replace those of an earlier one.
    """
    rules = {spec.name: spec.gate for spec in _specs().values() if spec.gate is not None}
    for record in records:
        rules |= {name: figure.gate for name, figure in record.figures.items() if figure.gate is not None}
    return rules


def defaults_for(record: Record, defaults: Mapping[str, str]) -> dict[str, str]:
    """Return the default rules for a record: on generated data those for quality do not apply, as it means nothing."""
    return {name: rule for name, rule in defaults.items() if not (record.synthetic and name in record.differences)}


def _specs() -> Mapping[tuple[str, str], MetricSpec]:
    """The declarations of all installed metrics, by the names of metric and figure."""
    plugins = installed()
    return _specs_of_all(plugins, tuple(plugins.metrics))


@functools.cache
def _specs_of_all(plugins: Plugins, metrics: tuple[str, ...]) -> Mapping[tuple[str, str], MetricSpec]:
    specs: dict[tuple[str, str], MetricSpec] = {}
    for name in metrics:
        for task in ANY_TASKS:
            try:
                for spec in specs_of(name, task, plugins):
                    specs.setdefault((name, spec.name), spec)
            except HarnessError as error:
                if task is ANY_TASKS[0]:  # others need not fit a metric that was written for multi-label tasks
                    plugins.note(plugins.metrics.origin(name), str(error))
    return specs
