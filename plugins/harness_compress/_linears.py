"""Recurrent layers as linear layers and a loop over the steps, so that what can quantize linear layers has them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from harness.errors import Unsupported


@runtime_checkable
class AsLinears(Protocol):
    """A module of one's own that multiplies by bare parameters, and tells how it would by layers.

    Quantization asks for that and replaces the module by the answer; it goes by this method, never by a name. A module
    whose products are linear layers already needs no such method.
    """

    def as_linears(self) -> nn.Module:
        """A module with the same arguments and, in evaluation mode, answers, where nn.Linear layers alone multiply."""
        ...


class LoopedLSTM(nn.Module):
    """nn.LSTM (without projections) for inference: the same arguments and answers, for a batch that is not packed."""

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
    """One layer of an LSTM in one direction: the input's part of all steps is one product, the state's one a step."""

    def __init__(self, lstm: nn.LSTM, end: str) -> None:
        super().__init__()
        own = dict(lstm.named_parameters(recurse=False))  # without a bias that the LSTM has only for its kernel
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
    """A linear layer with this weight (outputs, inputs) and bias (outputs,); it shares them."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer.eval()


def spelled_out(module: nn.Module) -> nn.Module | None:
    """What stands for this module where only linear layers multiply; None for one that stays."""
    if isinstance(module, AsLinears):
        return module.as_linears().eval()
    if type(module) is nn.LSTM and module.proj_size == 0:
        return LoopedLSTM(module).eval()
    return None


def replaced(model: nn.Module, change: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """``model`` (used up) with what ``change`` gives in the place of each module for which it gives something.

    One that occurs twice is replaced by one; the inside of what was replaced is not looked at.
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
