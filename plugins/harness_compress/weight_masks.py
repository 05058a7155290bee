"""Find the weights by which a network's layers multiply, and train while some of them stay zero.

Imports torch: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.api import Phase, StepContext
from harness.errors import Unsupported
from harness.nn.structure import PrunableLayer

LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.LSTM, nn.GRU, nn.RNN, nn.MultiheadAttention)


def weights_of(model: nn.Module, step: str) -> dict[str, nn.Parameter]:
    """Return the weights by which layers multiply, by name; biases, normalization and embeddings are not among them.

    Raises Unsupported, beginning with ``step``, for a network without such float weights, and for a layer with hooks,
    which may compute its weights from other tensors.
    """
    weights: dict[str, nn.Parameter] = {}
    for path, module in model.named_modules():
        storages = None
        if isinstance(module, PrunableLayer):
            blocks = [block.weight for parts in module.incoming().values() for block in parts]
            storages = {block.untyped_storage().data_ptr() for block in blocks}
        elif not isinstance(module, LAYERS):
            continue
        if module._forward_pre_hooks or module._forward_hooks:
            raise Unsupported(
                f"{step}: {path or 'the network'} ({type(module).__name__}) has hooks; remove them first (a mask by "
                "torch.nn.utils.prune.remove, weight_norm by remove_weight_norm)"
            )
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            multiplies = parameter.dim() > 1 if storages is None else parameter.untyped_storage().data_ptr() in storages
            if multiplies and parameter.is_floating_point():
                weights[name] = parameter
    unique = {id(parameter): name for name, parameter in reversed(weights.items())}
    weights = {name: parameter for name, parameter in weights.items() if unique[id(parameter)] == name}
    if not weights or getattr(model, "gives_probabilities", False):
        raise Unsupported(
            f"{step}: {type(model).__name__} has no layer with float weights to prune (known: linear, convolutional, "
            "recurrent, attention, PrunableLayer); prune before a quantization"
        )
    return weights


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set to zero, in place, the weights that ``masks`` (True keeps; by name) do not keep."""
    with torch.no_grad():
        for name, mask in masks.items():
            weight = model.get_parameter(name)
            weight.mul_(mask.to(weight.device))


def fit_masked(
    model: nn.Module,
    context: StepContext,
    masks: Mapping[str, Tensor],
    phase: Phase,
    changes: Mapping[str, Any],
    name: str = "fit",
) -> nn.Module:
    """Mask ``model`` in place, and return a trained copy in which the same weights are zero."""
    apply_masks(model, masks)
    return context.fit(model, phase, name, after_step=lambda trained: apply_masks(trained, masks), **changes)


def largest(values: Tensor, count: int) -> Tensor:
    """Return the mask, of the shape of ``values``, of the ``count`` largest magnitudes; ties keep the first."""
    order = torch.argsort(values.detach().abs().flatten(), descending=True, stable=True)
    mask = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    mask[order[:count]] = True
    return mask.view(values.shape)
