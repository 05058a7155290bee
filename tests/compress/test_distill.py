"""The distillation loss against direct evaluations of its formula, and the step against its contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Bernoulli, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

from harness.errors import CellError, Unsupported, UsageError
from harness_compress.distill import Distill, mld_loss

logit = st.floats(-8, 8, width=32)


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(6, 5, generator=generator), 2 * torch.randn(6, 5, generator=generator)


def task_loss(logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
    return binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)


def test_it_is_the_published_formula() -> None:
    student, teacher = pair()
    s, t = (1 / (1 + np.exp(-logits.double().numpy())) for logits in (student, teacher))
    divergence = t * np.log(t / s) + (1 - t) * np.log((1 - t) / (1 - s))
    assert mld_loss(student, teacher).item() == pytest.approx(divergence.sum(axis=1).mean(), rel=1e-5)


def test_it_is_the_divergence_of_bernoulli_distributions() -> None:
    student, teacher = pair(1)
    oracle = kl_divergence(Bernoulli(logits=teacher), Bernoulli(logits=student)).sum(dim=1).mean()
    assert mld_loss(student, teacher).item() == pytest.approx(oracle.item(), rel=1e-5)


def test_its_gradient_is_the_difference_of_probabilities_and_spares_the_teacher() -> None:
    student, teacher = (logits.requires_grad_() for logits in pair(2))
    mld_loss(student, teacher).backward()
    assert student.grad is not None
    expected = (student.sigmoid() - teacher.sigmoid()) / len(student)
    assert torch.allclose(student.grad, expected, atol=1e-6)
    assert teacher.grad is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(logit, logit), min_size=1, max_size=6))
def test_it_is_never_negative_and_zero_for_agreement(rows: list[tuple[float, float]]) -> None:
    student, teacher = (torch.tensor(column)[None] for column in zip(*rows, strict=True))
    assert mld_loss(teacher, teacher).item() == 0
    assert mld_loss(student, teacher).item() >= -1e-6
    if (student - teacher).abs().max() > 0.1:
        assert mld_loss(student, teacher).item() > 0


def test_saturated_logits_stay_finite_and_half_precision_is_widened() -> None:
    far = torch.tensor([[200.0, -200.0]])
    found = mld_loss(-far, far)
    assert torch.isfinite(found)
    assert found.item() == pytest.approx(400)  # log s of a student as wrong as that: -200 for each label
    student, teacher = pair(3)
    assert mld_loss(student.bfloat16(), teacher.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("weight", [0.6, 1.0])
def test_the_objective_mixes_task_and_teacher(weight: float) -> None:
    student, teacher = pair(4)
    targets = (pair(5)[0] > 0).float()
    found = Distill(weight=weight).loss(task_loss)(student, targets, teacher)
    expected = (1 - weight) * task_loss(student, targets, None) + weight * mld_loss(student, teacher)
    assert found.item() == pytest.approx(expected.item())
    with pytest.raises(CellError, match="teacher"):
        Distill().loss(task_loss)(student, targets, None)


class Context:
    def __init__(self) -> None:
        self.student = nn.Linear(3, 2)
        self.done: list[tuple[Any, ...]] = []

    def fresh(self) -> nn.Module:
        return self.student

    def teach(self, teacher: nn.Module) -> None:
        self.done.append(("teach", teacher))

    def fit(self, model: nn.Module, phase: str = "finetune", name: str = "fit", **changes: Any) -> nn.Module:
        self.done.append(("fit", model, phase, name, changes))
        return model


def test_the_incoming_model_teaches_a_fresh_one_trained_in_full() -> None:
    context, teacher = Context(), nn.Linear(3, 2)
    assert Distill().apply(teacher, context) is context.student  # type: ignore[arg-type]
    assert context.done == [("teach", teacher), ("fit", context.student, "train", "student", {})]
    assert Distill.is_teacher
    assert Distill().trainings() == [("train", {})]


def test_an_int8_teacher_is_refused() -> None:
    teacher = nn.Linear(3, 2)
    teacher.gives_probabilities = True  # type: ignore[assignment]
    with pytest.raises(Unsupported, match="probabilities"):
        Distill().apply(teacher, Context())  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"method": "kd"}, {"weight": 0}, {"weight": 1.5}])
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="distill"):
        Distill(**wrong)
