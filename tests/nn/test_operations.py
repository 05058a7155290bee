"""Operations against PyTorch's own counter where it counts, and against counts by hand where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.nn.operations import count, nonzero, parameters
from harness.nn.structure import WeightBlock, drop_parameter


def flops(model: nn.Module, example: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(example)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Conv1d(6, 8, 5, stride=2, padding=1, dilation=2, groups=2), (1, 6, 40)),
        (nn.Conv2d(4, 8, (3, 5), stride=(1, 2), groups=4), (1, 4, 12, 17)),
        (nn.ConvTranspose1d(6, 4, 5, stride=3), (1, 6, 11)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (1, 4, 5, 6)),
        (nn.Linear(7, 3), (1, 9, 7)),
        (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)), (1, 3, 10)),
    ],
)
def test_convolutions_and_linear_layers_agree_with_the_flop_counter(model: nn.Module, shape: tuple[int, ...]) -> None:
    example = torch.randn(shape)
    assert 2 * count(model, example).macs == flops(model.eval(), example)


@settings(max_examples=20, deadline=None)
@given(
    groups=st.integers(1, 3), inputs=st.integers(1, 3), outputs=st.integers(1, 3),
    kernel=st.integers(1, 4), stride=st.integers(1, 3), padding=st.integers(0, 2), length=st.integers(8, 20),
)  # fmt: skip
def test_any_convolution_agrees_with_the_flop_counter(
    groups: int, inputs: int, outputs: int, kernel: int, stride: int, padding: int, length: int
) -> None:
    model = nn.Conv1d(groups * inputs, groups * outputs, kernel, stride, padding, groups=groups)
    example = torch.randn(1, groups * inputs, length)
    assert 2 * count(model, example).macs == flops(model, example)


class Last(nn.Module):
    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.recurrent(x)[0]
        return output


@pytest.mark.parametrize(
    ("recurrent", "a_step"),
    [
        (nn.LSTM(12, 64, batch_first=True), 4 * 64 * (12 + 64)),
        (nn.LSTM(12, 8), 4 * 8 * (12 + 8)),
        (nn.LSTM(12, 8, num_layers=2, bidirectional=True), 2 * 4 * 8 * (12 + 8) + 2 * 4 * 8 * (16 + 8)),
        (nn.LSTM(12, 8, proj_size=3), 4 * 8 * (12 + 3) + 8 * 3),
        (nn.GRU(12, 8, bidirectional=True), 2 * 3 * 8 * (12 + 8)),
    ],
)
def test_recurrent_layers_agree_with_a_count_by_hand(recurrent: nn.Module, a_step: int) -> None:
    shape = (1, 25, 12) if recurrent.batch_first else (25, 1, 12)
    found = count(Last(recurrent), torch.randn(shape))
    assert found.macs == 25 * a_step
    assert found.weights == a_step


def test_a_bias_that_is_left_out_is_no_parameter() -> None:
    layer = nn.LSTM(12, 8)
    drop_parameter(layer, "bias_hh_l0")
    assert parameters(layer) == 4 * 8 * (12 + 8 + 1)
    assert count(Last(layer), torch.randn(25, 1, 12)).macs == 25 * 4 * 8 * (12 + 8)


class Own(nn.Module):
    """A third party's layer of its own products, and one inside that its description has in it already."""

    ARGUMENTS: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.ones(5, 3)), nn.Linear(5, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.second(x @ self.first.t())
        return outputs

    def incoming(self) -> dict[str, list[WeightBlock]]:
        return {"hidden": [WeightBlock("", self.first)], "units": [WeightBlock("hidden", self.second.weight)]}

    def select_units(self, inputs: torch.Tensor, units: Mapping[str, torch.Tensor]) -> nn.Module:
        raise NotImplementedError


@pytest.mark.parametrize("model", [Own(), nn.Sequential(Own())])
def test_a_module_that_describes_itself_is_one_layer(model: nn.Module) -> None:
    found = count(model, torch.randn(1, 7, 3))
    assert [(layer.kind, layer.weights, layer.macs) for layer in found.layers] == [("Own", 25, 7 * 25)]


def test_the_table_names_each_layer_once_and_a_shared_one_works_each_time() -> None:
    shared = nn.Linear(4, 4)
    found = count(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2)), torch.randn(1, 4))
    assert [(layer.path, layer.kind, layer.dtype, layer.weights, layer.macs) for layer in found.layers] == [
        ("0", "Linear", "float32", 16, 32),
        ("3", "Linear", "float32", 8, 8),
    ]


def test_counting_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 3), nn.BatchNorm1d(2), nn.Dropout())
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count(model, torch.randn(1, 2, 9))
    assert [module.training for module in model] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_shares_are_by_weights_and_by_work() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 2, bias=False), nn.Flatten(), nn.Linear(9, 1).to(torch.float64))
    model[1].register_forward_hook(lambda module, inputs, output: output.double())
    weights, macs = count(model, torch.randn(1, 1, 10)).share("float32")
    assert (weights, macs) == (2 / 11, 18 / 27)
    assert count(nn.ReLU(), torch.randn(1, 3)).share("int8") == (0, 0)


def test_parameters_and_nonzero_count_shared_ones_once() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, shared, nn.LayerNorm(3))
    with torch.no_grad():
        shared.weight[0] = 0
    assert parameters(model) == 12 + 6
    assert nonzero(model) == 12 - 3 + 3  # LayerNorm's bias starts at zero
