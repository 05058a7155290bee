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

from harness.api import Step
from harness.errors import CellError, Unsupported, UsageError
from harness_compress.distill import Distill, mld_loss
from harness_compress.distill_outputs import DistillKD, DistillMSE

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


@pytest.mark.parametrize("step", [Distill(), DistillKD(), DistillMSE()], ids=lambda step: step.name)
def test_the_incoming_model_teaches_a_fresh_one_trained_in_full(step: Step) -> None:
    context, teacher = Context(), nn.Linear(3, 2)
    assert step.apply(teacher, context) is context.student  # type: ignore[arg-type]
    assert context.done == [("teach", teacher), ("fit", context.student, "train", "student", {})]
    assert step.is_teacher
    assert step.trainings() == [("train", {})]


@pytest.mark.parametrize("step", [Distill(), DistillKD(), DistillMSE()], ids=lambda step: step.name)
def test_an_int8_teacher_is_refused(step: Step) -> None:
    teacher = nn.Linear(3, 2)
    teacher.gives_probabilities = True  # type: ignore[assignment]
    with pytest.raises(Unsupported, match="logits"):
        step.apply(teacher, Context())  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"method": "kd"}, {"weight": 0}, {"weight": 1.5}])
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="distill"):
        Distill(**wrong)


# ---------------------------------------------------------------------------------------------- the other kinds


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_divergence_of_softened_classes_times_the_square_of_the_temperature(temperature: float) -> None:
    student, teacher = pair(6)
    soft = [np.exp(logits.double().numpy() / temperature) for logits in (student, teacher)]
    s, t = (exponents / exponents.sum(axis=1, keepdims=True) for exponents in soft)
    expected = temperature**2 * (t * np.log(t / s)).sum(axis=1).mean()
    found = DistillKD(temperature=temperature).divergence(student, teacher)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    oracle = nn.KLDivLoss(reduction="batchmean")(
        (student / temperature).log_softmax(1), (teacher / temperature).softmax(1)
    )
    assert found.item() == pytest.approx(temperature**2 * oracle.item(), rel=1e-5)


def test_kd_s_gradient_approaches_that_of_matching_logits_at_high_temperatures() -> None:
    """Hinton et al., equation 4: with logits of mean zero, T^2 KL has the gradient (student - teacher) / classes."""
    student, teacher = (logits - logits.mean(dim=1, keepdim=True) for logits in pair(7))
    student.requires_grad_()
    DistillKD(temperature=1000.0).divergence(student, teacher).backward()
    assert student.grad is not None
    assert torch.allclose(student.grad, (student - teacher).detach() / 5 / len(student), atol=1e-3)


def test_mse_is_the_mean_squared_difference_of_outputs() -> None:
    student, teacher = (logits.requires_grad_() for logits in pair(8))
    found = DistillMSE().divergence(student, teacher)
    assert found.item() == pytest.approx(np.square(student.detach().numpy() - teacher.detach().numpy()).mean())
    found.backward()
    assert teacher.grad is None


@pytest.mark.parametrize("step", [DistillKD(weight=0.3), DistillMSE(weight=0.3)], ids=lambda step: step.name)
def test_the_objectives_mix_task_and_teacher(step: DistillKD | DistillMSE) -> None:
    student, teacher = pair(9)

    def task(logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
        return (logits - targets).abs().mean()

    found = step.loss(task)(student, torch.zeros(6, 5), teacher)
    expected = 0.7 * student.abs().mean() + 0.3 * step.divergence(student, teacher)
    assert found.item() == pytest.approx(expected.item())
    with pytest.raises(CellError, match="teacher"):
        step.loss(task)(student, torch.zeros(6, 5), None)


def test_each_step_names_its_kinds() -> None:
    assert (Distill.kinds, DistillKD.kinds, DistillMSE.kinds) == (
        ("multilabel", "binary"),
        ("multiclass",),
        ("regression",),
    )


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"temperature": float("inf")}, {"weight": 0}])
def test_wrong_parameters_of_kd_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="distill_kd"):
        DistillKD(**wrong)
