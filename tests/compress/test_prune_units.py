"""Which units go and what is left of the network: cases worked by hand, Torch-Pruning, and masked full networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
import torch_pruning
from layers import Net
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import CellError, Unsupported
from harness_compress.structured import groups, shrink
from harness_compress.tracing import trace


def halve(model: nn.Module, example: Tensor, norm: Any = "l1") -> dict[str, list[int]]:
    found = groups(trace(model, example))
    return shrink(model, example, norm, {group.name: len(group.classes) // 2 for group in found})


def conv(before: int, width: int, kernel: int = 3, **options: Any) -> nn.Conv1d:
    return nn.Conv1d(before, width, kernel, padding=kernel // 2, **options)


def silence(module: Any, kept: Sequence[int], *norms: Any) -> None:
    """Make the units of a layer (and its BatchNorms) that are not in ``kept`` exactly zero, by their weights alone."""
    with torch.no_grad():
        for tensor in [parameter for layer in (module, *norms) for parameter in layer.parameters()]:
            units = module.hidden_size if isinstance(module, nn.LSTM) else len(tensor)
            gone = [index for index in range(units) if index not in kept]
            tensor.view(-1, units, *tensor.shape[1:])[:, gone] = 0.0


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and running statistics, so that no BatchNorm is an identity by chance."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        if name.endswith("running_var"):
            tensor.abs_().add_(0.5)
    return model.eval()


def assert_equals_masked(model: nn.Module, masked: nn.Module, example: Tensor) -> None:
    inputs = torch.randn(4, *example.shape[1:], generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.eval()(inputs), masked.eval()(inputs), rtol=1e-4, atol=1e-4)


def numbers(layer: Any, values: Iterable[Any]) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(values, dtype=torch.float32).view(layer.weight.shape))


# ------------------------------------------------------------------------------------------------- ranking, by hand


def test_layers_are_ranked_over_the_inputs_still_there() -> None:
    """Filters 0 and 1 of the second layer are the largest only on a channel that the first layer loses."""
    model = nn.Sequential(conv(1, 2, 1), conv(2, 4, 1), nn.Flatten(), nn.Linear(12, 2))
    numbers(model[0], [5, 1])
    numbers(model[1], [[0, 9], [0, 8], [3, 0], [2, 0]])
    assert halve(model, torch.ones(1, 1, 3))["1"] == [2, 3]  # ranked independently, 0 and 1 would stay
    assert model[1].weight.flatten().tolist() == [3, 2]


def test_norms_differ_and_ties_keep_the_lower_index() -> None:
    def build() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
        numbers(model[0], [[2, 2], [0, 3], [3, 0], [-2, 2]])  # L1: 4 3 3 4; L2 squared: 8 9 9 8
        return model

    assert halve(build(), torch.ones(1, 2), "l1")["0"] == [0, 3]
    assert halve(build(), torch.ones(1, 2), "l2")["0"] == [1, 2]
    model = nn.Sequential(nn.Linear(1, 5), nn.Linear(5, 2))
    numbers(model[0], [1, 2, -1, 1, 1])
    assert halve(model, torch.ones(1, 1))["0"] == [0, 1]


def test_bias_has_no_part_in_the_score() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 2))
    numbers(model[0], [1, 2])
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([100.0, 0.0]))
    assert halve(model, torch.ones(1, 1))["0"] == [1]
    assert model[0].bias.tolist() == [0]


def test_lstm_unit_is_scored_over_all_gates_and_both_matrices() -> None:
    model = Net(lambda m, x: m.out(m.lstm(x)[0][:, -1]), lstm=nn.LSTM(1, 3, batch_first=True), out=nn.Linear(3, 2))
    lstm: Any = model.lstm
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.tensor([9, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 6.0])[:, None])
        lstm.weight_hh_l0.zero_()
        lstm.weight_hh_l0[4] = torch.tensor([1.0, 1, 1])  # unit 1: 4 + 3 = 7; unit 2: 6; unit 0: 9
    before = copy.deepcopy(lstm)
    assert shrink(model, torch.ones(1, 2, 1), "l1", {"lstm.l0": 2}) == {"lstm.l0": [0, 1], "out": [0, 1]}
    rows = [0, 1, 3, 4, 6, 7, 9, 10]
    lstm = model.lstm
    assert lstm.hidden_size == 2
    assert torch.equal(lstm.weight_ih_l0, before.weight_ih_l0[rows])
    assert torch.equal(lstm.weight_hh_l0, before.weight_hh_l0[rows][:, [0, 1]])
    assert torch.equal(lstm.bias_ih_l0, before.bias_ih_l0[rows])
    assert torch.equal(lstm.bias_hh_l0, before.bias_hh_l0[rows])


def test_removing_a_dead_unit_changes_no_output() -> None:
    model = randomise(
        Net(lambda m, x: m.out(m.lstm(x)[1][0][-1]), lstm=nn.LSTM(2, 3, batch_first=True), out=nn.Linear(3, 2))
    )
    silence(model.lstm, [0, 2])
    masked, example = copy.deepcopy(model), torch.ones(1, 5, 2)
    assert shrink(model, example, "l2", {"lstm.l0": 2})["lstm.l0"] == [0, 2]
    assert_equals_masked(model, masked, example)


# ----------------------------------------------------------------------------------- surgery, against a masked network


def test_lstm_layers_directions_and_states_equal_the_masked_network() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        states, (last, _) = m.lstm(x.permute(2, 0, 1))
        return m.out(torch.cat([m.gru(states)[0].mean(0), last[-1], last[0]], dim=-1))

    lstm, gru = nn.LSTM(3, 6, num_layers=2, bidirectional=True), nn.GRU(12, 4)
    model, example = randomise(Net(run, lstm=lstm, gru=gru, out=nn.Linear(16, 2))), torch.ones(1, 3, 5)
    masked = copy.deepcopy(model)
    kept = halve(model, example)
    assert {name: len(units) for name, units in kept.items()} == {
        "lstm.l0": 3, "lstm.l0_reverse": 3, "lstm.l1": 3, "lstm.l1_reverse": 3, "gru.l0": 2, "out": 2,
    }  # fmt: skip
    with torch.no_grad():
        for cell in ("l0", "l0_reverse", "l1", "l1_reverse"):
            gone = [unit for unit in range(6) if unit not in kept[f"lstm.{cell}"]]
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                tensor = getattr(masked.lstm, f"{kind}_{cell}")
                tensor.view(4, 6, -1)[:, gone] = 0.0
        gone = [unit for unit in range(4) if unit not in kept["gru.l0"]]
        for tensor in masked.gru.parameters():
            tensor.view(3, 4, -1)[:, gone] = 0.0
    assert_equals_masked(model, masked, example)


def test_flatten_maps_channels_to_columns() -> None:
    model = randomise(
        nn.Sequential(conv(2, 6), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(24, 4), nn.Linear(4, 2))
    )
    masked, example = copy.deepcopy(model), torch.ones(1, 2, 8)
    columns = model[4].weight.detach().clone()
    kept = halve(model, example)
    silence(masked[0], kept["0"])
    silence(masked[4], kept["4"])
    assert_equals_masked(model, masked, example)
    assert torch.equal(model[4].weight, columns.view(4, 6, 4)[:, kept["0"]].flatten(1)[kept["4"]])


def test_view_after_a_convolution_prunes_as_flatten_does() -> None:
    def network(end: Callable[[Tensor], Tensor]) -> nn.Module:
        def run(net: Any, x: Tensor) -> Tensor:
            logits: Tensor = net.head(end(functional.max_pool2d(functional.relu(net.conv(x)), 2)))
            return logits

        return Net(run, conv=nn.Conv2d(1, 8, 3), head=nn.Linear(8 * 13 * 13, 10))

    example = torch.randn(1, 1, 28, 28)
    expected = randomise(network(lambda x: x.flatten(1)))
    halve(expected, example)
    assert sum(parameter.numel() for parameter in expected.parameters()) == 6_810
    ends: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.view(x.size(0), -1),
        lambda x: x.reshape(x.size(0), -1),
        lambda x: torch.flatten(x, start_dim=1),
        lambda x: x.view(x.size(0), x.size(1), -1).view(x.size(0), -1),
        lambda x: x.view(x.size(0), -1, 1).squeeze(-1),
        lambda x: x.unflatten(2, (13, 1)).view(x.size(0), -1),
        lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).flatten(1),
        lambda x: torch.cat(x.chunk(2, dim=2), 2).view(x.size(0), -1),
        lambda x: torch.cat(x.split([6, 7], dim=3), 3).view(x.size(0), -1),
        lambda x: x.unsqueeze(1).expand(-1, 1, -1, -1, -1).view(x.size(0), -1),
    ]
    for end in ends:
        model = randomise(network(end))
        halve(model, example)
        assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
            name: tuple(p.shape) for name, p in expected.named_parameters()
        }
        assert torch.equal(model(example), expected(example))


def test_view_behind_permute_keeps_the_columns_of_the_kept_channels() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        y = net.conv(x).permute(0, 2, 1).contiguous()
        logits: Tensor = net.head(y.view(y.size(0), -1))
        return logits

    model = randomise(Net(run, conv=conv(2, 4), head=nn.Linear(4 * 6, 3)))
    masked, example = copy.deepcopy(model), torch.randn(1, 2, 6)
    kept = halve(model, example)
    silence(masked.conv, kept["conv"])
    assert model.head.in_features == 2 * 6
    assert_equals_masked(model, masked, example)


def test_a_view_of_another_type_is_refused_by_name() -> None:
    model = Net(
        lambda net, x: net.head(net.conv(x).view(torch.int32).float().mean(2)), conv=conv(2, 4), head=nn.Linear(4, 3)
    )
    with pytest.raises(Unsupported, match=r"through view \(view\): it does not move elements alone"):
        trace(model, torch.randn(1, 2, 6))


def test_two_dimensions_concatenation_depthwise_and_batchnorm() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = torch.relu(m.norm(m.first(x)))
        x = torch.cat([x, m.deep(x)], dim=1)
        return m.out(torch.flatten(functional.adaptive_avg_pool2d(x, 2), 1))

    model = Net(
        run, first=nn.Conv2d(1, 6, 3), norm=nn.BatchNorm2d(6), out=nn.Linear(72, 2),
        deep=nn.Conv2d(6, 12, 3, padding=1, groups=6),
    )  # fmt: skip
    masked, example = copy.deepcopy(randomise(model)), torch.ones(1, 1, 6, 6)
    kept = halve(model, example)
    assert set(kept) == {"first", "out"}  # a depthwise convolution follows its producer
    assert (model.deep.in_channels, model.deep.out_channels, model.deep.groups) == (3, 6, 3)
    silence(masked.first, kept["first"], masked.norm)
    silence(masked.deep, [2 * unit + offset for unit in kept["first"] for offset in (0, 1)])
    assert_equals_masked(model, masked, example)
    shrink(model, example, "l1", {"first": 1})  # one channel left: no group is depthwise any more
    assert model.deep.weight.shape == (2, 1, 3, 3)


def test_gates_of_one_layer_are_removed_in_pairs() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        value, gate = m.both(x).chunk(2, dim=1)
        return m.out((value * gate.sigmoid()).mean(-1))

    model, example = randomise(Net(run, both=conv(2, 8), out=nn.Linear(4, 2))), torch.ones(1, 2, 5)
    masked = copy.deepcopy(model)
    scores = model.both.weight.detach().double().abs().sum((1, 2))
    best = sorted((scores[:4] + scores[4:]).argsort(descending=True)[:2].tolist())
    kept = halve(model, example)["both"]
    assert kept == [*best, *(unit + 4 for unit in best)]
    silence(masked.both, kept)
    assert_equals_masked(model, masked, example)


def test_squeeze_and_attention_gates_are_followed() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        x = x * torch.sigmoid(m.gate(x.mean(dim=-1))).unsqueeze(-1)
        weights = torch.softmax(m.attention(x.transpose(1, 2)), dim=1)
        return m.out((x.transpose(1, 2) * weights).sum(dim=1))

    model = Net(run, first=conv(2, 6), gate=nn.Linear(6, 6), attention=nn.Linear(6, 1), out=nn.Linear(6, 2))
    masked, example = copy.deepcopy(randomise(model)), torch.ones(1, 2, 5)
    kept = halve(model, example)
    assert kept["first"] == kept["gate"]
    silence(masked.first, kept["first"])
    assert_equals_masked(model, masked, example)


def test_a_single_unit_can_be_left() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.norm(m.lstm(x.transpose(1, 2))[0])
        return m.out((x * torch.softmax(m.attention(x), dim=1)).sum(dim=1))

    lstm = nn.LSTM(2, 4, batch_first=True)
    model = Net(run, lstm=lstm, norm=nn.LayerNorm(4), attention=nn.Linear(4, 1), out=nn.Linear(4, 2))
    example = torch.ones(1, 2, 5)
    assert len(shrink(model, example, "l2", {"lstm.l0": 1})["lstm.l0"]) == 1
    assert model.norm.normalized_shape == (1,)
    assert shrink(model, example, "l2", {"lstm.l0": 1})["lstm.l0"] == [0]


def test_shared_layer_reads_and_gives_the_same_units_each_time() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.out(m.twice(torch.relu(m.twice(torch.relu(m.first(x))))))

    model, example = (
        randomise(Net(run, first=nn.Linear(3, 6), twice=nn.Linear(6, 6), out=nn.Linear(6, 2))),
        torch.ones(1, 3),
    )
    masked = copy.deepcopy(model)
    kept = halve(model, example)
    assert kept["first"] == kept["twice"]
    silence(masked.first, kept["first"])
    silence(masked.twice, kept["first"])
    assert_equals_masked(model, masked, example)


def _write_to_a_slice(h: Tensor) -> Tensor:
    h[:, :3].relu_()
    return h


@pytest.mark.parametrize(
    "by_position",
    [
        lambda h: torch.cat([torch.relu(h[:, :3]), h[:, 3:]], 1),
        lambda h: torch.cat([h[:, :1] * 5, h[:, 1:]], 1),
        lambda h: torch.cat([torch.tanh((pieces := h.chunk(2, 1))[0]), torch.sigmoid(pieces[1])], 1),
        _write_to_a_slice,
        lambda h: torch.relu(h) / h.size(1),
        lambda h: h * h.shape[1] ** 0.5,
    ],
    ids=["ReLU of the first three", "first times five", "halves", "write to a slice", "size", "root of the width"],
)
@pytest.mark.parametrize("double", [True, False])
def test_units_that_change_their_function_with_their_position_are_refused(by_position: Any, double: bool) -> None:
    """Every layer reads the right units, so labels cannot show it: the answers do."""

    def run(net: Any, x: Tensor) -> Tensor:
        answer: Tensor = net.head(by_position(net.conv(x if double else x.float())).mean(2))
        return answer

    model = randomise(Net(run, conv=conv(2, 6), head=nn.Linear(6, 3)))
    with torch.no_grad():
        model.conv.weight[:2] = 0.0  # the units that remain move up
    with pytest.raises(
        Unsupported, match=r"Net computes another function\..* by their position.*answers differ by up to \d"
    ):
        halve(model, torch.zeros(1, 2, 6))


def test_a_forward_with_random_numbers_is_not_compared() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        answer: Tensor = net.head(functional.dropout(net.conv(x), 0.5, training=True).mean(2))
        return answer

    assert len(halve(randomise(Net(run, conv=conv(2, 6), head=nn.Linear(6, 3))), torch.zeros(1, 2, 6))["conv"]) == 3


# ------------------------------------------------------------------------------------------------------ residual policy


def residual(m: Any, x: Tensor) -> Tensor:
    """A block with a convolution in its shortcut, then one with an identity."""
    x = m.stem(x)
    x = torch.relu(m.short(x) + m.b(torch.relu(m.a(x))))
    x = torch.relu(x + m.d(torch.relu(m.c(x))))
    return m.out(x.mean(2))


def residual_network() -> Net:
    layers = {name: conv(6, 6, bias=False) for name in "abcd"}
    return Net(residual, stem=conv(2, 6), short=conv(6, 6, 1), out=nn.Linear(6, 2), **layers)


def test_shortcut_follows_the_last_convolution_of_its_block() -> None:
    model, example = randomise(residual_network()), torch.ones(1, 2, 5)
    masked = copy.deepcopy(model)
    names = [group.name for group in groups(trace(model, example))]
    assert names == ["stem", "a", "b", "c", "out"]  # not short, and d reads the very units that it adds to
    with torch.no_grad():
        model.short.weight.mul_(1000)
        masked.short.weight.mul_(1000)
    kept = halve(model, example)
    reads = masked.b.weight[:, kept["a"]].abs().sum((1, 2))
    assert kept["b"] == sorted(reads.argsort(descending=True)[:3].tolist())
    assert kept["short"] == kept["b"] == kept["d"]
    for name in ("stem", "a", "b", "c", "d", "short"):
        silence(masked.get_submodule(name), kept[name])
    assert_equals_masked(model, masked, example)


def test_identity_shortcut_follows_the_layer_that_opened_the_stream() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.out((x + m.b(m.a(x))).amax(-1))

    model = randomise(Net(run, stem=conv(2, 4), a=conv(4, 4), b=conv(4, 4), out=nn.Linear(4, 2)))
    best = model.stem.weight.detach().abs().sum((1, 2)).argsort(descending=True)[:2].tolist()
    kept = halve(model, torch.ones(1, 2, 5))
    assert kept["b"] == kept["stem"] == sorted(best)


def test_what_is_added_to_the_input_or_gives_the_output_stays() -> None:
    model = Net(
        lambda m, x: m.out(x + m.back(torch.relu(m.up(x)))),
        up=nn.Linear(4, 8),
        back=nn.Linear(8, 4),
        out=nn.Linear(4, 2),
    )
    found = {group.name: group.stays for group in groups(trace(model, torch.ones(1, 4)))}
    assert found["up"] is None
    assert "joins it to values that no layer's units make" in str(found["back"])
    assert found["out"] == "it gives the network's output"
    assert halve(model, torch.ones(1, 4))["back"] == [0, 1, 2, 3]


# -------------------------------------------------------------------------------------------------------------- oracle


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_first_layer_agrees_with_torch_pruning(norm: Any) -> None:
    model, example = randomise(_chain()), torch.randn(1, 2, 16)
    other = copy.deepcopy(model)
    importance = torch_pruning.importance.GroupMagnitudeImportance(
        p=1 if norm == "l1" else 2, group_reduction="first", normalizer=None
    )
    pruner = torch_pruning.pruner.BasePruner(
        other, example, importance, pruning_ratio=0.5, ignored_layers=[other[-1]], global_pruning=False
    )
    pruner.step()
    halve(model, example, norm)
    assert torch.equal(model[0].weight, other[0].weight)
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in other.state_dict().items()}


@pytest.mark.parametrize("case", ["chain", "residual"])
def test_surgery_agrees_with_torch_pruning_layer_by_layer(case: str) -> None:
    """The sequential rule, on Torch-Pruning's dependency graph: rank a layer, remove, rank the next."""
    model: Any = randomise(_chain() if case == "chain" else residual_network())
    example, other = torch.randn(1, 2, 16), copy.deepcopy(model)
    for name in ["0", "3", "7"] if case == "chain" else ["stem", "a", "b", "c"]:
        layer = other.get_submodule(name)
        scores = layer.weight.detach().abs().flatten(1).sum(1)
        gone = scores.argsort()[: len(scores) // 2].tolist()
        graph = torch_pruning.DependencyGraph().build_dependency(other, example)
        way = torch_pruning.prune_linear_out_channels if name == "7" else torch_pruning.prune_conv_out_channels
        graph.get_pruning_group(layer, way, idxs=gone).prune()
    halve(model, example)
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in other.state_dict().items())
    assert torch.equal(model(example), other(example))


def _chain() -> nn.Sequential:
    return nn.Sequential(
        conv(2, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), conv(6, 8), nn.ReLU(), nn.MaxPool1d(4), nn.Flatten(),
        nn.Linear(32, 10), nn.GELU(), nn.Linear(10, 2),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ refusals


def _attend(m: Any, x: Tensor) -> Tensor:
    hidden = m.a(x)
    return m.b(torch.softmax(hidden @ hidden.transpose(1, 2), -1) @ hidden).mean(1)


def _loop(m: Any, x: Tensor) -> Tensor:
    return m.b(sum(m.a(step) for step in x.unbind(1))) if x.sum() > 0 else m.b(m.a(x[:, 0]))


REFUSALS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, nn.Module], str]] = {
    "attention": (_attend, {}, "through matmul .*matmul is not a known operation"),
    "branch on data": (_loop, {}, "torch.fx cannot trace Net"),
    "hard-coded view": (lambda m, x: m.b(m.a(x).view(1, 5, 4)).mean(1), {}, "does not run with fewer units"),
    "hard-coded heads": (
        lambda m, x: m.b(m.a(x).view(x.shape[0], 5, 2, -1).transpose(2, 3).flatten(2)).mean(1), {},
        "mixes them in another way",
    ),
    "hard-coded index": (lambda m, x: m.b(m.a(x)[..., 0:1] * m.a(x)).mean(1), {}, "spreads one unit over"),
    "softmax over units": (lambda m, x: m.b(torch.softmax(m.a(x), -1)).mean(1), {}, "works along axis -1"),
    "mean over units": (lambda m, x: m.b(m.a(x).mean(-1, keepdim=True) + m.a(x)).mean(1), {}, "through mean"),
    "mixing time": (
        lambda m, x: m.b(m.time(m.a(x).transpose(1, 2)).transpose(1, 2)).mean(1), {"time": nn.Linear(5, 5)},
        "through time .*another axis",
    ),
    "layer it does not know": (
        lambda m, x: m.b(m.odd(m.a(x))).mean(1), {"odd": nn.InstanceNorm1d(5)}, "InstanceNorm1d is not a known layer"
    ),
    "groups": (
        lambda m, x: m.b(m.odd(m.a(x).transpose(1, 2)).transpose(1, 2)).mean(1), {"odd": nn.Conv1d(4, 4, 1, groups=2)},
        "2 groups of several channels",
    ),
    "weights used by hand": (lambda m, x: functional.linear(m.a(x), m.b.weight).mean(1), {}, "through linear"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_understood_is_refused_by_name(name: str) -> None:
    run, layers, message = REFUSALS[name]
    model = Net(run, a=nn.Linear(3, 4), b=nn.Linear(4, 2), **layers)
    numbers(model.a, [[1, 1, 1], [2, 2, 2], [3, 3, 3], [0, 0, 0]])
    with pytest.raises(Unsupported, match=message):
        halve(model, torch.ones(1, 5, 3))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_first_state_and_a_projection_are_refused() -> None:
    def given(m: Any, x: Tensor) -> Tensor:
        zeros = torch.zeros(1, x.shape[0], 4)
        return m.out(m.lstm(x, (zeros, zeros))[0][:, -1])

    with pytest.raises(Unsupported, match="given a first state"):
        halve(Net(given, lstm=nn.LSTM(2, 4, batch_first=True), out=nn.Linear(4, 2)), torch.ones(1, 3, 2))
    model = Net(
        lambda m, x: m.out(m.lstm(x)[0][:, -1]), lstm=nn.LSTM(2, 4, proj_size=3, batch_first=True), out=nn.Linear(3, 2)
    )
    with pytest.raises(Unsupported, match="proj_size"):
        halve(model, torch.ones(1, 3, 2))


def test_parameter_outside_the_layers_is_refused() -> None:
    model = Net(lambda m, x: m.b(m.a(x) * m.scale), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    model.scale = nn.Parameter(torch.ones(4))
    with pytest.raises(Unsupported, match="joins the units of a to a parameter"):
        halve(model, torch.ones(1, 3))


def test_shared_weights_and_hooks_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    with pytest.raises(Unsupported, match=r"0\.weight and 1\.weight are one tensor"):
        halve(model, torch.ones(1, 4))
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(Unsupported, match="hooks"):
        halve(model, torch.ones(1, 4))


def test_diverged_weights_are_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
    numbers(model[0], [float("nan")] * 8)
    with pytest.raises(CellError, match="layer 0 has weights that are NaN"):
        halve(model, torch.ones(1, 2))


def test_mode_frozen_weights_and_class_are_kept() -> None:
    model = Net(
        lambda m, x: m.out(m.norm(m.first(x)).mean(-1)), first=conv(2, 4), norm=nn.BatchNorm1d(4), out=nn.Linear(4, 2)
    )
    model.first.weight.requires_grad_(False)
    model.train()
    model.norm.eval()
    halve(model, torch.ones(1, 2, 5))
    assert type(model) is Net
    assert (model.training, model.first.training, model.norm.training) == (True, True, False)
    assert [p.requires_grad for p in model.first.parameters()] == [False, True]
