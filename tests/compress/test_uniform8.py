"""Study A's quantization: the rounding by hand, the products against integers in NumPy, the file, what is refused."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load, save
from torch import nn

from harness.errors import CellError, Unsupported
from harness.nn.operations import count, nonzero, parameters
from harness_compress import _uniform8
from harness_compress._uniform8 import Linear8, affine, integers, quantized
from harness_compress.quantize import Quantize

FEATURES = 76


@pytest.fixture(autouse=True)
def _no_warning_gets_out() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(params=["fbgemm", "int32"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two kernels, the first only where it is exact."""
    name: str = request.param
    if name == "fbgemm" and _uniform8.engine() != "fbgemm":
        pytest.skip("this machine has no exact 8-bit kernel")
    monkeypatch.setattr(_uniform8, "engine", lambda: name)
    return name


class Context:
    """The part of StepContext that quantize uses."""

    def __init__(self, inputs: torch.Tensor | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(128, FEATURES, generator=generator) if inputs is None else inputs
        self.example = self.inputs[:1]
        self.facts: dict[str, Any] = {}

    def calibration(self, examples: int) -> torch.Tensor:
        return self.inputs[:examples]

    def report(self, **facts: Any) -> None:
        self.facts.update(facts)


def dense() -> nn.Module:
    """Study A's DNN."""
    return nn.Sequential(
        nn.Linear(76, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(),
        nn.Dropout(0.5), nn.Linear(64, 1),
    )  # fmt: skip


class Shared(nn.Module):
    """One layer at two places, one that never runs, a normalisation, and a layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 10)
        self.again = nn.Linear(10, 10, bias=False)
        self.twice = nn.ModuleList([self.again, self.again])
        self.norm = nn.BatchNorm1d(10)
        self.idle = nn.Linear(3, 3)
        self.last = nn.Linear(10, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.first(inputs))
        for layer in self.twice:
            hidden = torch.tanh(layer(hidden))
        logits: torch.Tensor = self.last(hidden)
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dense": dense,
    "shared": Shared,
    "root": lambda: nn.Linear(FEATURES, 3),
}


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr, operator]
    return model.eval()


def made(make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module, Context]:
    model, context = trained(make), Context()
    return model, Quantize("uniform8").apply(copy.deepcopy(model), context), context


# ------------------------------------------------------------------------------------------------------- the rounding


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (-1.0, 1.55, 0.01, 100),
        (-1.27, 1.28, 0.01, 127),
        (0.0, 2.55, 0.01, 0),
        (0.5, 2.55, 0.01, 0),  # 0 lies below the range, which is widened to it
        (-2.55, -0.5, 0.01, 255),
        (-0.004, 2.546, 0.01, 0),  # the zero point 0.4 is rounded, and the range shifted by so much
        (3.0, 3.0, 3 / 255, 0),  # a constant
        (-3.0, -3.0, 3 / 255, 255),
        (0.0, 0.0, 1.0, 0),
        (0.0, 1e-40, 1.0, 0),  # too narrow for a float32
        (-3.4e38, 3.4e38, 6.8e38 / 255, 128),
    ],
)
def test_scale_and_zero_point_by_hand(low: float, high: float, scale: float, zero_point: int) -> None:
    found = affine(low, high)
    assert found == (pytest.approx(scale, rel=1e-7), zero_point)
    assert found[0] == np.float32(found[0])


def test_rounding_by_hand() -> None:
    values = torch.tensor([-1.0, -0.25, 0.0, 0.004, 0.006, 1.55, 9.0, -9.0])
    assert integers(values, 0.01, 100).tolist() == [0, 75, 100, 100, 101, 255, 255, 0]
    assert integers(torch.tensor([0.5, 1.5, 2.5]), 1.0, 0).tolist() == [0, 2, 2]  # halves to the even one


floats = st.floats(min_value=-(2.0**100), max_value=2.0**100, width=32)
ranges = arrays.arrays(np.float32, st.integers(1, 20), elements=floats)


@given(ranges)
def test_laws_of_the_rounding(values: Any) -> None:
    numbers = torch.from_numpy(values)
    scale, zero_point = affine(float(numbers.min()), float(numbers.max()))
    assert 0 <= zero_point <= 255
    assert integers(torch.zeros(1), scale, zero_point).item() == zero_point, "0 is exact"
    small = integers(numbers, scale, zero_point)
    back = (small.double() - zero_point) * scale
    assert float((back - numbers.double()).abs().max()) <= scale * 0.50001, "half a step at most"
    order = numbers.argsort()
    assert bool((small[order].int().diff() >= 0).all()), "monotone"
    if scale != 1:
        assert int(small.max()) - int(small.min()) >= 254 or not numbers.min() < 0 < numbers.max(), "all levels"


@given(ranges)
def test_the_scale_is_that_of_pytorch_s_observer(values: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization.observer import MinMaxObserver

        observer = MinMaxObserver(dtype=torch.quint8, quant_min=0, quant_max=255, eps=1e-38)
        observer(torch.from_numpy(values))
        expected_scale, expected_zero = (value.item() for value in observer.calculate_qparams())
    scale, zero_point = affine(float(values.min()), float(values.max()))
    if scale != 1:
        assert scale == pytest.approx(expected_scale, rel=1e-6)
        assert abs(zero_point - expected_zero) <= 1  # theirs divides in float32


@given(ranges)
def test_the_integers_are_those_of_pytorch_s_fake_quantization(values: Any) -> None:
    numbers = torch.from_numpy(values)
    scale, zero_point = affine(float(numbers.min()), float(numbers.max()))
    expected = torch.fake_quantize_per_tensor_affine(numbers, scale, zero_point, 0, 255)
    found = (integers(numbers, scale, zero_point).double() - zero_point) * scale
    difference = (found - expected.double()).abs() / scale
    assert float(difference.max()) < 1.00001
    position = numbers.double() / scale
    tie = ((position - position.floor()) - 0.5).abs() < 1e-4  # there float32 may see another side
    assert float(difference[~tie].max() if bool((~tie).any()) else 0.0) < 1e-4


def test_a_weight_is_the_same_number_as_qint8() -> None:
    small = torch.arange(256, dtype=torch.uint8)
    tensor = quantized(small, 0.5, 100)
    assert tensor.dtype == torch.qint8
    assert torch.equal(tensor.dequantize(), (torch.arange(256) - 100) * 0.5)


# ------------------------------------------------------------------------------------------------------- the products


def test_a_layer_by_hand(kernel: str) -> None:
    """w = [-1, 1.55]: q 0 and 255, zero point 100. x = [1.004, 2.004] at steps of 0.01: 100 and 200.

    The sum is -100 * 100 + 155 * 200 = 21,000 steps of 0.0001; then the bias.
    """
    layer = nn.Linear(2, 1)
    layer.load_state_dict({"weight": torch.tensor([[-1.0, 1.55]]), "bias": torch.tensor([0.5])})
    small = Linear8.of(layer, 0.01, 0)
    assert small.weight.int_repr().tolist() == [[-128, 127]]
    assert small.weight.q_zero_point() == 100 - 128
    assert small(torch.tensor([[1.004, 2.004]])).item() == pytest.approx(2.6, abs=1e-6)
    assert small(torch.tensor([[-5.0, 99.0]])).item() == pytest.approx(1.55 * 2.55 + 0.5, abs=1e-6)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 76, 256), (5, 256, 128), (3, 701, 33), (2, 3000, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_sums_are_those_of_integers(kernel: str, rows: int, inputs: int, outputs: int, bias: bool) -> None:
    """Against NumPy's 64 bits: less than half a unit away, so that each sum is the very integer."""
    generator = np.random.default_rng(inputs)
    weight = generator.integers(0, 256, (outputs, inputs))
    zero, input_zero, scale, input_scale = 37, 201, np.float32(0.013), np.float32(0.25)
    constant = generator.normal(size=outputs).astype(np.float32)
    layer = Linear8(
        quantized(torch.tensor(weight, dtype=torch.uint8), float(scale), zero),
        torch.tensor(constant) if bias else None,
        float(input_scale),
        input_zero,
    )
    given = generator.integers(-30, 290, (rows, 2, inputs))  # some of them out of range
    found = layer(torch.tensor((given - input_zero) * input_scale, dtype=torch.float32)).double().numpy()
    sums = (np.clip(given, 0, 255) - input_zero) @ (weight - zero).T
    unit = float(scale) * float(input_scale)
    assert found.shape == (rows, 2, outputs)
    # float32 holds the sum of millions to a few tenths of a unit
    assert np.abs((found - (constant if bias else 0)) / unit - sums).max() < max(0.5, np.abs(sums).max() * 2e-7)


def test_extreme_sums_do_not_saturate(kernel: str) -> None:
    layer = Linear8(quantized(torch.full((4, 512), 255, dtype=torch.uint8), 1.0, 0), None, 1.0, 0)
    assert layer(torch.full((1, 512), 999.0)).tolist() == [[512 * 255 * 255] * 4]
    layer = Linear8(quantized(torch.zeros((4, 512), dtype=torch.uint8), 1.0, 255), None, 1.0, 0)
    assert layer(torch.full((1, 512), 999.0)).tolist() == [[-512 * 255 * 255] * 4]


def test_a_kernel_that_saturates_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no FBGEMM")

    def saturating(inputs: torch.Tensor, scale: float, zero_point: int, packed: Any) -> torch.Tensor:
        """As on AVX2: each pair of products limited to 16 bits."""
        weight = torch.ops.quantized.linear_unpack(packed)[0].int_repr().int()
        products = inputs.int()[:, None] * weight
        pairs = products.reshape(*products.shape[:2], -1, 2).sum(-1)
        return pairs.clamp(-(2**15), 2**15 - 1).sum(-1).float()

    monkeypatch.setattr(_uniform8, "_multiplied", saturating)
    assert _uniform8.engine.__wrapped__() == "int32"


def test_a_layer_too_wide_for_32_bits_is_refused() -> None:
    with pytest.raises(Unsupported, match="may overflow"):
        Linear8(quantized(torch.zeros(1, 33_026, dtype=torch.uint8), 1.0, 0), None, 1.0, 0)


@pytest.mark.parametrize("zero_point", [9, 128])  # of which the last is 0 in qint8, as some engines want it
@pytest.mark.parametrize("current", [name for name in torch.backends.quantized.supported_engines if name != "none"])
def test_copies_and_pickles_multiply_alike_under_any_engine(
    kernel: str, current: str, zero_point: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch packs for the engine in force, and each holds its weights otherwise."""
    monkeypatch.setattr(torch.backends.quantized, "engine", current)
    layer = Linear8(quantized(torch.arange(12, dtype=torch.uint8).reshape(3, 4), 0.1, zero_point), None, 0.1, 9)
    inputs = torch.randn(2, 4)
    assert torch.equal(copy.deepcopy(layer)(inputs), layer(inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(pickle.loads(pickle.dumps(layer))(inputs), layer(inputs))


# -------------------------------------------------------------------------------------------------------- the network


def faked(model: nn.Sequential, inputs: torch.Tensor, ends: dict[str, Any]) -> torch.Tensor:
    """The network with PyTorch's fake quantization of each layer's weight and input, in float64."""
    values = inputs.double()
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear):
            weight = layer.weight.detach()
            scale, zero_point = affine(float(weight.min()), float(weight.max()))
            weight = torch.fake_quantize_per_tensor_affine(weight, scale, zero_point, 0, 255).double()
            seen = ends[name]
            values = torch.fake_quantize_per_tensor_affine(
                values.float(), seen["scale"], seen["zero_point"], 0, 255
            ).double()
            values = values @ weight.t() + layer.bias.double()
        else:
            values = layer(values)
    return values


def test_study_a_s_network_against_fake_quantization(kernel: str) -> None:
    model, int8, context = made(dense)
    assert context.facts["engine"] == kernel
    inputs = context.calibration(128) * 1.2
    with torch.no_grad():
        expected = faked(model, inputs, context.facts["ranges"])  # type: ignore[arg-type]
        found = int8(inputs)
    # A tie that falls to the other side moves a logit by a small part of a step of the last input
    assert float((found - expected).abs().max()) < 1e-3
    assert float((found - expected).abs().median()) < 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_becomes_int8_and_is_told(name: str) -> None:
    model, int8, context = made(NETWORKS[name])
    facts = context.facts
    assert facts["int8_weights"] == facts["int8_macs"] == 1
    assert all(layer["kind"] == "Linear8" for layer in facts["layers"])
    assert sum(layer["macs"] for layer in facts["layers"]) == count(model, context.example).macs
    assert parameters(int8) == parameters(model)
    assert "uncounted" not in facts
    inputs = context.calibration(128)
    with torch.no_grad():
        difference = float((int8(inputs).sigmoid() - model(inputs).sigmoid()).abs().max())
    assert 0 < difference < 0.02
    assert facts["max_probability_difference"] == pytest.approx(difference)
    assert not getattr(int8, "gives_probabilities", False)
    json.dumps(facts, allow_nan=False)


def test_the_ranges_are_the_least_and_the_largest_input_of_each_layer() -> None:
    model, _, context = made(dense)
    values = context.calibration(128)
    with torch.no_grad():
        for name, layer in model.named_children():
            if isinstance(layer, nn.Linear):
                found = context.facts["ranges"].pop(name)
                assert (found["min"], found["max"]) == pytest.approx((float(values.min()), float(values.max())))
                assert (found["scale"], found["zero_point"]) == affine(found["min"], found["max"])
            values = layer(values)
    assert not context.facts["ranges"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_dumped_network_comes_back_bit_for_bit(name: str, kernel: str) -> None:
    _, int8, context = made(NETWORKS[name])
    tensors, notes = Quantize("uniform8").dump(int8)
    torch.manual_seed(99)
    back = Quantize("uniform8").restore(NETWORKS[name](), load(save(tensors)), json.loads(json.dumps(notes)))
    inputs = context.calibration(7) * 3
    with torch.no_grad():
        assert torch.equal(back(inputs), int8(inputs))
        assert torch.equal(copy.deepcopy(back)(inputs), int8(inputs))
    again, notes_again = Quantize("uniform8").dump(copy.deepcopy(back))
    assert notes_again == notes
    assert again.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in again.items())


def test_a_layer_at_two_places_stays_one() -> None:
    _, int8, context = made(Shared)
    assert int8.again is int8.twice[0] is int8.twice[1]  # type: ignore[index]
    assert type(int8.idle) is nn.Linear, "no range, so nothing to go by"
    back = Quantize("uniform8").restore(Shared(), *Quantize("uniform8").dump(int8))
    assert back.again is back.twice[1]  # type: ignore[index]
    low, high = (context.facts["ranges"]["again"][name] for name in ("min", "max"))
    assert low < -1 < 1 < high, "both places count: the second alone would stay within tanh's (-1, 1)"


def test_the_file_holds_a_byte_a_weight() -> None:
    """Study A gives 64 kB for its 60,929 parameters (from 767 kB, with the optimizer's state)."""
    model, int8, _ = made(dense)
    tensors, notes = Quantize("uniform8").dump(int8)
    weights = {name: tensor for name, tensor in tensors.items() if name.endswith("weight")}
    assert {tensor.dtype for tensor in weights.values()} == {torch.uint8}
    assert sum(tensor.numel() for tensor in weights.values()) == 76 * 256 + 256 * 128 + 128 * 64 + 64
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) < 62_500
    assert len(save(tensors)) + len(json.dumps(notes)) < 66_000
    first = model[0].weight.detach()  # type: ignore[index]
    scale, zero_point = tensors["0.weight.scale"].item(), tensors["0.weight.zero_point"].item()
    assert (scale, zero_point) == affine(float(first.min()), float(first.max()))
    assert torch.equal(tensors["0.weight"], integers(first, scale, zero_point))


def test_a_pruned_structure_comes_back_into_the_full_network() -> None:
    int8 = Quantize("uniform8").apply(nn.Sequential(nn.Linear(FEATURES, 4), nn.ReLU(), nn.Linear(4, 1)), Context())
    wide = nn.Sequential(nn.Linear(FEATURES, 9), nn.ReLU(), nn.Linear(9, 1))
    back = Quantize("uniform8").restore(wide, *Quantize("uniform8").dump(int8))
    inputs = Context().calibration(4)
    assert torch.equal(back(inputs), int8(inputs))


@pytest.mark.parametrize("value", [0.0, 0.7, -0.7])
def test_constant_weights_and_inputs(value: float, kernel: str) -> None:
    model = nn.Sequential(nn.Linear(FEATURES, 3))
    nn.init.constant_(model[0].weight, value)  # type: ignore[arg-type]
    inputs = torch.full((8, FEATURES), 0.3)
    with torch.no_grad():
        expected = model(inputs)
        found = Quantize("uniform8").apply(model, Context(inputs))(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # a constant is an end of its range: exact
    silent = Quantize("uniform8").apply(nn.Sequential(nn.Linear(FEATURES, 3)), Context(inputs * 0))
    assert bool(silent(inputs * 0).isfinite().all())


# --------------------------------------------------------------------------------------------------------- what fails


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    model = dense()
    with torch.no_grad():
        model[7].weight[0, 4] = bad  # type: ignore[index]
    with pytest.raises(CellError, match="a weight holds NaN or infinity"):
        Quantize("uniform8").apply(model, Context())
    inputs = Context().inputs.clone()
    inputs[60, 3] = bad
    with pytest.raises(CellError, match="NaN or infinity reaches"):
        Quantize("uniform8").apply(dense(), Context(inputs))


def test_a_network_without_linear_layers_is_unsupported() -> None:
    network = nn.Sequential(nn.Unflatten(1, (1, FEATURES)), nn.Conv1d(1, 1, FEATURES), nn.Flatten())
    with pytest.raises(Unsupported, match="this network has none"):
        Quantize("uniform8").apply(network, Context())


def test_less_coverage_than_declared_fails_and_names_the_layers() -> None:
    network = nn.Sequential(nn.Unflatten(1, (1, FEATURES)), nn.Conv1d(1, 3, 5), nn.Flatten(), nn.Linear(216, 1))
    with pytest.raises(CellError, match=r"stayed float: 1 \(Conv1d\)"):
        Quantize("uniform8").apply(copy.deepcopy(network), Context())
    context = Context()
    Quantize("uniform8", coverage=0).apply(network, context)
    assert context.facts["int8_weights"] == pytest.approx(216 / (216 + 15))
    assert context.facts["int8_macs"] == pytest.approx(216 / (216 + 15 * 72))


class Doubled(nn.Linear):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(inputs)


def test_a_layer_that_only_derives_from_a_linear_one_stays_as_it_is() -> None:
    with pytest.raises(CellError, match=r"stayed float: 1 \(Doubled\)"):
        Quantize("uniform8").apply(nn.Sequential(nn.Linear(FEATURES, 9), Doubled(9, 99)), Context())


@pytest.mark.parametrize("scheme", ["ptq-int8", "uniform8"])
def test_once_is_enough(scheme: str) -> None:
    _, int8, _ = made(dense)
    with pytest.raises(Unsupported, match="already"):
        Quantize(scheme).apply(int8, Context())


@pytest.mark.parametrize("part", ["input_scale", "weight.scale", "weight", "bias"])
def test_a_foreign_state_is_refused(part: str) -> None:
    _, int8, _ = made(dense)
    tensors, notes = Quantize("uniform8").dump(int8)
    del tensors[f"2.{part}"]
    with pytest.raises(CellError, match=r"does not fit.*2\."):
        Quantize("uniform8").restore(dense(), tensors, notes)


def test_the_schemes_differ_in_the_key() -> None:
    assert Quantize("ptq-int8").parameters() == {"scheme": "ptq-int8", "calibration": 128, "coverage": 0.9}
    assert Quantize("uniform8").parameters() == {"scheme": "uniform8", "calibration": 128, "coverage": 0.9}
    assert Quantize.version == "3", "its networks are checked against the float ones before rounding"


def test_a_weight_that_rounding_made_zero_counts_as_zero() -> None:
    layer = nn.Linear(4, 1, bias=False)
    layer.load_state_dict({"weight": torch.tensor([[-1.0, 0.0, 0.001, 1.55]])})
    assert nonzero(Linear8.of(layer, 1.0, 0)) == 2  # -1 and 1.55; the step is 0.01
