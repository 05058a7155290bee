"""Rewrite recurrent layers as linear layers and a loop over time steps, so that linear quantization covers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from harness.errors import Unsupported


@runtime_checkable
class AsLinears(Protocol):
    """Let a module that multiplies by bare parameters be quantized, by returning its equivalent in linear layers.

    Quantization detects this method, not a class name, and replaces the module by the result. A module that already
    consists of linear layers does not need it.
    """

    def as_linears(self) -> nn.Module:
        """Return a module with the same arguments and evaluation-mode outputs, in which only nn.Linear multiplies."""
        ...


class LoopedLSTM(nn.Module):
    """Compute nn.LSTM (without projections) for inference, with the same arguments and outputs; no packed batches."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.batch_first = lstm.batch_first
        self.ends = ("", "_reverse")[: 1 + lstm.bidirectional]
        self.directions = nn.ModuleList(
            _Direction(lstm, f"l{layer}{end}") for layer in range(lstm.num_layers) for end in self.ends
        )

    def forward(
        self, inputs: Tensor, first: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(batch, steps, features) to states (batch, steps, width), or (steps, batch, ...) as the LSTM had it."""
        if not isinstance(inputs, Tensor) or inputs.dim() != 3:
            raise Unsupported("quantize runs an LSTM as a loop, for which its input must be a batch that is not packed")
        sequence = inputs.transpose(0, 1) if self.batch_first else inputs
        states: list[Tensor] = []
        cells: list[Tensor] = []
        ways: list[Tensor] = []
        for number, direction in enumerate(self.directions):
            start = (first[0][number], first[1][number]) if first else None
            backward = len(ways) == 1
            found, state, cell = direction(sequence.flip(0) if backward else sequence, start)
            states.append(state)
            cells.append(cell)
            ways.append(found.flip(0) if backward else found)
            if len(ways) == len(self.ends):
                sequence, ways = torch.cat(ways, dim=2), []
        outputs = sequence.transpose(0, 1) if self.batch_first else sequence
        return outputs, (torch.stack(states), torch.stack(cells))


class _Direction(nn.Module):
    """One layer of an LSTM in one direction: one product for the inputs of all steps, one per step for the state."""

    def __init__(self, lstm: nn.LSTM, end: str) -> None:
        super().__init__()
        own = dict(lstm.named_parameters(recurse=False))  # a dropped bias is a buffer, so it is not among them
        self.input = linear(own[f"weight_ih_{end}"], own.get(f"bias_ih_{end}"))
        self.hidden = linear(own[f"weight_hh_{end}"], own.get(f"bias_hh_{end}"))

    def forward(self, sequence: Tensor, start: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        state, cell = start or (sequence.new_zeros(sequence.shape[1], self.hidden.in_features),) * 2
        states = []
        for step in self.input(sequence).unbind():
            enter, forget, new, leave = (step + self.hidden(state)).chunk(4, dim=1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            state = leave.sigmoid() * cell.tanh()
            states.append(state)
        return torch.stack(states), state, cell


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Make a linear layer that shares this weight (outputs, inputs) and bias (outputs,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer.eval()


def spelled_out(module: nn.Module) -> nn.Module | None:
    """Return the replacement in which only linear layers multiply; None for a module that needs none."""
    if isinstance(module, AsLinears):
        return module.as_linears().eval()
    if type(module) is nn.LSTM and module.proj_size == 0:
        return LoopedLSTM(module).eval()
    return None


def replaced(model: nn.Module, change: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Replace each module of ``model``, in place, for which ``change`` returns another one; return the model.

    A module that occurs twice is replaced by one module. Replacements are not searched.
    """
    done: dict[nn.Module, nn.Module] = {}

    def visit(module: nn.Module) -> nn.Module:
        if module not in done:
            new = change(module)
            done[module] = module if new is None else new
            if new is None:
                for name, child in module._modules.items():  # named_children() leaves out a second name
                    if child is not None:
                        setattr(module, name, visit(child))
        return done[module]

    return visit(model)
