"""The figures and differences of a cell, for each kind of task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import Audit, Data, EvalContext, Metric, MetricSpec, Split, Task
from harness.errors import MeasureError
from harness.plugin.manager import KERNEL, Plugins
from harness.run.evaluation import CellContext, differences, figures
from harness_metrics import Quality
from harness_runtimes import TorchEager

CLASSES = Task((2,), ("a", "b", "c"), "multiclass")
NUMBERS = Task((2,), ("weight",), "regression")


class Picky(Metric):
    """A metric of multi-label tasks alone."""

    name = "picky"

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (MetricSpec("first"),) if task.kind == "multilabel" else ()

    def compute(self, evidence: EvalContext) -> Mapping[str, float]:
        return {"first": float(evidence.targets[0, 0])}


@pytest.fixture
def plugins() -> Plugins:
    plugins = Plugins()
    for metric in (Quality(), Picky()):
        plugins.metrics.add(metric.name, metric, KERNEL)
    plugins.runtimes.add("torch", TorchEager(), KERNEL)
    return plugins


def context(plugins: Plugins, task: Task, noise: float, patients: Any = None) -> CellContext:
    random = np.random.default_rng(0)
    targets: Any = np.arange(60) % 3 if task is CLASSES else random.normal(size=(60, 1)).astype(np.float32)
    exact = np.eye(3)[targets] if task is CLASSES else targets
    scores = np.abs(exact + noise * random.normal(size=exact.shape)).astype(np.float32)
    if task is CLASSES:
        scores /= scores.sum(axis=1, keepdims=True)
    split = Split(np.zeros((60, 2), np.float32), targets, patients, np.arange(60), {"sex": np.arange(60) % 2})
    file = Path("model")
    data, audit, runtime = Data(task, split, split, split), Audit(), plugins.runtimes.get("torch")
    return CellContext(file, "0", file, data, plugins, scores, audit, runtime, lambda: 2 * scores)


@pytest.mark.parametrize(("task", "headline"), [(CLASSES, "accuracy"), (NUMBERS, "r2")], ids=["classes", "numbers"])
def test_figures_and_differences_follow_the_kind(plugins: Plugins, task: Task, headline: str) -> None:
    reference, candidate = context(plugins, task, 0.1), context(plugins, task, 0.6)
    values, changes = figures(candidate), differences(reference, candidate)
    assert values[headline].headline
    assert values[headline].interval is not None
    assert values[headline].interval.method == "bootstrap over 60 examples, 1000 samples"
    assert changes.keys() == Quality().weighted(task).keys()
    before = figures(reference)[headline].value
    assert before is not None
    assert values[headline].value == pytest.approx(before + changes[headline].value)
    assert "first" not in values  # a metric without specs for this kind is left out


def test_the_bootstrap_draws_patients_where_there_are_any(plugins: Plugins) -> None:
    cell = context(plugins, CLASSES, 0.6, np.arange(60) // 2)
    interval = figures(cell)["accuracy"].interval
    assert interval is not None
    assert interval.method == "bootstrap over 30 patients, 1000 samples"


def test_metrics_see_ids_groups_and_answers_to_the_validation_split(plugins: Plugins) -> None:
    cell = context(plugins, NUMBERS, 0.1)
    assert cell.records is not None
    assert (cell.records[3], cell.groups["sex"][3], cell.unit) == (3, 1, "examples")
    assert np.array_equal(cell.validation_scores, 2 * cell.scores)
    assert np.array_equal(cell.validation.targets, cell.targets)
    runtime = plugins.runtimes.get("torch")
    alone = CellContext(cell.file, "0", cell.file, cell._data, plugins, cell.scores, Audit(), runtime)
    with pytest.raises(MeasureError, match="no answers to the validation split"):
        alone.validation_scores  # noqa: B018
