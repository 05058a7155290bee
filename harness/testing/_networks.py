"""Define the modules of the kit's networks. Loads torch, so import it inside functions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def convolutional(channels: int, length: int, outputs: int) -> nn.Module:
    """Two convolutions, the first without bias before its BatchNorm; pooling, dropout, linear."""
    return nn.Sequential(
        nn.Conv1d(channels, 8, 3, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 6, 3),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(6 * ((length - 2) // 2 - 2), outputs),
    )


def dense(channels: int, length: int, outputs: int) -> nn.Module:
    """Three linear layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * length, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, outputs)
    )


class Recurrent(nn.Module):
    """An LSTM over time, LayerNorm, and a linear layer on the last state."""

    def __init__(self, channels: int, outputs: int, hidden: int = 8) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden, batch_first=True)
        self.norm = nn.LayerNorm(hidden)
        self.linear = nn.Linear(hidden, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        states, _ = self.lstm(inputs.transpose(1, 2))
        logits: Tensor = self.linear(self.norm(states[:, -1]))
        return logits


class Odd(nn.Module):
    """No layers: bare parameters in functional calls, and a branch that depends on the data."""

    def __init__(self, channels: int, length: int, outputs: int, hidden: int = 8) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.randn(hidden, channels * length) / (channels * length) ** 0.5)
        self.outer = nn.Parameter(torch.randn(outputs, hidden) / hidden**0.5)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        rows = []
        for example in inputs.flatten(1):
            hidden = functional.linear(example, self.inner)
            rows.append(hidden.tanh() if float(example.mean().detach()) > 0 else self.scale * hidden.relu())
        return functional.linear(torch.stack(rows), self.outer)
