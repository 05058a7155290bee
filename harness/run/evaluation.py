"""The evidence about one cell: its deployed file, its answers and its timing; and what the metrics make of it."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.api import Data, Task, WeightedMetric
from harness.api.metrics import headlines
from harness.build import artefact
from harness.errors import CellError
from harness.plugin.containment import Tell
from harness.plugin.manager import Plugins
from harness.records.record import Interval, MetricValue
from harness.run.declarations import specs_of
from harness.stats.quality import bootstrap, paired_bootstrap


class CellContext:
    """contracts.EvalContext, each part made when first asked for."""

    def __init__(
        self, file: Path, sha256: str, artefact_file: Path, data: Data, plugins: Plugins, scores: NDArray[Any]
    ) -> None:
        self.task: Task = data.task
        self.file = file
        self.sha256 = sha256
        self.scores = scores
        self.targets = data.test.targets
        self.patients = data.test.patients
        self.samples: NDArray[Any] | None = None
        self.peak_memory: int | None = None
        self.base_memory: int | None = None
        self._artefact_file = artefact_file
        self._data = data
        self._plugins = plugins

    @functools.cached_property
    def model(self) -> torch.nn.Module:
        return artefact.load(self._artefact_file, self._plugins)

    @functools.cached_property
    def example(self) -> torch.Tensor:
        return torch.from_numpy(np.array(self._data.validation.inputs[:1]))


def figures(evidence: CellContext, plugins: Plugins, say: Tell | None = None) -> dict[str, MetricValue]:
    """The figures of all metrics. Raises CellError when a metric fails, or two give a figure of one name."""
    found: dict[str, MetricValue] = {}
    for name in plugins.metrics:
        metric = plugins.metrics.get(name)
        declared = specs_of(name, evidence.task, plugins, say)
        with contain(name, "compute", plugins, say):
            values: object = metric.compute(evidence)
        weighted = _weighted(name, evidence.task, plugins, say)
        decisive = headlines(declared)
        for figure in declared:
            if figure.name in found:
                taken = found[figure.name].metric
                raise CellError(f"metrics {taken!r} and {name!r} both give a figure {figure.name!r}; rename one")
            value = _value(name, figure.name, values)
            interval = None
            if value is not None and figure.name in weighted:
                with contain(name, "weighted", plugins, say):
                    interval = _bootstrapped(weighted[figure.name], evidence)
            found[figure.name] = MetricValue(
                metric=name,
                value=value,
                unit=figure.unit,
                better=figure.better,
                digits=figure.digits,
                headline=figure.name in decisive,
                exact=figure.exact,
                per_machine=figure.per_machine,
                gate=figure.gate,
                interval=interval,
            )
    return found


def differences(
    reference: CellContext, candidate: CellContext, plugins: Plugins, say: Tell | None = None
) -> dict[str, Interval]:
    """The candidate's figures less the reference's, of those that have an interval."""
    found = {}
    for name in plugins.metrics:
        for figure, function in _weighted(name, candidate.task, plugins, say).items():
            with contain(name, "weighted", plugins, say):
                found[figure] = _bootstrapped(function, candidate, reference)
    return found


def contain(
    name: str, method: str, plugins: Plugins, say: Tell | None = None
) -> contextlib.AbstractContextManager[None]:
    """Run code of the metric called ``name``."""
    thing, what = type(plugins.metrics.get(name)), f"{method}() of metric {name!r}"
    return plugins.contain(plugins.metrics.origin(name), what, say, thing=thing)


def _weighted(name: str, task: Task, plugins: Plugins, say: Tell | None) -> Mapping[str, WeightedMetric]:
    with contain(name, "weighted", plugins, say):
        given: object = plugins.metrics.get(name).weighted(task)
    if not isinstance(given, Mapping):
        raise CellError(f"weighted() of metric {name!r} gives {given!r}, not a mapping from figures to functions")
    return given


def _value(metric: str, figure: str, values: object) -> float | None:
    """The value of a figure, checked: records and their files hold finite numbers."""
    if not isinstance(values, Mapping):
        raise CellError(f"compute() of metric {metric!r} gives {type(values).__name__}, not a mapping from figures")
    if figure not in values:
        raise CellError(
            f"compute() of metric {metric!r} gives no {figure!r}, which its specs() name (given: {list(values)})"
        )
    if values[figure] is None:
        return None
    try:
        value = float(values[figure])
    except (TypeError, ValueError) as error:
        raise CellError(f"compute() of metric {metric!r} gives {values[figure]!r} as {figure!r}, no number") from error
    if not math.isfinite(value):
        raise CellError(f"compute() of metric {metric!r} gives {value} as {figure!r}; give None where it is undefined")
    return value


def _bootstrapped(function: WeightedMetric, candidate: CellContext, reference: CellContext | None = None) -> Interval:
    """A figure of the candidate, or its difference from the reference's, with its interval over patients."""
    scores, targets, patients = candidate.scores, candidate.targets, candidate.patients
    found = (
        bootstrap(function, scores, targets, patients)
        if reference is None
        else paired_bootstrap(function, reference.scores, scores, targets, patients)
    )
    method = f"bootstrap over {found.patients} patients, {found.repetitions} samples"
    return Interval(float(found.estimate), found.low, found.high, found.level, method)
