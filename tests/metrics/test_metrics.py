"""Each metric on evidence made by hand."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from torch import nn

import harness_metrics
from harness import Metric, Task
from harness_metrics import Latency, Memory, Operations, Quality, Size

TASK = Task(input_shape=(2, 9), labels=("NORM", "MI"))


@dataclasses.dataclass
class EvalContext:
    """contracts.EvalContext for one small network."""

    file: Path
    model: nn.Module
    scores: Any
    targets: Any
    samples: Any = None
    peak_memory: int | None = None
    base_memory: int | None = None
    task: Task = TASK
    example: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(1, 2, 9))
    patients: Any = None


@pytest.fixture
def evidence(tmp_path: Path) -> EvalContext:
    random = np.random.default_rng(0)
    file = tmp_path / "model.bin"
    file.write_bytes(b"x" * 4321)
    targets = (random.random((50, 2)) < 0.5).astype(np.float32)
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(21, 2))
    nn.init.zeros_(model[0].bias)  # type: ignore[arg-type]
    return EvalContext(file, model, random.random((50, 2)).astype(np.float32), targets)


def values(metric: Metric, evidence: EvalContext) -> dict[str, float | None]:
    found = dict(metric.compute(evidence))  # type: ignore[arg-type]
    assert list(found) == [figure.name for figure in metric.specs(TASK)]
    return found


def test_all_are_registered_under_distinct_names() -> None:
    metrics: list[Metric] = []
    harness_metrics.harness_metrics(metrics.append)  # type: ignore[arg-type]
    assert [metric.name for metric in metrics] == ["quality", "size", "operations", "latency", "memory"]
    figures = [figure.name for metric in metrics for figure in metric.specs(TASK)]
    assert len(set(figures)) == len(figures)
    assert figures[0] == "auroc"


def test_quality_agrees_with_scikit_learn(evidence: EvalContext) -> None:
    found = values(Quality(), evidence)
    expected = [roc_auc_score(evidence.targets[:, i], evidence.scores[:, i]) for i in (0, 1)]
    scored = [(evidence.targets[:, i], evidence.scores[:, i]) for i in (0, 1)]
    areas = {"auroc": np.mean(expected), "auroc_NORM": expected[0], "auroc_MI": expected[1]}
    others = {"auprc": average_precision_score, "brier": brier_score_loss}
    means = {name: np.mean([figure(*pair) for pair in scored]) for name, figure in others.items()}
    error = found.pop("calibration_error")
    assert found == pytest.approx(areas | means)
    assert error is not None
    assert 0 < error < 1


def test_an_undefined_label_is_shown_as_such_and_so_is_the_average(evidence: EvalContext) -> None:
    evidence.targets[:, 1] = 1
    found = values(Quality(), evidence)
    assert found["auroc"] is None
    assert found["auroc_MI"] is None
    assert found["auroc_NORM"] == pytest.approx(roc_auc_score(evidence.targets[:, 0], evidence.scores[:, 0]))


def test_size_counts_and_weighs(evidence: EvalContext) -> None:
    found = values(Size(), evidence)
    saved = io.BytesIO()
    torch.save(evidence.model.state_dict(), saved)
    assert found == {
        "parameters": 3 * 6 + 3 + 21 * 2 + 2,
        "nonzero": 3 * 6 + 21 * 2 + 2,
        "state_size": len(saved.getvalue()) / 1000,
        "file_size": 4.321,
    }


def test_operations_are_those_of_one_example(evidence: EvalContext) -> None:
    assert values(Operations(), evidence) == {"macs": 7 * 18 + 42, "int8_weights": 0, "int8_macs": 0}


@pytest.mark.parametrize(
    ("samples", "empty"),
    [(63, {"latency_p90", "latency_p99"}), (64, {"latency_p99"}), (661, {"latency_p99"}), (662, set())],
)
def test_tails_need_enough_samples(evidence: EvalContext, samples: int, empty: set[str]) -> None:
    evidence.samples = np.arange(1, samples + 1, dtype=np.int64) * 1000
    found = values(Latency(), evidence)
    assert {name for name, value in found.items() if value is None} == empty
    assert found["latency"] == found["latency_mean"] == (samples + 1) / 2
    if not empty:
        assert found["latency_p99"] == pytest.approx(1 + 0.99 * 661)


def test_latency_takes_all_processes_together_and_nothing_when_nothing_was_timed(evidence: EvalContext) -> None:
    assert set(values(Latency(), evidence).values()) == {None}
    evidence.samples = np.array([[1000, 2000], [3000, 10_000]])
    assert values(Latency(), evidence) == {
        "latency": 2.5,
        "latency_mean": 4.0,
        "latency_p90": None,
        "latency_p99": None,
    }


def test_memory_is_in_megabytes(evidence: EvalContext) -> None:
    assert values(Memory(), evidence) == {"memory": None, "memory_before": None}
    evidence.peak_memory, evidence.base_memory = 123_400_000, 120_000_000
    assert values(Memory(), evidence) == pytest.approx({"memory": 123.4, "memory_before": 120.0})
