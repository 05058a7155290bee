"""Multiply-accumulates and weights of any network, layer by layer: each weight works once at each position.

The positions of a convolution are its outputs in one channel, those of a linear layer the vectors it is given, those
of an LSTM or GRU the time steps. So a layer's multiply-accumulates are its weights times its positions, with groups,
both directions and all layers of a recurrent network, pruned shapes and int8 alike: an LSTM costs 4 H (in + H) a step.
A module of one's own that is ``structure.Described`` counts as one layer: the weights that it tells, at each vector
that it is given.
Biases, normalisation, activations, pooling, additions and embeddings count nothing, nor do products that are written
as functions (``torch.matmul``) rather than as layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from harness.nn.structure import Described


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: its path, its class, the type and number of its weights (without biases), and its work."""

    path: str
    kind: str
    dtype: str
    weights: int
    macs: int


@dataclasses.dataclass(frozen=True)
class Operations:
    """The layers that multiply, in the order in which they first run."""

    layers: tuple[Layer, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole network."""
        return sum(layer.macs for layer in self.layers)

    @property
    def weights(self) -> int:
        """Weights that multiply: no biases, no normalisation."""
        return sum(layer.weights for layer in self.layers)

    def share(self, dtype: str) -> tuple[float, float]:
        """The share of weights and of multiply-accumulates in ``dtype``; (0, 0) if nothing multiplies."""
        chosen = Operations(tuple(layer for layer in self.layers if layer.dtype == dtype))
        return chosen.weights / max(self.weights, 1), chosen.macs / max(self.macs, 1)


def count(model: nn.Module, example: torch.Tensor) -> Operations:
    """Run ``example``, a batch of one (1, *input_shape), through the model in eval mode and count what its layers do.

    A larger batch counts as many times. A layer that runs several times works each time; its weights count once.
    """
    found: dict[str, Layer] = {}
    modes = {module: module.training for module in model.modules()}
    hooks = []
    described = [module for module in model.modules() if isinstance(module, Described)]
    inside = {part for module in described for part in module.modules() if part is not module}
    for path, module in model.named_modules():
        matrices = _matrices(module)
        if matrices and module not in inside:
            hooks.append(module.register_forward_hook(_recorder(path, matrices, found)))
    try:
        model.eval()
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return Operations(tuple(found.values()))


def parameters(model: nn.Module) -> int:
    """Weights and biases of the model as it is deployed, those packed in int8 included; shared ones count once.

    A batch normalisation that was folded into a convolution leaves one bias a channel where it had two parameters
    (study B gives its int8 networks the count of the float ones), and PyTorch's int8 LSTM has both of its biases, even
    if the float one was ``structure.without`` the second.
    """
    return sum(tensor.numel() for tensor in _weights_and_biases(model))


def nonzero(model: nn.Module) -> int:
    """The weights and biases that are not zero. In int8, those that rounding made zero count as zero."""
    return sum(
        int(torch.count_nonzero(tensor.dequantize() if tensor.is_quantized else tensor))
        for tensor in _weights_and_biases(model)
    )


def _is_packed(module: nn.Module) -> bool:
    """Whether the layer keeps its weights packed in int8. By name, so that nothing here needs the deprecated API."""
    return type(module).__module__.startswith("torch.ao.nn") and (
        hasattr(module, "get_weight") or callable(getattr(module, "weight", None))
    )


def _matrices(module: nn.Module) -> list[torch.Tensor]:
    """The weights with which a layer multiplies; none for any other module."""
    if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
        return [module.weight]
    if isinstance(module, (nn.LSTM, nn.GRU, nn.RNN)):
        return [weight for name, weight in module.named_parameters(recurse=False) if name.startswith("weight")]
    if isinstance(module, Described):
        return [part.weight for parts in module.incoming().values() for part in parts]
    return _packed(module, "weight") if _is_packed(module) else []


def _packed(module: Any, what: str) -> list[torch.Tensor]:
    if hasattr(module, f"get_{what}"):
        values = list(getattr(module, f"get_{what}")().values())
    else:
        values = [getattr(module, what)()]
    return [value for value in values if value is not None]


def _recorder(path: str, matrices: list[torch.Tensor], found: dict[str, Layer]) -> Any:
    weights = sum(matrix.numel() for matrix in matrices)
    dtype = "int8" if matrices[0].dtype == torch.qint8 else str(matrices[0].dtype).removeprefix("torch.")

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        before = found[path].macs if path in found else 0
        macs = before + weights * _positions(module, inputs[0], output)
        found[path] = Layer(path, type(module).__name__, dtype, weights, macs)

    return record


def _positions(module: Any, given: Any, output: Any) -> int:
    """How often each weight of the layer multiplies in this call."""
    if hasattr(module, "kernel_size"):
        # A transposed convolution spreads each input over its outputs; the others gather.
        if module.transposed:
            return int(given.numel() // module.in_channels)
        return int(output.numel() // module.out_channels)
    given = given.data if isinstance(given, nn.utils.rnn.PackedSequence) else given
    return int(given.numel() // given.shape[-1])


def _weights_and_biases(model: nn.Module) -> Iterator[torch.Tensor]:
    seen: set[int] = set()
    for module in model.modules():
        if _is_packed(module):
            yield from _packed(module, "weight")
            yield from _packed(module, "bias")
            continue
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter
