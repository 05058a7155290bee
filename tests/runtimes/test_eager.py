"""The eager runtime: the artefact's own file, probabilities out, and no gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import harness.build.artefact
from harness import Deployment, Task
from harness.plugin.manager import installed
from harness_runtimes import TorchEager


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).eval()
    monkeypatch.setattr(harness.build.artefact, "load", lambda file: network)
    task = {"input_shape": [4], "labels": ["a", "b", "c"]}
    monkeypatch.setattr(harness.build.artefact, "header", lambda file: {"task": task})
    return network


def test_it_is_registered_under_its_name() -> None:
    assert isinstance(installed().runtimes.get("torch"), TorchEager)


def test_what_ships_is_the_artefact_itself(tmp_path: Path) -> None:
    (tmp_path / "artefact").write_bytes(b"\x00tensors")
    (tmp_path / "deployed").mkdir()
    deployment = Deployment(nn.Identity(), torch.zeros(1, 4), Task((4,), ("label",)), tmp_path / "artefact")
    file = TorchEager().deploy(deployment, tmp_path / "deployed")
    assert file == tmp_path / "deployed" / "model.safetensors"
    assert file.read_bytes() == b"\x00tensors"


def test_logits_become_probabilities(network: nn.Module, tmp_path: Path) -> None:
    inputs = torch.randn(5, 4)
    answer = TorchEager().load(tmp_path / "any")(inputs)
    torch.testing.assert_close(answer, 1 / (1 + torch.exp(-network(inputs).detach())))
    assert answer.is_inference()


def test_a_network_with_its_own_sigmoid_gets_no_second_one(network: nn.Module, tmp_path: Path) -> None:
    network.gives_probabilities = True  # type: ignore[assignment]
    inputs = torch.randn(5, 4)
    torch.testing.assert_close(TorchEager().load(tmp_path / "any")(inputs), network(inputs).detach())


def test_it_also_runs_where_inference_mode_is_on_already(network: nn.Module, tmp_path: Path) -> None:
    predict = TorchEager().load(tmp_path / "any")
    inputs = torch.randn(5, 4)
    with torch.inference_mode():
        inside = predict(inputs)
    assert torch.equal(inside, predict(inputs))
