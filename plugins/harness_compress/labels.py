"""Classify torch layers and operations by their effect on unit labels: tie them, move them, or work along an axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RECURRENT = (nn.LSTM, nn.GRU)
CONV = {nn.Conv1d: 3, nn.Conv2d: 4}
BATCHNORM = (nn.BatchNorm1d, nn.BatchNorm2d)
ELEMENTWISE_LAYERS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardtanh,
    nn.Hardsigmoid, nn.Hardswish, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
)  # fmt: skip
#: Layers that work along the last axes, with the number of these axes.
SPATIAL_LAYERS = {
    nn.MaxPool1d: 1, nn.AvgPool1d: 1, nn.AdaptiveMaxPool1d: 1, nn.AdaptiveAvgPool1d: 1, nn.ConstantPad1d: 1,
    nn.MaxPool2d: 2, nn.AvgPool2d: 2, nn.AdaptiveMaxPool2d: 2, nn.AdaptiveAvgPool2d: 2, nn.ConstantPad2d: 2,
    nn.ZeroPad1d: 1, nn.ZeroPad2d: 2,
}  # fmt: skip
MOVING_LAYERS = (nn.Identity, nn.Flatten, nn.Unflatten)

ELEMENTWISE = _words(
    "add sub mul div truediv iadd isub imul itruediv maximum minimum where pow neg abs exp log log1p sqrt rsqrt square "
    "relu relu6 leaky_relu elu gelu silu mish sigmoid tanh softplus hardtanh hardsigmoid hardswish clamp dropout "
    "dropout1d dropout2d float double detach clone contiguous zeros_like ones_like masked_fill nan_to_num "
    "gt ge lt le eq ne"
)
MOVING = _words(
    "getitem getattr transpose permute swapaxes swapdims movedim moveaxis t view reshape flatten unflatten squeeze "
    "unsqueeze expand expand_as repeat tile cat concat concatenate stack chunk split unbind select narrow index_select "
    "flip roll"
)
SPATIAL = {
    f"{name}{k}d": k for k in (1, 2) for name in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")
}
REDUCING = _words("mean sum amax amin max min std var logsumexp")
ALONG = _words("softmax log_softmax cumsum")


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in nested mappings, lists and tuples, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for part in value for tensor in tensors_of(part)] if isinstance(value, list | tuple) else []


def zeros_for(value: Any) -> Any:
    """Labels that are all FIXED (0), in the nesting and shapes of ``value``."""
    if isinstance(value, Tensor):
        return torch.zeros_like(value, dtype=torch.long)
    return tuple(zeros_for(part) for part in value) if isinstance(value, list | tuple) else value


def varies(labels: Tensor, axis: int) -> bool:
    """Whether labels differ along an axis."""
    return bool((labels != labels.narrow(axis, 0, 1)).any())


def stretched_over_units(one: Tensor, other: Tensor) -> bool:
    """Whether broadcasting repeats ``one`` along an axis that holds the units of ``other``."""
    return any(
        varies(other, -back)
        for back in range(1, other.ndim + 1)
        if other.shape[-back] > 1 and (back > one.ndim or one.shape[-back] == 1)
    )
