"""Build the networks' modules as Keras does: its masking, one bias per gate, its initial weights.

Imports torch: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import Unsupported
from harness.nn.structure import WeightBlock, drop_parameter, rebuild

#: Of states (batch, steps, width): where each example's last one is.
Index = tuple[slice | Tensor, int | Tensor]
#: What nn.LSTM returns too: the states (batch, steps, width), and the last state and cell, each (1, batch, width).
States = tuple[Tensor, tuple[Tensor, Tensor]]


@torch.fx.wrap
def drop_skipped(inputs: Tensor) -> tuple[Tensor, Index, Tensor]:
    """Move the steps that are not all zeros to the front of ``inputs`` (batch, steps, features).

    Also returns the index of the last such step, and whether an example has no such step: (batch, 1), or False for all.
    Keras's masking skips the other steps, so that they change no state of any layer. A recurrent network that reads the
    moved steps has the same state at the last of them; the steps behind it are ignored.
    """
    unmasked = inputs.abs().sum(dim=2) != 0  # many times faster than any()
    complete = unmasked.all()
    # The branch is only for speed; an exporter would make one side permanent, so it gets the general one.
    exporting = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    if not exporting and bool(complete):
        return inputs, (slice(None), -1), complete.logical_not()
    steps = unmasked.sum(dim=1)
    order = torch.argsort(unmasked.logical_not().to(torch.uint8), dim=1, stable=True)
    inputs = inputs.gather(1, order[:, :, None].expand_as(inputs))
    examples = torch.arange(inputs.shape[0], device=inputs.device)
    return inputs, (examples, (steps - 1).clamp(min=0)), steps[:, None] == 0


class RecurrentNetwork(nn.Module):
    """Recurrent layers with dropout after each; linear on the last state that is not skipped.

    Inputs are (batch, steps, features), outputs logits (batch, outputs). Every layer gives its states (batch, steps,
    width) first, as nn.LSTM does. An example whose steps are all skipped has the initial state, zeros.
    """

    def __init__(self, layers: Sequence[nn.Module], width: int, outputs: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.dropouts = nn.ModuleList(nn.Dropout(dropout) for _ in layers)
        self.linear = _dense(width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        states, last, none = drop_skipped(inputs)
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            states = dropout(layer(states)[0])
        outputs: Tensor = self.linear(states[last].masked_fill(none, 0.0))
        return outputs


def lstm(inputs: int, hidden: int) -> nn.LSTM:
    """Make PyTorch's LSTM layer, batch first, without the second of its two biases, with Keras's initial weights."""
    layer = nn.LSTM(inputs, hidden, batch_first=True)
    drop_parameter(layer, "bias_hh_l0")
    nn.init.xavier_uniform_(layer.get_parameter("weight_ih_l0"))
    nn.init.orthogonal_(layer.get_parameter("weight_hh_l0"))
    _open_forget_gate(layer.get_parameter("bias_ih_l0").view(4, -1))
    return layer


class HiddenLayerLSTM(nn.Module):
    """An LSTM layer whose gates have a hidden layer each: act(W ReLU(H [x, h]) + b).

    Gates are in the order input, forget, output, cell. ``inner_ih`` (4 inner, input) and ``inner_hh`` (4 inner, hidden)
    are the two parts of the four H; ``outer`` (4, hidden, inner) the four W; ``bias`` (4, hidden). Inputs are
    (batch, steps, input).
    """

    ARGUMENTS: ClassVar[tuple[str, ...]] = ("input_size", "hidden_size", "inner_size")

    def __init__(self, input_size: int, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.inner_size = input_size, hidden_size, inner_size
        self.inner_ih = nn.Parameter(torch.empty(4 * inner_size, input_size))
        self.inner_hh = nn.Parameter(torch.empty(4 * inner_size, hidden_size))
        self.outer = nn.Parameter(torch.empty(4, hidden_size, inner_size))
        self.bias = nn.Parameter(torch.empty(4, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize as Keras would: Glorot's weights for every H and W, and biases as in its LSTM."""
        with torch.no_grad():
            for gate, outer in enumerate(self.outer):
                weights = nn.init.xavier_uniform_(torch.empty(self.inner_size, self.input_size + self.hidden_size))
                rows = slice(gate * self.inner_size, (gate + 1) * self.inner_size)
                self.inner_ih[rows], self.inner_hh[rows] = weights[:, : self.input_size], weights[:, self.input_size :]
                nn.init.xavier_uniform_(outer)
        _open_forget_gate(self.bias)

    def forward(self, inputs: Tensor) -> States:
        projected = functional.linear(inputs.transpose(0, 1), self.inner_ih)
        # The four W are one matrix, with zeros between them: one product is faster than four.
        inner_hh, bias = self.inner_hh.t(), self.bias.flatten()
        outer = torch.block_diag(*self.outer.unbind()).t()  # type: ignore[no-untyped-call]
        return _over_time(
            projected,
            self.hidden_size,
            lambda step, state: torch.addmm(step, state, inner_hh).relu_(),
            lambda inner: torch.addmm(bias, inner, outer),
        )

    def incoming(self) -> dict[str, list[WeightBlock]]:
        """The units, for pruning and counting: a hidden layer for each gate, and the state that they make."""
        gates = [f"gate{index}" for index in range(4)]
        from_input, from_state = (weight.view(4, self.inner_size, -1) for weight in (self.inner_ih, self.inner_hh))
        hidden = {
            gate: [WeightBlock("", from_input[index]), WeightBlock("state", from_state[index])]
            for index, gate in enumerate(gates)
        }
        return hidden | {"state": [WeightBlock(gate, self.outer[index], index) for index, gate in enumerate(gates)]}

    def as_linears(self) -> nn.Module:
        """Return the module that quantization uses instead of this one."""
        return _AsLinears(self)

    def select_units(self, inputs: Tensor, units: Mapping[str, Tensor]) -> nn.Module:
        """Return a layer with only these of the inputs and units."""
        state, inner = units["state"], [units[f"gate{index}"] for index in range(4)]
        sizes = {int(gate.sum()) for gate in inner}
        if len(sizes) > 1:
            raise Unsupported("prune: the hidden layers of the four gates cannot keep different numbers of units")
        new = rebuild(self, input_size=int(inputs.sum()), hidden_size=int(state.sum()), inner_size=sizes.pop())
        rows = torch.cat(inner)
        state_dict = {
            "inner_ih": self.inner_ih[rows][:, inputs],
            "inner_hh": self.inner_hh[rows][:, state],
            "outer": torch.stack([self.outer[index][state][:, gate] for index, gate in enumerate(inner)]),
            "bias": self.bias[:, state],
        }
        new.load_state_dict(state_dict, assign=True)
        return new


class _AsLinears(nn.Module):
    """HiddenLayerLSTM for inference with nn.Linear layers, which quantization supports."""

    def __init__(self, layer: HiddenLayerLSTM) -> None:
        super().__init__()
        self.inner_ih, self.inner_hh = _linear(layer.inner_ih), _linear(layer.inner_hh)
        self.outer = nn.ModuleList(_linear(weight, bias) for weight, bias in zip(layer.outer, layer.bias, strict=True))

    def forward(self, inputs: Tensor) -> States:
        return _over_time(
            self.inner_ih(inputs.transpose(0, 1)),
            self.inner_hh.in_features,
            lambda step, state: (step + self.inner_hh(state)).relu(),
            lambda inner: torch.cat(
                [gate(hidden) for gate, hidden in zip(self.outer, inner.chunk(4, dim=1), strict=True)], dim=1
            ),
        )


def _over_time(
    projected: Tensor, width: int, inner: Callable[[Tensor, Tensor], Tensor], sums: Callable[[Tensor], Tensor]
) -> States:
    """The loop over the steps of ``projected`` (steps, batch, 4 inner), the input's part of all H, and ``width`` units.

    ``inner`` gives the hidden layers of a step, (batch, 4 inner), from the input's part and the state; ``sums``
    computes the arguments of the gates' functions, (batch, 4 width).
    """
    state = cell = projected.new_zeros(projected.shape[1], width)
    states = []
    for step in projected.unbind():
        gate_sums = sums(inner(step, state))
        enter, forget, leave = gate_sums[:, : 3 * width].sigmoid().chunk(3, dim=1)
        cell = torch.addcmul(forget * cell, enter, gate_sums[:, 3 * width :].tanh())
        state = leave * cell.tanh()
        states.append(state)
    return torch.stack(states, dim=1), (state[None], cell[None])


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach())
    return layer


class DenseNetwork(nn.Module):
    """Linear layers with ReLU, dropout before the last. Inputs are (batch, features), outputs logits."""

    def __init__(self, features: int, outputs: int, widths: Sequence[int] = (256, 128, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            layers += [_dense(features, width), nn.ReLU()]
            features = width
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.5)
        self.linear = _dense(features, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(self.dropout(self.layers(inputs)))
        return outputs


def _dense(inputs: int, outputs: int) -> nn.Linear:
    """Make a linear layer with Keras's initial weights: Glorot's, and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _open_forget_gate(bias: Tensor) -> None:
    """Set Keras's initial biases (gates, units); the forget gate is the second, here as in PyTorch."""
    with torch.no_grad():
        bias.zero_()
        bias[1] = 1.0
