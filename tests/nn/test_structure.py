"""A network survives dump and restore: same outputs, bit for bit, and nothing but tensors and JSON in between."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from harness.errors import CellError
from harness.nn import operations, structure
from harness.nn.structure import LAYERS, PrunableLayer, WeightBlock, arguments, drop_parameter, dump, rebuild, restore


class Network(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(2, width, 3, padding=1), nn.BatchNorm1d(width), nn.ReLU())
        self.lstm = nn.LSTM(width, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(10)
        self.heads = nn.ModuleList([nn.Linear(10, 8), nn.Linear(8, 3)])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.features(inputs).transpose(1, 2))
        hidden = self.norm(states).mean(dim=1)
        for head in self.heads:
            hidden = head(hidden)
        return hidden


class Odd(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * 2


def round_trip(model: nn.Module, fresh: nn.Module) -> nn.Module:
    tensors, notes = dump(model)
    return restore(fresh, tensors, json.loads(json.dumps(notes)))


def assert_same(model: nn.Module, back: nn.Module, inputs: torch.Tensor) -> None:
    assert not any(module.training for module in back.modules())
    assert torch.equal(back(inputs), model.eval()(inputs))
    assert all(parameter.requires_grad for parameter in back.parameters())
    back(inputs).sum().backward()
    assert {name for name, p in back.named_parameters() if p.grad is None} == set()


INPUTS = torch.linspace(-1, 1, 3 * 2 * 16).reshape(3, 2, 16)


def test_unchanged_network_comes_back() -> None:
    model = Network()
    model(INPUTS)  # moves the running statistics
    assert_same(model, round_trip(model, Network()), INPUTS)


def test_smaller_layers_come_back() -> None:
    assert_same(model := Network(width=3), round_trip(model, Network()), INPUTS)


def test_low_rank_factors_by_a_third_party_need_no_code() -> None:
    model = Network()
    layer = model.heads[0]
    left, values, right = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    down, up = nn.Linear(10, 2, bias=False), nn.Linear(2, 8)
    with torch.no_grad():
        down.weight.copy_(right[:2])
        up.weight.copy_(left[:, :2] * values[:2])
        up.bias.copy_(layer.bias)
    model.heads[0] = nn.Sequential(down, up)
    back = round_trip(model, Network())
    assert_same(model, back, INPUTS)
    assert sum(p.numel() for p in back.heads.parameters()) == 2 * 10 + 2 * 8 + 8 + 27


def test_layers_replaced_by_others_come_back() -> None:
    model = Network()
    model.features[2] = nn.LeakyReLU(0.25)
    model.norm = nn.Identity()
    model.heads = nn.ModuleList([nn.Linear(10, 3)])
    back = round_trip(model, Network())
    assert_same(model, back, INPUTS)
    assert type(back.norm) is nn.Identity
    assert len(back.heads) == 1


def test_half_precision_stays_half() -> None:
    model = Network()
    model.heads[1].half()
    back = round_trip(model, Network())
    assert back.heads[1].weight.dtype is torch.float16
    assert torch.equal(back.heads[1].weight, model.heads[1].weight)


def test_tied_parameters_are_dumped_apart_and_come_back_tied() -> None:
    def build(width: int) -> nn.Sequential:
        first, second = nn.Linear(width, width), nn.Linear(width, width)
        second.weight = first.weight
        return nn.Sequential(first, second)

    model = build(3)
    tensors, notes = dump(model)
    assert tensors["0.weight"].data_ptr() != tensors["1.weight"].data_ptr()
    back = restore(build(4), tensors, notes)
    assert back[0].weight is back[1].weight
    assert torch.equal(back(torch.ones(1, 3)), model(torch.ones(1, 3)))


def test_one_module_at_two_places_comes_back() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    other = nn.Linear(4, 4)
    back = round_trip(model, nn.Sequential(other, nn.Tanh(), other))
    assert torch.equal(back(torch.ones(1, 4)), model(torch.ones(1, 4)))
    assert back[0].weight is back[2].weight


def test_a_child_that_was_removed_is_gone() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.extra = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.body(inputs)
            return hidden if self.extra is None else self.extra(hidden)

    model = Optional()
    model.extra = None
    assert_same(model, round_trip(model, Optional()), torch.ones(1, 2))


def test_dumped_tensors_are_dense_copies() -> None:
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(torch.randn(4, 3).t())
    tensors, _ = dump(model)
    assert tensors["weight"].is_contiguous()
    assert not tensors["weight"].requires_grad
    with torch.no_grad():
        model.weight.zero_()
    assert tensors["weight"].abs().sum() > 0


def test_foreign_module_is_an_error_that_names_the_way_out() -> None:
    model = Network()
    model.norm = Odd()
    tensors, notes = dump(model)
    with pytest.raises(CellError, match=r"norm is a Odd.*has LayerNorm there.*define dump\(\) and restore\(\)"):
        restore(Network(), tensors, notes)


def test_tensors_that_do_not_fit_are_an_error() -> None:
    tensors, notes = dump(Network())
    tensors.pop("norm.weight")
    with pytest.raises(CellError, match=r"(?s)do not fit Network: .*norm\.weight"):
        restore(Network(), tensors, notes)


@pytest.mark.parametrize(
    "note",
    [
        {"layer": "Bilinear", "arguments": {}},
        {"layer": "Linear", "arguments": {"in_features": 1, "out_features": 1, "bias": True, "device": "cpu"}},
        {"container": "Transformer", "children": []},
    ],
)
def test_only_types_of_the_table_are_built(note: dict[str, object]) -> None:
    with pytest.raises(CellError, match="can be rebuilt"):
        restore(nn.Linear(1, 1), {}, {"modules": {"": note}, "tied": []})


@pytest.mark.parametrize("others", [["forward"], ["training"], ["0.forward"], ["0.none"], ["0"], [""], ["0.bias"], [7]])
def test_only_parameters_and_stored_buffers_that_are_alike_are_tied(others: list[Any]) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 3))
    tensors, notes = dump(model)
    for tied in (["0.weight", *others], [*others, "0.weight"]):
        with pytest.raises(CellError, match="structure"):
            restore(copy.deepcopy(model), tensors, notes | {"tied": [tied]})


def test_a_batch_norm_at_two_places_shares_its_buffers() -> None:
    layer = nn.BatchNorm1d(4)
    back = round_trip(nn.Sequential(layer, nn.Tanh(), layer), nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Tanh()))
    assert back[0].running_mean is back[2].running_mean
    assert back[0].weight is back[2].weight


def test_tied_recurrent_weights_are_those_that_the_kernel_reads() -> None:
    model = nn.ModuleList([nn.LSTM(3, 4), nn.LSTM(3, 4)])
    model[1].weight_hh_l0 = model[0].weight_hh_l0
    back = round_trip(model, nn.ModuleList([nn.LSTM(3, 5), nn.LSTM(3, 5)]))
    assert back[1]._flat_weights[1] is back[1].weight_hh_l0 is back[0].weight_hh_l0


LAYER = dump(nn.LSTM(3, 4))[1]["modules"][""]


@pytest.mark.parametrize(
    "note",
    [
        LAYER | {"arguments": LAYER["arguments"] | {"num_layers": 10**6}},
        LAYER | {"arguments": LAYER["arguments"] | {"hidden_size": 10**5}, "without": ["weight_hh_l0"]},
        {"layer": "Linear", "arguments": {"in_features": 10**9, "out_features": 10**9, "bias": True}},
        {"layer": "Linear", "arguments": {"in_features": 10**12, "out_features": 10**12, "bias": True}},
        {"layer": "Linear", "arguments": {"in_features": 10**5, "out_features": 10**5, "bias": False},
         "without": ["weight"]},
        {"container": "Sequential", "children": [""]},
        {"container": "Sequential", "children": ["0", "0"]},
        {"container": "Sequential", "children": ["0.0", "0"]},
        {"container": "Sequential"},
        {"layer": ["Linear"], "arguments": {}},
        {},
        [],
        None,
    ],
)  # fmt: skip
def test_a_structure_that_the_harness_did_not_write_is_an_error_of_one_class(note: Any) -> None:
    began = time.monotonic()
    with pytest.raises(CellError, match="structure"):
        restore(nn.Sequential(), {"weight": torch.zeros(4)}, {"modules": {"": note, "0": note}, "tied": []})
    assert time.monotonic() - began < 20


def test_paths_that_never_end_are_an_error() -> None:
    deep = {".".join("0" * depth): {"container": "Sequential", "children": ["0"]} for depth in range(3000)}
    with pytest.raises(CellError, match="is malformed"):
        restore(nn.Sequential(), {}, {"modules": deep, "tied": []})


def test_sparse_tensor_is_an_error() -> None:
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.eye(2).to_sparse(), requires_grad=False)
    with pytest.raises(CellError, match="weight of Linear is not a dense tensor"):
        dump(model)


EXAMPLES = {
    "Linear": (3, 2), "Conv1d": (2, 4, 3, 2, "valid", 1, 2, False), "Conv2d": (2, 4, (3, 1)), "Embedding": (5, 3, 0),
    "LayerNorm": ((2, 3),), "LSTM": (3, 2), "GRU": (3, 2), "Softmax": (1,), "LogSoftmax": (1,),
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d"), (4, 1e-3, None)),
    **dict.fromkeys(("MaxPool1d", "MaxPool2d", "AvgPool1d", "AvgPool2d"), (3, 2)),
    **{f"Adaptive{kind}Pool{k}d": (2,) for kind in ("Max", "Avg") for k in (1, 2)},
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_of_the_table_is_rebuilt_alike(kind: str) -> None:
    layer = getattr(nn, kind)(*EXAMPLES.get(kind, ())).eval()
    twin = rebuild(layer)
    assert repr(twin) == repr(layer)
    assert arguments(twin) == arguments(layer) == json.loads(json.dumps(arguments(layer)))
    assert {n: p.shape for n, p in twin.state_dict().items()} == {n: p.shape for n, p in layer.state_dict().items()}
    assert not twin.training


def test_rebuilding_draws_no_random_numbers() -> None:
    layers = [nn.Linear(30, 30), nn.LSTM(3, 4), nn.Embedding(3, 4), nn.BatchNorm1d(3)]
    before = torch.get_rng_state()
    for layer in layers:
        rebuild(layer)
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------- modules that describe themselves


class Scale(nn.Module):
    """A third party's layer."""

    ARGUMENTS: ClassVar[tuple[str, ...]] = ("width",)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.randn(width, width))
        self.inner = nn.Linear(width, width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(inputs @ self.weight.t())

    def incoming(self) -> dict[str, list[WeightBlock]]:
        return {"units": [WeightBlock("", self.weight)]}

    def select_units(self, inputs: torch.Tensor, units: Mapping[str, torch.Tensor]) -> nn.Module:
        raise NotImplementedError


def test_a_described_module_comes_back_at_another_size() -> None:
    model = nn.Sequential(nn.Linear(2, 3), Scale(3))
    assert isinstance(model[1], PrunableLayer)
    back = round_trip(model, nn.Sequential(nn.Linear(2, 5), Scale(5)))
    assert_same(model, back, torch.randn(4, 2))
    assert back[1].width == 3


def test_a_described_module_must_be_in_the_fresh_network() -> None:
    tensors, notes = dump(nn.Sequential(Scale(3)))
    with pytest.raises(CellError, match=r"0 is a Scale.*has Linear there"):
        restore(nn.Sequential(nn.Linear(3, 3)), tensors, notes)


def test_arguments_that_are_others_now_are_an_error() -> None:
    tensors, notes = dump(nn.Sequential(Scale(3)))
    notes["modules"]["0"]["arguments"] = {"size": 3}
    with pytest.raises(CellError, match=r"Scale\(size\) at '0' has other arguments now"):
        restore(nn.Sequential(Scale(4)), tensors, notes)


def test_modules_that_are_neither_stock_nor_prunable_have_no_arguments() -> None:
    with pytest.raises(CellError, match="Odd is neither a stock layer that can be rebuilt nor a PrunableLayer"):
        arguments(Odd())


# ---------------------------------------------------------------------------------------- layers without a parameter


def lstm(width: int) -> nn.Sequential:
    layer = nn.LSTM(3, width, batch_first=True)
    drop_parameter(layer, "bias_hh_l0")
    return nn.Sequential(layer)


def states(model: nn.Sequential, inputs: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model(inputs)[0]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fresh", [4, 6])
def test_a_layer_comes_back_without_it(dtype: torch.dtype, fresh: int) -> None:
    model, inputs = lstm(4).to(dtype), torch.randn(2, 5, 3, dtype=dtype)
    tensors, _ = dump(model)
    assert set(tensors) == {"0.weight_ih_l0", "0.weight_hh_l0", "0.bias_ih_l0"}
    back = round_trip(model, lstm(fresh))
    assert torch.equal(states(back, inputs), states(model, inputs))
    assert {name for name, _ in back.named_parameters()} == set(tensors)
    states(copy.deepcopy(back), inputs).sum().backward()


def test_a_layer_without_it_is_not_one_with_it() -> None:
    stock = nn.Sequential(nn.LSTM(3, 4, batch_first=True))
    assert dump(stock)[1] != dump(lstm(4))[1]
    assert "bias_hh_l0" in dict(round_trip(stock, lstm(4))[0].named_parameters())
    assert "bias_hh_l0" not in dict(round_trip(lstm(4), stock)[0].named_parameters())


def test_a_layer_like_one_without_it_is_without_it_too() -> None:
    twin = rebuild(lstm(4)[0].double(), hidden_size=2)
    assert twin.bias_hh_l0.dtype is torch.float64
    assert twin.bias_hh_l0.tolist() == [0] * 8
    assert set(twin.state_dict()) == {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0"}


# -------------------------------------------------------------------------------------------------- former names


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("Described", "PrunableLayer"),
        ("Incoming", "WeightBlock"),
        ("like", "rebuild"),
        ("without", "drop_parameter"),
    ],
)
def test_a_former_name_gives_the_present_one_with_a_warning(former: str, present: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{former} was renamed to harness.nn.structure.{present} in"):
        assert getattr(structure, former) is getattr(structure, present)
    with pytest.raises(AttributeError, match="has no attribute 'unlike'"):
        structure.unlike  # noqa: B018
    with pytest.warns(DeprecationWarning, match="Operations was renamed to harness.nn.operations.OperationCounts"):
        assert operations.Operations is operations.OperationCounts


def test_a_module_that_defines_narrowed_is_a_prunable_layer_with_a_warning() -> None:
    class Older(nn.Module):
        ARGUMENTS = ("width",)

        def __init__(self, width: int) -> None:
            super().__init__()
            self.width = width

        def incoming(self) -> dict[str, list[WeightBlock]]:
            return {}

        def narrowed(self, inputs: torch.Tensor, units: Mapping[str, torch.Tensor]) -> nn.Module:
            return Older(int(inputs.sum()))

    with pytest.warns(DeprecationWarning, match="Older.narrowed was renamed to select_units"):
        assert arguments(Older(3)) == {"width": 3}
    old: Any = Older(3)
    assert isinstance(old, PrunableLayer)
    assert old.select_units(torch.tensor([True, False, True]), {}).width == 2  # type: ignore[attr-defined]
