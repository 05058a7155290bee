"""A network as plain tensors and JSON, and back: no pickle, and no type that is not in the table below.

``dump`` cannot see the freshly built network, so it describes all modules: the stock layers of torch.nn with their
constructor arguments, the stock containers with their children, and any other module by its class name alone.
``restore`` walks a fresh network, replaces what differs, and loads the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from harness.errors import CellError

_CONV = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias", "padding_mode",
)  # fmt: skip
_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_MAXPOOL = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
_AVGPOOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

#: Every stock layer that can be rebuilt, with its constructor's arguments; each is also an attribute of the layer.
LAYERS: dict[str, tuple[str, ...]] = {
    "Linear": ("in_features", "out_features", "bias"),
    "Conv1d": _CONV,
    "Conv2d": _CONV,
    "BatchNorm1d": _NORM,
    "BatchNorm2d": _NORM,
    "LayerNorm": ("normalized_shape", "eps", "elementwise_affine", "bias"),
    "LSTM": (*_RECURRENT, "proj_size"),
    "GRU": _RECURRENT,
    "Embedding": (
        "num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse",
    ),
    "ReLU": ("inplace",),
    "ReLU6": ("inplace",),
    "LeakyReLU": ("negative_slope", "inplace"),
    "PReLU": ("num_parameters",),
    "ELU": ("alpha", "inplace"),
    "GELU": ("approximate",),
    "SiLU": ("inplace",),
    "Mish": ("inplace",),
    "Sigmoid": (),
    "Tanh": (),
    "Softplus": ("beta", "threshold"),
    "Hardtanh": ("min_val", "max_val", "inplace"),
    "Hardsigmoid": ("inplace",),
    "Hardswish": ("inplace",),
    "Softmax": ("dim",),
    "LogSoftmax": ("dim",),
    "MaxPool1d": _MAXPOOL,
    "MaxPool2d": _MAXPOOL,
    "AvgPool1d": _AVGPOOL,
    "AvgPool2d": (*_AVGPOOL, "divisor_override"),
    "AdaptiveMaxPool1d": ("output_size", "return_indices"),
    "AdaptiveMaxPool2d": ("output_size", "return_indices"),
    "AdaptiveAvgPool1d": ("output_size",),
    "AdaptiveAvgPool2d": ("output_size",),
    "Dropout": ("p", "inplace"),
    "Dropout1d": ("p", "inplace"),
    "Dropout2d": ("p", "inplace"),
    "Flatten": ("start_dim", "end_dim"),
    "Identity": (),
}  # fmt: skip
CONTAINERS = ("Sequential", "ModuleList", "ModuleDict")


def arguments(module: nn.Module) -> dict[str, Any]:
    """The constructor arguments of a stock layer as JSON values; CellError for any other module."""
    kind = type(module).__name__
    if not _is_stock(module, LAYERS):
        raise CellError(f"{type(module).__qualname__} is not one of the stock layers that can be rebuilt")
    return {name: _plain(name, getattr(module, name)) for name in LAYERS[kind]}


def like(module: nn.Module, **changes: Any) -> nn.Module:
    """A stock layer of the same type and arguments, but for ``changes``, in the same mode.

    Its tensors are on the meta device: give it some with ``load_state_dict(..., assign=True)``.
    """
    return _build(type(module).__name__, arguments(module) | changes).train(module.training)


def dump(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The model's state as dense tensors (tensors it shares are copied) and JSON notes on its structure."""
    tensors: dict[str, torch.Tensor] = {}
    names: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.is_quantized:
            raise CellError(
                f"{name} of {type(model).__qualname__} is not a dense tensor; the step that made it must define "
                "dump() and restore()"
            )
        names.setdefault(id(value), []).append(name)
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    modules = {path: _describe(module) for path, module in model.named_modules(remove_duplicate=False)}
    return tensors, {"modules": modules, "tied": [tied for tied in names.values() if len(tied) > 1]}


def restore(fresh: nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]) -> nn.Module:
    """The dumped model, in eval mode, made from a fresh network of its architecture (which is used up).

    Raises CellError when the notes hold a module that is neither stock nor in the fresh network, or the tensors do
    not fit.
    """
    model = _rebuild(fresh, "", notes["modules"])
    try:
        # assign keeps the dtype of the tensors (a half-precision model stays one) and fills what was built on meta.
        model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, strict=True, assign=True)
    except RuntimeError as error:
        raise CellError(
            f"the stored tensors do not fit {type(fresh).__qualname__}: {error}\nA step that changes more than stock "
            "layers must define dump() and restore()"
        ) from error
    for first, *others in notes["tied"]:
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, _tensor(model, first))
    return model.eval()


def _is_stock(module: nn.Module, table: Any) -> bool:
    name = type(module).__name__
    return name in table and type(module) is getattr(nn, name)


def _plain(name: str, value: Any) -> Any:
    if name == "bias" and not isinstance(value, bool):
        return value is not None
    return list(value) if isinstance(value, tuple) else value


def _describe(module: nn.Module) -> dict[str, Any]:
    if _is_stock(module, LAYERS):
        return {"layer": type(module).__name__, "arguments": arguments(module)}
    kind = "container" if _is_stock(module, CONTAINERS) else "class"
    name = type(module).__name__ if kind == "container" else type(module).__qualname__
    # Not named_children(), which leaves out the second name of a shared module. A child that is None has no note.
    return {kind: name, "children": list(module._modules)}


def _build(kind: str, values: Mapping[str, Any]) -> nn.Module:
    if kind not in LAYERS or set(values) != set(LAYERS[kind]):
        raise CellError(f"stored structure: {kind}({', '.join(values)}) is not a layer that can be rebuilt")
    with torch.device("meta"):
        layer: nn.Module = getattr(nn, kind)(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    return layer


def _rebuild(current: nn.Module | None, path: str, notes: Mapping[str, Any]) -> nn.Module:
    """The module that ``notes`` describe at ``path``: the current one where it agrees, else a new one."""
    note = notes[path]
    if "layer" in note:
        if current is not None and _describe(current) == note:
            return current
        return _build(note["layer"], note["arguments"])
    existing = current._modules if current is not None else {}
    children: dict[str, nn.Module | None] = {}
    for name in note["children"]:
        inner = f"{path}.{name}" if path else name
        children[name] = _rebuild(existing.get(name), inner, notes) if inner in notes else None
    if "container" in note:
        if note["container"] not in CONTAINERS:
            raise CellError(f"stored structure: {note['container']!r} at {path!r} is no container that can be rebuilt")
        if current is None or type(current) is not getattr(nn, note["container"]):
            current = getattr(nn, note["container"])()
    elif current is None or type(current).__qualname__ != note["class"]:
        found = "nothing" if current is None else type(current).__qualname__
        raise CellError(
            f"{path or 'the network'} is a {note['class']}, but the freshly built network has {found} there, and only "
            "stock torch.nn layers can be rebuilt; the step that put it there must define dump() and restore()"
        )
    # Not add_module: the order counts in a Sequential, and a child that the step removed must go.
    current._modules.clear()
    current._modules.update(children)
    return current


def _tensor(model: nn.Module, name: str) -> torch.Tensor:
    owner, _, attribute = name.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(owner), attribute)
    return tensor
