"""A network as plain tensors and JSON, and back: no pickle, and no type that is not in the table below.

``dump`` cannot see the freshly built network, so it describes all modules: the stock layers of torch.nn with their
constructor arguments, the stock containers with their children, and any other module by its class name alone (and
its arguments, if it is ``Described``). ``restore`` walks a fresh network, replaces what differs, and loads the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

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


class Incoming(NamedTuple):
    """The weights (units, width) by which a layer of units reads ``source``, once a position (a time step).

    ``source`` is another layer of the module by its name, or "" for the module's input. ``gate`` numbers those that
    make different things of what they read, as the gates of an LSTM do.
    """

    source: str
    weight: Tensor
    gate: int = 0


@runtime_checkable
class Described(Protocol):
    """A module of one's own (an nn.Module that defines these three) that is dumped, counted and pruned like a layer.

    It reads the last axis of its one argument, and its units lie along the last axis of every tensor that it returns.
    What is inside it is not looked at. Its tensors are parameters or persistent buffers.
    """

    #: The names of the constructor's arguments, each also an attribute that holds a JSON value.
    ARGUMENTS: ClassVar[tuple[str, ...]]

    def incoming(self) -> Mapping[str, Sequence[Incoming]]:
        """All weights that multiply, by the layer of units that they make. The last layer gives the module's output.

        A layer reads those before it, and, through time, itself and those behind it.
        """
        ...

    def narrowed(self, inputs: Tensor, units: Mapping[str, Tensor]) -> nn.Module:
        """A new module for what stays: ``inputs`` (input width,) and, by layer, ``units`` (units,), all bool."""
        ...


def arguments(module: nn.Module) -> dict[str, Any]:
    """The constructor arguments of a stock layer or Described module as JSON values; CellError for any other module."""
    if _is_stock(module, LAYERS):
        names = LAYERS[type(module).__name__]
    elif isinstance(module, Described):
        names = module.ARGUMENTS
    else:
        raise CellError(f"{type(module).__qualname__} is not one of the stock layers that can be rebuilt")
    return {name: _plain(name, getattr(module, name)) for name in names}


def like(module: nn.Module, **changes: Any) -> nn.Module:
    """A stock layer or Described module of the same type and arguments, but for ``changes``, in the same mode.

    Its tensors are on the meta device: give it some with ``load_state_dict(..., assign=True)``.
    """
    new = _build(type(module), arguments(module) | changes, _left_out(module))
    _give_zeros(new, next(module.parameters(recurse=False), None))
    return new.train(module.training)


def without(layer: nn.Module, name: str) -> None:
    """Leave out a parameter of a stock layer that its kernel wants: zeros, neither trained, counted nor stored.

    For example the second bias of nn.LSTM.
    """
    zeros = torch.zeros_like(getattr(layer, name)).detach()
    delattr(layer, name)
    layer.register_buffer(name, zeros, persistent=False)


def dump(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The model's state as dense tensors (tensors it shares are copied) and JSON notes on its structure."""
    tensors: dict[str, Tensor] = {}
    names: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized:
            raise CellError(
                f"{name} of {type(model).__qualname__} is not a dense tensor; the step that made it must define "
                "dump() and restore()"
            )
        names.setdefault(id(value), []).append(name)
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    modules = {path: _describe(module) for path, module in model.named_modules(remove_duplicate=False)}
    return tensors, {"modules": modules, "tied": [tied for tied in names.values() if len(tied) > 1]}


def restore(fresh: nn.Module, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> nn.Module:
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
    for module in model.modules():
        _give_zeros(module, next(module.parameters(recurse=False), None))
    return model.eval()


def _is_stock(module: nn.Module, table: Any) -> bool:
    name = type(module).__name__
    return name in table and type(module) is getattr(nn, name)


def _plain(name: str, value: Any) -> Any:
    if name == "bias" and not isinstance(value, bool):
        return value is not None
    return list(value) if isinstance(value, tuple) else value


def _left_out(module: nn.Module) -> list[str]:
    """The parameters that ``without`` took: no stock layer has buffers of its own that are not stored."""
    return sorted(module._non_persistent_buffers_set) if _is_stock(module, LAYERS) else []


def _give_zeros(layer: nn.Module, kin: Tensor | None) -> None:
    """Zeros, of the type and on the device of ``kin``, for what a layer is without."""
    if kin is not None:
        for name in _left_out(layer):
            setattr(layer, name, torch.zeros_like(getattr(layer, name), dtype=kin.dtype, device=kin.device))


def _describe(module: nn.Module) -> dict[str, Any]:
    if _is_stock(module, LAYERS):
        note = {"layer": type(module).__name__, "arguments": arguments(module)}
        return note | {"without": left_out} if (left_out := _left_out(module)) else note
    kind = "container" if _is_stock(module, CONTAINERS) else "class"
    name = type(module).__name__ if kind == "container" else type(module).__qualname__
    # Not named_children(), which leaves out the second name of a shared module. A child that is None has no note.
    note = {kind: name, "children": list(module._modules)}
    return note | {"arguments": arguments(module)} if isinstance(module, Described) else note


def _build(kind: type[nn.Module], values: Mapping[str, Any], left_out: Sequence[str] = ()) -> nn.Module:
    with torch.device("meta"):
        layer = kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
    for name in left_out:
        without(layer, name)
    return layer


def _stock(name: str, values: Mapping[str, Any]) -> type[nn.Module]:
    if name not in LAYERS or set(values) != set(LAYERS[name]):
        raise CellError(f"stored structure: {name}({', '.join(values)}) is not a layer that can be rebuilt")
    kind: type[nn.Module] = getattr(nn, name)
    return kind


def _rebuild(current: nn.Module | None, path: str, notes: Mapping[str, Any]) -> nn.Module:
    """The module that ``notes`` describe at ``path``: the current one where it agrees, else a new one."""
    note = notes[path]
    if "layer" in note:
        if current is not None and _describe(current) == note:
            return current
        values = note["arguments"]
        return _build(_stock(note["layer"], values), values, note.get("without", ()))
    existing = current._modules if current is not None else {}
    if "class" in note:
        current = _own(current, path, note)
        existing = current._modules
    else:
        current = _container(current, path, note["container"])
    children: dict[str, nn.Module | None] = {}
    for name in note["children"]:
        inner = f"{path}.{name}" if path else name
        children[name] = _rebuild(existing.get(name), inner, notes) if inner in notes else None
    # Not add_module: the order counts in a Sequential, and a child that the step removed must go.
    current._modules.clear()
    current._modules.update(children)
    return current


def _container(current: nn.Module | None, path: str, name: str) -> nn.Module:
    if name not in CONTAINERS:
        raise CellError(f"stored structure: {name!r} at {path!r} is no container that can be rebuilt")
    kind: type[nn.Module] = getattr(nn, name)
    return current if current is not None and type(current) is kind else kind()


def _own(current: nn.Module | None, path: str, note: Mapping[str, Any]) -> nn.Module:
    """The fresh network's module of the class that the note names, of the size that it tells."""
    if current is None or type(current).__qualname__ != note["class"]:
        found = "nothing" if current is None else type(current).__qualname__
        raise CellError(
            f"{path or 'the network'} is a {note['class']}, but the freshly built network has {found} there, and only "
            "stock torch.nn layers can be rebuilt; the step that put it there must define dump() and restore()"
        )
    values = note.get("arguments")
    if values is None or (isinstance(current, Described) and arguments(current) == values):
        return current
    if not isinstance(current, Described) or set(values) != set(current.ARGUMENTS):
        raise CellError(f"stored structure: {note['class']}({', '.join(values)}) at {path!r} has other arguments now")
    return _build(type(current), values)


def _tensor(model: nn.Module, name: str) -> Tensor:
    owner, _, attribute = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(owner), attribute)
    return tensor
