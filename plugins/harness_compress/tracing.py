"""Trace which unit every element of an activation comes from, by propagating labels beside the activations.

torch.fx traces the network, and it runs on one example. Each activation has an integer tensor of its shape, the labels:
the unit (output channel, hidden unit) of each element. An operation that only moves elements (transpose, flatten,
slicing, concatenation) is applied to the labels as to the activation, so index arithmetic needs no special case. A
layer reads the labels of its input and gives new labels to its output. An element-wise operation ties the labels that
meet: tied units can only be removed together. Values computed from the network's input and constants alone hold no
units. A ``structure.PrunableLayer`` declares its own units. Any other operation is Unsupported and named, because a
wrong guess would prune wrong units.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from harness.errors import Unsupported
from harness.nn.structure import PrunableLayer
from harness_compress.labels import (
    ALONG,
    BATCHNORM,
    CONV,
    ELEMENTWISE,
    ELEMENTWISE_LAYERS,
    MOVING,
    MOVING_LAYERS,
    RECURRENT,
    REDUCING,
    SPATIAL,
    SPATIAL_LAYERS,
    stretched_over_units,
    tensors_of,
    varies,
    zeros_for,
)
from harness_compress.units import FIXED, FOREIGN, Trace, TracedLayer


def trace(model: nn.Module, example: Tensor, units: Mapping[str, Tensor] | None = None) -> Trace:
    """Trace the units of ``model`` on ``example`` (1, *input_shape); ``units`` gives known labels by layer.

    Raises Unsupported, with the name of the operation, for a network that torch.fx cannot trace or whose use of units
    is not known.
    """
    with evaluating(model), torch.no_grad():
        try:
            graph = fx.GraphModule(model, _Tracer().trace(model))
        except Exception as error:  # fx runs the network's own code
            raise Unsupported(
                f"prune: torch.fx cannot trace {type(model).__name__} ({type(error).__name__}: {error}); its forward() "
                "must not branch or loop on the values or shapes of its input"
            ) from error
        follower = _Follower(graph, type(model).__name__, units or {})
        follower.run(example)
    return follower.trace


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and restore the mode of every module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, PrunableLayer) or super().is_leaf_module(m, module_qualified_name)


class _Follower(fx.Interpreter):
    """Run the graph and compute the labels of every value."""

    def __init__(self, graph: fx.GraphModule, name: str, units: Mapping[str, Tensor]) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.name = name
        self.given = units
        self.trace = Trace()
        self.labels: dict[fx.Node, Any] = {}
        self.above: dict[fx.Node, tuple[int, frozenset[str]]] = {}
        self._next = 1 + max((int(label) for vector in units.values() for label in vector), default=0)

    def run_node(self, n: fx.Node) -> Any:
        nodes = n.all_input_nodes
        self.above[n] = (
            max((self.above[node][0] for node in nodes), default=0),
            frozenset().union(*(self.above[node][1] for node in nodes)),
        )
        value = super().run_node(n)
        labels = self._labels(n, value) if n.op == "output" or tensors_of(value) else None
        if [tensor.shape for tensor in tensors_of(labels)] != [tensor.shape for tensor in tensors_of(value)]:
            raise self._refusal(n, "its output could not be traced")
        self.labels[n] = labels
        return value

    def _labels(self, node: fx.Node, value: Any) -> Any:
        if node.op == "placeholder":
            return torch.zeros_like(value, dtype=torch.long)
        if node.op == "get_attr":
            return torch.full_like(value, FOREIGN, dtype=torch.long)
        if node.op == "output":
            labels = fx.node.map_arg(node.args[0], self.labels.__getitem__)
            for tensor in tensors_of(labels):
                self.trace.pinned |= dict.fromkeys(set(tensor.flatten().tolist()), "it gives the network's output")
            return labels
        if node.op == "call_module":
            return self._layer(node, value)
        return self._operation(node, value)

    # ------------------------------------------------------------------------------------------------- operations

    def _operation(self, node: fx.Node, value: Any) -> Any:
        read = [tensor for n in node.all_input_nodes for tensor in tensors_of(self.labels[n])]
        if all(bool((tensor == FIXED).all()) for tensor in read):
            return zeros_for(value)
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        libraries = (torch, functional, operator)
        known = node.op == "call_method" or node.target is getattr
        if not known and not any(getattr(library, name, None) is node.target for library in libraries):
            raise self._refusal(node, f"{name} is not a function of torch")
        name = name.rstrip("_")
        first = self._first(node)
        if name in ("max", "min") and len(self._operands(node)) == 2:
            name = "maximum"
        if name in ("to", "type_as"):  # a tensor that only gives the type does not enter the values
            return first
        if name in ELEMENTWISE:
            return self._meet(node, self._operands(node))
        if name in MOVING:
            return self._move(node)
        if name in SPATIAL:
            return self._spatial(node, first, SPATIAL[name], value)
        if name == "pad":
            return self._spatial(node, first, len(self._argument(node, 1, "pad", ())) // 2, value)
        if name in ALONG:
            return self._constant_along(node, first, self._argument(node, 1, "dim", None))
        if name in REDUCING:
            return self._reduce(node, first, value)
        raise self._refusal(node, f"{name} is not a known operation")

    def _operands(self, node: fx.Node) -> list[Tensor]:
        return [self.labels[n] for n in node.all_input_nodes if isinstance(self.labels[n], Tensor)]

    def _first(self, node: fx.Node) -> Any:
        values = (*node.args, *node.kwargs.values())
        return fx.node.map_arg(values[0], self.labels.__getitem__) if values else None

    def _argument(self, node: fx.Node, position: int, name: str, default: Any) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        return args[position] if len(args) > position else kwargs.get(name, default)

    def _move(self, node: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if args:
            args = (self._first(node), *args[1:])
        else:
            kwargs = kwargs | {next(iter(kwargs)): self._first(node)}
        # Labels have other strides than the activation (they are expanded), so a view of it may be a copy of them.
        target = "reshape" if node.target == "view" else node.target
        try:
            if isinstance(target, str):
                return getattr(args[0], target)(*args[1:], **kwargs)
            return target(*args, **kwargs)
        except (RuntimeError, TypeError) as error:  # such as view(dtype)
            reason = str(error).partition("\n")[0]
            raise self._refusal(node, f"it does not move elements alone ({reason})") from error

    def _meet(self, node: fx.Node, operands: Sequence[Tensor]) -> Tensor:
        result = operands[0]
        for other in operands[1:]:
            result = self._join(node, result, other)
        return result

    def _join(self, node: fx.Node, a: Tensor, b: Tensor) -> Tensor:
        shape = torch.Size(torch.broadcast_shapes(a.shape, b.shape))  # type: ignore[no-untyped-call]
        for one, other in ((a, b), (b, a)):
            if stretched_over_units(one, other):
                if bool((one > 0).any()):
                    raise self._refusal(node, "it spreads one unit over the units of another layer")
                return other.expand(shape)
        a, b = a.expand(shape), b.expand(shape)
        self.trace.tie(a, b, f"{node.name} ({_text(node)})")
        return torch.maximum(a, b)

    def _spatial(self, node: fx.Node, labels: Tensor, axes: int, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or value.ndim != labels.ndim:
            raise self._refusal(node, "it gives indices or drops an axis")
        self._constant_along(node, labels, range(-axes, 0))
        return self._start(labels, range(-axes, 0)).expand(value.shape)

    def _reduce(self, node: fx.Node, labels: Tensor, value: Any) -> Any:
        axes = self._argument(node, 1, "dim", None)
        axes = [axes] if isinstance(axes, int) else list(axes or range(labels.ndim))
        self._constant_along(node, labels, axes)
        labels = self._start(labels, axes)
        if isinstance(value, Tensor):
            return labels.reshape(value.shape)
        return tuple(labels.reshape(part.shape) for part in value)

    def _start(self, labels: Tensor, axes: Iterable[int]) -> Tensor:
        for axis in axes:
            labels = labels.narrow(axis, 0, 1)
        return labels

    def _constant_along(self, node: fx.Node, labels: Tensor, axes: Any) -> Tensor:
        for axis in [axes] if isinstance(axes, int) else axes if axes is not None else range(labels.ndim):
            if varies(labels, axis):
                raise self._refusal(node, f"it works along axis {axis}, which holds a layer's units")
        return labels

    # ----------------------------------------------------------------------------------------------------- layers

    def _layer(self, node: fx.Node, value: Any) -> Any:
        module: Any = self.module.get_submodule(str(node.target))
        kind = type(module)
        labels = self._first(node)
        if kind in ELEMENTWISE_LAYERS or (kind is nn.PReLU and module.num_parameters == 1):
            return labels
        if kind in MOVING_LAYERS:
            return module(labels)
        if kind in SPATIAL_LAYERS:
            return self._spatial(node, labels, SPATIAL_LAYERS[kind], value)
        if kind in (nn.Softmax, nn.LogSoftmax):
            return self._constant_along(node, labels, module.dim)
        if kind is nn.Embedding:
            return zeros_for(value)
        if module._forward_hooks or module._forward_pre_hooks:
            raise self._refusal(node, "the layer has hooks, which would be lost when its units are removed")
        if isinstance(module, PrunableLayer):
            return self._prunable(node, module, labels, value)
        if kind is nn.Linear:
            return self._maker(node, self._vector(node, labels, -1), module.out_features).expand(value.shape)
        if kind in CONV and value.ndim == CONV[kind]:
            return self._conv(node, module, labels, value)
        if kind in BATCHNORM:
            self._cell(node, vector := self._vector(node, labels, 1), vector, makes=False)
            return labels
        if kind is nn.LayerNorm:
            return self._layernorm(node, module, labels)
        if kind in RECURRENT:
            return self._recurrent(node, module, labels, value)
        raise self._refusal(node, f"{kind.__name__} is not a known layer")

    def _conv(self, node: fx.Node, module: Any, labels: Tensor, value: Tensor) -> Tensor:
        inputs = self._vector(node, labels, 1)
        along = (1, -1, *[1] * (value.ndim - 2))
        if module.groups == 1:
            return self._maker(node, inputs, module.out_channels).view(along).expand(value.shape)
        if module.groups != module.in_channels:
            raise self._refusal(node, f"{module.groups} groups of several channels each; only depthwise ones are known")
        outputs = inputs.repeat_interleave(module.out_channels // module.in_channels)
        return self._cell(node, inputs, outputs, makes=False).view(along).expand(value.shape)

    def _layernorm(self, node: fx.Node, module: Any, labels: Tensor) -> Tensor:
        axes = range(-len(module.normalized_shape), 0)
        # A single remaining unit does not vary any more, but the layer was shrunk for it all the same.
        if str(node.target) in self.given or any(varies(labels, axis) for axis in axes):
            if len(axes) > 1:
                raise self._refusal(node, "it normalises units and another axis together")
            self._cell(node, vector := self._vector(node, labels, -1), vector, makes=False)
        return labels

    def _recurrent(self, node: fx.Node, module: Any, labels: Tensor, value: Any) -> Any:
        if len(node.args) + len(node.kwargs) > 1:
            raise self._refusal(node, "it is given a first state")
        if getattr(module, "proj_size", 0):
            raise self._refusal(node, "its hidden state is projected (proj_size)")
        inputs = self._vector(node, labels, -1)
        states = []
        for layer in range(module.num_layers):
            parts = [f"l{layer}", f"l{layer}_reverse"][: 1 + module.bidirectional]
            ends = [self._maker(node, inputs, module.hidden_size, part) for part in parts]
            depth, upstream = self.above[node]
            self.above[node] = depth + 1, upstream | {f"{node.target}.{part}" for part in parts}
            states += ends
            inputs = torch.cat(ends)
        output, state = value
        final = torch.stack(states)[:, None, :]
        return inputs.expand(output.shape), (
            (final.expand(state[0].shape), final.expand(state[1].shape))
            if isinstance(state, tuple)
            else final.expand(state.shape)
        )

    def _prunable(self, node: fx.Node, module: Any, labels: Tensor, value: Any) -> Any:
        if len(node.args) + len(node.kwargs) > 1:
            raise self._refusal(node, "it is given more than one argument")
        layers = module.incoming()
        known = {"": self._vector(node, labels, -1)}
        for part, parts in layers.items():  # first the labels of all, since layers read one another through time
            known[part] = self._new(f"{node.target}.{part}", len(parts[0].weight), labels.device)
        for part, parts in layers.items():
            inputs = torch.cat([known[incoming.source] for incoming in parts])
            self._cell(node, inputs, known[part], makes=True, part=part)
            depth, upstream = self.above[node]
            self.above[node] = depth + 1, upstream | {f"{node.target}.{part}"}
        return fx.node.map_aggregate(
            value, lambda part: known[next(reversed(layers))].expand(part.shape) if isinstance(part, Tensor) else part
        )

    def _maker(self, node: fx.Node, inputs: Tensor, count: int, part: str = "") -> Tensor:
        """The labels of the units that a layer computes."""
        outputs = self._new(f"{node.target}.{part}" if part else str(node.target), count, inputs.device)
        self._cell(node, inputs, outputs, makes=True, part=part)
        return outputs

    def _new(self, name: str, count: int, device: torch.device) -> Tensor:
        """The labels of a layer's units. A single unit is never removed, so it needs no label."""
        if name in self.trace.cells:
            return self.trace.cells[name].outputs
        if name in self.given:
            return self.given[name]
        if count == 1:
            return torch.zeros(1, dtype=torch.long, device=device)
        self._next += count
        return torch.arange(self._next - count, self._next, device=device)

    def _cell(self, node: fx.Node, inputs: Tensor, outputs: Tensor, makes: bool, part: str = "") -> Tensor:
        path = str(node.target)
        name = f"{path}.{part}" if part else path
        depth, upstream = self.above[node]
        if name in self.trace.cells:  # a second call: the same weights must read the same units
            self.trace.tie(inputs, self.trace.cells[name].inputs, f"the second call of {path}")
            self.trace.tie(outputs, self.trace.cells[name].outputs, f"the second call of {path}")
        else:
            module = self.module.get_submodule(path)
            self.trace.cells[name] = TracedLayer(name, path, module, inputs, outputs, makes, upstream, depth + makes)
        if makes and not part:
            self.above[node] = depth + 1, upstream | {name}
        return outputs

    def _vector(self, node: fx.Node, labels: Tensor, axis: int) -> Tensor:
        rows = labels.movedim(axis, -1).reshape(-1, labels.shape[axis])
        if bool((rows != rows[0]).any()):
            raise self._refusal(node, f"a layer's units lie on another axis than {axis}, the one it works on")
        return rows[0].clone()

    def _refusal(self, node: fx.Node, reason: str) -> Unsupported:
        return Unsupported(f"prune cannot follow {self.name}'s units through {node.name} ({_text(node)}): {reason}")


def _text(node: fx.Node) -> str:
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"{'layer ' if node.op == 'call_module' else ''}{target}"
