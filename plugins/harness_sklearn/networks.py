"""Define a small convolutional network for images, and a small one of linear layers for any input."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness import Architecture, Task, Training
from harness.api import Phase

if TYPE_CHECKING:
    import torch


class SmallCNN(Architecture):
    """Two convolutions of kernel 3 with batch normalization, and a linear layer."""

    name = "small-cnn"
    summary = "2 x [conv 3, BatchNorm, ReLU, max-pool 2], 16-32 channels, linear 64, linear; for images"
    quick_epochs = 20

    def build(self, task: Task) -> torch.nn.Module:
        from torch import nn

        channels, height, width = task.input_shape
        return nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), 64),
            nn.ReLU(),
            nn.Linear(64, len(task.labels)),
        )

    def training(self, phase: Phase) -> Training:
        epochs = 40 if phase == "train" else 10
        return Training(epochs, 64, "AdamW", {"lr": 2e-3}, "CosineAnnealingLR", {"T_max": epochs})


class SmallMLP(Architecture):
    """Two hidden layers of 64 units."""

    name = "small-mlp"
    summary = "2 x [linear 64, ReLU], linear"
    quick_epochs = 40

    def build(self, task: Task) -> torch.nn.Module:
        from torch import nn

        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(task.input_shape), 64),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, len(task.labels)),
        )

    def training(self, phase: Phase) -> Training:
        epochs = 60 if phase == "train" else 20
        return Training(epochs, 32, "AdamW", {"lr": 1e-3, "weight_decay": 0.05})
