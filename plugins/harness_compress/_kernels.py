"""Check an int8 network operation by operation: each against the float operation on the very values that it reads.

Rounding moves a value by half a quantization step. Where many values are off by several steps, the int8 network
computes another function: its conversion lost an argument or a write to a slice, or sums saturate. The size of the
rounding itself is no reason: how much of it a network bears depends on the network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from harness.errors import Unsupported

#: A value is off when it differs by more than this many quantization steps, and this share of a tensor may be off.
#: All right kernels of docs/layers.md are within one step.
STEPS, SHARE = 2.0, 1e-3
#: Values that stay float differ by the dynamic rounding of recurrent layers, at most by this share (root mean square).
FLOAT = 0.5
#: The kernels store eight bits, whatever range the observers use.
STORED = (0, 255)


def check(prepared: fx.GraphModule, int8: fx.GraphModule, batch: Tensor) -> None:
    """Run both networks on ``batch`` (n, *input_shape) and compare them.

    ``prepared`` is calibrated, and ``int8`` was converted from a copy of it. Raises Unsupported with the name of the
    first operation that is another function in int8.
    """
    with torch.no_grad():
        recorder = _Recorder(int8)
        recorder.run(batch)
        known = {node.name for node in prepared.graph.nodes}
        _Follower(_with_weights(prepared, int8), recorder.values, known).run(batch)


class _Recorder(fx.Interpreter):
    """Run the int8 network and keep the value of each node."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.extra_traceback = False
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.values[n.name] = value.clone()
        return value


class _Follower(fx.Interpreter):
    """Run the prepared network in float, compare each value with int8's, and go on with int8's.

    Values are replaced in place, so that a write to a view changes the whole tensor, as in the float network.
    """

    def __init__(self, network: fx.GraphModule, values: dict[str, Tensor], known: set[str]) -> None:
        super().__init__(network)
        self.extra_traceback = False
        self.values = values
        #: Lowering gives new names to the operations that it replaces.
        self.renamed = {name: value for name, value in values.items() if value.is_quantized and name not in known}

    def placeholder(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _copied(super().placeholder(target, args, kwargs))

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _copied(super().get_attr(target, args, kwargs))

    def run_node(self, n: fx.Node) -> Any:
        observer: Any = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if not hasattr(observer, "calculate_qparams"):
            return self._float(n, super().run_node(n))
        (values,), _ = self.fetch_args_kwargs_from_env(n)
        return values if observer.is_dynamic else self._quantized(n.all_input_nodes[0], values, observer)

    def _float(self, node: fx.Node, values: Any) -> Any:
        own = self.values.get(node.name)
        if not isinstance(values, Tensor) or own is None or own.is_quantized or own.shape != values.shape:
            return values
        if node.op in ("placeholder", "get_attr", "output") or not values.is_floating_point():
            return values
        off = float(((own - values).square().mean() / values.square().mean().clamp(min=1e-24)).sqrt())
        if off > FLOAT:
            raise self._refusal(node, f"its values are off by {off:.0%} (root mean square)")
        return _replaced(values, own)

    def _quantized(self, node: fx.Node, values: Tensor, observer: Any) -> Tensor:
        scale, zero_point = observer.calculate_qparams()
        if scale.numel() > 1:  # a weight that a function reads
            return torch.fake_quantize_per_channel_affine(
                values, scale, zero_point.float(), observer.ch_axis, observer.quant_min, observer.quant_max
            )
        steps = {name: _steps(values, own) for name, own in self._candidates(node, values, float(scale))}
        if not steps:
            return _replaced(values, torch.fake_quantize_per_tensor_affine(values, scale, zero_point.int(), *STORED))
        name = min(steps, key=lambda name: float(steps[name].mean()))
        off = float((steps[name] > STEPS).float().mean())
        if off > SHARE:
            raise self._refusal(
                node,
                f"{off:.1%} of its values are off by more than {STEPS:g} quantization steps, the worst by "
                f"{float(steps[name].max()):.3g}",
            )
        return _replaced(values, self.values[name].dequantize())

    def _candidates(self, node: fx.Node, values: Tensor, scale: float) -> list[tuple[str, Tensor]]:
        """The int8 values that may be this node's: that of its name, or renamed ones with its shape and scale."""
        own = self.values.get(node.name)
        if own is not None and own.is_quantized:
            return [(node.name, own)]
        stem = _stem(node.name)
        return [
            (name, own)
            for name, own in self.renamed.items()
            if own.shape == values.shape and (abs(own.q_scale() / scale - 1) < 1e-6 or _stem(name) == stem)
        ]

    def _refusal(self, node: fx.Node, reason: str) -> Unsupported:
        kind = ""
        if node.op == "call_module":
            kind = f" ({type(self.fetch_attr(str(node.target))).__name__})"
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.name)
        return Unsupported(
            f"int8: {name}{kind} is another function in PyTorch's int8 network. The conversion lost an argument or a "
            f"write to a slice, or the kernel is wrong or saturates on this processor: {reason}"
        )


def _stem(name: str) -> str:
    return name.rstrip("0123456789").rstrip("_")


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _replaced(values: Tensor, new: Tensor) -> Tensor:
    try:
        return values.copy_(new)
    except RuntimeError:  # an expanded tensor holds one number for several values
        return new


def _steps(values: Tensor, own: Tensor) -> Tensor:
    """How many quantization steps an int8 tensor is away from float values, as far as eight bits can express these."""
    scale, zero_point = own.q_scale(), own.q_zero_point()
    low, high = ((end - zero_point) * scale for end in STORED)
    return (values.clamp(low, high) - own.dequantize()).abs() / scale


def _with_weights(prepared: fx.GraphModule, int8: nn.Module) -> fx.GraphModule:
    """A copy of the prepared network with the weights of the int8 one. Raises Unsupported if these are no rounding."""
    network = copy.deepcopy(prepared)
    for path, layer in int8.named_modules():
        for name, weight in _weights(layer).items():
            module = network.get_submodule(path)
            module = module[0] if isinstance(module, nn.Sequential) else module
            per_tensor = weight.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
            step = weight.q_scale() if per_tensor else float(weight.q_per_channel_scales().max())
            if float((weight.dequantize() - getattr(module, name)).abs().max()) > step:
                raise Unsupported(f"int8: the {name} of {path} in PyTorch's int8 network is no rounding of the layer's")
            getattr(module, name).data = weight.dequantize()
    return network


def _weights(layer: Any) -> dict[str, Tensor]:
    """The weights of an int8 layer, by the name of the float layer's parameter."""
    if not type(layer).__module__.startswith("torch.ao.nn"):
        return {}
    read: Callable[[], Any] | None = getattr(layer, "get_weight", None) or getattr(layer, "weight", None)
    found = read() if callable(read) else {}
    found = found if isinstance(found, dict) else {"weight": found}
    return {name: weight for name, weight in found.items() if weight.is_quantized}
