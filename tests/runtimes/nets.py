"""Networks and made-up inputs for the tests of runtimes: those of the studies, at full and at pruned width."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from harness import Deployment, Quantization, Task
from harness_ecg._modules import ConvolutionalNetwork, RecurrentNetwork, ResidualNetwork
from harness_icu._modules import DenseNetwork, HiddenLayerLSTM, lstm
from harness_icu._modules import RecurrentNetwork as MaskedNetwork

ECG, STAY, FLAT = (12, 1000), (6, 76), (76,)

#: By name: the shape of an input, and what builds the network. Odd widths are those that pruning leaves.
NETWORKS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "cnn": (ECG, lambda: ConvolutionalNetwork(12, 1000, 5)),
    "pruned cnn": (ECG, lambda: ConvolutionalNetwork(12, 1000, 5, (5, 8, 13, 3))),
    "rnn": (ECG, lambda: RecurrentNetwork(12, 1000, 5)),
    "pruned rnn": (ECG, lambda: RecurrentNetwork(12, 1000, 5, hidden=7)),
    "resnet": (ECG, lambda: ResidualNetwork(12, 5)),
    "pruned resnet": (ECG, lambda: ResidualNetwork(12, 5, (9, 15, 17))),
    "lstm": (STAY, lambda: MaskedNetwork([lstm(76, 16), lstm(16, 16)], 16, 1)),
    "pruned lstm": (STAY, lambda: MaskedNetwork([lstm(76, 5), lstm(5, 3)], 3, 1)),
    "hlstm": (STAY, lambda: MaskedNetwork([HiddenLayerLSTM(76, 16, 16)], 16, 1)),
    "pruned hlstm": (STAY, lambda: MaskedNetwork([HiddenLayerLSTM(76, 5, 3)], 5, 1)),
    "dnn": (FLAT, lambda: DenseNetwork(76, 1)),
    "mixed": (STAY, lambda: Mixed()),
}


class Mixed(nn.Module):
    """A GRU and an LSTM of several layers in both directions, batch first and not, and a linear layer on the states."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(76, 9, 2, bidirectional=True, batch_first=True)
        self.lstm = nn.LSTM(18, 5, 2, bidirectional=True)
        self.linear = nn.Linear(10, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        _, (last, _) = self.lstm(self.gru(inputs)[0].transpose(0, 1))
        outputs: Tensor = self.linear(last[-2:].transpose(0, 1).flatten(1))
        return outputs


def build(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A network with logits of a trained one's size, and the shape of its inputs."""
    torch.manual_seed(0)
    shape, make = NETWORKS[name]
    network = make().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):  # other statistics than those of a fresh layer
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        logits = network(made_up(32, shape))
        linear.weight.mul_(2 / logits.std(0).mean())
        linear.bias.sub_(network(made_up(32, shape)).mean(0))
    return network, shape


def made_up(size: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Inputs that vary slowly, as signals do; of a series of 6 steps some are all zeros, and one is zeros only."""
    noise = torch.randn(size, *shape, generator=torch.Generator().manual_seed(seed))
    inputs = noise.cumsum(-1) * shape[-1] ** -0.5 if shape == ECG else noise
    if shape == STAY:
        inputs[:, ::3] = 0
        inputs[-1] = 0
    return inputs


def deployment(
    network: nn.Module, shape: tuple[int, ...], request: Quantization | None = None, size: int = 64
) -> Deployment:
    """The deployment of a network, calibrated on ``size`` made-up inputs."""
    return Deployment(
        network,
        made_up(1, shape, 1),
        Task(shape, ("label",)),
        Path("artefact"),
        request,
        lambda: made_up(size, shape, 2),
    )
