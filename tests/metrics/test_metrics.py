"""Each metric on evidence made by hand."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.stats import mannwhitneyu
from torch import nn

import harness_metrics
from harness import Absent, Audit, MeasureError, Metric, Task
from harness.api.tasks import kind_of
from harness.stats.quality import auroc
from harness_metrics import Energy, Instructions, Latency, Memory, Operations, Quality, RepeatedInput, Size

TASK = Task(input_shape=(2, 9), labels=("NORM", "MI"))


@dataclasses.dataclass
class EvalContext:
    """contracts.EvalContext for one small network."""

    file: Path
    model: nn.Module
    scores: Any
    targets: Any
    samples: Any = None
    base_memory: int | None = None
    loaded_memory: int | None = None
    peak_memory: int | None = None
    task: Task = TASK
    audit: Audit = dataclasses.field(default_factory=lambda: Audit(reason="made by hand"))
    example: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(1, 2, 9))
    patients: Any = None
    #: What each counter counts; a text is why it cannot.
    counters: dict[str, float | str] = dataclasses.field(default_factory=dict)

    def count(self, counter: str) -> float:
        counted = self.counters[counter]
        if isinstance(counted, str):
            raise MeasureError(counted)
        return counted


@pytest.fixture
def evidence(tmp_path: Path) -> EvalContext:
    random = np.random.default_rng(0)
    file = tmp_path / "model.bin"
    file.write_bytes(b"x" * 4321)
    targets = (random.random((50, 2)) < 0.5).astype(np.float32)
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(21, 2))
    nn.init.zeros_(model[0].bias)  # type: ignore[arg-type]
    return EvalContext(file, model, random.random((50, 2)).astype(np.float32), targets)


def values(metric: Metric, evidence: EvalContext) -> dict[str, Any]:
    found = dict(metric.compute(evidence))  # type: ignore[arg-type]
    assert list(found) == [figure.name for figure in metric.specs(TASK)]
    return found


def test_all_are_registered_under_distinct_names() -> None:
    metrics: list[Metric] = []
    harness_metrics.harness_metrics(metrics.append)  # type: ignore[arg-type]
    always = [metric.name for metric in metrics if not metric.optional]
    assert always == ["quality", "size", "operations", "latency", "memory"]
    counters = ["instructions", "energy", "repeated_input", "serving"]
    decisions = ["decisions", "decisions_youden"]
    assert [metric.name for metric in metrics if metric.optional] == [*counters, *decisions]
    figures = [figure.name for metric in metrics for figure in metric.specs(TASK)]
    assert len(set(figures)) == len(figures)
    assert figures[0] == "auroc"


def test_auroc_agrees_with_scipy_s_mann_whitney_u(evidence: EvalContext) -> None:
    """scikit-learn computes the figure, so something else checks it: U / (positives * negatives), ties included."""
    evidence.scores = np.round(evidence.scores, 1)
    found = values(Quality(), evidence)
    areas = []
    for column in (0, 1):
        positive = evidence.targets[:, column] > 0.5
        above, below = evidence.scores[positive, column], evidence.scores[~positive, column]
        areas.append(mannwhitneyu(above, below).statistic / (len(above) * len(below)))
    assert (found["auroc_NORM"], found["auroc_MI"]) == pytest.approx(tuple(areas), abs=1e-12)
    assert found["auroc"] == pytest.approx(np.mean(areas), abs=1e-12)


def test_average_precision_and_brier_score_of_a_hand_worked_example(evidence: EvalContext) -> None:
    # Ranked 0.9 (positive), 0.8, 0.5 (positive), 0.5 (a tie), 0.1: precision 1/1 gains recall 1/2, precision 2/4 the
    # other half: 0.75. Brier: (0.01 + 0.64 + 0.25 + 0.25 + 0.01) / 5 = 0.232. The second label is perfect.
    evidence.scores = np.array([[0.9, 1], [0.8, 0], [0.5, 1], [0.5, 0], [0.1, 0]])
    evidence.targets = np.array([[1, 1], [0, 0], [1, 1], [0, 0], [0, 0]], dtype=np.float32)
    found = values(Quality(), evidence)
    assert found["auprc"] == pytest.approx((0.75 + 1) / 2, abs=1e-12)
    assert found["brier"] == pytest.approx((0.232 + 0) / 2, abs=1e-12)


@pytest.mark.parametrize("digits", [1, 8])
def test_scikit_learn_and_the_bootstrap_s_functions_give_the_same_figures(evidence: EvalContext, digits: int) -> None:
    """What version 0.1 put into records: the weighted functions with all weights 1. Float32 scores, with ties."""
    evidence.scores = np.round(evidence.scores, digits)
    found, once = values(Quality(), evidence), np.ones((50, 1))
    for name, function in Quality().weighted(TASK).items():
        assert found[name] == pytest.approx(function(evidence.scores, evidence.targets, once)[0], abs=1e-12)
    areas = auroc(evidence.scores, evidence.targets)
    assert (found["auroc_NORM"], found["auroc_MI"]) == pytest.approx(tuple(areas), abs=1e-12)


def test_a_binary_task_has_one_label(evidence: EvalContext) -> None:
    both = values(Quality(), evidence)
    evidence.scores, evidence.targets = evidence.scores[:, :1], evidence.targets[:, :1]
    evidence.task = Task(TASK.input_shape, ("NORM",))
    found = Quality().compute(evidence)  # type: ignore[arg-type]
    assert found["auroc"] == found["auroc_NORM"] == both["auroc_NORM"]
    for name in ("auprc", "brier", "calibration_error"):
        expected = Quality().weighted(TASK)[name](evidence.scores, evidence.targets, np.ones((50, 1)))[0]
        assert found[name] == pytest.approx(expected, abs=1e-12)


def test_scores_that_are_not_finite_have_no_quality(evidence: EvalContext) -> None:
    evidence.scores[3, 1] = np.nan
    found = values(Quality(), evidence)
    assert found.pop("auroc_NORM") is not None
    assert set(found.values()) == {None}


def test_an_undefined_label_is_shown_as_such_and_so_is_the_average(evidence: EvalContext) -> None:
    evidence.targets[:, 1] = 1
    found = values(Quality(), evidence)
    assert found["auroc"] is None
    assert found["auroc_MI"] is None
    assert found["auroc_NORM"] == pytest.approx(auroc(evidence.scores, evidence.targets)[0])


def test_size_counts_and_weighs(evidence: EvalContext) -> None:
    found = values(Size(), evidence)
    saved = io.BytesIO()
    torch.save(evidence.model.state_dict(), saved)
    assert found == {
        "parameters": 3 * 6 + 3 + 21 * 2 + 2,
        "nonzero": 3 * 6 + 21 * 2 + 2,
        "state_size": len(saved.getvalue()) / 1000,
        "file_size": 4.321,
        "payload": Absent("model.bin is no safetensors file, so its tensors cannot be told from its container"),
    }


def test_the_payload_of_a_deployed_file_is_its_tensors_alone(evidence: EvalContext) -> None:
    tensors = {"weight": torch.zeros(10, dtype=torch.int8), "scale": torch.zeros((), dtype=torch.float64)}
    for header in ("", "x" * 1000):
        evidence.file.write_bytes(safetensors.torch.save(tensors, {"harness": header}))
        found = values(Size(), evidence)
        assert found["payload"] == 0.018
        assert found["file_size"] > (18 + len(header)) / 1000


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\x05" + b"\0" * 7 + b"{", b"\x01" + b"\0" * 7 + b"x"])
def test_other_files_have_no_payload(evidence: EvalContext, content: bytes) -> None:
    evidence.file.write_bytes(content)
    assert isinstance(values(Size(), evidence)["payload"], Absent)


def test_the_archive_s_name_is_archive(evidence: EvalContext, tmp_path: Path) -> None:
    """The docs say so: the name stands in front of each tensor, so that it changes the size."""
    sizes = {}
    for name in ("archive", "model", "a"):
        torch.save(evidence.model.state_dict(), tmp_path / f"{name}.pt")
        sizes[name] = (tmp_path / f"{name}.pt").stat().st_size / 1000
    assert values(Size(), evidence)["state_size"] == sizes["archive"]
    assert sizes["a"] != sizes["archive"]


def test_operations_are_those_of_one_example(evidence: EvalContext) -> None:
    assert values(Operations(), evidence) == {"macs": 7 * 18 + 42, "int8_weights": 0, "int8_macs": 0}


def test_operations_that_cannot_be_counted_are_empty_with_the_reason(
    evidence: EvalContext, caplog: pytest.LogCaptureFixture
) -> None:
    class Spectrum(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft(x).abs().flatten(1)

    evidence.model = torch.nn.Sequential(Spectrum(), torch.nn.LazyLinear(2))  # type: ignore[misc]
    evidence.model(evidence.example)
    with caplog.at_level("WARNING", logger="harness"):
        found = values(Operations(), evidence)
    assert set(found.values()) == {Absent("there is no formula for aten::_fft_r2c in 0")}
    assert "left empty, because there is no formula for aten::_fft_r2c in 0" in caplog.text


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
    assert values(Memory(), evidence) == {"needed_memory": None, "loaded_memory": None}
    evidence.base_memory, evidence.loaded_memory, evidence.peak_memory = 120_000_000, 121_000_000, 123_400_000
    assert values(Memory(), evidence) == pytest.approx({"needed_memory": 3.4, "loaded_memory": 1.0})


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        (
            {"instructions": 2e6},
            {"instructions": 2e6, "instructions_valgrind": Absent("perf counts instructions on this machine")},
        ),
        (
            {"instructions": "no perf", "instructions_valgrind": 3e6},
            {"instructions": Absent("no perf"), "instructions_valgrind": 3e6},
        ),
        (
            {"instructions": "no perf", "instructions_valgrind": "no valgrind"},
            {"instructions": Absent("no perf"), "instructions_valgrind": Absent("no valgrind")},
        ),
    ],
)
def test_valgrind_counts_only_where_perf_cannot(
    evidence: EvalContext, counters: dict[str, float | str], expected: dict[str, Any]
) -> None:
    evidence.counters = counters
    assert values(Instructions(), evidence) == expected


def test_energy_is_in_millijoules(evidence: EvalContext) -> None:
    evidence.counters = {"energy": 0.0123}
    assert values(Energy(), evidence) == {"energy": pytest.approx(12.3)}
    evidence.counters = {"energy": "no RAPL"}
    assert values(Energy(), evidence) == {"energy": Absent("no RAPL")}


def test_repeated_inputs_are_a_ratio(evidence: EvalContext) -> None:
    evidence.counters = {"repeated_input": 0.97}
    assert values(RepeatedInput(), evidence) == {"repeated_input": 0.97}
    evidence.counters = {"repeated_input": "nothing was timed"}
    assert values(RepeatedInput(), evidence) == {"repeated_input": Absent("nothing was timed")}


# ------------------------------------------------------------------------------------------------ kinds of tasks

CLASSES = Task((2, 9), ("A", "B", "C"), "multiclass")
NUMBERS = Task((2, 9), ("weight", "height"), "regression")


def of_kind(evidence: EvalContext, task: Task) -> EvalContext:
    random = np.random.default_rng(1)
    evidence.task = task
    if task is CLASSES:
        evidence.targets = np.arange(50) % 3
        logits = random.normal(size=(50, 3)) + 2 * np.eye(3)[evidence.targets]
        evidence.scores = torch.from_numpy(logits).softmax(1).float().numpy()
    else:
        evidence.targets = random.normal(size=(50, 2)).astype(np.float32)
        evidence.scores = evidence.targets + random.normal(size=(50, 2)).astype(np.float32) / 2
    return evidence


@pytest.mark.parametrize("task", [CLASSES, NUMBERS], ids=lambda task: task.kind)
def test_every_kind_has_figures_that_agree_with_the_bootstrap_s(evidence: EvalContext, task: Task) -> None:
    found = Quality().compute(of_kind(evidence, task))  # type: ignore[arg-type]
    assert list(found) == [spec.name for spec in Quality().specs(task)]
    for name, function in Quality().weighted(task).items():
        expected = function(evidence.scores, evidence.targets, np.ones((50, 1)))[0]
        assert found[name] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("task", "expected"),
    [(TASK, {"auroc"}), (CLASSES, {"accuracy", "balanced_accuracy"}), (NUMBERS, {"r2", "mae"})],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_the_headline_follows_the_kind(task: Task, expected: set[str]) -> None:
    specs = Quality().specs(task)
    assert {spec.name for spec in specs if spec.headline} == expected
    assert all(spec.gate for spec in specs if spec.headline)
    assert specs[0].name == next(iter(Quality().weighted(task))) == kind_of(task).selector  # learning curves show it


def test_the_accuracy_of_classes_by_hand(evidence: EvalContext) -> None:
    evidence.task, evidence.targets = CLASSES, np.array([0, 0, 0, 1])
    evidence.scores = np.eye(3)[[0, 0, 1, 1]]
    found = Quality().compute(evidence)  # type: ignore[arg-type]
    assert (found["accuracy"], found["accuracy_A"], found["accuracy_B"]) == (0.75, pytest.approx(2 / 3), 1.0)
    assert found["accuracy_C"] is None  # no example, so that the balanced accuracy is undefined, too
    assert found["balanced_accuracy"] is None


def test_a_target_without_spread_has_no_r2(evidence: EvalContext) -> None:
    of_kind(evidence, NUMBERS).targets[:, 1] = 3
    found = Quality().compute(evidence)  # type: ignore[arg-type]
    assert (found["r2"], found["r2_height"]) == (None, None)
    assert found["r2_weight"] is not None
    assert found["mae"] == pytest.approx((found["mae_weight"] + found["mae_height"]) / 2)  # type: ignore[operator]


@pytest.mark.parametrize("task", [CLASSES, NUMBERS], ids=lambda task: task.kind)
def test_figures_of_scores_that_are_not_finite_are_absent(evidence: EvalContext, task: Task) -> None:
    of_kind(evidence, task).scores[0] = np.nan
    assert set(Quality().compute(evidence).values()) == {None}  # type: ignore[arg-type]
