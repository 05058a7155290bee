"""Recipes on a multi-class task and on a regression: each step in the form of its kind, or refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness import Step, Training, Unsupported, load_network, train
from harness.api import Phase
from harness.plugin.manager import installed
from harness.testing._world import World, temporarily_registered
from harness_compress import distill, distill_kd, distill_mse, prune, quantize
from harness_sklearn import SmallMLP


class Brief(SmallMLP):
    """The network with one epoch of training."""

    name = "brief-mlp"

    def training(self, phase: Phase) -> Training:
        return Training(1, 64, "Adam", {"lr": 1e-3})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    if "digits" not in installed().datasets:
        pytest.skip("the plugin harness_sklearn is not installed: pip install -e . again")
    return World(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(
    ("dataset", "steps", "reason"),
    [
        ("digits", [distill()], "is for tasks of kind multilabel or binary, and digits is multiclass"),
        ("digits", [distill_mse()], "is for tasks of kind regression, and digits is multiclass"),
        ("diabetes", [distill_kd()], "is for tasks of kind multiclass, and diabetes is regression"),
        ("digits", [quantize("ptq-int8")], "an activation of its own, .* are not probabilities that sum to 1"),
        ("diabetes", [quantize("ptq-int8")], "an activation of its own, which is not that of a regression task"),
    ],
)
def test_a_step_of_another_kind_is_refused(world: World, dataset: str, steps: list[Step], reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        world.build(Brief(), [train(), *steps], dataset=dataset)


@pytest.mark.parametrize("dataset", ["digits", "diabetes"])
def test_a_recipe_of_its_kind_deploys_what_metrics_get(world: World, dataset: str) -> None:
    teacher = distill_kd() if dataset == "digits" else distill_mse()
    artefact = world.build(Brief(), [train(), teacher, prune("l1", keep=0.5), quantize("uniform8")], dataset=dataset)
    task = installed().datasets.get(dataset).task
    with temporarily_registered(Brief()), torch.inference_mode():
        answers = load_network(artefact.file)(torch.rand(5, *task.input_shape)).numpy()
    assert answers.shape == (5, len(task.labels))
    if dataset == "digits":
        assert answers.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-5)
