"""Define networks: how one is built for a task, and how its authors train it."""

from __future__ import annotations

import abc
import dataclasses
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.api.data import Task
from harness.errors import UsageError
from harness.former_names import FormerNames

if TYPE_CHECKING:
    import torch

Phase = Literal["train", "finetune"]


@dataclasses.dataclass(frozen=True)
class Training:
    """How a network is trained. ``optimizer`` and ``scheduler`` name classes of torch.optim and its lr_scheduler.

    The scheduler steps once per epoch; ReduceLROnPlateau gets the validation score, of which higher is better (set
    ``mode="max"``). SequentialLR and ChainedScheduler get their parts as {class: arguments}. A warm-up of five epochs:
    ``scheduler="SequentialLR", scheduler_args={"schedulers": [{"LinearLR": {"total_iters": 5}},
    {"CosineAnnealingLR": {"T_max": 45}}], "milestones": [5]}``.

    ``parameter_groups`` gives some parameters other arguments of the optimizer. Its keys are patterns (as in file
    names) for a parameter's path, such as "head.bias", or its layer's class and its own name, such as
    "BatchNorm1d.weight"; the first that matches counts. No weight decay for biases and norms:
    ``parameter_groups={"*.bias": {"weight_decay": 0}, "*Norm*.weight": {"weight_decay": 0}}``.

    ``clip`` bounds the gradient's norm. ``examples`` limits the training examples to a seeded sample,
    for quick runs.
    """

    epochs: int
    batch: int
    optimizer: str
    optimizer_args: Mapping[str, Any]
    scheduler: str | None = None
    scheduler_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    clip: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    examples: int | None = None
    parameter_groups: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for field in ("epochs", "batch", "examples"):
            value = getattr(self, field)
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            if not (whole and value >= 1) and not (field == "examples" and value is None):
                raise UsageError(
                    f"Training({field}={value!r}): epochs, batch and examples are whole numbers, at least 1"
                )
        if self.precision not in ("float32", "bfloat16"):
            raise UsageError(f"Training(precision={self.precision!r}): choose 'float32' or 'bfloat16'")


class Architecture(FormerNames, abc.ABC):
    """Build a network for a task, and say how to train it."""

    _former_names: ClassVar = {"about": "summary", "view": "layout"}
    name: ClassVar[str]
    version: ClassVar[str] = "1"
    summary: ClassVar[str] = ""
    #: The layout of the data that it reads, one of the data set's ``layouts``; "" is the data set's own.
    layout: ClassVar[str] = ""
    #: Limits of epochs and examples in the preset *quick*: a minute or less on two cores.
    quick_epochs: ClassVar[int] = 3
    quick_examples: ClassVar[int] = 2048

    @abc.abstractmethod
    def build(self, task: Task) -> torch.nn.Module:
        """Build a network that maps (batch, *input_shape) to logits (batch, labels); the harness seeds torch.

        For a regression these are its outputs. The last layer has ``len(task.labels)`` outputs for every kind of task.
        """

    @abc.abstractmethod
    def training(self, phase: Phase) -> Training:
        """Return how to train it from scratch, or how to fine-tune it after a compression."""
