"""Build the networks from stock torch layers in plain containers, each used once, so that any compressor finds them.

Inputs are (batch, channels, samples), outputs logits (batch, outputs). Imports torch: import it inside functions.
"""

from __future__ import annotations

from torch import Tensor, nn


class RecurrentNetwork(nn.Module):
    """LSTM over the samples; LayerNorm; the maximum over each of the segments of 125 samples; linear."""

    def __init__(self, channels: int, samples: int, outputs: int, hidden: int = 64, segment: int = 125) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden, batch_first=True)
        self.norm = nn.LayerNorm(hidden)
        self.pool = nn.MaxPool1d(segment, stride=segment)
        self.dropout = nn.Dropout(0.1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(hidden * (samples // segment), outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        states, _ = self.lstm(inputs.transpose(1, 2))
        segments = self.pool(self.norm(states).transpose(1, 2))
        outputs: Tensor = self.linear(self.flatten(self.dropout(segments)))
        return outputs


class ConvolutionalNetwork(nn.Module):
    """Blocks of convolution (no padding, no bias), BatchNorm, ReLU and max-pooling; linear."""

    def __init__(self, channels: int, samples: int, outputs: int, widths: tuple[int, ...] = (32, 64, 96, 32)) -> None:
        super().__init__()
        blocks = []
        for width in widths:
            blocks.append(
                nn.Sequential(
                    nn.Conv1d(channels, width, 3, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.MaxPool1d(3)
                )
            )
            channels, samples = width, (samples - 2) // 3
        self.blocks = nn.Sequential(*blocks)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.05)
        self.linear = nn.Linear(channels * samples, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(self.dropout(self.flatten(self.blocks(inputs))))
        return outputs


class ResidualBlock(nn.Module):
    """Three convolutions of kernels 7, 5 and 3, added to a convolution of kernel 1; BatchNorm after each."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, width, 7, padding=3, bias=False)
        self.norm1 = nn.BatchNorm1d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv1d(width, width, 5, padding=2, bias=False)
        self.norm2 = nn.BatchNorm1d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm1d(width)
        self.shortcut = nn.Conv1d(channels, width, 1, bias=False)
        self.shortcut_norm = nn.BatchNorm1d(width)
        self.relu3 = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.relu1(self.norm1(self.conv1(inputs)))
        hidden = self.relu2(self.norm2(self.conv2(hidden)))
        hidden = self.norm3(self.conv3(hidden))
        outputs: Tensor = self.relu3(hidden + self.shortcut_norm(self.shortcut(inputs)))
        return outputs


class ResidualNetwork(nn.Module):
    """Residual blocks, the average over time, linear."""

    def __init__(self, channels: int, outputs: int, widths: tuple[int, ...] = (64, 128, 128)) -> None:
        super().__init__()
        blocks = []
        for width in widths:
            blocks.append(ResidualBlock(channels, width))
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(channels, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(self.flatten(self.pool(self.blocks(inputs))))
        return outputs
