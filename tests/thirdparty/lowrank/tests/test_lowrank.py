"""Low-rank factorization against what is known of it: exact where it can be, the best of its rank where it cannot."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from harness_lowrank import factored, lowrank, svd
from torch import nn

from harness import Task, Unsupported, UsageError
from harness.nn.operations import count
from harness.nn.structure import drop_parameter, dump, restore
from harness.plugin.manager import installed
from harness_compress import prune, quantize

#: A quarter of PTB-XL's ten seconds, which its networks take too.
ECG = Task((12, 250), ("NORM", "MI", "STTC", "CD", "HYP"))


class Context:
    """What the step asks of a context; its training changes nothing but a note."""

    def __init__(self, example: torch.Tensor) -> None:
        self.example = example
        self.facts: dict[str, Any] = {}
        self.trainings: list[Any] = []

    def fit(self, model: nn.Module, phase: str = "finetune", name: str = "fit", **changes: Any) -> nn.Module:
        self.trainings.append((phase, changes))
        return copy.deepcopy(model)

    def calibration(self, examples: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(examples, *self.example.shape[1:], generator=generator)

    def report(self, **facts: Any) -> None:
        self.facts |= facts


class Reader(nn.Module):
    """An LSTM, its last state, linear."""

    def __init__(self, inputs: int = 10, hidden: int = 7, **arguments: Any) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, **arguments)
        width = (arguments.get("proj_size") or hidden) * (2 if arguments.get("bidirectional") else 1)
        self.linear = nn.Linear(width, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.linear(self.lstm(inputs)[0][:, -1])


def parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def seeded(model: nn.Module) -> nn.Module:
    """The model with weights that are the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3, generator=generator)
    return model.eval()


def of_rank(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """The nearest matrix of that rank."""
    u, s, v = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).float()


# ------------------------------------------------------------------------------------------------------ exactness


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_first": True},
        {"batch_first": False},
        {"batch_first": True, "bidirectional": True},
        {"batch_first": True, "num_layers": 2, "bidirectional": True},
        {"batch_first": True, "bias": False},
        {"batch_first": True, "proj_size": 3},
    ],
    ids=str,
)
def test_an_lstm_whose_input_weights_have_a_low_rank_answers_the_same(arguments: dict[str, Any]) -> None:
    model = seeded(Reader(10, 7, **arguments))
    names = ["weight_ih_l0", *(["weight_ih_l0_reverse"] if arguments.get("bidirectional") else [])]
    low = of_rank(torch.cat([getattr(model.lstm, name) for name in names]), 3)
    with torch.no_grad():
        for name, part in zip(names, low.chunk(len(names)), strict=True):
            getattr(model.lstm, name).copy_(part)
    inputs = torch.randn(4, 5, 10)
    smaller, facts = factored(model, inputs[:1], lowrank(keep=1).rank)
    assert facts["ranks"]["lstm"] == [3, 10]
    assert facts["error"]["lstm"] < 1e-6
    torch.testing.assert_close(smaller(inputs), model(inputs), rtol=1e-5, atol=1e-6)
    rows = len(names) * 4 * 7
    assert parameters(smaller) == parameters(model) - rows * 10 + 3 * (rows + 10)
    assert facts["parameters"] == {"before": parameters(model), "after": parameters(smaller)}


def test_linear_layers_of_a_low_rank_answer_the_same_and_cost_what_their_ranks_say() -> None:
    model = seeded(nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 12, bias=False)))
    with torch.no_grad():
        model[0].weight.copy_(of_rank(model[0].weight, 4))
        model[2].weight.copy_(of_rank(model[2].weight, 2))
    inputs = torch.randn(6, 20)
    smaller, facts = factored(model, inputs[:1], lowrank(keep=1).rank)
    assert facts["ranks"] == {"0": [4, 16], "2": [2, 12]}
    torch.testing.assert_close(smaller(inputs), model(inputs), rtol=1e-5, atol=1e-6)
    assert parameters(smaller) == 4 * (20 + 16) + 16 + 2 * (16 + 12)
    assert count(smaller, inputs[:1]).macs == 4 * (20 + 16) + 2 * (16 + 12)


def test_a_network_that_is_one_layer_becomes_two() -> None:
    model = seeded(nn.Linear(9, 9))
    with torch.no_grad():
        model.weight.copy_(of_rank(model.weight, 2))
    inputs = torch.randn(3, 9)
    torch.testing.assert_close(factored(model, inputs[:1], lowrank(keep=1).rank)[0](inputs), model(inputs))


@pytest.mark.parametrize("seed", range(5))
def test_at_a_rank_the_error_is_the_least_that_any_matrix_of_that_rank_has(seed: int) -> None:
    """Eckart and Young: it is the norm of the singular values that are left out."""
    random = np.random.default_rng(seed)
    rows, columns = map(int, random.integers(6, 40, 2))
    rank = int(random.integers(1, (rows * columns - 1) // (rows + columns) + 1))
    model = nn.Linear(columns, rows)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(random.normal(size=(rows, columns))))
    matrix = model.weight.detach().double().numpy()
    singular = np.linalg.svd(matrix, compute_uv=False)
    pair, facts = factored(model, torch.zeros(1, columns), lambda singular: rank)
    made = pair[1].weight.detach().double().numpy() @ pair[0].weight.detach().double().numpy()  # type: ignore[index]
    error = np.linalg.norm(made - matrix)
    assert error == pytest.approx(np.sqrt((singular[rank:] ** 2).sum()), rel=1e-6)
    assert facts["error"][""] == pytest.approx(error / np.linalg.norm(matrix), rel=1e-6)


# ---------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize(("keep", "rank"), [(0.5, 1), (0.64, 1), (0.65, 2), (0.99, 2), (0.999, 3), (1, 3)])
def test_by_energy_the_rank_is_the_least_that_keeps_the_share(keep: float, rank: int) -> None:
    assert lowrank("energy", keep).rank(torch.tensor([8.0, 5.95, 0.5, 0.0]).double()) == rank


@pytest.mark.parametrize(("keep", "rank"), [(0.01, 1), (0.25, 2), (0.5, 4), (1, 8)])
def test_by_rank_it_is_a_share_of_the_full_rank(keep: float, rank: int) -> None:
    assert lowrank("rank", keep).rank(torch.ones(8)) == rank


def test_a_matrix_of_zeros_has_no_error() -> None:
    model = nn.Linear(8, 8)
    nn.init.zeros_(model.weight)
    _, facts = factored(model, torch.zeros(1, 8), lowrank().rank)
    assert (facts["ranks"], facts["error"]) == ({"": [1, 8]}, {"": 0.0})


def test_signs_are_not_left_to_the_library() -> None:
    matrix = torch.randn(5, 4)
    u, s, v = svd(matrix)
    torch.testing.assert_close((u * s) @ v, matrix.double())
    assert (v.gather(1, v.abs().argmax(dim=1, keepdim=True)) > 0).all()


@pytest.mark.parametrize(("by", "keep"), [("energie", 0.5), ("energy", 0), ("rank", 1.5), ("rank", True)])
def test_parameters_that_mean_nothing_are_refused(by: Any, keep: Any) -> None:
    with pytest.raises(UsageError, match=r"lowrank\("):
        lowrank(by, keep)


# ------------------------------------------------------------------------------------------- what is left, and why


class Stateful(Reader):
    """A network that gives its LSTM a first state."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        state = torch.ones(1, len(inputs), 7)
        return self.linear(self.lstm(inputs, (state, state))[0][:, -1])


class Curious(Reader):
    """A network that looks into its layers."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) + self.lstm.hidden_size


class Tied(nn.Module):
    """Two layers with one matrix, and a third that shares nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.free = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.free(self.two(self.one(inputs)))


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return model


@pytest.mark.parametrize(
    ("model", "example", "left"),
    [
        (Stateful(7, 7, batch_first=True), torch.zeros(1, 5, 7), {"lstm": "not simply called"}),
        (Tied(), torch.zeros(1, 8), {"one": "shares its weights", "two": "shares its weights"}),
        (hooked(), torch.zeros(1, 8), {"0": "has hooks"}),
        (
            nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 8)),
            torch.zeros(1, 3, 8),
            {"0.linear1": "not the network's own", "0.linear2": "not the network's own"},
        ),
        (nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1)), torch.zeros(1, 8), {"1": "at rank 1 of 1 two factors save"}),
    ],
    ids=["state", "tied", "hooks", "foreign", "nothing to save"],
)
def test_what_cannot_be_factored_stays_and_the_reason_is_told(
    model: nn.Module, example: torch.Tensor, left: dict[str, str]
) -> None:
    smaller, facts = factored(seeded(model), example, lambda singular: 1)
    assert facts["left"].keys() == left.keys()
    for path, reason in left.items():
        assert reason in facts["left"][path]
        torch.testing.assert_close(smaller.get_submodule(path).state_dict(), model.get_submodule(path).state_dict())
    assert facts["ranks"]


@pytest.mark.parametrize(
    ("model", "example", "reason"),
    [
        (nn.Conv1d(2, 3, 3), torch.zeros(1, 2, 9), "it has no Linear and no LSTM"),
        (nn.Linear(8, 8), torch.zeros(1, 8), "it: at rank 8 of 8 two factors save nothing"),
        (Curious(10, 7, batch_first=True), torch.zeros(1, 5, 10), "Curious does more with its layers .*hidden_size"),
    ],
    ids=["none", "full rank", "looks into them"],
)
def test_a_network_in_which_nothing_gains_is_unsupported(model: nn.Module, example: torch.Tensor, reason: str) -> None:
    step = lowrank("rank", 0.2 if isinstance(model, Curious) else 1)
    with pytest.raises(Unsupported, match=reason):
        step.apply(seeded(model), Context(example))  # type: ignore[arg-type]


def test_the_second_bias_that_an_lstm_is_without_stays_left_out() -> None:
    model = Reader(10, 7, batch_first=True)
    drop_parameter(model.lstm, "bias_hh_l0")
    smaller, _ = factored(seeded(model), torch.zeros(1, 5, 10), lambda singular: 2)
    assert "lstm.1.bias_ih_l0" in smaller.state_dict()
    assert "lstm.1.bias_hh_l0" not in smaller.state_dict()


# ---------------------------------------------------------------------------------------- the step, beside the others


def network(name: str) -> nn.Module:
    return seeded(installed().architectures.get(name).build(ECG))


@pytest.mark.parametrize("finetune", [True, False])
def test_the_step_trains_as_it_tells_and_leaves_its_model(finetune: bool) -> None:
    model, context = network("rnn"), Context(torch.randn(1, 12, 250))
    state = copy.deepcopy(model.state_dict())
    step = lowrank("rank", 0.5, finetune=finetune)
    smaller = step.apply(model, context)  # type: ignore[arg-type]
    assert context.trainings == list(step.trainings()) == [("finetune", {})] * finetune
    assert context.facts["ranks"] == {"lstm": [6, 12], "linear": [2, 5]}
    assert parameters(smaller) == parameters(model) - 256 * 12 + 6 * (256 + 12) - 5 * 128 + 2 * (5 + 128)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    shape = step.preview(model, context.example)
    assert shape is not None
    assert {k: v.shape for k, v in shape.state_dict().items()} == {k: v.shape for k, v in smaller.state_dict().items()}
    assert lowrank().preview(model, context.example) is None


RECIPES: dict[str, list[Any]] = {
    "after prune": [prune("l1", keep=0.5), lowrank("rank", 0.5)],
    "before prune": [lowrank("rank", 0.5), prune("l1", keep=0.5)],
    "before int8": [lowrank("rank", 0.5), quantize("ptq-int8", calibration=4)],
    "all": [prune("l1", keep=0.5), lowrank("rank", 0.5), quantize("ptq-int8", calibration=4)],
}


@pytest.mark.parametrize("name", ["rnn", "cnn"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_it_goes_together_with_the_built_in_steps(name: str, recipe: str) -> None:
    model: nn.Module = network(name)
    inputs = torch.randn(2, 12, 250, generator=torch.Generator().manual_seed(3))
    for step in RECIPES[recipe]:
        context = Context(inputs[:1])
        model = step.apply(model, context)
        if step.name == "quantize":
            assert context.facts["int8_weights"] > 0.99
    tensors, notes = step.dump(model)
    again = step.restore(network(name), tensors, notes)
    with torch.no_grad():
        answers = model(inputs)
        assert answers.shape == (2, 5)
        torch.testing.assert_close(again(inputs), answers, rtol=0, atol=0)


def test_what_is_int8_already_is_unsupported() -> None:
    int8 = quantize("ptq-int8", calibration=4).apply(network("rnn"), Context(torch.zeros(1, 12, 250)))  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="has no Linear and no LSTM"):
        lowrank("rank", 0.5).apply(int8, Context(torch.zeros(1, 12, 250)))  # type: ignore[arg-type]


def test_what_is_not_factored_is_kept_as_it_was() -> None:
    model = network("cnn")
    smaller, _ = factored(model, torch.zeros(1, 12, 250), lowrank("rank", 0.5).rank)
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith("linear")}
    torch.testing.assert_close({name: smaller.state_dict()[name] for name in kept}, kept, rtol=0, atol=0)
    assert restore(network("cnn"), *dump(smaller)).linear[0].out_features == 2  # type: ignore[index,union-attr]
