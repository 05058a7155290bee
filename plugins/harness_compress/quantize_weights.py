"""Quantize weights alone to int8, symmetric and per output channel; activations and arithmetic stay float.

After Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference" (2018, arXiv:1806.08342), section
3.1.1: per-channel symmetric weights, here without quantized activations.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness.api import Phase, Step, StepContext
from harness.errors import CellError, Unsupported

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class QuantizeWeights(Step):
    """Replace each weight by round(w / s), an integer of [-127, 127], where s is the output channel's max |w| / 127.

    Linear layers, Conv1d, Conv2d, LSTM (without projection) and GRU hold the integers, one byte a weight, and one
    float32 scale per output channel. Biases, normalization and all other layers stay float; the fact ``left`` names
    other layers with weights, and why. The fact ``error`` is each layer's rounding error, relative to its norm.

    File and state shrink to about a quarter. Multiply-accumulates stay, and are float32: a call expands the integers
    of a layer first, so it takes longer, and its peak of memory may not be smaller. ``int8_weights`` and ``int8_macs``
    count int8 arithmetic, and stay 0. It needs no calibration and no training.

    It is the last step of a recipe: Unsupported is raised by later steps that train or change the network, and here
    for a network that has no such layer or gives probabilities.
    """

    name: ClassVar[str] = "quantize_weights"

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        return ()

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        from harness_compress._layers import runs

        network, facts = self._quantized(model)
        runs(network, context.example, self.name)
        context.report(**facts)
        return network

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        return self._quantized(model)[0]

    def _quantized(self, model: torch.nn.Module) -> tuple[torch.nn.Module, dict[str, Any]]:
        import torch
        from torch import nn

        from harness_compress._layers import Int8Weights, own_layers, replace

        if getattr(model, "gives_probabilities", False):
            raise Unsupported(
                "quantize_weights: the network gives probabilities, as an int8 one does; use one of the two"
            )
        model = copy.deepcopy(model)
        new: dict[str, nn.Module] = {}
        errors: dict[str, float] = {}
        left: dict[str, str] = {}
        for path, layer, reason in own_layers(model):
            if type(layer) not in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM, nn.GRU):
                reason = reason or f"{type(layer).__name__} is not a known layer"
            elif getattr(layer, "proj_size", 0):
                reason = "its hidden state is projected (proj_size)"
            elif next(layer.parameters()).dtype != torch.float32:
                reason = f"its weights are {str(next(layer.parameters()).dtype).removeprefix('torch.')}"
            if reason is not None:
                left[path] = reason
                continue
            weights = {name: value.detach() for name, value in layer.named_parameters() if name.startswith("weight")}
            integers, scales = {}, {}
            for name, weight in weights.items():
                integers[name], scales[name] = quantized(weight)
            new[path] = int8 = Int8Weights(layer, integers, scales).eval()
            lost = sum(float((int8.expanded(name) - weight).square().sum()) for name, weight in weights.items())
            norm = sum(float(weight.square().sum()) for weight in weights.values())
            errors[path] = (lost / norm) ** 0.5 if norm else 0.0
        if not new:
            reasons = "; ".join(f"{path or 'it'}: {reason}" for path, reason in left.items())
            raise Unsupported(
                f"quantize_weights: {type(model).__name__} has no layer whose weights can become int8: "
                f"{reasons or 'it has no layer with weights'}"
            )
        return replace(model, lambda path, _: new.get(path)).eval(), {"error": errors, "left": left}

    def dump(self, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return integers and scales in place of weights, and notes on the float structure."""
        from harness_compress._layers import Int8Weights, replace

        int8 = {
            path: module
            for path, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, Int8Weights)
        }
        if not int8:
            raise CellError("a step after quantize_weights replaced its layers, so it must define dump() and restore()")
        copied = copy.deepcopy(model)
        whole = replace(copied, lambda _, module: module.as_float() if isinstance(module, Int8Weights) else None)
        tensors, structure = super().dump(whole)
        for path, module in int8.items():
            prefix = f"{path}." if path else ""
            for name, value in module.state_dict().items():
                tensors[prefix + name] = value.detach().cpu().clone()
        return tensors, {"structure": structure, "int8": list(int8)}

    def restore(
        self, fresh: torch.nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]
    ) -> torch.nn.Module:
        """Restore the float network with the expanded weights, then put the stored integers into its layers."""
        from harness_compress._layers import Int8Weights, replace

        stored: dict[str, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = {}
        floats = dict(tensors)
        for path in notes["int8"]:
            prefix = f"{path}." if path else ""
            scales = {
                name.removeprefix(prefix).removesuffix("_scale"): floats.pop(name)
                for name in tensors
                if name.startswith(f"{prefix}weight") and name.endswith("_scale")
            }
            integers = {name: tensors[prefix + name] for name in scales}
            stored[path] = integers, scales
            for name, integer in integers.items():
                floats[prefix + name] = integer.to(scales[name].dtype) * scales[name].view(
                    -1, *[1] * (integer.dim() - 1)
                )
        network = super().restore(fresh, floats, notes["structure"])
        return replace(
            network, lambda path, module: Int8Weights(module, *stored[path]) if path in stored else None
        ).eval()


def quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the int8 integers of a weight (outputs, ...) and the scales (outputs,); a row of zeros has scale 1."""
    import torch

    largest = weight.abs().flatten(1).amax(dim=1)
    scales = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    integers = (weight / scales.view(-1, *[1] * (weight.dim() - 1))).round().clamp(-127, 127).to(torch.int8)
    return integers, scales
