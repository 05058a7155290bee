"""Define the three networks of Liu, Sepulveda and Zheng, JMIR Form Res 2021;5(12):e20767, and their training.

Every network is as in Keras: one bias per gate, and Keras's initial weights. The study states the sizes, the optimizer,
the dropout and 20 epochs, with pruning after the first: so fine-tuning has 19. Our choices are stated beside each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from harness.api import Architecture, Phase, Task, Training

if TYPE_CHECKING:
    import torch

#: Units of every recurrent layer.
WIDTH = 16


def _adam(phase: Phase) -> Training:
    return Training(
        epochs=20 if phase == "train" else 19,
        # The DNN's. For the LSTMs the study gives none, and the benchmark from which it comes (Harutyunyan et al. 2019,
        # 10.1038/s41597-019-0103-9) trains its LSTM with 8.
        batch=8,
        optimizer="Adam",
        optimizer_args={"lr": 1e-3},
    )


class LSTM(Architecture):
    """Two LSTM layers of 16 units; 8,081 parameters for 76 features."""

    name = "lstm"
    summary = "LSTM 16, LSTM 16, linear on the last state (Liu et al. 2021)"

    def build(self, task: Task) -> torch.nn.Module:
        from harness_icu._modules import RecurrentNetwork, lstm

        layers = [lstm(task.input_shape[1], WIDTH), lstm(WIDTH, WIDTH)]
        return RecurrentNetwork(layers, WIDTH, len(task.labels))

    def training(self, phase: Phase) -> Training:
        return _adam(phase)


class HLSTM(Architecture):
    """One LSTM layer of 16 units whose gates have a hidden layer each; 6,993 parameters for 76 features."""

    name = "hlstm"
    summary = "LSTM 16 with a hidden layer of 16 in every gate, linear on the last state (Liu et al. 2021)"

    def build(self, task: Task) -> torch.nn.Module:
        from harness_icu._modules import HiddenLayerLSTM, RecurrentNetwork

        layer = HiddenLayerLSTM(task.input_shape[1], WIDTH, WIDTH)
        return RecurrentNetwork([layer], WIDTH, len(task.labels))

    def training(self, phase: Phase) -> Training:
        return _adam(phase)


class DNN(Architecture):
    """Three dense layers on the mean over time; 60,929 parameters for 76 features."""

    name = "dnn"
    summary = "linear 256-128-64 with ReLU, linear, on one vector a patient (Liu et al. 2021)"
    layout: ClassVar[str] = "flat"

    def build(self, task: Task) -> torch.nn.Module:
        from harness_icu._modules import DenseNetwork

        return DenseNetwork(task.input_shape[0], len(task.labels))

    def training(self, phase: Phase) -> Training:
        return _adam(phase)
