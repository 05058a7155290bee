"""Find the layers of a network that a step may replace, and define the modules that replace them.

Imports torch: import it inside functions.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import Unsupported
from harness.nn.structure import PrunableLayer, rebuild

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def own_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, str | None]]:
    """Yield the modules with weights (tensors of two axes or more): path, module, and why it must stay, or None.

    A module must stay when something else than its caller depends on its weights.
    """
    uses = collections.Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))

    def visit(module: nn.Module, path: str, foreign: bool) -> Iterator[tuple[str, nn.Module, str | None]]:
        own = list(module.parameters(recurse=False))
        if any(parameter.dim() > 1 for parameter in own):
            reason = None
            if foreign:
                reason = "it is part of a module that is not the network's own"
            elif any(uses[id(parameter)] > 1 for parameter in own):
                reason = "it shares its weights"
            elif module._forward_hooks or module._forward_pre_hooks:
                reason = "it has hooks"
            yield path, module, reason
        stock = type(module).__module__.startswith("torch.") and type(module) not in CONTAINERS
        for name, child in module._modules.items():  # named_children() leaves out a second name
            if child is not None:
                inner = foreign or stock or isinstance(module, PrunableLayer)
                yield from visit(child, f"{path}.{name}" if path else name, inner)

    yield from visit(model, "", False)


def runs(model: nn.Module, example: Tensor, step: str) -> Tensor:
    """Return the answer to ``example``. Raises Unsupported, beginning with ``step``, when the network cannot run."""
    try:
        with torch.no_grad():
            answer: Tensor = model.eval()(example)
    except (RuntimeError, AttributeError, TypeError, ValueError, NotImplementedError) as error:
        raise Unsupported(f"{step}: the changed network cannot run: {error}") from error
    return answer


def refuse_tracing(inputs: Any, what: str) -> None:
    """Raise Unsupported when torch.fx traces a network that no later step may change."""
    if isinstance(inputs, torch.fx.Proxy):
        raise Unsupported(f"the network has {what}, which later steps cannot change: make this step the last one")


class HalfNetwork(nn.Module):
    """Compute ``network`` in a half-precision type: float32 inputs are rounded to it, outputs come back as float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype

    def forward(self, inputs: Tensor) -> Tensor:
        refuse_tracing(inputs, f"{str(self.dtype).removeprefix('torch.')} weights")
        outputs: Tensor = self.network(inputs.to(self.dtype))
        return outputs.float()


class Int8Weights(nn.Module):
    """Compute a stock layer whose weights are int8 integers times a float scale per output channel.

    ``integers`` and ``scales`` are by the weights' names; integers have the weight's shape, scales (outputs,). Inputs,
    biases and sums are float. The weights are expanded at each call, so memory holds the integers between calls.
    """

    def __init__(self, layer: nn.Module, integers: Mapping[str, Tensor], scales: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._shell = (rebuild(layer),)  # in a tuple, so that it is no submodule: its tensors are on the meta device
        if isinstance(layer, nn.RNNBase):  # else it would take its own tensors instead of those that forward() gives it
            shell: Any = self._shell[0]
            shell._parameters.clear()
            shell._buffers.clear()
            shell._flat_weights = shell._flat_weight_refs = [None] * len(shell._flat_weights_names)
        self._names = tuple(integers)
        for name, parameter in layer._parameters.items():  # also a bias that is None
            if name in integers:
                self.register_parameter(name, nn.Parameter(integers[name], requires_grad=False))
                self.register_buffer(f"{name}_scale", scales[name])
            else:
                self.register_parameter(name, parameter)
        for name in layer._non_persistent_buffers_set:
            self.register_buffer(name, layer.get_buffer(name), persistent=False)

    def expanded(self, name: str) -> Tensor:
        """Return a weight in float: each row of integers times its scale."""
        scale = self.get_buffer(f"{name}_scale")
        integers: Tensor = getattr(self, name)
        return integers.to(scale.dtype) * scale.view(-1, *[1] * (integers.dim() - 1))

    def forward(self, inputs: Tensor, *state: Any) -> Any:
        refuse_tracing(inputs, "int8 weights")
        shell: Any = self._shell[0]
        if isinstance(shell, nn.Linear):
            return functional.linear(inputs, self.expanded("weight"), self.bias)  # type: ignore[arg-type]
        if isinstance(shell, nn.modules.conv._ConvNd):
            return shell._conv_forward(inputs, self.expanded("weight"), self.bias)  # type: ignore[arg-type]
        shell.train(self.training)
        names = shell._flat_weights_names
        try:
            shell._flat_weights = [
                self.expanded(name) if name in self._names else getattr(self, name) for name in names
            ]
            return shell(inputs, *state)
        finally:
            shell._flat_weights = [None] * len(names)

    def as_float(self) -> nn.Module:
        """Return the stock layer with the expanded weights."""
        layer = rebuild(self._shell[0])
        biases = {name: value for name, value in self.named_parameters() if name not in self._names}
        layer.load_state_dict({name: self.expanded(name) for name in self._names} | biases, assign=True)
        return layer


def replace(model: nn.Module, change: Callable[[str, nn.Module], nn.Module | None]) -> nn.Module:
    """Replace, in place, each module for whose path ``change`` returns another; return the network."""
    for path, module in list(model.named_modules(remove_duplicate=False)):
        new = change(path, module)
        if new is not None and not path:
            return new
        if new is not None:
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, new)
    return model
