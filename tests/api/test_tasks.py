"""Each kind of task: its declaration, its targets, its loss against a calculation by hand, and its training."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, r2_score

from harness import Architecture, Data, Split, Task, Training, load_network
from harness.api import Phase
from harness.api.data import KINDS, KindName
from harness.api.tasks import kind_of, task_of
from harness.build import artefact
from harness.build.training import fit, predict
from harness.errors import DataError, UsageError
from harness.keys import non_default_fields
from harness.plugin.manager import KERNEL, installed

LABELS = ("a", "b", "c")
SHAPE = (4,)


def task(kind: KindName, **fields: Any) -> Task:
    return Task(SHAPE, LABELS[:1] if kind == "binary" else LABELS, kind, **fields)


def split(kind: KindName, count: int = 60, seed: int = 0) -> Split:
    """Examples whose labels follow from their first three inputs."""
    inputs = np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)
    targets: Any = {
        "multilabel": (inputs[:, :3] > 0).astype(np.float32),
        "binary": (inputs[:, :1] > 0).astype(np.float32),
        "multiclass": inputs[:, :3].argmax(axis=1),
        "regression": 2 * inputs[:, :3] - 1,
    }[kind]
    return Split(inputs, targets, np.arange(count) // 2)


class Line(Architecture):
    """One linear layer."""

    name = "line"

    def build(self, task: Task) -> torch.nn.Module:
        return torch.nn.Linear(*task.input_shape, len(task.labels))

    def training(self, phase: Phase) -> Training:
        return Training(8, 10, "Adam", {"lr": 0.1})


# -------------------------------------------------------------------------------------------------- declaration


def test_a_missing_kind_is_multilabel_and_no_part_of_keys() -> None:
    assert Task(SHAPE, ("death",)).kind == "multilabel"
    assert non_default_fields(Task(SHAPE, ("death",))) == {"input_shape": [4], "labels": ["death"]}
    assert non_default_fields(task("binary"))["kind"] == "binary"
    assert non_default_fields(task("multilabel", class_weights=(1.0, 2.0, 3.0)))["class_weights"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "multi-class"}, "did you mean 'multiclass'"),
        ({"kind": "binary"}, "one label"),
        ({"labels": ("a",), "kind": "multiclass"}, "two classes"),
        ({"kind": "regression", "class_weights": (1, 1, 1)}, "no classes"),
        ({"class_weights": (1, 2)}, "each of the 3 labels"),
        ({"class_weights": (1, 2, 0)}, "above 0"),
    ],
)
def test_a_wrong_declaration_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Task(**{"input_shape": SHAPE, "labels": LABELS} | wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_the_kind_are_accepted(kind: KindName) -> None:
    part = split(kind)
    assert part.targets.dtype == (np.int64 if kind == "multiclass" else np.float32)
    Data(task(kind), part, part, part).check("made")


@pytest.mark.parametrize(
    ("kind", "targets", "message"),
    [
        ("multiclass", np.zeros((6, 3), np.float32), "shape"),
        ("multiclass", np.array([0, 1, 2, 0, 1, 2], np.int32), "int32, not int64"),
        ("multiclass", np.array([0, 1, 2, 3, 0, 1]), "example 3 has the class 3"),
        ("multiclass", np.array([0, 1, 0, 1, 0, 1]), "class c has no example"),
        ("regression", np.full((6, 3), np.nan, np.float32), "target of example 0 is NaN"),
        ("regression", np.ones((6, 3), np.float32), "all examples have the same a"),
        ("multilabel", np.zeros((6, 3), np.float32), "label a has no positive"),
    ],
)
def test_other_targets_are_named(kind: KindName, targets: Any, message: str) -> None:
    part = Split(split(kind, 6).inputs, targets, np.arange(6))
    with pytest.raises(DataError, match=message):
        Data(task(kind), part, part, part).check("made")


# --------------------------------------------------------------------------------------------- loss and activation


def tensors(kind: KindName) -> tuple[torch.Tensor, torch.Tensor]:
    part = split(kind, 20)
    return torch.from_numpy(part.inputs[:, : 1 if kind == "binary" else 3]) * 2, torch.from_numpy(part.targets)


@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 5.0)])
def test_cross_entropy_is_the_mean_of_minus_log_probability(weights: tuple[float, ...]) -> None:
    logits, targets = tensors("multiclass")
    chosen = log_softmax(logits.double().numpy(), axis=1)[np.arange(20), targets]
    each = np.array(weights or (1, 1, 1))[targets.numpy()]
    loss = kind_of(task("multiclass", class_weights=weights)).loss(logits, targets, None)
    assert loss.item() == pytest.approx(-(each * chosen).sum() / each.sum(), rel=1e-5)


def test_class_weights_of_labels_multiply_their_positive_examples() -> None:
    logits, targets = tensors("multilabel")
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    terms = -(np.array([1, 2, 5]) * targets.numpy() * np.log(p) + (1 - targets.numpy()) * np.log(1 - p))
    loss = kind_of(task("multilabel", class_weights=(1, 2, 5))).loss(logits, targets, None)
    assert loss.item() == pytest.approx(terms.sum(axis=1).mean(), rel=1e-5)


def test_the_loss_of_a_regression_is_the_mean_squared_error() -> None:
    outputs, targets = tensors("regression")
    loss = kind_of(task("regression")).loss(outputs, targets, None)
    assert loss.item() == pytest.approx(np.square(outputs.numpy() - targets.numpy()).mean(), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_activation_follows_the_kind(kind: KindName) -> None:
    logits, _ = tensors(kind)
    model = kind_of(task(kind)).activated(torch.nn.Identity())
    expected = {"multiclass": logits.softmax(1), "regression": logits}.get(kind, logits.sigmoid())
    assert torch.equal(model(logits), expected)
    assert kind_of(task(kind)).impossible(expected.numpy()) == ""
    own = torch.nn.Identity()
    own.gives_probabilities = True  # type: ignore[assignment]
    assert kind_of(task(kind)).activated(own) is own
    if kind == "regression":
        assert isinstance(model, torch.nn.Identity)  # nothing is added to what is timed


def test_sigmoids_are_no_probabilities_of_classes() -> None:
    logits, _ = tensors("multiclass")
    assert "sum to 1" in kind_of(task("multiclass")).impossible(logits.sigmoid().numpy())


# ------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_learns_each_kind(kind: KindName) -> None:
    training = Line().training("train")
    torch.manual_seed(0)
    model = Line().build(task(kind))
    before = copy.deepcopy(model)
    meaning = kind_of(task(kind))
    rows = fit(model, split(kind), split(kind, seed=1), training, seed=0, kind=meaning)
    held_out = split(kind, seed=2)
    first, last = (
        meaning.score(predict(network, torch.from_numpy(held_out.inputs), 100).numpy(), held_out.targets)
        for network in (before, model)
    )
    assert last > max(0.7, first)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert meaning.selector in rows[0]


def test_the_figure_that_selects_an_epoch_is_scikit_learn_s() -> None:
    logits, targets = (tensor.numpy() for tensor in tensors("multiclass"))
    assert kind_of(task("multiclass")).score(logits, targets) == accuracy_score(targets, logits.argmax(1))
    outputs, numbers = (tensor.numpy() for tensor in tensors("regression"))
    assert kind_of(task("regression")).score(outputs, numbers) == pytest.approx(r2_score(numbers, outputs))
    for kind in ("multiclass", "regression"):
        assert np.isnan(kind_of(task(kind)).score(np.full_like(outputs, np.nan), split(kind, 20).targets))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ artefacts


@pytest.mark.parametrize("kind", KINDS)
def test_an_artefact_knows_its_task(kind: KindName, tmp_path: Path) -> None:
    network, file, architectures = Line(), tmp_path / "model.safetensors", installed().architectures
    architectures.add(network.name, network, KERNEL)
    try:
        model = network.build(task(kind)).eval()
        artefact.save(file, model, [], network.name, task(kind))
        assert task_of(artefact.header(file)) == task(kind)
        assert ("kind" in artefact.header(file)["task"]) == (kind != "multilabel")  # the bytes of earlier artefacts
        logits, inputs = model(torch.ones(2, 4)), torch.ones(2, 4)
        assert torch.equal(load_network(file)(inputs), kind_of(task(kind)).activation()(logits))
    finally:
        architectures.discard(network.name)


def test_a_header_with_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="ranking"):
        task_of(json.loads('{"task": {"input_shape": [1], "labels": ["a"], "kind": "ranking"}}'))
