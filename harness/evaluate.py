"""The evidence about one cell: its deployed file, its answers and its timing; and what the metrics make of it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness import artefact
from harness.contracts import Data, Task, WeightedMetric
from harness.errors import CellError, HarnessError, describe_error
from harness.plugins import Plugins
from harness.quality import bootstrap, paired_bootstrap
from harness.record import FigureValue, Interval, interval


class CellEvidence:
    """contracts.Evidence, each part made when first asked for."""

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


def figures(evidence: CellEvidence, plugins: Plugins) -> dict[str, FigureValue]:
    """The figures of all metrics. Raises CellError when a metric fails, or two give a figure of one name."""
    found: dict[str, FigureValue] = {}
    for name in plugins.metrics:
        metric = plugins.metrics.get(name)
        try:
            values, weighted = metric.compute(evidence), metric.weighted(evidence.task)
            for index, figure in enumerate(metric.figures(evidence.task)):
                if figure.name in found:
                    taken = found[figure.name]["metric"]
                    raise CellError(f"metrics {taken!r} and {name!r} both give a figure {figure.name!r}; rename one")
                value = values[figure.name]
                found[figure.name] = {
                    "metric": name,
                    "value": None if value is None else float(value),
                    "unit": figure.unit,
                    "better": figure.better,
                    "digits": figure.digits,
                    "headline": index == 0,
                }
                if value is not None and figure.name in weighted:
                    found[figure.name]["interval"] = _bootstrapped(weighted[figure.name], evidence)
        except HarnessError:
            raise
        except Exception as error:
            raise CellError(f"metric {name!r} failed: {describe_error(error)}") from error
    return found


def differences(reference: CellEvidence, candidate: CellEvidence, plugins: Plugins) -> dict[str, Interval]:
    """The candidate's figures less the reference's, of those that have an interval."""
    return {
        figure: _bootstrapped(function, candidate, reference)
        for name in plugins.metrics
        for figure, function in plugins.metrics.get(name).weighted(candidate.task).items()
    }


def _bootstrapped(function: WeightedMetric, candidate: CellEvidence, reference: CellEvidence | None = None) -> Interval:
    """A figure of the candidate, or its difference from the reference's, with its interval over patients."""
    scores, targets, patients = candidate.scores, candidate.targets, candidate.patients
    found = (
        bootstrap(function, scores, targets, patients)
        if reference is None
        else paired_bootstrap(function, reference.scores, scores, targets, patients)
    )
    method = f"bootstrap over {found.patients} patients, {found.repetitions} samples"
    return interval(found.estimate, found.low, found.high, found.level, method)
