"""Recurrent networks in eight bits, by both schemes: nn.LSTM, one without its second bias, and a cell of one's own."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from harness.errors import CellError, Unsupported
from harness.nn.operations import count, parameters
from harness.nn.structure import drop_parameter
from harness_compress import _linears
from harness_compress.quantize import Quantize

STEPS, FEATURES, WIDTH = 9, 5, 6


@pytest.fixture(autouse=True)
def _no_warning_gets_out() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Own(nn.Module):
    """h = tanh(W ReLU(V x + U h) + b) by bare parameters, in a loop that torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(7, FEATURES) * 0.5)
        self.u = nn.Parameter(torch.randn(7, WIDTH) * 0.5)
        self.w = nn.Parameter(torch.randn(WIDTH, 7) * 0.5)
        self.b = nn.Parameter(torch.randn(WIDTH) * 0.1)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state = inputs.new_zeros(inputs.shape[0], WIDTH)
        states = []
        for step in inputs.unbind(1):
            state = torch.tanh((step @ self.v.t() + state @ self.u.t()).relu() @ self.w.t() + self.b)
            states.append(state)
        return torch.stack(states, dim=1), state


class Telling(Own):
    """The same, which tells how it would multiply by layers."""

    def as_linears(self) -> nn.Module:
        return OfLayers(self)


class OfLayers(nn.Module):
    def __init__(self, own: Own) -> None:
        super().__init__()
        self.v, self.u = _linears.linear(own.v), _linears.linear(own.u)
        self.w = _linears.linear(own.w, own.b)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state = inputs.new_zeros(inputs.shape[0], WIDTH)
        states = []
        for step in self.v(inputs).unbind(1):
            state = torch.tanh(self.w((step + self.u(state)).relu()))
            states.append(state)
        return torch.stack(states, dim=1), state


class Network(nn.Module):
    def __init__(self, layer: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.layer = layer
        self.dropout = nn.Dropout(0.3)
        self.linear = nn.Linear(width, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.dropout(self.layer(inputs)[0][:, -1]))
        return logits


def one_bias() -> nn.LSTM:
    layer = nn.LSTM(FEATURES, WIDTH, batch_first=True)
    drop_parameter(layer, "bias_hh_l0")
    return layer


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Network(nn.LSTM(FEATURES, WIDTH, batch_first=True)),
    "one bias": lambda: Network(one_bias()),
    "stacked": lambda: Network(nn.LSTM(FEATURES, WIDTH, 2, batch_first=True, bidirectional=True), 2 * WIDTH),
    "own": lambda: Network(Telling()),
}


class Context:
    """The part of StepContext that quantize uses."""

    example = torch.zeros(1, STEPS, FEATURES)

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}

    def calibration(self, examples: int) -> torch.Tensor:
        return torch.randn(examples, STEPS, FEATURES, generator=torch.Generator().manual_seed(1))

    def report(self, **facts: Any) -> None:
        self.facts.update(facts)


def quantized(name: str, scheme: str) -> tuple[nn.Module, nn.Module, Context]:
    torch.manual_seed(0)
    model, context = NETWORKS[name]().eval(), Context()
    return model, Quantize(scheme).apply(copy.deepcopy(model), context), context


@pytest.mark.parametrize("scheme", ["ptq-int8", "uniform8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_all_products_are_int8_and_the_answers_stay(name: str, scheme: str) -> None:
    model, int8, context = quantized(name, scheme)
    assert context.facts["int8_weights"] == context.facts["int8_macs"] == 1
    own = STEPS * 7 * (FEATURES + WIDTH + WIDTH) + WIDTH  # its products are no layers before
    macs = own if name == "own" else count(model, context.example).macs
    assert sum(layer["macs"] for layer in context.facts["layers"]) == macs
    assert "uncounted" not in context.facts
    inputs = context.calibration(50)
    with torch.no_grad():
        found = int8(inputs) if hasattr(int8, "gives_probabilities") else int8(inputs).sigmoid()
        assert 0 < float((found - model(inputs).sigmoid()).abs().max()) < 0.03
    assert hasattr(int8, "gives_probabilities") == (scheme == "ptq-int8")


@pytest.mark.parametrize("scheme", ["ptq-int8", "uniform8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_dumped_network_comes_back_bit_for_bit(name: str, scheme: str) -> None:
    _, int8, context = quantized(name, scheme)
    tensors, notes = Quantize(scheme).dump(int8)
    torch.manual_seed(99)
    back = Quantize(scheme).restore(NETWORKS[name](), load(save(tensors)), json.loads(json.dumps(notes)))
    inputs = context.calibration(7) * 2
    with torch.no_grad():
        assert torch.equal(back(inputs), int8(inputs))
        assert torch.equal(copy.deepcopy(back)(inputs), int8(inputs))
    again, notes_again = Quantize(scheme).dump(copy.deepcopy(back))
    assert notes_again == notes
    assert again.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in again.items())


def test_a_cell_of_ones_own_has_dynamic_layers_in_ptq_int8() -> None:
    _, int8, context = quantized("own", "ptq-int8")
    kinds = {layer["path"]: layer["kind"] for layer in context.facts["layers"]}
    assert set(kinds) == {"0.layer.v", "0.layer.u", "0.layer.w", "0.linear"}
    for name in "vuw":
        layer: Any = int8.get_submodule(f"0.layer.{name}")
        assert type(layer).__module__ == "torch.ao.nn.quantized.dynamic.modules.linear"
        assert layer.weight().qscheme() == torch.per_tensor_affine
        assert layer.weight().q_zero_point() == 0
        assert int(layer.weight().int_repr().int().abs().max()) == 127


@pytest.mark.parametrize("scheme", ["ptq-int8", "uniform8"])
def test_a_cell_without_linear_layers_is_refused_or_counted_as_float(scheme: str) -> None:
    """Without ``as_linears`` there is no way to quantize its products."""
    network, context = Network(Own()).eval(), Context()
    if scheme == "ptq-int8":
        with pytest.raises(Unsupported, match="cannot be traced"):
            Quantize(scheme).apply(network, context)
    else:
        with pytest.raises(CellError, match=r"these layers stayed float: layer \(Own\)"):
            Quantize(scheme).apply(copy.deepcopy(network), Context())
        int8 = Quantize(scheme, coverage=0).apply(network, context)
        assert type(int8.layer) is Own
        own = STEPS * 7 * (FEATURES + WIDTH + WIDTH)
        assert context.facts["int8_macs"] == WIDTH / (own + WIDTH)
        assert [layer["dtype"] for layer in context.facts["layers"]] == ["float32", "int8"]


def test_the_one_bias_is_one_bias_in_uniform8() -> None:
    model, int8, _ = quantized("one bias", "uniform8")
    assert parameters(int8) == parameters(model) == 4 * (FEATURES * WIDTH + WIDTH * WIDTH + WIDTH) + WIDTH + 1
    _, fx, _ = quantized("one bias", "ptq-int8")
    assert parameters(fx) == parameters(model) + 4 * WIDTH  # PyTorch's int8 kernel wants the other bias: zeros


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_loop_is_the_lstm(first: bool, bidirectional: bool, batch_first: bool, bias: bool) -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, 2, bias=bias, batch_first=batch_first, bidirectional=bidirectional).eval()
    ends = 2 * (1 + bidirectional)
    states = (torch.randn(ends, 5, 4), torch.randn(ends, 5, 4)) if first else None
    inputs = torch.randn((5, 7, 3) if batch_first else (7, 5, 3))
    with torch.no_grad():
        expected, (state, cell) = lstm(inputs, states)
        found, (found_state, found_cell) = _linears.LoopedLSTM(lstm)(inputs, states)
    for a, b in ((expected, found), (state, found_state), (cell, found_cell)):
        torch.testing.assert_close(a, b)


def test_an_lstm_in_uniform8_is_that_of_integers() -> None:
    """One layer by hand in NumPy: input and state in 0..255, integer products, gates in float."""
    model, int8, context = quantized("lstm", "uniform8")
    weights = {name: value.detach().numpy().astype(float) for name, value in model.layer.named_parameters()}
    seen = context.facts["ranges"]

    def small(values: Any, scale: float, zero_point: int) -> Any:
        return np.clip(np.rint(values / scale) + zero_point, 0, 255).astype(int) - zero_point

    def product(values: Any, which: str, path: str) -> Any:
        weight = weights[f"weight_{which}_l0"]
        scale = (max(weight.max(), 0) - min(weight.min(), 0)) / 255
        integers = small(weight, scale, round(-min(weight.min(), 0) / scale))
        given = seen[f"layer.directions.0.{path}"]
        sums = small(values, given["scale"], given["zero_point"]) @ integers.T
        return sums * (scale * given["scale"]) + weights[f"bias_{which}_l0"]

    def sigmoid(values: Any) -> Any:
        return 1 / (1 + np.exp(-values))

    inputs = context.calibration(20).numpy().astype(float)
    state = cell = np.zeros((20, WIDTH))
    expected = []
    for step in range(STEPS):
        sums = product(inputs[:, step], "ih", "input") + product(state, "hh", "hidden")
        enter, forget, new, leave = np.split(sums, 4, axis=1)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(new)
        state = sigmoid(leave) * np.tanh(cell)
        expected.append(state)
    with torch.no_grad():
        found = int8.layer(context.calibration(20))[0].numpy()
    # A value that float32 and float64 round to two neighbours moves a sum by a step of the weight's times the state's
    assert np.abs(found - np.stack(expected, axis=1)).max() < 0.01
    assert np.median(np.abs(found - np.stack(expected, axis=1))) < 1e-6


def test_a_state_that_is_too_large_for_the_calibration_is_limited() -> None:
    """The scheme is static: it does not look at what comes, so one example's answer depends on no other's."""
    _, int8, context = quantized("lstm", "uniform8")
    inputs = context.calibration(6)
    with torch.no_grad():
        together = int8(torch.cat([inputs, inputs * 100]))
        assert torch.equal(together[:6], int8(inputs))
        ends = context.facts["ranges"]["layer.directions.0.input"]
        limited = (inputs * 100).clamp(ends["min"] - ends["scale"], ends["max"] + ends["scale"])
        torch.testing.assert_close(together[6:], int8(limited))


class Twice(Network):
    """One recurrent layer with two names, of which both run."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.other = layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.layer(inputs)[0][:, -1] + self.other(-inputs)[0][:, -1])
        return logits


@pytest.mark.parametrize("layer", [one_bias, Telling])
def test_a_layer_with_two_names_stays_one(layer: Callable[[], nn.Module]) -> None:
    model = Twice(layer()).eval()
    before = parameters(model)
    int8: Any = Quantize("uniform8").apply(model, Context())
    assert int8.layer is int8.other
    assert parameters(int8) == before
    back: Any = Quantize("uniform8").restore(Twice(layer()), *Quantize("uniform8").dump(int8))
    assert back.layer is back.other
    inputs = Context().calibration(3)
    assert torch.equal(back(inputs), int8(inputs))


def test_a_packed_sequence_is_unsupported() -> None:
    class Packing(Network):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            packed = nn.utils.rnn.pack_sequence(list(inputs))
            logits: torch.Tensor = self.linear(self.layer(packed)[1][0][-1])
            return logits

    with pytest.raises(Unsupported, match="not packed"):
        Quantize("uniform8").apply(Packing(one_bias()), Context())


def test_an_lstm_with_projections_stays_float_and_is_told() -> None:
    network = Network(nn.LSTM(FEATURES, WIDTH, proj_size=3, batch_first=True), 3).eval()
    warnings.simplefilter("ignore")  # oneDNN has no projections, as PyTorch says
    with pytest.raises(CellError, match=r"stayed float: layer \(LSTM\)"):
        Quantize("uniform8").apply(network, Context())
