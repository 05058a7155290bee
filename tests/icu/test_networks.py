"""The three networks: their published sizes, and Keras's arithmetic written out in NumPy."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harness.api import Architecture, Task
from harness.build import artefact
from harness.nn.operations import count, parameters
from harness.plugin.manager import Origin, Plugins
from harness_icu._modules import HiddenLayerLSTM, RecurrentNetwork, lstm
from harness_icu.networks import DNN, HLSTM, LSTM

SERIES = Task((48, 76), ("death",))
FLAT = Task((76,), ("death",))
NETWORKS = [(LSTM(), SERIES), (HLSTM(), SERIES), (DNN(), FLAT)]
RECURRENT = [LSTM(), HLSTM()]


def name(value: Any) -> str:
    return getattr(value, "name", "")


def small(kind: str, features: int = 3, width: int = 4) -> RecurrentNetwork:
    """A small network with other weights than the first ones, in double precision."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [lstm(features, width), lstm(width, width)]
    if kind == "hlstm":
        layers = [HiddenLayerLSTM(features, width, 5)]
    model = RecurrentNetwork(layers, width, 2).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 2)
    return model


# ------------------------------------------------------------------------------------- Keras's arithmetic, in NumPy


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def keras_layer(sums: Any, inputs: Any, there: Any, width: int) -> Any:
    """The states of one example (steps, width); a masked step carries the state on and repeats the output."""
    state, cell = np.zeros(width), np.zeros(width)
    outputs = []
    for step, seen in zip(inputs, there, strict=True):
        if seen:
            enter, forget, new, leave = sums(step, state)
            cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(new)
            state = sigmoid(leave) * np.tanh(cell)
        outputs.append(state)
    return np.array(outputs)


def lstm_sums(layer: Any) -> Any:
    kernel, recurrent = layer.weight_ih_l0.detach().numpy().T, layer.weight_hh_l0.detach().numpy().T
    bias = layer.bias_ih_l0.detach().numpy()
    return lambda step, state: np.split(step @ kernel + state @ recurrent + bias, 4)


def hidden_layer_sums(layer: Any) -> Any:
    """act(W ReLU(H [x, h]) + b), a gate at a time; the module's order is input, forget, output, cell."""
    both = torch.cat([layer.inner_ih, layer.inner_hh], dim=1).detach().numpy()
    hidden = np.split(both, 4)
    outer, bias = layer.outer.detach().numpy(), layer.bias.detach().numpy()

    def sums(step: Any, state: Any) -> Any:
        gates = [outer[k] @ np.maximum(hidden[k] @ np.concatenate([step, state]), 0) + bias[k] for k in range(4)]
        return gates[0], gates[1], gates[3], gates[2]

    return sums


def keras(model: RecurrentNetwork, inputs: Any) -> Any:
    """The logits (batch, outputs), one example and one step at a time."""
    found = []
    for example in inputs:
        there, states = (example != 0).any(axis=1), example
        for layer in model.layers:
            sums = lstm_sums(layer) if isinstance(layer, nn.LSTM) else hidden_layer_sums(layer)
            states = keras_layer(sums, states, there, layer.hidden_size)
        found.append(states[-1] @ model.linear.weight.detach().numpy().T + model.linear.bias.detach().numpy())
    return np.array(found)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["lstm", "hlstm"]), steps=st.integers(1, 7), seed=st.integers(0, 99), skipped=st.floats(0, 1)
)
def test_logits_are_those_of_keras_with_any_steps_skipped(kind: str, steps: int, seed: int, skipped: float) -> None:
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(5, steps, 3)) * (generator.random((5, steps, 1)) >= skipped)
    model = small(kind)
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.from_numpy(inputs)).numpy(), keras(model, inputs), atol=1e-12)


@pytest.mark.parametrize("kind", ["lstm", "hlstm"])
def test_skipped_steps_do_not_matter(kind: str) -> None:
    model, inputs = small(kind), torch.randn(4, 6, 3, dtype=torch.float64)
    longer = torch.zeros(4, 9, 3, dtype=torch.float64)
    longer[:, [1, 2, 4, 5, 7, 8]] = inputs
    longer[0, :3], longer[0, 3:] = 0, inputs[0]  # another place in one example
    torch.testing.assert_close(model(longer), model(inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["lstm", "hlstm"])
def test_all_steps_skipped_gives_the_initial_state(kind: str) -> None:
    model, inputs = small(kind), torch.randn(3, 6, 3, dtype=torch.float64)
    inputs[1] = 0
    answers = model(inputs)
    torch.testing.assert_close(answers[1], model.linear.bias)
    torch.testing.assert_close(answers[[0, 2]], model(inputs[[0, 2]]))


def test_one_value_that_is_not_zero_keeps_a_step() -> None:
    model = small("lstm")
    inputs = torch.zeros(1, 2, 3, dtype=torch.float64)
    inputs[0, 1, 2] = 1e-30
    assert not torch.allclose(model(inputs), model.linear.bias)
    inputs[0, 1] = torch.tensor([1, -1, 0])
    assert not torch.allclose(model(inputs), model.linear.bias)
    inputs[0, 1, 2] = torch.nan
    assert model(inputs).isnan().all()


@pytest.mark.parametrize("kind", ["lstm", "hlstm"])
def test_no_state_of_skipped_steps_has_a_gradient(kind: str) -> None:
    model = small(kind)
    inputs = torch.randn(3, 5, 3, dtype=torch.float64)
    inputs[0, 2:4] = 0
    inputs[1] = 0
    names, values = zip(*model.named_parameters(), strict=True)

    def run(*parameters: torch.Tensor) -> Any:
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (inputs,))

    assert torch.autograd.gradcheck(run, [value.detach().requires_grad_() for value in values])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("exporter", ["jit", pytest.param("export", marks=pytest.mark.slow)])
def test_exported_graphs_skip_too(exporter: str) -> None:
    """The branch for speed must not become one of its sides."""
    model, complete = small("hlstm"), torch.randn(2, 5, 3, dtype=torch.float64)
    inputs = complete.clone()
    inputs[0, 1], inputs[1] = 0, 0
    graph: Any = torch.export.export(model, (complete,)).module() if exporter == "export" else None
    graph = graph or torch.jit.trace(model, complete)
    torch.testing.assert_close(graph(inputs), model(inputs))


# --------------------------------------------------------------------------------------------------- PyTorch's LSTM


def test_layer_is_pytorchs_with_the_second_bias_zero() -> None:
    layer = lstm(3, 4)
    stock = nn.LSTM(3, 4, batch_first=True)
    stock.load_state_dict(layer.state_dict() | {"bias_hh_l0": torch.zeros(16)})
    inputs = torch.randn(2, 5, 3)
    for ours, theirs in ((layer(inputs)[0], stock(inputs)[0]), (layer(inputs)[1][1], stock(inputs)[1][1])):
        assert torch.equal(ours, theirs)
    assert {name for name, _ in layer.named_parameters()} == set(layer.state_dict())
    assert set(layer.state_dict()) == {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0"}


@pytest.mark.parametrize("convert", [copy.deepcopy, nn.Module.double, lambda layer: layer.bfloat16().float()])
def test_second_bias_stays_zero_through_copies_types_and_training(convert: Any) -> None:
    layer = convert(lstm(3, 4))
    dtype = layer.weight_ih_l0.dtype
    optimizer = torch.optim.Adam(layer.parameters(), 0.1)
    layer(torch.ones(1, 2, 3, dtype=dtype))[0].sum().backward()
    before = layer.bias_ih_l0.detach().clone()
    optimizer.step()
    assert not torch.equal(layer.bias_ih_l0, before)
    assert layer.bias_hh_l0.dtype == dtype
    assert not layer.bias_hh_l0.any()


def test_hidden_layers_that_pass_all_on_make_an_lstm() -> None:
    """H = [identity; -identity] and W = [weights, -weights]: W ReLU(H v) is then weights v, as an LSTM's gate."""
    layer, stock = HiddenLayerLSTM(3, 4, 14), nn.LSTM(3, 4, batch_first=True)
    order = [0, 1, 3, 2]
    weights = torch.cat([stock.weight_ih_l0, stock.weight_hh_l0], dim=1).view(4, 4, 7)[order]
    split = torch.cat([torch.eye(7), -torch.eye(7)]).repeat(4, 1)
    with torch.no_grad():
        layer.inner_ih.copy_(split[:, :3])
        layer.inner_hh.copy_(split[:, 3:])
        layer.outer.copy_(torch.cat([weights, -weights], dim=2))
        layer.bias.copy_((stock.bias_ih_l0 + stock.bias_hh_l0).view(4, 4)[order])
    inputs = torch.randn(2, 6, 3)
    states, (state, cell) = layer(inputs)
    expected, (last, memory) = stock(inputs)
    for ours, theirs in ((states, expected), (state, last), (cell, memory)):
        torch.testing.assert_close(ours, theirs)


def test_form_for_quantization_multiplies_by_linear_layers_alone_and_answers_alike() -> None:
    layer = small("hlstm").layers[0]
    inputs = torch.randn(2, 5, 3, dtype=torch.float64)
    form: Any = layer.as_linears()  # type: ignore[operator]
    for ours, theirs in zip((form(inputs)[0], *form(inputs)[1]), (layer(inputs)[0], *layer(inputs)[1]), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert sum(p.numel() for p in form.parameters()) == sum(p.numel() for p in layer.parameters())
    assert count(form, inputs).macs == count(layer, inputs).macs


# ------------------------------------------------------------------------------------------------ sizes and training


@pytest.mark.parametrize(
    ("architecture", "task", "size", "macs"),
    [
        (LSTM(), SERIES, 8_081, 48 * 4 * 16 * (76 + 16 + 16 + 16) + 16),
        (HLSTM(), SERIES, 6_993, 48 * 4 * 16 * (92 + 16) + 16),
        (DNN(), FLAT, 60_929, 76 * 256 + 256 * 128 + 128 * 64 + 64),
    ],
    ids=name,
)
def test_published_parameter_counts_and_the_work(architecture: Architecture, task: Task, size: int, macs: int) -> None:
    model = architecture.build(task)
    assert parameters(model) == size
    assert count(model, torch.randn(1, *task.input_shape)).macs == macs
    assert model(torch.zeros(2, *task.input_shape)).shape == (2, 1)


@pytest.mark.parametrize(("architecture", "task"), NETWORKS, ids=name)
def test_fits_another_task(architecture: Architecture, task: Task) -> None:
    other = Task((*task.input_shape[:-1], 5), ("death", "sepsis"))
    assert architecture.build(other)(torch.randn(3, *other.input_shape)).shape == (3, 2)


@pytest.mark.parametrize(("architecture", "task"), NETWORKS, ids=name)
def test_an_artefact_of_it_loads_again(architecture: Architecture, task: Task, tmp_path: Path) -> None:
    plugins = Plugins()
    plugins.architectures.add(architecture.name, architecture, Origin("icu", "test", "0"))
    model = architecture.build(task).eval()
    artefact.save(tmp_path / "model", model, [], architecture.name, task)
    back = artefact.load(tmp_path / "model", plugins)
    inputs = torch.randn(3, *task.input_shape)
    assert torch.equal(back(inputs), model(inputs))
    assert parameters(back) == parameters(model)


@pytest.mark.parametrize("architecture", RECURRENT, ids=name)
def test_first_weights_are_those_of_keras(architecture: Architecture) -> None:
    layer: Any = architecture.build(SERIES).layers[0]  # type: ignore[index]
    if architecture.name == "lstm":
        kernel, limit, bias = layer.weight_ih_l0, (6 / (76 + 64)) ** 0.5, layer.bias_ih_l0.view(4, 16)
        recurrent = layer.weight_hh_l0
        torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(16), atol=1e-5, rtol=0)
    else:
        kernel, limit, bias = torch.cat([layer.inner_ih, layer.inner_hh], 1), (6 / (92 + 16)) ** 0.5, layer.bias
        assert float(layer.outer.detach().abs().max()) == pytest.approx((6 / 32) ** 0.5, rel=0.02)
    assert float(kernel.detach().abs().max()) == pytest.approx(limit, rel=0.01)
    assert float(kernel.detach().abs().mean()) == pytest.approx(limit / 2, rel=0.05)
    assert bias.sum(1).tolist() == [0, 16, 0, 0]


@pytest.mark.parametrize(("architecture", "task"), NETWORKS, ids=name)
def test_training_is_the_studys(architecture: Architecture, task: Task) -> None:
    train, finetune = architecture.training("train"), architecture.training("finetune")
    assert (train.epochs, finetune.epochs, train.optimizer) == (20, 19, "Adam")
    assert train.optimizer_args == finetune.optimizer_args == {"lr": 1e-3}
    dropout = [module.p for module in architecture.build(task).modules() if isinstance(module, nn.Dropout)]
    assert dropout == {"lstm": [0.3, 0.3], "hlstm": [0.3], "dnn": [0.5]}[architecture.name]


def test_the_dnn_reads_the_flat_form() -> None:
    assert (DNN.layout, LSTM.layout) == ("flat", "")


def test_importing_is_light() -> None:
    code = "import sys, harness_icu.networks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
