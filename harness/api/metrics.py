"""What is told about a cell, and from what."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from harness.api.data import Task
from harness.former_names import FormerNames

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

Better = Literal["higher", "lower"]


@dataclasses.dataclass(frozen=True)
class MetricSpec:
    """One number that a metric gives: how to print it and which way is good."""

    name: str
    unit: str = ""
    better: Better | None = None
    digits: int = 4


class WeightedMetric(Protocol):
    """A quality figure under many weightings of the examples at once; NaN where it is undefined."""

    def __call__(
        self, scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64], /
    ) -> NDArray[np.float64]:
        """``scores`` and ``targets`` (n, labels), ``weights`` (n, samples) -> (samples,)."""
        ...


class EvalContext(Protocol):
    """What a metric may look at: one cell, after it was built and timed. Each is made when first asked for."""

    task: Task
    #: The deployed file.
    file: Path
    #: On the test split: probabilities and targets (n, labels), and each row's patient.
    scores: NDArray[Any]
    targets: NDArray[Any]
    patients: NDArray[Any]
    #: Nanoseconds of each timed call, bytes resident at the peak of inference, and those before the file was loaded;
    #: None when nothing was timed.
    samples: NDArray[Any] | None
    peak_memory: int | None
    base_memory: int | None

    @property
    def model(self) -> torch.nn.Module:
        """The artefact's model, in evaluation mode."""
        ...

    @property
    def example(self) -> torch.Tensor:
        """One example as a batch of one."""
        ...


class Metric(FormerNames, abc.ABC):
    """One or more figures about a cell."""

    _former_names: ClassVar = {"about": "summary", "figures": "specs"}
    name: ClassVar[str]
    version: ClassVar[str] = "1"
    summary: ClassVar[str] = ""

    @abc.abstractmethod
    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        """The figures that ``compute`` gives for this task, the first being the headline."""

    @abc.abstractmethod
    def compute(self, evidence: EvalContext) -> Mapping[str, float | None]:
        """The figures by name; None for one that is undefined here."""

    def weighted(self, task: Task) -> Mapping[str, WeightedMetric]:
        """Those of the figures that the answers alone give, as functions that a bootstrap over patients can weigh.

        Each gets an interval, and so does its difference from the reference.
        """
        return {}
