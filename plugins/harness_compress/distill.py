"""Distill a network into a fresh one of its architecture, through the logits of a multi-label task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.api import Loss, Phase, Step, StepContext
from harness.errors import CellError, Unsupported, UsageError, nearest

if TYPE_CHECKING:
    import torch

METHODS = ("mld",)


@dataclasses.dataclass(frozen=True)
class Distill(Step):
    """Multi-label logits distillation (MLD; Yang et al., ICCV 2023, arXiv 2308.06453) in the form of study B.

    The incoming model becomes the teacher of a fresh network and of all later fine-tuning in the recipe:
    loss = (1 - ``weight``) task loss + ``weight`` MLD, where MLD is ``mld_loss`` below. Both terms are summed over
    labels and averaged over the batch, so B's weights 0.4 and 0.6 apply to terms of the same scale.

    Raises Unsupported for a teacher that gives probabilities (an int8 network), since it has no logits.
    """

    name: ClassVar[str] = "distill"
    is_teacher: ClassVar[bool] = True
    method: str = "mld"
    weight: float = 0.6
    precision: Literal["float32", "bfloat16"] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"distill(method={self.method!r}): unknown method{nearest(self.method, METHODS)}")
        if not 0 < self.weight <= 1:
            raise UsageError(
                f"distill(weight={self.weight!r}): give the teacher's share of the loss, above 0 and at most 1"
            )

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        if getattr(model, "gives_probabilities", False):
            raise Unsupported("the teacher gives probabilities, not logits (is it int8?); distill before quantize")
        student = context.fresh()
        context.teach(model)
        ((phase, changes),) = self.trainings()
        return context.fit(student, phase, name="student", **changes)

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        return [("train", {} if self.precision is None else {"precision": self.precision})]

    def loss(self, task_loss: Loss) -> Loss:
        weight = self.weight

        def objective(logits: torch.Tensor, targets: torch.Tensor, teacher_logits: torch.Tensor | None) -> torch.Tensor:
            if teacher_logits is None:
                raise CellError("the distillation loss needs a teacher and got none: call context.teach() before fit()")
            task = task_loss(logits, targets, teacher_logits)
            return (1 - weight) * task + weight * mld_loss(logits, teacher_logits)

        return objective


def mld_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute KL([t, 1 - t] || [s, 1 - s]) of logits (batch, labels), summed over labels, averaged over the batch.

    s and t are the sigmoids of the student's and the teacher's logits. There is no temperature, and no gradient flows
    into the teacher. Computed in float32 from log-sigmoids, which stay finite where Yang et al. clamp probabilities
    at 1e-8. Zero if and only if student and teacher agree; the gradient is (s - t) / batch.
    """
    from torch.nn.functional import logsigmoid

    student, teacher = student.float(), teacher.detach().float()
    log_t, log_not_t = logsigmoid(teacher), logsigmoid(-teacher)
    divergence = log_t.exp() * (log_t - logsigmoid(student)) + log_not_t.exp() * (log_not_t - logsigmoid(-student))
    return divergence.sum(dim=1).mean()
