"""Trace a network to a graph that FX quantization turns into int8, keeping float what int8 kernels get wrong."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from harness.errors import HarnessError, Unsupported

#: Equivalents of methods and functions that FX recognises; others would cost a dequantize and a second rounding.
_SPELLING: dict[Any, Any] = {
    "flatten": torch.flatten,
    "reshape": torch.reshape,
    "view": torch.reshape,  # int8 kernels give other strides
    "relu": nn.functional.relu,
    torch.relu: nn.functional.relu,
}


def trace(model: nn.Module, tracer: torch.fx.Tracer) -> tuple[torch.fx.GraphModule, list[str]]:
    """Trace the network to a graph whose operations FX quantization recognises, so that none stays float by accident.

    Changes ``model``. Returns the names of the modules that must stay float, too. Raises Unsupported for a network that
    cannot be traced, or that has no int8 form.
    """
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd) and isinstance(module.padding, str):
            module.padding = _numeric_padding(path, module)
        elif isinstance(module, nn.RNNBase):
            if isinstance(module, nn.LSTM | nn.GRU) and not (module.bias and not module.proj_size):
                lacks = "without bias" if not module.bias else "with a projection"
                raise Unsupported(f"int8: PyTorch has no int8 kernel for {path} ({type(module).__name__} {lacks})")
            # What ``structure.drop_parameter`` replaced by a buffer: int8 kernels add it as a parameter.
            for name, zeros in list(module.named_buffers(recurse=False)):
                delattr(module, name)
                setattr(module, name, nn.Parameter(zeros, requires_grad=False))
    try:
        graph = tracer.trace(model)
    except HarnessError:
        raise
    except Exception as error:  # fx runs the network's own code
        raise Unsupported(
            f"{type(model).__name__} cannot be traced by torch.fx, which static int8 needs ({first_line(error)}); "
            "control flow that depends on values, or a module made in forward(), is the usual reason"
        ) from error
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(layer := model.get_submodule(node.target), nn.Flatten):
            node.args = (*node.args, layer.start_dim, layer.end_dim)
            node.op, node.target = "call_function", torch.flatten
        elif node.op in ("call_method", "call_function") and node.target in _SPELLING:
            node.op, node.target = "call_function", _SPELLING[node.target]
            if node.target is torch.reshape and not node.kwargs and not isinstance(node.args[1], tuple | list):
                node.args = (node.args[0], tuple(node.args[1:]))
    _refuse_weights_outside_layers(graph, model)
    in_float = [*_keep_faulty_kernels_float(graph, model), *_keep_wide_float(graph, model)]
    return torch.fx.GraphModule(model, graph), in_float


def first_line(error: Exception) -> str:
    """Return the type of an error of PyTorch's and the first of its often many lines."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


_FUNCTIONS = tuple(
    getattr(nn.functional, name)
    for name in ("linear", *(f"conv{way}{k}d" for way in ("", "_transpose") for k in (1, 2, 3)))
)


def _refuse_weights_outside_layers(graph: torch.fx.Graph, model: nn.Module) -> None:
    """Raise Unsupported where a function multiplies by a parameter, because only layers can store an int8 weight."""
    for node in graph.nodes:
        if node.op != "get_attr":
            continue
        owner = model.get_submodule(node.target.rpartition(".")[0])
        if user := next((user for user in node.users if user.target in _FUNCTIONS), None):
            function = user.target.__name__
        elif isinstance(owner, nn.Linear | nn.modules.conv._ConvNd):
            function = str(next(iter(node.users), node))
        else:
            continue
        raise Unsupported(
            f"int8: forward() passes {node.target} to {function}, where it has no place for an int8 weight: call the "
            "layer that owns it instead, or make it the weight of a layer"
        )


#: Layers whose int8 output has a fixed range with all eight bits; the functions and methods that compute the same; the
#: products that may read it, and the operations between that only change its shape.
_WIDE_LAYERS = (nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Softmax)
_WIDE: Mapping[Any, Callable[[], nn.Module]] = {
    **dict.fromkeys((torch.sigmoid, nn.functional.sigmoid, "sigmoid", "sigmoid_"), nn.Sigmoid),
    **dict.fromkeys((torch.tanh, nn.functional.tanh, "tanh", "tanh_"), nn.Tanh),
    **dict.fromkeys((nn.functional.hardsigmoid, "hardsigmoid", "hardsigmoid_"), nn.Hardsigmoid),
}
_PRODUCTS = (operator.mul, torch.mul, "mul", "mul_")
_SUMS = (operator.add, torch.add)
_SHAPES = ("unsqueeze", "squeeze", "expand", "expand_as", torch.unsqueeze, torch.squeeze, torch.reshape, torch.flatten)


def _keep_wide_float(graph: torch.fx.Graph, model: nn.Module) -> list[str]:
    """Compute a sigmoid, tanh or softmax in float unless it gates a product or gives the network's output.

    In int8 its output would have all eight bits, with which the AVX2 kernels of the layer that reads it saturate. In
    float, the reader's observer gives it seven. Returns the names of the float layers.
    """
    names = []
    for node in list(graph.nodes):
        layer: nn.Module | None = None
        if node.op == "call_module" and isinstance(model.get_submodule(node.target), _WIDE_LAYERS):
            layer = model.get_submodule(node.target)
        elif node.op in ("call_function", "call_method") and node.target in _WIDE:
            layer = _WIDE[node.target]()
        if layer is not None and not _only_gates(node):
            names.append(f"{node.name}_in_float")
            model.add_module(names[-1], _InFloat(layer))
            node.op, node.target, node.args, node.kwargs = "call_module", names[-1], (*node.all_input_nodes,), {}
    return names


def _keep_faulty_kernels_float(graph: torch.fx.Graph, model: nn.Module) -> list[str]:
    """Compute in float what PyTorch's int8 kernels get wrong. Return the names of the float layers.

    A sum with a constant and a product with a negative one use all eight bits, with which the AVX2 kernels of the layer
    that reads the result saturate; and a sum loses its ``alpha``. An InstanceNorm mixes up values of a large batch with
    channels last, as convolutions give them (torch 2.13).
    """
    names = []
    for node in graph.nodes:
        numbers = [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, int | float)]
        layer: nn.Module | None = None
        if node.op == "call_module" and isinstance(
            model.get_submodule(node.target), nn.InstanceNorm2d | nn.InstanceNorm3d
        ):
            layer = model.get_submodule(node.target)
        elif (
            (node.target in _SUMS and numbers)
            or (node.target in (operator.mul, torch.mul) and any(number < 0 for number in numbers))
            or node.target is nn.functional.instance_norm
        ):
            layer = _Call(node)
        if layer is not None:
            names.append(f"{node.name}_in_float")
            model.add_module(names[-1], _InFloat(layer))
            node.op, node.target, node.args, node.kwargs = "call_module", names[-1], (*node.all_input_nodes,), {}
    return names


def _only_gates(node: torch.fx.Node) -> bool:
    """Whether only products of two values and the network's output read a value, or its elements in another shape."""
    return all(
        user.op == "output"
        or (user.target in _PRODUCTS and len(user.all_input_nodes) == 2)
        or (user.target in _SHAPES and _only_gates(user))
        for user in node.users
    )


class _InFloat(nn.Module):
    """Apply a layer; FX quantization does not know this type, so it leaves it float."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.layer(*values)
        return answer


class _Call(nn.Module):
    """Call the function of a graph node with its constants; forward() takes the values of its input nodes."""

    def __init__(self, node: torch.fx.Node) -> None:
        super().__init__()
        places: dict[Any, Any] = {source: _Place(index) for index, source in enumerate(node.all_input_nodes)}
        self.function: Any = node.target
        self.arguments: Any = torch.fx.node.map_arg((node.args, node.kwargs), places.__getitem__)

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        def fill(argument: Any) -> Any:
            return values[argument.index] if isinstance(argument, _Place) else argument

        positional, named = torch.fx.node.map_aggregate(self.arguments, fill)
        answer: torch.Tensor = self.function(*positional, **named)
        return answer


class _Place:
    """Stand for a value among the arguments of a call."""

    def __init__(self, index: int) -> None:
        self.index = index


def _numeric_padding(path: str, conv: nn.modules.conv._ConvNd) -> tuple[int, ...]:
    """``"same"`` and ``"valid"`` as numbers, which packed int8 weights require."""
    if conv.padding == "valid":
        return (0,) * len(conv.kernel_size)
    total = [dilation * (size - 1) for dilation, size in zip(conv.dilation, conv.kernel_size, strict=True)]
    if any(count % 2 for count in total):
        raise Unsupported(
            f"{path}: padding='same' with kernel {conv.kernel_size} pads one side more than the other, which int8 "
            "convolutions cannot do: use an odd kernel"
        )
    return tuple(count // 2 for count in total)
