"""Store the state of an int8 network as dense tensors and notes, and load it from these.

Packed weights belong to the engine that is set while they are packed, so callers set it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from harness.errors import CellError


def dump_state(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the state as dense tensors, and notes on how these form the quantized and packed ones."""
    tensors: dict[str, torch.Tensor] = {}
    return tensors, {name: _take_apart(name, value, tensors) for name, value in model.state_dict().items()} | {
        name: {"number": getattr(module, attribute)} for name, (module, attribute) in _numbers(model).items()
    }


def load_state(model: nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]) -> None:
    """Invert ``dump_state`` into a model of the same graph. Raises CellError when they do not fit."""
    state = model.state_dict()  # its version metadata is needed to load packed weights
    numbers = _numbers(model)
    if differing := {*state, *numbers} ^ set(notes):
        raise CellError(
            "the stored int8 network does not fit the graph that this version of PyTorch makes of its float "
            f"network (they differ in {', '.join(sorted(differing)[:4])}); build it afresh"
        )
    for name, note in notes.items():
        if name in numbers:
            setattr(*numbers[name], note["number"])
        else:
            state[name] = _put_together(note, tensors)
    model.load_state_dict(state)
    model.requires_grad_(False)


def _numbers(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Scales and zero points that an int8 layer keeps outside of its state, as ELU does: layer and attribute."""
    state = model.state_dict()
    return {
        f"{path}.{attribute}": (module, attribute)
        for path, module in model.named_modules()
        if type(module).__module__.startswith("torch.ao.nn.quantized")
        for attribute in ("scale", "zero_point")
        if isinstance(module.__dict__.get(attribute), int | float) and f"{path}.{attribute}" not in state
    }


def _take_apart(name: str, value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if value is None or isinstance(value, torch.dtype):
        return {"none": True} if value is None else {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, tuple):
        return {"tuple": [_take_apart(f"{name}.{index}", part, tensors) for index, part in enumerate(value)]}
    if isinstance(value, torch.ScriptObject):
        return {"cell": [_take_apart(f"{name}.{index}", part, tensors) for index, part in enumerate(_unpack(value))]}
    if not isinstance(value, torch.Tensor):
        raise CellError(f"{name} is a {type(value).__name__}, which the int8 format cannot store")
    value = value.detach()
    if not value.is_quantized:
        tensors[name] = value.contiguous().clone()
        return {"tensor": name}
    tensors[name] = value.int_repr().contiguous()
    if value.qscheme() is torch.per_tensor_affine:
        tensors[f"{name}.scale"] = torch.tensor(value.q_scale(), dtype=torch.float64)
        tensors[f"{name}.zero_point"] = torch.tensor(value.q_zero_point())
        return {"quantized": name, "axis": None}
    tensors[f"{name}.scale"] = value.q_per_channel_scales().clone()
    tensors[f"{name}.zero_point"] = value.q_per_channel_zero_points().clone()
    return {"quantized": name, "axis": value.q_per_channel_axis()}


def _put_together(note: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    match note:
        case {"none": True}:
            return None
        case {"dtype": "qint8"}:
            return torch.qint8
        case {"tuple": parts}:
            return tuple(_put_together(part, tensors) for part in parts)
        case {"cell": parts}:
            return _pack(*(_put_together(part, tensors) for part in parts))
        case {"tensor": name}:
            return tensors[name].clone()
        case {"quantized": name, "axis": axis}:
            integers, scale, zero_point = (tensors[name + end] for end in ("", ".scale", ".zero_point"))
            if axis is None:
                return torch._make_per_tensor_quantized_tensor(integers, scale.item(), int(zero_point))
            return torch._make_per_channel_quantized_tensor(integers, scale, zero_point, axis)
    raise CellError(f"stored int8 state: unknown entry {note!r}")


def _unpack(cell: Any) -> tuple[torch.Tensor, ...]:
    """Unpack an LSTM cell's parameters: input weight, hidden weight and their biases."""
    packed_input, packed_hidden = cell.__getstate__()[0][4]
    (input_weight, input_bias), (hidden_weight, hidden_bias) = (
        packed.__getstate__()[0] for packed in (packed_input, packed_hidden)
    )
    return input_weight, hidden_weight, input_bias, hidden_bias


def _pack(
    input_weight: torch.Tensor, hidden_weight: torch.Tensor, input_bias: torch.Tensor, hidden_bias: torch.Tensor
) -> Any:
    packed = torch.ops.quantized
    return packed.make_quantized_cell_params_dynamic(
        packed.linear_prepack(input_weight, input_bias),
        packed.linear_prepack(hidden_weight, hidden_bias),
        input_bias,
        hidden_bias,
        True,  # reduce_range: seven bits for the dynamic activations too, as torch.ao itself packs them
    )
