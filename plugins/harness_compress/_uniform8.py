"""Quantize as study A does: weights and their inputs uniformly from [Fmin, Fmax] to 0..255, with integer products.

A number x becomes q = round(x / scale) + zero_point, clamped to 0..255, with scale = (Fmax - Fmin) / 255 (Jacob et al.,
CVPR 2018, section 2.1, and gemmlowp). A range without 0 is widened to contain it, and the zero point is rounded to an
integer, so that 0 is represented exactly, as padding, ReLU and an initial state of 0 require. Then
x W' = s_x s_w (q_x - z_x) (q_w - z_w)', a product of integers in 32 bits.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import CellError, Unsupported
from harness_compress._linears import replaced, spelled_out

#: The largest integer, and the shift of PyTorch's kernels, which store weights and zero points minus 128.
LARGEST, SHIFT = 255, 128
#: The sum of this many products of two integers up to 255 fits into 32 bits.
WIDEST = (2**31 - 1) // LARGEST**2
#: Linear layers in place of a recurrent one round float32 otherwise; probabilities may differ by this much.
ROUNDING = 1e-4


#: The tensors of a stored layer, besides a bias.
_STORED = ("weight", "weight.scale", "weight.zero_point", "input_scale", "input_zero_point")


def affine(low: float, high: float) -> tuple[float, int]:
    """Compute scale (a float32) and zero point (0 to 255) for numbers from ``low`` to ``high``.

    A range too narrow for a scale, such as zeros alone, gets scale 1: all its numbers become 0.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(torch.tensor((high - low) / LARGEST, dtype=torch.float32))
    if scale < torch.finfo(torch.float32).tiny:
        return 1.0, 0
    return scale, min(round(-low / scale), LARGEST)


def integers(values: Tensor, scale: float, zero_point: int) -> Tensor:
    """Quantize to integers from 0 to 255 (uint8), rounding halves to even."""
    return (values.double() / scale).round().add(zero_point).clamp(0, LARGEST).to(torch.uint8)


class Linear8(nn.Linear):
    """A linear layer with an 8-bit weight that quantizes its float32 input to 8 bits and multiplies integers.

    ``weight`` (outputs, inputs) is a qint8 tensor with a scale and zero point; ``scale`` and ``zero_point`` (0 to 255)
    are the input's. The 32-bit sums become float32, to which the float32 bias is added.
    """

    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, scale: float, zero_point: int) -> None:
        nn.Module.__init__(self)  # nn.Linear's would allocate a float weight
        self.out_features, self.in_features = weight.shape
        if self.in_features > WIDEST:
            raise Unsupported(
                f"uniform8: a linear layer with {self.in_features} inputs may overflow its 32-bit sums; the limit is "
                f"{WIDEST}"
            )
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)  # type: ignore[assignment]
        self.register_buffer("input_scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("input_zero_point", torch.tensor(zero_point, dtype=torch.uint8))
        self._prepare()

    @classmethod
    def of(cls, layer: nn.Linear, scale: float, zero_point: int) -> Linear8:
        """Quantize a layer; the weight's range is from its least to its largest value."""
        weight = layer.weight.detach()
        if not bool(weight.isfinite().all()):
            raise CellError("uniform8: a weight holds NaN or infinity, so it has no range: check the training")
        weight_scale, weight_zero_point = affine(float(weight.min()), float(weight.max()))
        small = quantized(integers(weight, weight_scale, weight_zero_point), weight_scale, weight_zero_point)
        return cls(small, None if layer.bias is None else layer.bias.detach().clone(), scale, zero_point)

    def forward(self, inputs: Tensor) -> Tensor:
        if isinstance(self._ready, Tensor):
            return self._in_32_bits(inputs, self._ready)
        return _multiplied(inputs, self._scale, self._zero_point, self._ready)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_ready"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._prepare()

    def _prepare(self) -> None:
        """Prepare the weight for this machine's kernel; scale as plain number, since reading a tensor takes 1 us."""
        self._scale, self._zero_point = float(self.input_scale), int(self.input_zero_point)
        if engine() == "fbgemm":
            self._ready = _packed(self.weight.data, self.bias)
        else:
            self._ready = (self.weight.int_repr().int() - self.weight.q_zero_point()).t().contiguous()

    def _in_32_bits(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """Compute the same integers and sums with 32-bit products. Like FBGEMM, multiply by the float32 reciprocal."""
        reciprocal = float(torch.tensor(self._scale).reciprocal())
        small = (inputs * reciprocal).round().add(self._zero_point).clamp(0, LARGEST).int() - self._zero_point
        outputs = (small @ weight) * (self._scale * self.weight.q_scale())
        return outputs if self.bias is None else outputs + self.bias


@functools.cache
def engine() -> str:
    """Return the kernels used on this machine: ``fbgemm`` (8-bit products), or ``int32`` where those are not exact.

    On processors without VNNI, FBGEMM adds pairs of products in 16 bits, which these integers overflow. A trial product
    decides.
    """
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return "int32"
    worst = torch.full((2, 64), float(LARGEST))
    for extreme in (0, LARGEST):
        packed = _packed(quantized(torch.full((8, 64), extreme, dtype=torch.uint8), 1.0, SHIFT), None)
        if bool((_multiplied(worst, 1.0, 0, packed) != 64 * LARGEST * (extreme - SHIFT)).any()):
            return "int32"
    return "fbgemm"


def quantize(model: nn.Module, batches: Sequence[Tensor]) -> tuple[nn.Module, dict[str, Any]]:
    """Quantize the network, in place, with the ranges of its activations in ``batches``; return it and facts about it.

    Raises Unsupported when it has no layer to quantize, or answers otherwise with its recurrent layers rewritten;
    CellError for NaN or infinity.
    """
    model.eval()
    with torch.no_grad():
        expected = [model(batch).sigmoid() for batch in batches]
        network = replaced(model, spelled_out).eval()
        with _observed(network) as ranges:
            answers = [network(batch).sigmoid() for batch in batches]
        if not ranges:
            raise Unsupported("uniform8 quantizes linear and LSTM layers, and this network has none")
        changed = max(float((one - other).abs().max()) for one, other in zip(expected, answers, strict=True))
        if changed > ROUNDING:
            raise Unsupported(
                "uniform8: before any rounding, the network answers otherwise when it runs again: forward() writes to "
                "its input or uses random numbers, or as_linears() is another function (probabilities differ by "
                f"{changed:.2g})"
            )
        seen = {path: _facts(*ranges[layer]) for path, layer in _linears(network) if layer in ranges}
        small: dict[nn.Module, nn.Module] = {layer: Linear8.of(layer, *affine(*ends)) for layer, ends in ranges.items()}
        network = replaced(network, lambda module: small.get(module))
        pairs = zip(batches, answers, strict=True)
        try:
            difference = max(float((network(batch).sigmoid() - answer).abs().max()) for batch, answer in pairs)
        except Exception as error:  # the network's own code, which may read the weight of a layer that is int8 now
            reason = str(error).strip().partition("\n")[0][:200]
            raise Unsupported(f"uniform8: the network cannot run with 8-bit linear layers: {reason}") from error
    return network, {"engine": engine(), "ranges": seen, "max_probability_difference": difference}


def keep(model: nn.Module, blueprint: Mapping[str, Any]) -> nn.Module:
    """Attach the float structure to the model."""
    model.blueprint = blueprint  # type: ignore[assignment]
    return model


def dump_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state as dense tensors: each weight as uint8, with its scale and zero point."""
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if value.is_quantized:
            tensors[name] = (value.int_repr().short() + SHIFT).to(torch.uint8)
            tensors[f"{name}.scale"] = torch.tensor(value.q_scale(), dtype=torch.float32)
            tensors[f"{name}.zero_point"] = torch.tensor(value.q_zero_point() + SHIFT, dtype=torch.uint8)
        else:
            tensors[name] = value.detach().contiguous().clone()
    return tensors, {}


def restore(network: nn.Module, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> nn.Module:
    """Rebuild the 8-bit network, in place, from a float one of its structure. Raises CellError when they do not fit."""
    network = replaced(network, spelled_out)
    layers: dict[nn.Module, nn.Module] = {}
    for path, layer in _linears(network):
        prefix = f"{path}." if path else ""
        names = [prefix + part for part in (*_STORED, *(() if layer.bias is None else ("bias",)))]
        if all(name in tensors for name in names):
            weight, weight_scale, weight_zero_point, scale, zero_point, *bias = (tensors[name] for name in names)
            small = quantized(weight, float(weight_scale), int(weight_zero_point))
            layers[layer] = Linear8(small, bias[0].clone() if bias else None, float(scale), int(zero_point))
    network = replaced(network, lambda module: layers.get(module))
    missing = set(dump_state(network)[0]) ^ set(tensors)
    if missing:
        raise CellError(
            f"the stored 8-bit network does not fit this version of its float network (they differ in "
            f"{', '.join(sorted(missing)[:4])}); build it afresh"
        )
    rest = {name: tensors[name] for name, value in network.state_dict().items() if not value.is_quantized}
    network.load_state_dict(rest, strict=False)
    return network.requires_grad_(False).eval()


def quantized(small: Tensor, scale: float, zero_point: int) -> Tensor:
    """Make PyTorch's qint8 tensor of uint8 integers and their zero point, by subtracting 128 from both."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch deprecates these types together with the kernels, see _fx_int8
        return torch._make_per_tensor_quantized_tensor((small.short() - SHIFT).char(), scale, zero_point - SHIFT)


def _facts(low: float, high: float) -> dict[str, float | int]:
    scale, zero_point = affine(low, high)
    return {"min": low, "max": high, "scale": scale, "zero_point": zero_point}


def _multiplied(inputs: Tensor, scale: float, zero_point: int, packed: Any) -> Tensor:
    """Quantize the inputs, multiply, scale the sums and add the bias, in one FBGEMM call."""
    outputs: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        inputs, scale, zero_point, packed
    )
    return outputs


def _packed(weight: Tensor, bias: Tensor | None) -> Any:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"  # other engines do not support a zero point of weights
    try:
        return torch.ops.quantized.linear_prepack(weight, bias)
    finally:
        torch.backends.quantized.engine = before


def _linears(network: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """All nn.Linear by path, without subclasses, whose forward may differ."""
    return ((path, layer) for path, layer in network.named_modules() if type(layer) is nn.Linear)


@contextlib.contextmanager
def _observed(network: nn.Module) -> Iterator[dict[nn.Linear, tuple[float, float]]]:
    """Record the least and the largest input of each linear layer that runs inside the block."""
    ranges: dict[nn.Linear, tuple[float, float]] = {}

    def look(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        low, high = inputs[0].aminmax()
        before = ranges.get(layer, (math.inf, -math.inf))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CellError("uniform8: NaN or infinity reaches a linear layer, so its input has no range")
        ranges[layer] = min(float(low), before[0]), max(float(high), before[1])

    hooks = [layer.register_forward_pre_hook(look) for _, layer in _linears(network)]
    try:
        yield ranges
    finally:
        for hook in hooks:
            hook.remove()
