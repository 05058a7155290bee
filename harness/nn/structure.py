"""Store a network as plain tensors and JSON, and restore it: no pickle, and no layer type that is not listed below.

``dump`` does not see the freshly built network, so it describes every module: stock layers of torch.nn by their
constructor arguments, stock containers by their children, and any other module by its class name alone (a
``PrunableLayer`` also by its arguments). ``restore`` walks a fresh network, replaces the modules that differ, and loads
the tensors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.errors import CellError, HarnessError
from harness.former_names import former_export, warn

_CONV = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias", "padding_mode",
)  # fmt: skip
_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_MAXPOOL = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
_AVGPOOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

#: Stock layers that can be rebuilt, with the arguments of their constructors; each is also an attribute of the layer.
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
#: How much more than the stored tensors a structure may ask for while it is built: ``SLACK_FACTOR`` times as many
#: tensors and numbers, and these.
SLACK_FACTOR, SLACK_TENSORS, SLACK_NUMBERS = 4, 100, 10**6


def __getattr__(name: str) -> Any:
    return former_export(__name__, name)


class WeightBlock(NamedTuple):
    """The weights (units, width) by which a layer of units reads ``source``, once per position (time step).

    ``source`` is the name of another layer of the module, or "" for the module's input. ``gate`` numbers blocks that
    compute different quantities of the same units, as the gates of an LSTM do.
    """

    source: str
    weight: Tensor
    gate: int = 0


class _AcceptsFormerName(type(Protocol)):  # type: ignore[misc]
    """Let modules that define ``narrowed``, the name of ``select_units`` in version 0.1, pass for a PrunableLayer."""

    def __instancecheck__(cls, instance: object) -> bool:
        kind = type(instance)
        if hasattr(kind, "narrowed") and not hasattr(kind, "select_units"):
            warn(f"{kind.__module__}.{kind.__qualname__}.narrowed", "select_units")
            kind.select_units = kind.narrowed  # type: ignore[attr-defined]
        return bool(super().__instancecheck__(instance))


@runtime_checkable
class PrunableLayer(Protocol, metaclass=_AcceptsFormerName):
    """Let an nn.Module of your own be dumped, counted and pruned like a stock layer, by defining these three members.

    The module reads the last axis of its only argument; its units lie along the last axis of every tensor that it
    returns. Submodules are not inspected. Its tensors are parameters or persistent buffers.
    """

    #: The names of the constructor's arguments; each is also an attribute with a JSON value.
    ARGUMENTS: ClassVar[tuple[str, ...]]

    def incoming(self) -> Mapping[str, Sequence[WeightBlock]]:
        """Return all weights that multiply, by the layer of units that they compute.

        The last layer is the module's output. A layer reads the layers before it and, through time, itself and the
        layers after it.
        """
        ...

    def select_units(self, inputs: Tensor, units: Mapping[str, Tensor]) -> nn.Module:
        """Return a new module of the inputs and units to keep.

        ``inputs`` (input width,) and, by layer, ``units`` (units,) are boolean masks: True keeps.
        """
        ...


def arguments(module: nn.Module) -> dict[str, Any]:
    """Return the constructor arguments of a stock layer or PrunableLayer as JSON values.

    Raises CellError for any other module.
    """
    if _is_stock(module, LAYERS):
        names = LAYERS[type(module).__name__]
    elif isinstance(module, PrunableLayer):
        names = module.ARGUMENTS
    else:
        raise CellError(f"{type(module).__qualname__} is neither a stock layer that can be rebuilt nor a PrunableLayer")
    return {name: _to_json(name, getattr(module, name)) for name in names}


def rebuild(module: nn.Module, **changes: Any) -> nn.Module:
    """Build a layer of the same type, arguments and mode (train or eval) as ``module``, except for ``changes``.

    ``module`` is a stock layer or a PrunableLayer. The new layer's tensors are on the meta device: load some with
    ``load_state_dict(..., assign=True)``.
    """
    new = _build(type(module), arguments(module) | changes, _dropped(module))
    _give_zeros(new, next(module.parameters(recurse=False), None))
    return new.train(module.training)


def drop_parameter(layer: nn.Module, name: str) -> None:
    """Replace a parameter that a stock layer's kernel requires by zeros that are not trained, counted or stored.

    For example the redundant second bias of nn.LSTM.
    """
    zeros = _zeros(getattr(layer, name))
    delattr(layer, name)
    layer.register_buffer(name, zeros, persistent=False)


def dump(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the model's state as dense tensors (shared ones are copied) and JSON notes on its structure."""
    tensors: dict[str, Tensor] = {}
    names: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        dense = type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided and not value.is_quantized
        if not dense:
            raise CellError(
                f"{name} of {type(model).__qualname__} is not a dense tensor, but a {_kind(value)}: the step that made "
                "it must define dump() and restore()"
            )
        names.setdefault(id(value), []).append(name)
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    modules = {path: _describe(module) for path, module in model.named_modules(remove_duplicate=False)}
    return tensors, {"modules": modules, "tied": [tied for tied in names.values() if len(tied) > 1]}


def restore(fresh: nn.Module, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> nn.Module:
    """Restore a dumped model in eval mode, reusing modules of ``fresh``, a new network of its architecture.

    Raises CellError when the notes are malformed, name a module that is neither stock nor in the fresh network, or
    describe more than ``tensors`` hold, and when the tensors do not fit.
    """
    try:
        return _restore(fresh, tensors, notes)
    except HarnessError:
        raise
    except Exception as error:  # the notes may hold anything, and the constructors of layers raise anything
        raise CellError(
            f"the stored structure of {type(fresh).__qualname__} is malformed ({type(error).__name__}: {error})"
        ) from error


def check_size(asked: int, stored: int) -> None:
    """Raise CellError if a stored structure asks for many more numbers than the ``stored`` ones.

    Some more are right: parameters that ``drop_parameter`` replaced are not stored.
    """
    if asked > SLACK_FACTOR * stored + SLACK_NUMBERS:
        raise CellError(f"the stored structure asks for {asked:,} numbers, and the file holds {stored:,}")


@contextlib.contextmanager
def limit_registration(limit: Callable[[int, int], None]) -> Iterator[None]:
    """Call ``limit`` with the number of tensors and of their elements whenever a module registers one in the block.

    A tensor is registered before it is initialised: memory that a constructor asks for is not used yet.
    """
    count, elements = 0, 0

    def registered(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        nonlocal count, elements
        if tensor is not None and not nn.parameter.is_lazy(tensor):
            count, elements = count + 1, elements + tensor.numel()
            limit(count, elements)

    handles = [
        nn.modules.module.register_module_parameter_registration_hook(registered),
        nn.modules.module.register_module_buffer_registration_hook(registered),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _restore(fresh: nn.Module, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> nn.Module:
    stored = sum(tensor.numel() for tensor in tensors.values())
    most = SLACK_FACTOR * len(tensors) + SLACK_TENSORS

    def limit(count: int, elements: int) -> None:
        check_size(elements, stored)
        if count > most:
            raise CellError(f"the stored structure asks for more tensors than the file's {len(tensors)}")

    with limit_registration(limit):
        model = _restore_module(fresh, "", notes["modules"])
    try:
        # assign keeps the dtype of the tensors (half precision stays half) and fills modules built on meta.
        model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, strict=True, assign=True)
    except RuntimeError as error:
        raise CellError(
            f"the stored tensors do not fit {type(fresh).__qualname__}: {error}\nA step that changes more than stock "
            "layers must define dump() and restore()"
        ) from error
    for tied in notes["tied"]:
        _tie(model, tied)
    for module in model.modules():
        _give_zeros(module, next(module.parameters(recurse=False), None))
    return model.eval()


def _tie(model: nn.Module, names: Sequence[str]) -> None:
    """Let several names of parameters, or of buffers, be one tensor. Raises CellError for other attributes."""
    shared = None
    for name in names:
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        stored: dict[str, Any] = {**module._parameters, **module._buffers}
        if not isinstance(stored.get(attribute), Tensor) or attribute in module._non_persistent_buffers_set:
            raise CellError(f"stored structure: {name!r} is tied, and is neither a parameter nor a stored buffer")
        tensor = stored[attribute]
        shared = tensor if shared is None else shared
        if (type(tensor), tensor.shape, tensor.dtype) != (type(shared), shared.shape, shared.dtype):
            raise CellError(f"stored structure: {', '.join(names)} are tied, and are not alike")
        setattr(module, attribute, shared)


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor) or type(value) not in (Tensor, nn.Parameter):
        return type(value).__name__
    return "quantized tensor" if value.is_quantized else f"tensor of layout {value.layout}"


def _is_stock(module: nn.Module, table: Any) -> bool:
    name = type(module).__name__
    return name in table and type(module) is getattr(nn, name)


def _to_json(name: str, value: Any) -> Any:
    if name == "bias" and not isinstance(value, bool):
        return value is not None
    return list(value) if isinstance(value, tuple) else value


def _dropped(module: nn.Module) -> list[str]:
    """Names of dropped parameters: a stock layer has no other buffers that are not persistent."""
    return sorted(module._non_persistent_buffers_set) if _is_stock(module, LAYERS) else []


def _give_zeros(layer: nn.Module, like: Tensor | None) -> None:
    """Set the dropped parameters to zeros of the dtype and on the device of ``like``."""
    if like is not None:
        for name in _dropped(layer):
            setattr(layer, name, _zeros(getattr(layer, name), like))


def _zeros(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """Make zeros of the shape of ``tensor``, of its own dtype and device or those of ``like``."""
    like = tensor if like is None else like
    # Not zeros_like(), which imports sympy and 485 other modules for a tensor on the meta device.
    return torch.zeros(tensor.shape, dtype=like.dtype, device=like.device)


class _WithoutNormal(TorchFunctionMode):
    """Leave tensors as they are instead of drawing from a normal distribution.

    On the meta device, where it draws nothing, that imports PyTorch's compiler: 822 modules.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "_no_grad_normal_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _describe(module: nn.Module) -> dict[str, Any]:
    if _is_stock(module, LAYERS):
        note = {"layer": type(module).__name__, "arguments": arguments(module)}
        return note | {"without": dropped} if (dropped := _dropped(module)) else note
    kind = "container" if _is_stock(module, CONTAINERS) else "class"
    name = type(module).__name__ if kind == "container" else type(module).__qualname__
    # named_children() omits the second name of a shared module. A child that is None has no note.
    note = {kind: name, "children": list(module._modules)}
    return note | {"arguments": arguments(module)} if isinstance(module, PrunableLayer) else note


def _build(kind: type[nn.Module], values: Mapping[str, Any], dropped: Sequence[str] = ()) -> nn.Module:
    with torch.device("meta"), _WithoutNormal():
        layer = kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
    for name in dropped:
        drop_parameter(layer, name)
    return layer


def _stock(name: str, values: Mapping[str, Any]) -> type[nn.Module]:
    if name not in LAYERS or set(values) != set(LAYERS[name]):
        raise CellError(f"stored structure: {name}({', '.join(values)}) is not a layer that can be rebuilt")
    kind: type[nn.Module] = getattr(nn, name)
    return kind


def _restore_module(current: nn.Module | None, path: str, notes: Mapping[str, Any]) -> nn.Module:
    """Return the module that ``notes`` describe at ``path``: the current one if it matches, otherwise a new one."""
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
        if not isinstance(name, str) or not name or "." in name or name in children:  # else a path is not unique
            raise CellError(f"stored structure: {name!r} at {path!r} is no name of a child")
        inner = f"{path}.{name}" if path else name
        children[name] = _restore_module(existing.get(name), inner, notes) if inner in notes else None
    # Not add_module: order matters in a Sequential, and children that a step removed must disappear.
    current._modules.clear()
    current._modules.update(children)
    return current


def _container(current: nn.Module | None, path: str, name: str) -> nn.Module:
    if name not in CONTAINERS:
        raise CellError(f"stored structure: {name!r} at {path!r} is not a container that can be rebuilt")
    kind: type[nn.Module] = getattr(nn, name)
    return current if current is not None and type(current) is kind else kind()


def _own(current: nn.Module | None, path: str, note: Mapping[str, Any]) -> nn.Module:
    """Return the fresh network's module of the class in ``note``, rebuilt where the note has other arguments."""
    if current is None or type(current).__qualname__ != note["class"]:
        actual = "nothing" if current is None else type(current).__qualname__
        raise CellError(
            f"{path or 'the network'} is a {note['class']}, but the freshly built network has {actual} there, and only "
            "stock torch.nn layers can be rebuilt: the step that put it there must define dump() and restore()"
        )
    values = note.get("arguments")
    if values is None or (isinstance(current, PrunableLayer) and arguments(current) == values):
        return current
    if not isinstance(current, PrunableLayer) or set(values) != set(current.ARGUMENTS):
        raise CellError(f"stored structure: {note['class']}({', '.join(values)}) at {path!r} has other arguments now")
    return _build(type(current), values)
