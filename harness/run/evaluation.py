"""Evaluate one cell: compute its metrics from its deployed file, predictions and timing, with intervals."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from harness.api import Absent, Audit, Counter, Data, Metric, Runtime, Split, Task, WeightedMetric
from harness.api.metrics import headlines
from harness.build import artefact
from harness.errors import CellError, HarnessError, MeasureError, UsageError
from harness.keys import canonical, to_jsonable
from harness.plugin.manager import Plugins
from harness.records.record import DeploymentRecord, Interval, MetricValue
from harness.run.declarations import specs_of
from harness.stats.quality import bootstrap, paired_bootstrap

#: The details of a metric have at most so many characters of JSON.
DETAILS_LIMIT = 2**20


class CellContext:
    """Implements harness.EvalContext; the model and the example are loaded when first used."""

    def __init__(
        self,
        file: Path,
        sha256: str,
        artefact_file: Path,
        data: Data,
        plugins: Plugins,
        scores: NDArray[Any],
        audit: Audit,
        runtime: Runtime,
        validation_scores: Callable[[], NDArray[Any]] | None = None,
    ) -> None:
        self.plugins = plugins
        self.task: Task = data.task
        self.file = file
        self.sha256 = sha256
        self.audit = audit
        #: The key of the deployed file in the store, and what the record says of it.
        self.deployable = ""
        self.deployment: DeploymentRecord | None = None
        self.scores = scores
        self.targets = data.test.targets
        self.patients, self.unit = data.test.units()
        self.records = data.test.records
        self.groups = data.test.groups
        #: The context of the reference of the cell that is being evaluated.
        self.reference: CellContext = self
        self.samples: NDArray[Any] | None = None
        self.base_memory: int | None = None
        self.loaded_memory: int | None = None
        self.peak_memory: int | None = None
        #: Measures a counter in the profile of the cell that is being evaluated; None if nothing is timed.
        self.counter: Callable[[Counter], float] | None = None
        self._validation_scores = validation_scores
        #: Why the model cannot be loaded in this process; empty if it can.
        self.foreign = ""
        self._artefact_file = artefact_file
        self.runtime = runtime
        self._data = data

    def count(self, counter: Counter) -> float:
        if self.counter is None:
            raise MeasureError("nothing was timed")
        return self.counter(counter)

    @functools.cached_property
    def validation_scores(self) -> NDArray[Any]:
        if self._validation_scores is None:
            raise MeasureError("nothing was deployed, so there are no answers to the validation split")
        return self._validation_scores()

    @property
    def validation(self) -> Split:
        return self._data.validation

    @functools.cached_property
    def model(self) -> torch.nn.Module:
        if self.foreign:
            raise CellError(self.foreign)
        model = artefact.load(self._artefact_file, self.plugins)
        if artefact.requested(model) is None:
            return model
        deployed: torch.nn.Module | None = self.plugins.call(self.runtime, "network", self.file)
        return model if deployed is None else deployed

    @functools.cached_property
    def example(self) -> torch.Tensor:
        return self._data.validation.tensor(slice(0, 1))


def _computed_metrics(plugins: Plugins, chosen: Collection[str]) -> Iterator[str]:
    """The names of the metrics to compute: those that are not optional, and the ``chosen`` ones."""
    return (name for name in plugins.metrics if name in chosen or not plugins.metrics.get(name).optional)


def figures(context: CellContext, chosen: Collection[str] = (), *, partial: bool = False) -> dict[str, MetricValue]:
    """The values of all metrics that are not optional, or are ``chosen``.

    Raises CellError when a metric fails, or two report a figure of the same name. With ``partial`` a metric that fails
    is left out.
    """
    values_by_name: dict[str, MetricValue] = {}
    plugins = context.plugins
    for name in _computed_metrics(plugins, chosen):
        metric = plugins.metrics.get(name)
        specs = specs_of(name, context.task, plugins)
        if not specs:  # a metric for other kinds of tasks
            continue
        try:
            values = plugins.call(metric, "compute", context)
        except HarnessError:
            if partial:
                continue
            raise
        weighted = _weighted(metric, context)
        answers = plugins.call(metric, "answers", context) if weighted else context.scores
        headline_names = headlines(specs)
        for spec in specs:
            if spec.name in values_by_name:
                earlier_metric = values_by_name[spec.name].metric
                raise CellError(
                    f"metrics {earlier_metric!r} and {name!r} both report a figure {spec.name!r}; rename one"
                )
            value, reason = _value(name, spec.name, values)
            interval = None
            if value is not None and spec.name in weighted:
                interval = plugins.call(metric, bootstrapped, weighted[spec.name], context, answers)
            values_by_name[spec.name] = MetricValue(
                metric=name,
                value=value,
                unit=spec.unit,
                better=spec.better,
                digits=spec.digits,
                headline=spec.name in headline_names,
                exact=spec.exact,
                per_machine=spec.per_machine,
                gate=spec.gate,
                role=spec.role,
                chance=spec.chance,
                interval=interval,
                reason=reason,
            )
    return values_by_name


def differences(reference: CellContext, candidate: CellContext, chosen: Collection[str] = ()) -> dict[str, Interval]:
    """The differences candidate minus reference, of the values that have an interval."""
    intervals: dict[str, Interval] = {}
    plugins = candidate.plugins
    for metric in map(plugins.metrics.get, _computed_metrics(plugins, chosen)):
        if not specs_of(metric.name, candidate.task, plugins):
            continue
        weighted = _weighted(metric, candidate)
        answers = [plugins.call(metric, "answers", context) for context in (candidate, reference) if weighted]
        for name, function in weighted.items():
            intervals[name] = plugins.call(metric, bootstrapped, function, candidate, *answers)
    return intervals


def details(context: CellContext, chosen: Collection[str] = ()) -> dict[str, Any]:
    """What metrics tell beside their figures, by metric. Raises CellError for what no record can hold."""
    facts: dict[str, Any] = {}
    for name in _computed_metrics(context.plugins, chosen):
        if not specs_of(name, context.task, context.plugins):  # a metric for other kinds of tasks
            continue
        value = context.plugins.call(context.plugins.metrics.get(name), "details", context)
        if value is None:
            continue
        try:
            facts[name] = to_jsonable(value)
        except UsageError as error:
            raise CellError(f"details() of metric {name!r} cannot be stored: {error}") from error
        size = len(canonical(facts[name]))
        if size > DETAILS_LIMIT:
            raise CellError(
                f"details() of metric {name!r} have {size:,} characters of JSON, more than {DETAILS_LIMIT:,}; "
                "return fewer records"
            )
    return facts


def _weighted(metric: Metric, context: CellContext) -> Mapping[str, WeightedMetric]:
    functions = context.plugins.call(metric, "weighted", context.task)
    if not isinstance(functions, Mapping):
        raise CellError(
            f"weighted() of metric {metric.name!r} gives {functions!r}, not a mapping from figures to functions"
        )
    return functions


def _value(metric: str, figure: str, values: object) -> tuple[float | None, str]:
    """One checked value, because records hold finite numbers only, and the reason if it is absent."""
    if not isinstance(values, Mapping):
        raise CellError(f"compute() of metric {metric!r} gives {type(values).__name__}, not a mapping from figures")
    if figure not in values:
        raise CellError(
            f"compute() of metric {metric!r} gives no {figure!r}, which its specs() name (given: {list(values)})"
        )
    if values[figure] is None:
        return None, ""
    if isinstance(values[figure], Absent):
        return None, values[figure].reason
    try:
        value = float(values[figure])
    except (TypeError, ValueError, OverflowError) as error:
        raise CellError(f"compute() of metric {metric!r} gives {values[figure]!r} as {figure!r}, no number") from error
    if not math.isfinite(value):
        raise CellError(f"compute() of metric {metric!r} gives {value} as {figure!r}; return None if it is undefined")
    return value, ""


def bootstrapped(
    function: WeightedMetric, candidate: CellContext, answers: NDArray[Any], reference: NDArray[Any] | None = None
) -> Interval:
    """The value of ``answers``, or its difference from the reference's, with a bootstrap interval over the units."""
    targets, patients = candidate.targets, candidate.patients
    interval = (
        bootstrap(function, answers, targets, patients)
        if reference is None
        else paired_bootstrap(function, reference, answers, targets, patients)
    )
    method = f"bootstrap over {interval.patients} {candidate.unit}, {interval.repetitions} samples"
    return Interval(float(interval.estimate), interval.low, interval.high, interval.level, method)
