"""Distill a network into a fresh one of its architecture: through softened classes, or through numbers.

`distill` is the method for multi-label tasks. The two steps here are its counterparts for multi-class tasks and for
regressions; they stand in a file of their own, because the code of ``distill.py`` is part of the keys of its models.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.api import KindName, Loss, Phase, Step, StepContext
from harness.errors import CellError, Unsupported, UsageError

if TYPE_CHECKING:
    import torch


class _Distillation(Step):
    """The incoming model teaches a fresh network; ``divergence`` is the loss beside that of the task."""

    is_teacher: ClassVar[bool] = True
    weight: float
    precision: Literal["float32", "bfloat16"] | None

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise UsageError(
                f"{self.name}(weight={self.weight!r}): give the teacher's share of the loss, above 0 and at most 1"
            )

    @abc.abstractmethod
    def divergence(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Return the loss of the student's outputs (batch, labels) beside the teacher's, a scalar."""

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        if getattr(model, "gives_probabilities", False):
            raise Unsupported(
                f"the teacher ends in its own activation (is it int8?), and {self.name} needs its logits: "
                "distill before quantize"
            )
        student = context.fresh()
        context.teach(model)
        ((phase, changes),) = self.trainings()
        return context.fit(student, phase, name="student", **changes)

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        return [("train", {} if self.precision is None else {"precision": self.precision})]

    def loss(self, task_loss: Loss) -> Loss:
        def objective(logits: torch.Tensor, targets: torch.Tensor, teacher_logits: torch.Tensor | None) -> torch.Tensor:
            if teacher_logits is None:
                raise CellError("the distillation loss needs a teacher and got none: call context.teach() before fit()")
            task = task_loss(logits, targets, teacher_logits)
            return (1 - self.weight) * task + self.weight * self.divergence(logits, teacher_logits)

        return objective


@dataclasses.dataclass(frozen=True)
class DistillKD(_Distillation):
    """Knowledge distillation for multi-class tasks (Hinton, Vinyals and Dean 2015, arXiv 1503.02531).

    The incoming model becomes the teacher of a fresh network and of all later fine-tuning in the recipe:
    loss = (1 - ``weight``) task loss + ``weight`` T^2 KL(teacher || student), of the classes' probabilities softened by
    the ``temperature`` T. T^2 keeps the gradients of the second term on one scale for every T, as the paper advises.
    """

    name: ClassVar[str] = "distill_kd"
    kinds: ClassVar[tuple[KindName, ...]] = ("multiclass",)
    temperature: float = 4.0
    weight: float = 0.9
    precision: Literal["float32", "bfloat16"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(f"distill_kd(temperature={self.temperature!r}): give a number above 0")

    def divergence(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        softened, target = (logits.float() / self.temperature for logits in (student, teacher.detach()))
        log_s, log_t = functional.log_softmax(softened, dim=1), functional.log_softmax(target, dim=1)
        return self.temperature**2 * functional.kl_div(log_s, log_t, reduction="batchmean", log_target=True)


@dataclasses.dataclass(frozen=True)
class DistillMSE(_Distillation):
    """Distillation for regressions: the student learns the teacher's outputs (Ba and Caruana, NeurIPS 2014).

    The incoming model becomes the teacher of a fresh network and of all later fine-tuning in the recipe:
    loss = (1 - ``weight``) task loss + ``weight`` mean squared error between the outputs of both networks, averaged
    over labels and batch, as the task loss is.
    """

    name: ClassVar[str] = "distill_mse"
    kinds: ClassVar[tuple[KindName, ...]] = ("regression",)
    weight: float = 0.5
    precision: Literal["float32", "bfloat16"] | None = None

    def divergence(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import mse_loss

        return mse_loss(student.float(), teacher.detach().float())
