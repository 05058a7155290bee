"""The three networks: their published sizes, and what the compressors rely on."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import harness_ecg
from harness.api import Task
from harness.api.hookspecs import PROJECT
from harness.plugin.manager import Origin, Plugins
from harness_ecg import CNN, PTBXL, RNN, ResNet

NETWORKS = [(RNN(), 22_661), (CNN(), 37_157), (ResNet(), 500_869)]


@pytest.mark.parametrize(("architecture", "parameters"), NETWORKS, ids=lambda value: getattr(value, "name", ""))
def test_published_parameter_counts(architecture, parameters: int) -> None:
    model = architecture.build(PTBXL.task)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.zeros(2, 12, 1000)).shape == (2, 5)


@pytest.mark.parametrize("architecture", [RNN(), CNN(), ResNet()], ids=lambda value: value.name)
def test_fits_another_task(architecture) -> None:
    model = architecture.build(Task((3, 700), ("death",)))
    assert model(torch.zeros(2, 3, 700)).shape == (2, 1)


@pytest.mark.parametrize("architecture", [RNN(), CNN(), ResNet()], ids=lambda value: value.name)
def test_each_module_is_used_once_and_traceable(architecture) -> None:
    graph = torch.fx.symbolic_trace(architecture.build(PTBXL.task)).graph
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    assert len(called) == len(set(called))
    functions = {node.target for node in graph.nodes if node.op == "call_function"}
    assert torch.relu not in functions
    assert torch.nn.functional.relu not in functions


@pytest.mark.parametrize("phase", ["train", "finetune"])
@pytest.mark.parametrize("architecture", [RNN(), CNN(), ResNet()], ids=lambda value: value.name)
def test_training_names_what_torch_has(architecture, phase) -> None:
    training = architecture.training(phase)
    optimizer = getattr(torch.optim, training.optimizer)(
        [torch.nn.Parameter(torch.zeros(1))], **training.optimizer_args
    )
    getattr(torch.optim.lr_scheduler, training.scheduler)(optimizer, **training.scheduler_args)


def test_cosine_of_the_cnn_is_one_cycle_between_the_published_rates() -> None:
    for phase, top, period in (("train", 1e-3, 30), ("finetune", 5e-4, 20)):
        training = CNN().training(phase)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], **training.optimizer_args)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, **training.scheduler_args)
        rates = []
        for _ in range(training.epochs):
            rates.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        assert rates[0] == top
        assert len(rates) == period
        assert rates == sorted(rates, reverse=True)
        assert scheduler.get_last_lr()[0] == top


def test_registers_without_a_problem() -> None:
    plugins = Plugins()
    plugins.add(harness_ecg, Origin("ecg", PROJECT, "0"))
    assert not plugins.problems
    assert set(plugins.datasets) == {"ptbxl", "ptbxl-synthetic"}
    assert set(plugins.architectures) == {"rnn", "cnn", "resnet"}


def test_importing_is_light() -> None:
    code = "import sys, harness_ecg; print([m for m in ('torch', 'scipy', 'pandas', 'wfdb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
