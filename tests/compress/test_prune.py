"""The step: counts, rounds, report and refusals. (What goes and what is left of it: test_prune_units.py.)"""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harness.errors import Unsupported, UsageError
from harness.nn.structure import dump, restore
from harness_compress.prune import Prune, kept_count


class Rnn(nn.Module):
    """Holda et al.'s RNN, shorter in time (the linear layer alone depends on it, and is given its width)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.norm, self.pool = nn.LSTM(12, 64, batch_first=True), nn.LayerNorm(64), nn.MaxPool1d(5, 5)
        self.drop, self.out = nn.Dropout(0.1), nn.Linear(512, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(x.transpose(1, 2))
        pooled = self.pool(self.norm(states).transpose(1, 2))
        return self.out(self.drop(pooled.reshape(pooled.shape[0], -1)))


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = [12, 32, 64, 96, 32]
        self.convs = nn.ModuleList(nn.Conv1d(a, b, 3, bias=False) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for b in widths[1:])
        self.out = nn.Linear(352, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nn.functional.max_pool1d(torch.relu(norm(conv(x))), 3)
        return self.out(nn.functional.dropout(torch.flatten(x, 1), 0.05, self.training))


class Block(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        sizes = zip([before, width, width], (7, 5, 3), strict=True)
        self.convs = nn.ModuleList(nn.Conv1d(n, width, k, padding=k // 2, bias=False) for n, k in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(4))
        self.short = nn.Conv1d(before, width, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, short = x, self.norms[3](self.short(x))
        for index in range(3):
            hidden = self.norms[index](self.convs[index](hidden if index == 0 else hidden.relu()))
        hidden += short
        return hidden.relu()


def resnet() -> nn.Module:
    blocks = [Block(a, b) for a, b in ((12, 64), (64, 128), (128, 128))]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 5))


NETWORKS: dict[str, tuple[Any, torch.Tensor, dict[float, int]]] = {
    "rnn": (Rnn, torch.randn(1, 12, 40), {1: 22_661, 0.75: 13_925, 0.5: 7_237, 0.125: 1_045}),
    "cnn": (Cnn, torch.randn(1, 12, 1000), {1: 37_157, 0.75: 21_533, 0.5: 10_133, 0.125: 953}),
    "resnet": (resnet, torch.randn(1, 12, 16), {1: 500_869, 0.75: 283_493, 0.5: 127_557, 0.125: 8_853}),
}


class Context:
    """A step's context that trains nothing, and counts."""

    def __init__(self, example: torch.Tensor) -> None:
        self.example = example
        self.rounds: list[str] = []
        self.widths: list[int] = []
        self.facts: dict[str, Any] = {}

    def fit(self, model: nn.Module, phase: str, name: str) -> nn.Module:
        assert phase == "finetune"
        self.rounds.append(name)
        self.widths += [m.out_features for m in model.modules() if isinstance(m, nn.Linear)][:1]
        return model

    def report(self, **facts: Any) -> None:
        self.facts |= facts


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("rounds", [1, 5, 10])
@pytest.mark.parametrize("name", NETWORKS)
def test_published_counts_are_exact(name: str, rounds: int) -> None:
    build, example, counts = NETWORKS[name]
    for keep, count in counts.items():
        model = build()
        assert parameters(model) == counts[1]
        if rounds > 1 and keep != 0.125:
            continue
        context = Context(example)
        pruned = Prune("l2", keep, rounds).apply(model, context)
        assert parameters(pruned) == count
        assert context.facts["parameters"] == {"before": counts[1], "after": count}
        assert context.rounds == [f"round-{index + 1}" for index in range(rounds)]


@pytest.mark.parametrize("name", NETWORKS)
def test_preview_has_the_shape_and_leaves_the_network_alone(name: str) -> None:
    build, example, _ = NETWORKS[name]
    model = build()
    state = copy.deepcopy(model.state_dict())
    step = Prune("l1", 0.3, 3)
    preview = step.preview(model, example)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    applied = step.apply(model, Context(example))
    assert shapes(preview) == shapes(applied)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_network_survives_dump_and_restore(name: str) -> None:
    build, example, _ = NETWORKS[name]
    pruned = Prune("l1", 0.5).apply(build(), Context(example)).eval()
    tensors, notes = dump(pruned)
    assert torch.equal(restore(build(), tensors, notes)(example), pruned(example))


def test_report_names_the_original_units() -> None:
    model = nn.Sequential(nn.Linear(1, 6, bias=False), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0], [-1.0], [5.0], [2.0], [-6.0], [4.0]]))

    class Trained(Context):
        def fit(self, model: nn.Module, phase: str, name: str) -> nn.Module:
            with torch.no_grad():
                if name == "round-1":  # six units to four: 0, 2, 4 and 5 are left; now the first is the largest
                    assert model[0].weight.flatten().tolist() == [3, 5, -6, 4]
                    model[0].weight.copy_(torch.tensor([[9.0], [1.0], [8.0], [2.0]]))
            return super().fit(model, phase, name)

    context = Trained(torch.ones(1, 1))
    Prune("l1", 0.5, 2).apply(model, context)
    assert context.widths == [4, 3]
    assert context.facts["units"] == {"0": [0, 4, 5], "2": [0, 1]}
    assert context.facts["kept"] == {"0": [3, 6], "2": [2, 2]}
    assert context.facts["untouched"] == {"2": "it gives the network's output"}


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 600), st.integers(1, 1000), st.integers(1, 12))
def test_counts_obey_the_rule(units: int, thousandths: int, rounds: int) -> None:
    keep = thousandths / 1000
    counts = [kept_count(units, keep, index, rounds) for index in range(1, rounds + 1)]
    exact = Fraction(thousandths, 1000) * units
    assert counts[-1] == max(1, int(exact + Fraction(1, 2)))  # half up, and not dependent on the rounds
    assert [units, *counts] == sorted([units, *counts], reverse=True)
    assert counts[-1] >= 1
    for index, count in enumerate(counts, start=1):
        assert abs(count - max(units * keep ** (index / rounds), 1)) <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("units", "keep", "index", "rounds", "count"),
    [
        (10, 0.1, 1, 1, 1), (20, 0.2, 1, 1, 4), (100, 0.1, 1, 1, 10), (25, 0.1, 1, 1, 3), (10, 0.25, 1, 1, 3),
        (5, 0.25, 1, 2, 3),  # 5 * sqrt(1/4) = 2.5 is exactly a half
        (128, 0.125, 1, 3, 64), (128, 0.5, 1, 5, 111), (3, 0.01, 1, 1, 1), (10, 0.29, 1, 1, 3), (50, 0.29, 1, 1, 15),
    ],
)  # fmt: skip
def test_counts_by_hand(units: int, keep: float, index: int, rounds: int, count: int) -> None:
    assert kept_count(units, keep, index, rounds) == count


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.floats(0.05, 1), st.integers(1, 3))
def test_any_chain_shrinks_by_the_rule(widths: list[int], keep: float, rounds: int) -> None:
    layers: list[nn.Module] = []
    for before, width in itertools.pairwise([2, *widths]):
        layers += [nn.Conv1d(before, width, 3, padding=1), nn.BatchNorm1d(width), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(widths[-1] * 4, 2)]
    if max(widths) == 1:
        return
    context = Context(torch.randn(1, 2, 4))
    model = nn.Sequential(*layers)
    total = parameters(model)
    pruned = Prune("l1", keep, rounds).apply(model, context)
    kept = [m.out_channels for m in pruned if isinstance(m, nn.Conv1d)]
    assert kept == [kept_count(width, keep) for width in widths]
    assert (parameters(pruned) < total) == (kept != widths)
    assert pruned(context.example).shape == (1, 2)


def test_keeping_all_changes_nothing_but_trains() -> None:
    build, example, _ = NETWORKS["rnn"]
    model = build()
    state = copy.deepcopy(model.state_dict())
    context = Context(example)
    pruned = Prune("l1", 1, 2).apply(model, context)
    assert all(torch.equal(value, state[key]) for key, value in pruned.state_dict().items())
    assert context.rounds == ["round-1", "round-2"]
    assert len(Prune("l1", 1, 2).trainings()) == 2


@pytest.mark.parametrize(
    "wrong", [{"norm": "l3"}, {"keep": 0}, {"keep": 1.5}, {"keep": "half"}, {"keep": float("nan")}, {"rounds": 0},
              {"rounds": 2.0}, {"rounds": True}],
)  # fmt: skip
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Prune(**wrong)


def test_network_without_units_to_remove_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="no layer of Sequential has removable units"):
        Prune().apply(nn.Sequential(nn.Flatten(), nn.Linear(8, 2)), Context(torch.ones(1, 8)))


def test_importing_the_step_loads_no_torch() -> None:
    code = "import sys, harness_compress.prune; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
