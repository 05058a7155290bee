"""Architectures, data sets, metrics and runtimes with one fault each. Importing this module does not load torch."""

from __future__ import annotations

import random
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness import (
    Data,
    Deployment,
    EvalContext,
    Metric,
    MetricSpec,
    Predictor,
    Progress,
    Runtime,
    Split,
    Task,
    Training,
    Unsupported,
    WeightedMetric,
    load_artefact,
)
from harness.api import Phase, silent
from harness.testing._world import MLP, Conformance

if TYPE_CHECKING:
    import torch

# ---------------------------------------------------------------------------------------------------- architectures


class Network(MLP):
    """Has no fault."""

    name = "good-network"


class Silent(Network):
    name = "silent"
    summary = ""


class Shaken(Network):
    name = "shaken"

    def build(self, task: Task) -> torch.nn.Module:
        network: Any = super().build(task)
        network[1].weight.data.mul_(1 + random.random())
        return network  # type: ignore[no-any-return]


class Shared(Network):
    name = "shared"
    built: ClassVar[list[Any]] = []

    def build(self, task: Task) -> torch.nn.Module:
        self.built.append(super().build(task))
        network = self.built[-1]
        network[-1].bias = self.built[0][-1].bias
        return network  # type: ignore[no-any-return]


class Long(Network):
    name = "long"

    def build(self, task: Task) -> torch.nn.Module:
        return super().build(Task(task.input_shape, (*task.labels, "more")))


class Mixing(Network):
    name = "mixing"

    def build(self, task: Task) -> torch.nn.Module:
        import torch

        network = super().build(task)

        class Mixed(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = network

            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                answers: torch.Tensor = self.inner(inputs)
                return answers - answers.mean(0)

        return Mixed()


class Misnamed(Network):
    name = "misnamed"

    def training(self, phase: Phase) -> Training:
        return Training(1, 4, "Adam", {"momentum": 0.9})


class Still(Network):
    name = "still"

    def training(self, phase: Phase) -> Training:
        return Training(1, 4, "SGD", {"lr": 0.0})


class Unkept(Network):
    name = "unkept"

    def build(self, task: Task) -> torch.nn.Module:
        import torch

        class Scaled(torch.nn.Sequential):
            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                answers: torch.Tensor = self.scale * super().forward(inputs)
                return answers

        network: Any = Scaled(super().build(task))
        network.scale = float(torch.rand(()))
        return network  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------------- data sets


class Good(Conformance):
    """Has no fault."""

    name = "good-synthetic"


class Unnamed(Good):
    name = "real"


class Everywhere(Good):
    name = "everywhere-synthetic"

    def matches(self, folder: Path) -> bool:
        return True


class Placed(Good):
    name = "placed-synthetic"

    def fingerprint(self, folder: Path) -> str:
        import hashlib

        return hashlib.sha256(str(folder).encode()).hexdigest()


class Short(Good):
    name = "short-synthetic"

    def fingerprint(self, folder: Path) -> str:
        return super().fingerprint(folder)[:8]


class Empty(Good):
    name = "empty-synthetic"

    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        data = super().load(folder, cache)
        return Data(data.task, data.train, data.validation, _first(data.test, 0))


class Leaking(Good):
    name = "leaking-synthetic"

    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        data = super().load(folder, cache)
        return Data(data.task, data.train, data.validation, data.train)


class Restless(Good):
    name = "restless-synthetic"

    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        data = super().load(folder, cache)
        data.train.inputs[0, 0, 0] = secrets.randbelow(2**20)
        return data


class Flat(Good):
    name = "flat-synthetic"
    layouts: ClassVar[Mapping[str, Task]] = {"flat": Task((96,), Conformance.task.labels)}

    def to_layout(self, inputs: Any, name: str) -> Any:
        return inputs


class Anew(Good):
    name = "anew-synthetic"

    def make(self, folder: Path) -> None:
        super().make(folder)
        (folder / "notes").write_text(secrets.token_hex())


class Falling(Good):
    name = "falling-synthetic"

    def matches(self, folder: Path) -> bool:
        return (folder / "train.npz").exists()

    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        (folder / "test.npz").read_bytes()
        return super().load(folder, cache)


def _first(split: Split, count: int) -> Split:
    return Split(split.inputs[:count], split.targets[:count], split.patients[:count])


# ----------------------------------------------------------------------------------------------------------- metrics


class Share(Metric):
    """Has no fault: the share of correct predictions at the threshold 0.5."""

    name = "good-metric"

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (MetricSpec("right", better="higher"),)

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        return {"right": float(self._right(evidence.scores, evidence.targets).mean())}

    def weighted(self, task: Task) -> Mapping[str, WeightedMetric]:
        return {"right": lambda scores, targets, weights: self._right(scores, targets) @ weights / weights.sum(axis=0)}

    def _right(self, scores: Any, targets: Any) -> Any:
        return ((scores > 0.5) == targets).mean(axis=1)


class OtherNames(Share):
    name = "other-names"

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        return {**super().compute(evidence), "wrong": 0.0}


class NotANumber(Share):
    name = "not-a-number"

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        right = super().compute(evidence)["right"]
        return {"right": right if evidence.samples is not None else float("nan")}


class Unweighted(Share):
    name = "unweighted"

    def weighted(self, task: Task) -> Mapping[str, WeightedMetric]:
        return {
            "right": lambda scores, targets, weights: np.full(
                weights.shape[1], self._right(scores, targets).mean(), dtype=np.float64
            )
        }


class Ordered(Share):
    name = "ordered"

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        return {"right": float(evidence.scores[0].mean())}

    def weighted(self, task: Task) -> Mapping[str, WeightedMetric]:
        return {}


class Sorting(Share):
    name = "sorting"

    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        values = super().compute(evidence)
        if evidence.samples is not None:
            evidence.samples.sort()
        return values


# ---------------------------------------------------------------------------------------------------------- runtimes


class Eager(Runtime):
    """Has no fault."""

    name = "good-runtime"

    def deploy(self, deployment: Deployment, folder: Path) -> Path:
        if deployment.quantization is not None:
            raise Unsupported("it deploys float networks")
        return Path(shutil.copy(deployment.artefact, folder / "model"))

    def load(self, file: Path) -> Predictor:
        import torch

        model = load_artefact(file)

        def predict(inputs: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                return self.answer(model, inputs)

        return predict

    def answer(self, model: Any, inputs: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = model(inputs).sigmoid()
        return answers


class Beside(Eager):
    name = "beside"

    def deploy(self, deployment: Deployment, folder: Path) -> Path:
        if deployment.quantization is not None:
            raise Unsupported("it deploys float networks")
        return Path(shutil.copy(deployment.artefact, folder.with_suffix(".model")))


class StillFloat(Eager):
    """Deploys the float network where int8 is requested."""

    name = "still-float"

    def deploy(self, deployment: Deployment, folder: Path) -> Path:
        return Path(shutil.copy(deployment.artefact, folder / "model"))


class Logits(Eager):
    name = "logits"

    def answer(self, model: Any, inputs: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = model(inputs)
        return answers


class Restlessly(Eager):
    name = "restlessly"

    def answer(self, model: Any, inputs: torch.Tensor) -> torch.Tensor:
        return super().answer(model, inputs) + secrets.randbelow(1000) * 2.0**-20 / 32


class Coarse(Eager):
    name = "coarse"
    tolerance = 1e-2

    def answer(self, model: Any, inputs: torch.Tensor) -> torch.Tensor:
        return (super().answer(model, inputs) * 128).round() / 128
