"""Define the three networks of Hołda et al., Informatica 2026, 10.15388/26-INFOR620, and their training.

The study states optimizers, schedules and batch sizes, but neither the number of epochs nor any clipping of gradients;
these are our choices, stated beside each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Architecture, Phase, Task, Training

if TYPE_CHECKING:
    import torch


class RNN(Architecture):
    """One LSTM layer of 64 units, max-pooled over time in eight segments; 22,661 parameters for PTB-XL."""

    name = "rnn"
    summary = "LSTM 64, LayerNorm, max-pool 125, linear (Hołda et al. 2026)"
    quick_epochs = 3
    quick_examples = 2_048

    def build(self, task: Task) -> torch.nn.Module:
        from harness_ecg._modules import RecurrentNetwork

        channels, samples = task.input_shape
        return RecurrentNetwork(channels, samples, len(task.labels))

    def training(self, phase: Phase) -> Training:
        return Training(
            # Ours: the best of 30 was epoch 15 when we tried; fine-tuning starts from there.
            epochs=30 if phase == "train" else 15,
            batch=64,
            optimizer="Adam",
            optimizer_args={"lr": 1e-3},
            scheduler="ReduceLROnPlateau",
            scheduler_args={"mode": "max", "factor": 0.5, "patience": 10, "min_lr": 1e-5},
            # Ours: over 1,000 time steps an unclipped LSTM now and then diverges.
            clip=5.0,
        )


class CNN(Architecture):
    """Four convolutions of kernel 3, each max-pooled by 3; 37,157 parameters for PTB-XL."""

    name = "cnn"
    summary = "4 x [conv 3, BatchNorm, ReLU, max-pool 3], 32-64-96-32 channels, linear (Hołda et al. 2026)"
    quick_epochs = 6
    quick_examples = 4_096

    def build(self, task: Task) -> torch.nn.Module:
        from harness_ecg._modules import ConvolutionalNetwork

        channels, samples = task.input_shape
        return ConvolutionalNetwork(channels, samples, len(task.labels))

    def training(self, phase: Phase) -> Training:
        # Ours: one cycle of the study's cosine in either phase.
        rate, cycle = (1e-3, 30) if phase == "train" else (5e-4, 20)
        return Training(
            epochs=cycle,
            batch=64,
            optimizer="SGD",
            optimizer_args={"lr": rate, "momentum": 0.995, "nesterov": True, "weight_decay": 0.007},
            scheduler="CosineAnnealingWarmRestarts",
            scheduler_args={"T_0": cycle, "eta_min": 1e-6},
        )


class ResNet(Architecture):
    """The time-series ResNet of Wang, Yan and Oates 2017, 10.1109/IJCNN.2017.7966039; 500,869 parameters for PTB-XL.

    As in the study: kernels 7, 5, 3 (Wang et al. begin with 8), and a convolution in every shortcut.
    """

    name = "resnet"
    summary = "3 residual blocks of convs 7-5-3, 64-128-128 channels, average pool, linear (Wang et al. 2017)"
    quick_epochs = 1
    quick_examples = 1_024

    def build(self, task: Task) -> torch.nn.Module:
        from harness_ecg._modules import ResidualNetwork

        return ResidualNetwork(task.input_shape[0], len(task.labels))

    def training(self, phase: Phase) -> Training:
        return Training(
            # Ours: three and two cycles of the study's cosine.
            epochs=15 if phase == "train" else 10,
            batch=128,
            optimizer="Adam",
            optimizer_args={"lr": 1e-3},
            scheduler="CosineAnnealingWarmRestarts",
            scheduler_args={"T_0": 5, "eta_min": 1e-6},
        )
