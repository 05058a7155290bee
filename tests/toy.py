"""A toy plugin: everything a plugin can bring, small enough to train in a blink. It is third party to the harness."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import resource
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness import (
    Architecture,
    Data,
    Dataset,
    Deployment,
    EvalContext,
    Loss,
    Metric,
    MetricSpec,
    Predictor,
    Progress,
    Runtime,
    Split,
    Step,
    StepContext,
    Task,
    Training,
    Unsupported,
    WeightedMetric,
    hookimpl,
    load_artefact,
)
from harness.api import Phase, silent
from harness_studies import Study

if TYPE_CHECKING:
    import torch

    from harness.api import FloatArray

MARKER = "toy.json"
SIZES = {"train": 60, "validation": 20, "test": 20}
SHAPE = (2, 16)


def write(folder: Path, seed: int = 0) -> Path:
    """A toy data set on disk: a file with the seed that its examples are drawn from."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text(json.dumps({"seed": seed}))
    return folder


def part(examples: int, seed: int) -> Split:
    """Noise in which the first label lifts channel 0 and the second one shakes channel 1; two examples a patient."""
    random = np.random.default_rng(seed)
    targets = np.stack([np.arange(examples) % 2, np.arange(examples) // 2 % 2], axis=1).astype(np.float32)
    inputs = random.normal(size=(examples, *SHAPE)).astype(np.float32)
    inputs[:, 0] += 1.5 * targets[:, :1]
    inputs[:, 1] += 1.5 * targets[:, 1:] * np.resize([1.0, -1.0], SHAPE[1]).astype(np.float32)
    return Split(inputs, targets, np.arange(examples) // 2)


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes: the closest that a test comes to a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Toy(Dataset):
    """A data set that is found by a marker file."""

    name = "toy"
    task = Task(SHAPE, ("high", "shaky"))
    examples = SIZES["train"]
    fallback = "toy-synthetic"
    summary = "a toy"
    layouts: ClassVar[Mapping[str, Task]] = {"mean": Task(SHAPE[:1], ("high", "shaky"))}
    loads: ClassVar[list[str]] = []

    def matches(self, folder: Path) -> bool:
        return (folder / MARKER).is_file()

    def fingerprint(self, folder: Path) -> str:
        return hashlib.sha256((folder / MARKER).read_bytes()).hexdigest()

    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        self.loads.append(self.name)
        seed = json.loads((folder / MARKER).read_text())["seed"]
        parts = {name: part(size, seed + index) for index, (name, size) in enumerate(SIZES.items())}
        return Data(self.task, **parts)

    def to_layout(self, inputs: FloatArray, name: str) -> FloatArray:
        mean: FloatArray = inputs.mean(axis=2)
        return mean


class ToySynthetic(Toy):
    """The toy data set, made up."""

    name = "toy-synthetic"
    synthetic = True
    fallback = None
    summary = "a made-up toy"

    def make(self, folder: Path) -> None:
        write(folder)


class Conv(Architecture):
    """Convolution, BatchNorm, dropout, linear."""

    name = "conv"
    summary = "a toy network"
    quick_epochs = 2
    quick_examples = 48

    def build(self, task: Task) -> torch.nn.Module:
        from torch import nn

        channels, length = task.input_shape
        return nn.Sequential(
            nn.Conv1d(channels, 4, 3, bias=False),
            nn.BatchNorm1d(4),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Dropout(0.1),
            nn.Flatten(),
            nn.Linear(4 * ((length - 2) // 2), len(task.labels)),
        )

    def training(self, phase: Phase) -> Training:
        epochs = 4 if phase == "train" else 2
        return Training(epochs, 16, "SGD", {"lr": 0.05, "momentum": 0.9}, "CosineAnnealingLR", {"T_max": 4})


class Flat(Architecture):
    """One linear layer on the means of the channels."""

    name = "flat"
    summary = "a toy network on another form of the data"
    layout = "mean"

    def build(self, task: Task) -> torch.nn.Module:
        from torch import nn

        return nn.Linear(*task.input_shape, len(task.labels))

    def training(self, phase: Phase) -> Training:
        return Training(2, 16, "SGD", {"lr": 0.1})


class Recurrent(Architecture):
    """LSTM, linear on the last step."""

    name = "lstm"
    summary = "another toy network"

    def build(self, task: Task) -> torch.nn.Module:
        from torch import nn

        class Last(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lstm = nn.LSTM(task.input_shape[0], 4, batch_first=True)
                self.linear = nn.Linear(4, len(task.labels))

            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                answers, _ = self.lstm(inputs.transpose(1, 2))
                logits: torch.Tensor = self.linear(answers[:, -1])
                return logits

        return Last()

    def training(self, phase: Phase) -> Training:
        return Training(2, 16, "Adam", {"lr": 0.01}, "ReduceLROnPlateau", {"mode": "max", "patience": 0}, clip=5.0)


@dataclasses.dataclass(frozen=True)
class Halve(Step):
    """Multiply all weights by ``factor``: a compressor that compresses nothing."""

    name: ClassVar[str] = "halve"
    factor: float = 0.5

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        import torch

        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(self.factor)
        context.report(factor=self.factor)
        return model

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        return model


@dataclasses.dataclass(frozen=True)
class Tune(Step):
    """Fine-tune under the objective in force, and report a few of the seeds."""

    name: ClassVar[str] = "tune"
    epochs: int = 1

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        context.report(
            seed=context.seed("a"), other_seed=context.seed("b"), calibration=context.calibration(3).tolist()
        )
        return context.fit(model, epochs=self.epochs)

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        return [("finetune", {"epochs": self.epochs})]

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        return model


@dataclasses.dataclass(frozen=True)
class Mimic(Step):
    """Teach a fresh network what the incoming one answers; what its loss was given is recorded."""

    name: ClassVar[str] = "mimic"
    is_teacher: ClassVar[bool] = True
    #: For every call of the loss: the teacher's first logits, or None.
    seen: ClassVar[list[Any]] = []
    weight: float = 0.5

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        context.teach(model)
        return context.fit(context.fresh(), "train")

    def loss(self, task_loss: Loss) -> Loss:
        def mimicry(logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
            Mimic.seen.append(None if teacher is None else teacher[0].tolist())
            assert teacher is not None
            return task_loss(logits, targets, None) + self.weight * (logits - teacher).square().mean()

        return mimicry


@dataclasses.dataclass(frozen=True)
class Shift(Step):
    """A step that is careless with what it is given: its preview changes the network in place."""

    name: ClassVar[str] = "shift"
    by: float

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return self.preview(model, context.example)

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        import torch

        model[-1] = torch.nn.Linear(model[-1].in_features, 1)  # type: ignore[operator,index]
        return model


class Broken(Step):
    """A step with a bug."""

    name = "broken"

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        raise ZeroDivisionError("the toy broke")

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        raise ZeroDivisionError("the toy broke")


class Picky(Step):
    """A step that handles no network."""

    name = "picky"

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        raise Unsupported("picky cannot prune a Sequential")

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        raise Unsupported("picky cannot prune a Sequential")


class Nothing(Step):
    """A step that forgets to return the model."""

    name = "nothing"

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return None  # type: ignore[return-value]


class Eager(Runtime):
    """Runs the artefact itself."""

    name = "eager"
    summary = "a toy runtime"

    def deploy(self, deployment: Deployment, folder: Path) -> Path:
        return Path(shutil.copy(deployment.artefact, folder / "model.toy"))

    def load(self, file: Path) -> Predictor:
        import torch

        model = load_artefact(file)

        def predict(inputs: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                return torch.sigmoid(model(inputs))

        return predict


class Mean(Metric):
    """The mean score, and a figure that is undefined."""

    name = "mean"

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return MetricSpec("mean_score"), MetricSpec("undefined")

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        return {"mean_score": evidence.scores.mean(), "undefined": None}

    def weighted(self, task: Task) -> Mapping[str, WeightedMetric]:
        return {"mean_score": lambda scores, targets, weights: scores.mean(axis=1) @ weights / weights.sum(axis=0)}


class Weight(Metric):
    """The number of parameters."""

    name = "weight"

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (MetricSpec("weights", better="lower", digits=0),)

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        return {"weights": sum(weight.numel() for weight in evidence.model.parameters())}


@hookimpl
def harness_datasets(register: Any) -> None:
    register(Toy())
    register(ToySynthetic())


@hookimpl
def harness_architectures(register: Any) -> None:
    register(Conv())
    register(Recurrent())
    register(Flat())


@hookimpl
def harness_steps(register: Any) -> None:
    for step in (Halve, Tune, Mimic, Shift, Broken, Picky, Nothing):
        register(step)


@hookimpl
def harness_metrics(register: Any) -> None:
    register(Mean())
    register(Weight())


@hookimpl
def harness_runtimes(register: Any) -> None:
    register(Eager())


@hookimpl(optionalhook=True)
def harness_studies(register: Any) -> None:
    register(Study("toys", Path(__file__).with_name("toy_study.toml"), "toys, measured by nobody"))


@hookimpl
def harness_report_section(records: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    return "Toys", f"{len(records)} toys were measured"
