"""Count multiply-accumulates and weights of a network, layer by layer: each weight works once at each position.

The positions of a convolution are its outputs in one channel, those of a linear layer its input vectors, those of an
LSTM or GRU the time steps. A layer's multiply-accumulates are its weights times its positions. This covers groups, both
directions and all layers of a recurrent network, pruned shapes and int8: an LSTM costs 4 H (in + H) per step.
A ``structure.PrunableLayer`` counts as one layer: the weights that it declares, at each of its input vectors.
Biases, normalisation, activations, pooling, additions and embeddings are not counted, nor are products written as
functions (``torch.matmul``) instead of layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from harness.former_names import former_export
from harness.nn.structure import PrunableLayer


def __getattr__(name: str) -> Any:
    return former_export(__name__, name)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: path, class, dtype and number of its weights (without biases), and its multiply-accumulates."""

    path: str
    kind: str
    dtype: str
    weights: int
    macs: int


@dataclasses.dataclass(frozen=True)
class OperationCounts:
    """The layers with weights that multiply, in the order in which they first run."""

    layers: tuple[Layer, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole network."""
        return sum(layer.macs for layer in self.layers)

    @property
    def weights(self) -> int:
        """Weights that multiply, without biases and normalisation."""
        return sum(layer.weights for layer in self.layers)

    def share(self, dtype: str) -> tuple[float, float]:
        """Return the shares (0 to 1) of weights and of multiply-accumulates in ``dtype``; (0, 0) for no layers."""
        selected = OperationCounts(tuple(layer for layer in self.layers if layer.dtype == dtype))
        return selected.weights / max(self.weights, 1), selected.macs / max(self.macs, 1)


def count(model: nn.Module, example: torch.Tensor) -> OperationCounts:
    """Run ``example``, a batch of one (1, *input_shape), through the model in eval mode and count its operations.

    A batch of n counts n times. A layer that runs several times counts its multiply-accumulates each time, its weights
    once.
    """
    layers: dict[str, Layer] = {}
    modes = {module: module.training for module in model.modules()}
    hooks = []
    prunable = [module for module in model.modules() if isinstance(module, PrunableLayer)]
    inside = {part for module in prunable for part in module.modules() if part is not module}
    for path, module in model.named_modules():
        matrices = _matrices(module)
        if matrices and module not in inside:
            hooks.append(module.register_forward_hook(_recorder(path, matrices, layers)))
    try:
        model.eval()
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return OperationCounts(tuple(layers.values()))


def parameters(model: nn.Module) -> int:
    """Count weights and biases of the model as deployed, including packed int8 ones; shared ones count once.

    A batch normalisation folded into a convolution leaves one bias per channel where it had two parameters (study B
    gives its int8 networks the count of the float ones). PyTorch's int8 LSTM has both biases, even where
    ``structure.drop_parameter`` removed the second one from the float LSTM.
    """
    return sum(tensor.numel() for tensor in _weights_and_biases(model))


def nonzero(model: nn.Module) -> int:
    """Count the weights and biases that are not zero. Int8 weights that were rounded to zero count as zero."""
    return sum(
        int(torch.count_nonzero(tensor.dequantize() if tensor.is_quantized else tensor))
        for tensor in _weights_and_biases(model)
    )


def _is_packed(module: nn.Module) -> bool:
    """Whether the layer packs its weights in int8. Detected by name, to avoid importing the deprecated API."""
    return type(module).__module__.startswith("torch.ao.nn") and (
        hasattr(module, "get_weight") or callable(getattr(module, "weight", None))
    )


def _matrices(module: nn.Module) -> list[torch.Tensor]:
    """The weights by which a layer multiplies; empty for any other module."""
    if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
        return [module.weight]
    if isinstance(module, (nn.LSTM, nn.GRU, nn.RNN)):
        return [weight for name, weight in module.named_parameters(recurse=False) if name.startswith("weight")]
    if isinstance(module, PrunableLayer):
        return [part.weight for parts in module.incoming().values() for part in parts]
    return _packed(module, "weight") if _is_packed(module) else []


def _packed(module: Any, name: str) -> list[torch.Tensor]:
    """The packed tensors called ``name`` ("weight" or "bias") of an int8 layer."""
    if hasattr(module, f"get_{name}"):
        values = list(getattr(module, f"get_{name}")().values())
    else:
        values = [getattr(module, name)()]
    return [value for value in values if value is not None]


def _recorder(path: str, matrices: list[torch.Tensor], layers: dict[str, Layer]) -> Any:
    """A forward hook that adds the layer's work in this call to ``layers``."""
    weights = sum(matrix.numel() for matrix in matrices)
    dtype = "int8" if matrices[0].dtype == torch.qint8 else str(matrices[0].dtype).removeprefix("torch.")

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        before = layers[path].macs if path in layers else 0
        macs = before + weights * _positions(module, inputs[0], output)
        layers[path] = Layer(path, type(module).__name__, dtype, weights, macs)

    return record


def _positions(module: Any, inputs: Any, output: Any) -> int:
    """How many times each weight of the layer multiplies in this call."""
    if hasattr(module, "kernel_size"):
        # A transposed convolution applies its weights at each input position, any other at each output position.
        if module.transposed:
            return int(inputs.numel() // module.in_channels)
        return int(output.numel() // module.out_channels)
    inputs = inputs.data if isinstance(inputs, nn.utils.rnn.PackedSequence) else inputs
    return int(inputs.numel() // inputs.shape[-1])


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
