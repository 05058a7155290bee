"""The methods that change weights in place or factorize them, each against an oracle of its own."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import toy
from torch import nn
from torch.nn.utils import prune as torch_prune

from harness import Training
from harness.api import Step
from harness.api.tasks import MULTILABEL
from harness.build import training as loop
from harness.errors import CellError, Unsupported, UsageError
from harness.nn.operations import count, nonzero, parameters
from harness.nn.structure import drop_parameter
from harness_compress import factorize, half, prune_nm, prune_weights, quantize_weights
from harness_compress.factorize import svd
from harness_compress.prune_nm import nm_mask
from harness_compress.quantize_weights import quantized

SHAPE = toy.Toy.task.input_shape
TRAIN, VALIDATION = toy.part(32, 0), toy.part(20, 1)
EXAMPLES = torch.from_numpy(VALIDATION.inputs)


class Context:
    """A context whose training is one epoch of the real loop."""

    def __init__(self) -> None:
        self.example = EXAMPLES[:1]
        self.facts: dict[str, Any] = {}
        self.names: list[str] = []

    def fit(self, model: nn.Module, phase: str = "finetune", name: str = "fit", **options: Any) -> nn.Module:
        self.names.append(name)
        plan = Training(1, 16, "Adam", {"lr": 0.01}, precision=options.pop("precision", "float32"))
        model = copy.deepcopy(model)
        loop.fit(model, TRAIN, VALIDATION, plan, seed=3, kind=MULTILABEL, **options)
        return model

    def report(self, **facts: Any) -> None:
        self.facts |= facts


class Recurrent(nn.Module):
    """An LSTM and a GRU, a LayerNorm, an embedding-free head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 8, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 4, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(inputs.transpose(1, 2))
        _, last = self.gru(states)
        logits: torch.Tensor = self.linear(self.norm(last[0]))
        return logits


class OneBias(Recurrent):
    """The same without the second of each two biases, which PyTorch's kernels add to the first."""

    def __init__(self) -> None:
        super().__init__()
        for layer in (self.lstm, self.gru):
            for name in [name for name, _ in layer.named_parameters() if name.startswith("bias_hh")]:
                drop_parameter(layer, name)


class Shared(nn.Module):
    """Two layers of one weight, one of two names, a grouped convolution, a layer with a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 8, 3, padding=1, bias=False)
        self.depthwise = nn.Conv1d(8, 8, 3, groups=8, padding=1)
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.two.weight = self.one.weight
        self.out = nn.Linear(128, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.two(self.one(self.depthwise(self.first(inputs))))
        logits: torch.Tensor = self.out(hidden.flatten(1))
        return logits


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 8, 3, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(56, 16), nn.ReLU(), nn.Linear(16, 2),
    )  # fmt: skip


NETWORKS = {"convolutional": convolutional, "recurrent": Recurrent, "one bias": OneBias, "shared": Shared}


def network(name: str = "convolutional") -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return NETWORKS[name]().eval()


def answers(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        outputs: torch.Tensor = model.eval()(EXAMPLES)
    return outputs


def applied(step: Step, model: nn.Module) -> tuple[nn.Module, Context]:
    """The result of a step, after what every step must hold: its input is as before, and its file gives it back."""
    context, before = Context(), {name: value.clone() for name, value in model.state_dict().items()}
    result = step.apply(model, context)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    tensors, notes = step.dump(result)
    fresh = type(model)() if type(model) is not nn.Sequential else convolutional()
    restored = step.restore(fresh, tensors, notes)
    assert torch.equal(answers(restored), answers(result))
    assert [(name, value.dtype) for name, value in restored.state_dict().items()] == [
        (name, value.dtype) for name, value in result.state_dict().items()
    ]
    return result, context


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The matrices and kernels of the networks above (their norms and biases have one axis), shared ones once."""
    return {name: value.detach() for name, value in model.named_parameters() if value.dim() > 1}


# ------------------------------------------------------------------------------------------------- single weights


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("keep", [0.5, 0.45])
def test_global_masks_are_those_of_torch_prune(name: str, keep: float) -> None:
    model = network(name)
    masks = prune_weights(keep).masks(model)  # type: ignore[attr-defined]
    oracle, holders = network(name), []
    for path in masks:
        owner, _, attribute = path.rpartition(".")
        holders.append((oracle.get_submodule(owner), attribute))
    total = sum(mask.numel() for mask in masks.values())
    kept = int(np.floor(keep * total + 0.5))
    torch_prune.global_unstructured(holders, torch_prune.L1Unstructured, amount=total - kept)
    assert masks.keys() == weights(model).keys()
    for path, (holder, attribute) in zip(masks, holders, strict=True):
        assert torch.equal(masks[path], getattr(holder, f"{attribute}_mask").bool()), path


@pytest.mark.parametrize("name", NETWORKS)
def test_masks_by_layer_are_those_of_torch_prune(name: str) -> None:
    masks = prune_weights(0.3, "layer").masks(network(name))  # type: ignore[attr-defined]
    oracle = network(name)
    for path, mask in masks.items():
        owner, _, attribute = path.rpartition(".")
        amount = mask.numel() - int(np.floor(0.3 * mask.numel() + 0.5))
        pruned = torch_prune.l1_unstructured(oracle.get_submodule(owner), attribute, amount=amount)
        assert torch.equal(mask, getattr(pruned, f"{attribute}_mask").bool()), path


@pytest.mark.parametrize("step", [prune_weights(0.25), prune_weights(0.25, "layer", rounds=2), prune_nm(1, 2)], ids=str)
def test_pruned_weights_stay_zero_through_the_training_and_the_others_train(step: Any) -> None:
    model = network()
    result, context = applied(step, model)
    kept = context.facts["kept"]
    before = weights(model)
    for name, weight in weights(result).items():
        assert int((weight != 0).sum()) == kept[name][0], name
        assert weight.numel() == kept[name][1]
        assert not torch.equal(weight[weight != 0], before[name][weight != 0])
    assert nonzero(result) < parameters(result) == parameters(model)
    assert len(context.names) == len(step.trainings())


def test_a_later_round_ranks_the_remaining_weights() -> None:
    result, context = applied(prune_weights(0.09, rounds=2), network())
    assert context.names == ["round-1", "round-2"]
    total = sum(size for _, size in context.facts["kept"].values())
    assert sum(int((weight != 0).sum()) for weight in weights(result).values()) == np.floor(0.09 * total + 0.5)


def test_a_layer_that_global_pruning_would_empty_is_named() -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("8.weight").mul_(1e-6)
    with pytest.raises(Unsupported, match=r"leaves no weight of 8\.weight.*use scope='layer' or a larger keep"):
        prune_weights(0.5).apply(model, Context())  # type: ignore[arg-type]
    prune_weights(0.5, "layer").apply(model, Context())  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (3, 8)])
@pytest.mark.parametrize("shape", [(6, 16), (3, 8, 5), (4, 8, 3, 2)])
def test_n_of_m_is_torch_s_sparsifier_along_the_input_channels(n: int, m: int, shape: tuple[int, ...]) -> None:
    """The oracle works on matrices: a kernel is one per position, as NVIDIA's ASP has it."""
    from torch.ao.pruning import WeightNormSparsifier

    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mask = nm_mask(weight, n, m)
    rows = weight.movedim(1, -1).reshape(-1, shape[1])
    layer = nn.Linear(shape[1], len(rows), bias=False)
    layer.weight = nn.Parameter(rows.clone())
    sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, m), zeros_per_block=m - n)
    holder = nn.Sequential(layer)
    sparsifier.prepare(holder, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    sparsifier.squash_mask()
    assert torch.equal(mask.movedim(1, -1).reshape(rows.shape), holder[0].weight != 0)
    assert mask.float().mean() == n / m


def test_layers_without_a_multiple_of_m_inputs_stay_dense_and_are_named() -> None:
    masks, dense = prune_nm().masks(network())  # type: ignore[attr-defined]
    assert dense == {"0.weight": "it has 2 inputs, not a multiple of 4"}
    assert list(masks) == ["3.weight", "6.weight", "8.weight"]
    with pytest.raises(Unsupported, match=r"prune_nm: no layer of Sequential can have 2:4 zeros: 0\.weight: it has 3"):
        prune_nm().masks(nn.Sequential(nn.Linear(3, 2)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("step", [prune_weights(), prune_nm()], ids=str)
def test_networks_whose_weights_are_not_plain_are_refused(step: Any) -> None:
    masked = network()
    torch_prune.l1_unstructured(masked[0], "weight", 3)  # type: ignore[index]
    with pytest.raises(Unsupported, match=r"0 \(Conv1d\) has hooks"):
        step.apply(masked, Context())
    with pytest.raises(Unsupported, match="has no layer with float weights to prune"):
        step.apply(nn.Sequential(nn.Flatten(), nn.LayerNorm(32)), Context())


# --------------------------------------------------------------------------------------------------------- 16 bits


def to_bfloat16(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Round float32 to the nearest bfloat16, ties to even, by its bits."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    result: np.ndarray[Any, Any] = rounded.astype(np.uint32).view(np.float32)
    return result


@pytest.mark.parametrize("name", ["convolutional", "recurrent"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_rounds_each_weight_to_the_nearest_and_answers_in_float32(name: str, dtype: str) -> None:
    model = network(name)
    result, context = applied(half(dtype), model)
    for path, value in model.state_dict().items():
        stored = result.state_dict()[f"network.{path}"]
        if value.is_floating_point():
            exact = value.numpy()
            rounded = to_bfloat16(exact) if dtype == "bfloat16" else exact.astype(np.float16).astype(np.float32)
            assert stored.dtype == getattr(torch, dtype)
            assert np.array_equal(stored.float().numpy(), rounded), path
    outputs = answers(result)
    assert outputs.dtype == torch.float32
    assert torch.allclose(outputs, answers(model), atol=0.05)
    assert 0 < context.facts["error"] < 0.01
    assert parameters(result) == parameters(model)
    assert count(result, EXAMPLES[:1]).macs == count(model, EXAMPLES[:1]).macs
    assert {layer.dtype for layer in count(result, EXAMPLES[:1]).layers} == {dtype}


def test_what_half_cannot_do_is_named() -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("8.bias").fill_(1e5)
    with pytest.raises(Unsupported, match=r"8\.bias has values beyond the range of float16; use 'bfloat16'"):
        half("float16").apply(model, Context())  # type: ignore[arg-type]
    converted = half().apply(network(), Context())  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="the network is in bfloat16 already"):
        half("float16").apply(converted, Context())  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="the network is int8"):
        half().apply(quantize_weights().apply(network(), Context()), Context())  # type: ignore[arg-type]
    with pytest.raises(CellError, match="a step after half replaced the 16-bit network"):
        half().dump(network())


# -------------------------------------------------------------------------------------------------- int8 weights


@pytest.mark.parametrize("shape", [(6, 16), (3, 8, 5), (4, 8, 3, 2)])
def test_integers_and_scales_are_symmetric_per_output_channel(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    integers, scales = quantized(weight)
    rows = weight.numpy().reshape(shape[0], -1)
    largest = np.abs(rows).max(axis=1)
    expected = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    assert np.array_equal(scales.numpy(), expected)
    assert np.array_equal(integers.numpy().reshape(shape[0], -1), np.rint(rows / expected[:, None]).astype(np.int8))
    assert integers.dtype == torch.int8
    assert int(integers.abs().max()) == 127
    assert np.abs(integers.numpy().reshape(shape[0], -1) * expected[:, None] - rows).max() <= expected.max() / 2 * 1.001


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_weights_answer_as_the_stock_layers_with_the_expanded_weights(name: str) -> None:
    model = network(name)
    result, context = applied(quantize_weights(), model)
    expanded = network(name)
    with torch.no_grad():
        for path in context.facts["error"]:
            for parameter in ("weight", *getattr(expanded.get_submodule(path), "_flat_weights_names", ())):
                if parameter in dict(expanded.get_submodule(path).named_parameters()) and "weight" in parameter:
                    weight = expanded.get_submodule(path).get_parameter(parameter)
                    integers, scales = quantized(weight)
                    weight.copy_(integers * scales.view(-1, *[1] * (weight.dim() - 1)))
    assert torch.equal(answers(result), answers(expanded))
    assert torch.equal(answers(copy.deepcopy(result)), answers(expanded))
    assert torch.allclose(answers(result), answers(model), atol=0.05)
    assert not torch.equal(answers(result), answers(model))
    assert all(0 < error < 0.02 for error in context.facts["error"].values())
    assert count(result, EXAMPLES[:1]).macs == count(model, EXAMPLES[:1]).macs
    assert count(result, EXAMPLES[:1]).weights == count(model, EXAMPLES[:1]).weights
    assert parameters(result) == parameters(model)
    size = {m: sum(v.numel() * v.element_size() for v in m.state_dict().values()) for m in (model, result)}
    integers = [parameter for parameter in result.parameters() if parameter.dtype == torch.int8]
    saved = 3 * sum(part.numel() for part in integers) - 4 * sum(len(part) for part in integers)  # a scale per output
    assert size[model] - size[result] == saved > 0


def test_layers_that_stay_float_are_named() -> None:
    _, context = applied(quantize_weights(), network("shared"))
    assert context.facts["left"] == {"one": "it shares its weights", "two": "it shares its weights"}
    odd = nn.Sequential(nn.Flatten(), nn.Bilinear(2, 2, 2))
    with pytest.raises(Unsupported, match="no layer whose weights can become int8: 1: Bilinear is not a known layer"):
        quantize_weights().apply(odd, Context())  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="no layer whose weights can become int8: 0: its weights are float64"):
        quantize_weights().apply(nn.Sequential(nn.Linear(2, 2)).double(), Context())  # type: ignore[arg-type]
    with pytest.raises(CellError, match="a step after quantize_weights replaced its layers"):
        quantize_weights().dump(network())


@pytest.mark.parametrize("step", [half(), quantize_weights()], ids=str)
def test_a_network_with_few_bits_cannot_be_traced_by_a_later_step(step: Any) -> None:
    result = step.apply(network(), Context())
    with pytest.raises(Unsupported, match="which later steps cannot change: make this step the last one"):
        torch.fx.symbolic_trace(result)


# ------------------------------------------------------------------------------------------------------- low rank


def truncated(weight: torch.Tensor, rank: int) -> torch.Tensor:
    """The nearest matrix of this rank, by NumPy's decomposition (Eckart and Young 1936)."""
    u, s, v = np.linalg.svd(weight.detach().double().numpy().reshape(len(weight), -1), full_matrices=False)
    return torch.from_numpy((u[:, :rank] * s[:rank]) @ v[:rank]).view(weight.shape)


@pytest.mark.parametrize("name", ["convolutional", "shared"])
@pytest.mark.parametrize("step", [factorize(finetune=False), factorize(0.6, "energy", finetune=False)], ids=str)
def test_factors_compute_the_nearest_matrix_of_their_rank(name: str, step: Any) -> None:
    model = network(name)
    result, context = applied(step, model)
    oracle = network(name).double()
    for path, (rank, full) in context.facts["ranks"].items():
        layer = oracle.get_submodule(path)
        weight = layer.get_parameter("weight")
        assert full == min(weight.flatten(1).shape)
        nearest = truncated(weight, rank)
        assert context.facts["error"][path] == pytest.approx(
            float(((weight - nearest).norm() / weight.norm()).detach()), abs=1e-6
        )
        with torch.no_grad():
            weight.copy_(nearest)
    with torch.no_grad():
        expected = oracle(EXAMPLES.double())
    assert torch.allclose(answers(result).double(), expected, atol=1e-5)
    before, after = context.facts["parameters"].values()
    assert (before, after) == (parameters(model), parameters(result))
    assert after < before


def test_energy_gives_the_least_rank_that_keeps_it() -> None:
    singular = torch.tensor([3.0, 2.0, 1.0, 1.0], dtype=torch.float64)  # squares 9, 4, 1, 1: shares .6, .87, .93, 1
    ranks = {keep: factorize(keep, "energy").rank(singular) for keep in (0.5, 0.6, 0.61, 0.9, 1.0)}  # type: ignore[attr-defined]
    assert ranks == {0.5: 1, 0.6: 1, 0.61: 2, 0.9: 3, 1.0: 4}
    assert [factorize(keep).rank(singular) for keep in (0.1, 0.5, 1)] == [1, 2, 4]  # type: ignore[attr-defined]


def test_the_work_falls_with_the_rank_and_the_factors_train() -> None:
    model = network()
    result, context = applied(factorize(), model)
    assert context.names == ["fit"]
    before, after = (count(net, EXAMPLES[:1]).macs for net in (model, result))
    assert before is not None
    assert after is not None
    assert after < before
    assert context.facts["ranks"] == {"0": [2, 6], "3": [2, 8], "6": [4, 16], "8": [1, 2]}
    assert context.facts["left"] == {}


def test_the_decomposition_has_one_form() -> None:
    weight = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    u, s, v = svd(weight)
    assert torch.allclose((u * s) @ v, weight.double().flatten(1))
    assert (v.gather(1, v.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_layers_that_cannot_be_factorized_are_named() -> None:
    _, context = applied(factorize(0.3, finetune=False), network("shared"))
    shares = "it shares its weights"
    assert context.facts["left"] == {"depthwise": "its convolution has 8 groups", "one": shares, "two": shares}
    with pytest.raises(Unsupported, match="no layer of Sequential becomes smaller: 0: at rank 1 of 2 two layers"):
        factorize().apply(nn.Sequential(nn.Linear(2, 2)), Context())  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: prune_weights(0), "the fraction of weights to keep"),
        (lambda: prune_weights(scope="all"), "choose 'global' or 'layer'"),  # type: ignore[arg-type]
        (lambda: prune_weights(rounds=0), "a whole number of rounds"),
        (lambda: prune_weights(precision="half"), "choose 'float32' or 'bfloat16'"),  # type: ignore[arg-type]
        (lambda: prune_nm(4, 4), "whole numbers with 1 <= n < m"),
        (lambda: prune_nm(precision="half"), "choose 'float32' or 'bfloat16'"),  # type: ignore[arg-type]
        (lambda: half("int8"), "choose 'bfloat16' or 'float16'"),  # type: ignore[arg-type]
        (lambda: factorize(1.5), "give a share, above 0 and at most 1"),
        (lambda: factorize(by="size"), "choose 'rank' or 'energy'"),  # type: ignore[arg-type]
        (lambda: factorize(finetune=1), "choose True or False"),  # type: ignore[arg-type]
        (lambda: factorize(precision="half"), "choose 'float32' or 'bfloat16'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_parameters_are_refused_when_the_suite_is_read(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
