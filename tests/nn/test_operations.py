"""Count operations like PyTorch's own counter where it counts, and like formulas by hand where it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

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
    macs = count(model, example).macs
    assert macs is not None
    assert 2 * macs == flops(model.eval(), example)


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
    macs = count(model, example).macs
    assert macs is not None
    assert 2 * macs == flops(model, example)


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


class Attention(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 1)
        self.options = options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.attention(x, x, x, **self.options)[0].mean(1))
        return logits


class Cells(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state: Any = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        logits: torch.Tensor = self.head(state[0] if isinstance(state, tuple) else state)
        return logits


class Function(nn.Module):
    def __init__(self, function: Callable[..., torch.Tensor], *weights: torch.Tensor) -> None:
        super().__init__()
        self.function, self.weights = function, nn.ParameterList(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.weights)


@pytest.mark.parametrize("options", [{}, {"need_weights": False}])
def test_attention_counts_its_projections_and_its_products(options: dict[str, bool]) -> None:
    found = count(Attention(**options), torch.randn(1, 10, 32))
    projections, products = 10 * (3 * 32 * 32 + 32 * 32), 2 * 10 * 10 * 32
    assert (projections + 32, products) == (40_992, 6_400)
    assert found.macs == projections + products + 32
    assert found.weights == 3 * 32 * 32 + 32 * 32 + 32
    assert [layer.path for layer in found.layers] == ["attention", "head"]


@pytest.mark.parametrize(
    ("cell", "gates"), [(nn.LSTMCell(32, 16), 4), (nn.GRUCell(32, 16), 3), (nn.RNNCell(32, 16), 1)]
)
def test_cells_count_at_each_step(cell: nn.Module, gates: int) -> None:
    found = count(Cells(cell), torch.randn(1, 10, 32))
    assert found.macs == 10 * gates * 16 * (32 + 16) + 16
    assert found.weights == gates * 16 * (32 + 16) + 16


def test_a_bilinear_layer_counts_each_weight_at_each_position() -> None:
    bilinear = nn.Bilinear(5, 5, 3)
    found = count(Function(lambda x: bilinear(x, x)), torch.randn(1, 7, 5))
    assert found.macs == 7 * 3 * 5 * 5


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x @ x.transpose(1, 2),
        lambda x: torch.einsum("bij,bkj->bik", x, x),
        lambda x: torch.bmm(x, x.transpose(1, 2)),
        lambda x: torch.baddbmm(torch.zeros(1, 6, 6), x, x.transpose(1, 2)),
        lambda x: nn.functional.scaled_dot_product_attention(x, x, x),
        lambda x: nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True),
        lambda x: torch.tensordot(x[0], x[0], dims=([1], [1])),
        lambda x: torch.addmm(torch.zeros(6, 6), x[0], x[0].t()),
        lambda x: nn.functional.conv1d(x, torch.ones(4, 6, 3)),
    ],
)
def test_products_written_as_functions_agree_with_the_flop_counter(function: Callable[..., torch.Tensor]) -> None:
    example = torch.randn(1, 6, 8)
    found = count(Function(function), example)
    assert found.macs is not None
    assert 2 * found.macs == flops(Function(function), example) > 0
    with torch.inference_mode():
        assert count(Function(function), example).macs == found.macs


def test_weights_that_are_computed_from_parameters_count_once() -> None:
    low = Function(lambda x, u, v: x @ (u @ v).t() + x @ (u * 2 @ v).t(), torch.randn(4, 2), torch.randn(2, 8))
    found = count(low, torch.randn(1, 6, 8))
    assert found.weights == 4 * 2 + 2 * 8
    assert found.macs == 2 * (4 * 2 * 8 + 6 * 8 * 4)


class Vision(nn.Module):
    """A vision transformer as its authors describe it: patches, a class token, encoder layers, a head."""

    def __init__(self, image: int, patch: int, width: int, depth: int, heads: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, width))
        layer = nn.TransformerEncoderLayer(width, heads, hidden, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.token, self.patches(x).flatten(2).transpose(1, 2)], 1) + self.position
        logits: torch.Tensor = self.head(self.encoder(x)[:, 0])
        return logits


def test_a_vision_transformer_of_the_published_size_has_the_published_work() -> None:
    """ViT-B/16: 17.56 G multiply-accumulates with those of attention (torchvision's ``_ops``, which counts so too)."""
    tokens, width, hidden = 14 * 14 + 1, 768, 3072
    a_layer = tokens * (4 * width * width + 2 * width * hidden) + 2 * tokens * tokens * width
    expected = 14 * 14 * 3 * 16 * 16 * width + 12 * a_layer + width * 1000
    with torch.device("meta"):
        found = count(Vision(224, 16, width, 12, 12, hidden, 1000), torch.empty(1, 3, 224, 224))
    assert found.macs == expected
    assert expected / 1e9 == pytest.approx(17.56, abs=0.01)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_fused_encoder_layer_counts_like_its_parts(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
    example = torch.randn(1, 10, 32)
    expected = 10 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 10 * 10 * 32
    assert count(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), example).macs == 2 * expected
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda x: torch.fft.rfft(x).abs(), "aten::_fft_r2c"),
        (lambda x: torch.linalg.qr(x)[0], "aten::linalg_qr"),
        (lambda x: torch.cdist(x, x, p=1), "aten::_cdist_forward"),
        (lambda x: torch.pdist(x[0]), "aten::_pdist_forward"),
        (lambda x: torch.conv_tbc(x, torch.ones(3, 8, 4), torch.zeros(4), 1), "aten::conv_tbc"),
    ],
)
def test_what_cannot_be_counted_leaves_the_totals_unknown(function: Callable[..., torch.Tensor], operator: str) -> None:
    found = count(nn.Sequential(Function(function), nn.Identity()), torch.randn(1, 6, 8))
    assert found.uncounted == (f"{operator} in 0",)
    assert found.macs is found.weights is found.share("int8") is None


def test_operators_of_other_libraries_cannot_be_counted() -> None:
    @torch.library.custom_op("harness_tests::product", mutates_args=())
    def product(x: torch.Tensor) -> torch.Tensor:
        return x @ x.transpose(1, 2)

    found = count(Function(product), torch.randn(1, 6, 8))
    assert found.uncounted == ("harness_tests::product in the network",)


def test_elementwise_operators_count_as_nothing() -> None:
    functions: list[Callable[..., torch.Tensor]] = [
        lambda x: nn.functional.interpolate(x, scale_factor=2.0, mode="linear"),
        lambda x: x.addcmul(x, x).softmax(1).logsumexp(1),
        lambda x: nn.functional.layer_norm(x, (8,)),
        lambda x: nn.functional.max_pool1d(x, 2),
        lambda x: torch.outer(x[0, 0], x[0, 1]),
    ]
    for function in functions:
        found = count(Function(function), torch.randn(1, 6, 8))
        assert (found.macs, found.layers, found.uncounted) == (0, (), ())


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
    assert count(model, torch.randn(1, 1, 10)).share("float32") == (2 / 11, 18 / 27)
    assert count(nn.ReLU(), torch.randn(1, 3)).share("int8") == (0, 0)


def test_parameters_and_nonzero_count_shared_ones_once() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, shared, nn.LayerNorm(3))
    with torch.no_grad():
        shared.weight[0] = 0
    assert parameters(model) == 12 + 6
    assert nonzero(model) == 12 - 3 + 3  # LayerNorm's bias starts at zero


class Adapted(nn.Linear):
    """A linear layer with two further matrices of low rank, as LoRA has them."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.down, self.up = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        adapted: torch.Tensor = super().forward(x) + x @ self.down.t() @ self.up.t()
        return adapted


def test_further_matrices_of_a_subclass_are_weights() -> None:
    found = count(nn.Sequential(Adapted()), torch.randn(1, 10, 8))
    assert [(layer.path, layer.weights, layer.macs) for layer in found.layers] == [("0", 64 + 32, 10 * (64 + 32))]


SQUARE, EXPERTS = torch.randn(8, 8), torch.randn(3, 8, 8)


@pytest.mark.parametrize(
    ("function", "parameter", "weights", "macs"),
    [
        # The weight meets the input in an element-wise product before the contraction.
        (lambda x, w: torch.einsum("bti,oi,bsi->bts", x, w, x), SQUARE, 64, 10 * 8 * 10),
        # A linear layer by broadcasting.
        (lambda x, w: (x.unsqueeze(-2) * w).sum(-1), SQUARE, 64, 10 * 64),
        # The input chooses an expert, or mixes them.
        (lambda x, w: torch.bmm(x, w[x[:, 0, :3].argmax(1)]), EXPERTS, 192, 10 * 64),
        (lambda x, w: x @ (x[0, 0, :3].reshape(3, 1, 1) * w).sum(0), EXPERTS, 192, 3 * 64 + 10 * 64),
        # Learned keys beside those of the input, as attention with a memory has them.
        (lambda x, w: x @ torch.cat([x, w[None]], 1).transpose(1, 2).contiguous(), SQUARE, 64, 10 * 8 * 18),
        # The rows of a table are inputs of a linear layer, not its weights.
        (lambda x, w: nn.functional.linear(w[x[:, :, 0].long().clamp(0, 7)], w[:4]), SQUARE, 64, 10 * 8 * 4),
        # What the run creates beside a parameter hides it not, and neither do its elements in a created tensor.
        (lambda x, w: x @ (w + torch.eye(8) + torch.zeros(8)), SQUARE, 64, 10 * 64),
        (lambda x, w: x @ x.new_zeros(8, 8).copy_(w), SQUARE, 64, 10 * 64),
        (lambda x, w: x @ torch.cat([x, w[None]], 1).mul(2).transpose(1, 2).contiguous(), SQUARE, 64, 10 * 8 * 18),
        # A matrix that is hidden here and counts there is known.
        (lambda x, w: torch.bmm(x, (w * x[:, :1, :1]).tanh()) @ w, SQUARE, 64, 2 * 10 * 64),
        # The initial state of a recurrence: a product with zeros is work all the same.
        (lambda x, w: ((torch.zeros(1, 8).unsqueeze(-2) * x[:, 0].unsqueeze(-1)).sum(-1)) @ w, SQUARE, 64, 64 + 64),
        # A scale by element is not counted.
        (lambda x, w: (x * w[:1]).sum(1), SQUARE, 0, 0),
    ],
)
def test_weights_are_found_behind_the_input(
    function: Callable[..., torch.Tensor], parameter: torch.Tensor, weights: int, macs: int
) -> None:
    found = count(Function(function, nn.Parameter(parameter)), torch.randn(1, 10, 8))
    assert (found.weights, found.macs, found.uncounted) == (weights, macs, ())


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: torch.bmm(x, (w * x[:, :1, :1]).tanh()),
        lambda x, w: torch.bmm(x, (w * x[:, :1, :1]) * x[:, 1:2, :1]),
        lambda x, w: torch.bmm(x, w / x[:, :1, :1]),
        lambda x, w: torch.bmm(x, w.masked_fill(x[:, :8] > 0, 0)),
        lambda x, w: torch.bmm(x, (w * x[:, :1, :1]).exp().transpose(1, 2).contiguous()),
        lambda x, w: torch.bmm(x, (w * x[:, :1, :1]).softmax(1) + 1),
    ],
)
def test_a_matrix_that_a_nonlinear_step_hides_leaves_the_weights_unknown(
    function: Callable[..., torch.Tensor],
) -> None:
    """The share of such a network would be that of its other weights: an incomplete count is empty."""
    layers = nn.Sequential(Function(function, nn.Parameter(SQUARE)), nn.Linear(8, 4))
    found = count(layers, torch.randn(1, 10, 8))
    assert found.unattributed == ("aten::bmm in 0",)
    assert (found.weights, found.share("int8"), found.macs) == (None, None, 10 * 64 + 10 * 32)
    assert found.reason == "it is not known by how many weights aten::bmm in 0 multiplies"


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x, w: (x + w).softmax(-1) @ x.transpose(1, 2), (10, 8)),  # positions
        (lambda x, w: (x * w).relu() @ x.transpose(1, 2), (1, 1, 8)),  # a scale by channel
        (lambda x, w: nn.functional.layer_norm(x, (8,), w) @ x.transpose(1, 2), (8,)),
    ],
)
def test_biases_scales_and_norms_are_no_weights_of_a_product(
    function: Callable[..., torch.Tensor], shape: tuple[int, ...]
) -> None:
    found = count(Function(function, nn.Parameter(torch.randn(shape))), torch.randn(1, 10, 8))
    assert (found.unattributed, found.weights) == ((), 0)


def test_a_buffer_that_the_input_is_written_into_is_no_constant() -> None:
    """As a cache of keys: the product with it depends on the input twice."""

    class Cached(nn.Module):
        cache: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("cache", torch.zeros(1, 10, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.cache.copy_(x)
            outputs: torch.Tensor = (x.unsqueeze(2) * self.cache.unsqueeze(1)).sum(-1)
            return outputs

    assert count(Cached(), torch.randn(1, 10, 8)).macs == 10 * 10 * 8


def test_attention_by_broadcasting_counts_like_attention() -> None:
    found = count(Function(lambda x: (x.unsqueeze(2) * x.unsqueeze(1)).sum(-1)), torch.randn(1, 10, 8))
    assert (found.macs, found.weights) == (10 * 10 * 8, 0)


def test_constant_matrices_are_weights_but_masks_and_initial_states_are_not() -> None:
    class Constants(nn.Module):
        matrix: torch.Tensor
        mask: torch.Tensor
        start: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("matrix", torch.randn(8, 8))
            self.plain = torch.randn(8, 4)
            self.register_buffer("mask", torch.ones(4, 4))
            self.register_buffer("start", torch.zeros(1, 4))
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.weight * self.mask
            outputs: torch.Tensor = x @ self.matrix @ self.plain @ weight + self.start @ weight
            return outputs

    found = count(Constants(), torch.randn(1, 10, 8))
    assert found.weights == 64 + 32 + 16
    assert found.macs == 10 * (64 + 32 + 16) + 16


def test_parameters_in_one_storage_count_each_for_itself() -> None:
    flat = torch.randn(8 * 8 + 8 * 4)
    layers = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False))
    layers[0].weight = nn.Parameter(flat[:64].view(8, 8))
    layers[1].weight = nn.Parameter(flat[64:].view(4, 8))
    assert [layer.weights for layer in count(layers, torch.randn(1, 10, 8)).layers] == [64, 32]
