"""Small networks, one for each layer or pattern that a network may hold, to try compressions on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

LEADS, LENGTH, WIDTH, LABELS = 4, 24, 6, 3

Run = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """Layers by name, and a forward given as a function of them."""

    def __init__(self, run: Run, **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def conv(before: int = WIDTH, width: int = WIDTH, **options: Any) -> nn.Conv1d:
    return nn.Conv1d(before, width, 3, **{"padding": 1, **options})


def chain(middle: nn.Module | Callable[[Tensor], Tensor], width: int = WIDTH, **layers: nn.Module) -> Net:
    """A convolution, ``middle`` from (n, WIDTH, LENGTH) to (n, width, any), a convolution, pooling, a linear layer."""

    def run(net: Any, x: Tensor) -> Tensor:
        x = net.first(x)
        x = net.middle(x) if isinstance(middle, nn.Module) else middle(x)
        return net.head(net.flat(net.pool(torch.relu(net.second(x)))))  # type: ignore[no-any-return]

    if isinstance(middle, nn.Module):
        layers["middle"] = middle
    ends = {"pool": nn.AdaptiveAvgPool1d(4), "flat": nn.Flatten(), "head": nn.Linear(4 * WIDTH, LABELS)}
    return Net(run, first=conv(LEADS), **layers, second=conv(width), **ends)


def image(middle: nn.Module, width: int = WIDTH) -> Net:
    """The same in two dimensions: the input becomes (n, 1, LEADS, LENGTH)."""

    def run(net: Any, x: Tensor) -> Tensor:
        x = net.middle(net.first(x.unsqueeze(1)))
        return net.head(net.flat(net.pool(torch.relu(x))))  # type: ignore[no-any-return]

    return Net(
        run, first=nn.Conv2d(1, WIDTH, 3, padding=1), middle=middle, pool=nn.AdaptiveAvgPool2d(2), flat=nn.Flatten(),
        head=nn.Linear(4 * width, LABELS),
    )  # fmt: skip


def volume(middle: nn.Module, width: int = WIDTH) -> Net:
    """The same in three dimensions: the input becomes (n, 1, LEADS, 4, 6)."""

    def run(net: Any, x: Tensor) -> Tensor:
        x = net.middle(net.first(x.reshape(-1, 1, LEADS, 4, 6)))
        return net.head(net.flat(net.pool(torch.relu(x))))  # type: ignore[no-any-return]

    return Net(
        run, first=nn.Conv3d(1, WIDTH, 3, padding=1), middle=middle, pool=nn.AdaptiveAvgPool3d(2), flat=nn.Flatten(),
        head=nn.Linear(8 * width, LABELS),
    )  # fmt: skip


def sequence(layer: nn.Module, width: int = 5, run: Run | None = None, time_first: bool = False) -> Net:
    """A recurrent layer over time, whose last output goes to a linear layer."""

    def default(net: Any, x: Tensor) -> Tensor:
        if time_first:
            states, _ = net.layer(x.permute(2, 0, 1))
            return net.head(states[-1])  # type: ignore[no-any-return]
        states, _ = net.layer(x.transpose(1, 2))
        return net.head(states[:, -1])  # type: ignore[no-any-return]

    return Net(run or default, layer=layer, head=nn.Linear(width, LABELS))


def dense(middle: nn.Module, width: int = WIDTH, before: int = WIDTH) -> Net:
    """Linear layers around ``middle``, which maps (n, before) to (n, width)."""

    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(net.middle(net.first(net.flat(x))))  # type: ignore[no-any-return]

    return Net(
        run, flat=nn.Flatten(), first=nn.Linear(LEADS * LENGTH, before), middle=middle, head=nn.Linear(width, LABELS)
    )


def _twice(net: Any, x: Tensor) -> Tensor:
    return net.head(net.shared(torch.relu(net.shared(net.first(x)))).mean(2))  # type: ignore[no-any-return]


def _normed_twice(net: Any, x: Tensor) -> Tensor:
    x = net.first(x)
    return net.head((net.one(net.shared(x)) + net.two(net.shared(x))).mean(2))  # type: ignore[no-any-return]


def _cells(net: Any, x: Tensor) -> Tensor:
    state = None
    for step in range(3):
        state = net.cell(x[:, :, step], state)
    last = state[0] if isinstance(state, tuple) else state
    return net.head(last)  # type: ignore[no-any-return]


def _attention(net: Any, x: Tensor) -> Tensor:
    x = net.first(x).transpose(1, 2)
    return net.head(net.attention(x, x, x, need_weights=False)[0].mean(1))  # type: ignore[no-any-return]


def _encoder(net: Any, x: Tensor) -> Tensor:
    return net.head(net.encoder(net.first(x).transpose(1, 2)).mean(1))  # type: ignore[no-any-return]


def _embedded(net: Any, x: Tensor) -> Tensor:
    return net.head(net.embedding(x[:, 0].abs().long().clamp(max=9)).mean(1))  # type: ignore[no-any-return]


def _bilinear(net: Any, x: Tensor) -> Tensor:
    return net.head(net.both(net.one(x.mean(2)), net.two(x.amax(2))))  # type: ignore[no-any-return]


def _branches(combine: Callable[[Tensor, Tensor], Tensor], width: int = WIDTH) -> Net:
    def run(net: Any, x: Tensor) -> Tensor:
        x = torch.relu(net.first(x))
        return net.head(torch.relu(net.last(combine(net.one(x), net.two(x)))).mean(2))  # type: ignore[no-any-return]

    return Net(run, first=conv(LEADS), one=conv(), two=conv(), last=conv(width), head=nn.Linear(WIDTH, LABELS))


def _squeeze_and_excite(net: Any, x: Tensor) -> Tensor:
    x = net.first(x)
    gate = torch.sigmoid(net.up(torch.relu(net.down(x.mean(2)))))
    return net.head((x * gate.unsqueeze(2)).mean(2))  # type: ignore[no-any-return]


def _weighted(make: Callable[[Any], Any]) -> Net:
    """A network with a parametrization of its middle convolution's weight."""
    return chain(make(conv()))


#: The activations of torch.nn, with parameters of their own.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "LeakyReLU(0.2)": lambda: nn.LeakyReLU(0.2),
    "PReLU": nn.PReLU,
    "PReLU(channels)": lambda: nn.PReLU(WIDTH),
    "RReLU": nn.RReLU,
    "ELU": nn.ELU,
    "ELU(0.5)": lambda: nn.ELU(0.5),
    "CELU(0.5)": lambda: nn.CELU(0.5),
    "SELU": nn.SELU,
    "GELU": nn.GELU,
    "GELU(tanh)": lambda: nn.GELU("tanh"),
    "SiLU": nn.SiLU,
    "Mish": nn.Mish,
    "Sigmoid": nn.Sigmoid,
    "LogSigmoid": nn.LogSigmoid,
    "Tanh": nn.Tanh,
    "Hardtanh(-2, 0.5)": lambda: nn.Hardtanh(-2, 0.5),
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
    "Softplus": nn.Softplus,
    "Softsign": nn.Softsign,
    "Tanhshrink": nn.Tanhshrink,
    "Hardshrink(0.3)": lambda: nn.Hardshrink(0.3),
    "Softshrink(0.3)": lambda: nn.Softshrink(0.3),
    "Threshold(0.2, -1)": lambda: nn.Threshold(0.2, -1.0),
    "Softmax(channels)": lambda: nn.Softmax(1),
    "Softmax(time)": lambda: nn.Softmax(2),
    "Softmin(channels)": lambda: nn.Softmin(1),
    "LogSoftmax(channels)": lambda: nn.LogSoftmax(1),
}

NETWORKS: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "Activations": {
        **{name: (lambda make=make: chain(make())) for name, make in ACTIVATIONS.items()},
        "GLU": lambda: chain(nn.GLU(1), WIDTH // 2),
    },
    "Convolutions": {
        "Conv1d": lambda: chain(nn.ReLU()),
        "Conv2d": lambda: image(nn.Conv2d(WIDTH, WIDTH, 3)),
        "Conv3d": lambda: volume(nn.Conv3d(WIDTH, WIDTH, 3)),
        "ConvTranspose1d": lambda: chain(nn.ConvTranspose1d(WIDTH, 5, 3, stride=2, output_padding=1), 5),
        "ConvTranspose2d": lambda: image(nn.ConvTranspose2d(WIDTH, 5, 3, stride=2), 5),
        "ConvTranspose3d": lambda: volume(nn.ConvTranspose3d(WIDTH, 5, 3), 5),
        "stride": lambda: chain(conv(stride=2)),
        "dilation": lambda: chain(conv(dilation=3)),
        "depthwise": lambda: chain(conv(groups=WIDTH)),
        "depthwise, two per channel": lambda: chain(conv(WIDTH, 2 * WIDTH, groups=WIDTH), 2 * WIDTH),
        "groups=2": lambda: chain(conv(groups=2)),
        "no bias": lambda: chain(conv(bias=False)),
        "padding='same'": lambda: chain(conv(padding="same")),
        "padding='same', even kernel": lambda: chain(nn.Conv1d(WIDTH, WIDTH, 4, padding="same")),
        "padding='valid'": lambda: chain(conv(padding="valid")),
        "padding_mode='circular'": lambda: chain(conv(padding_mode="circular")),
        "padding_mode='reflect'": lambda: chain(conv(padding_mode="reflect")),
        "padding_mode='replicate'": lambda: chain(conv(padding_mode="replicate")),
        "Conv2d, padding_mode='circular'": lambda: image(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=(1, 2), padding_mode="circular")
        ),
        "Conv2d, padding_mode='reflect'": lambda: image(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, padding_mode="reflect")
        ),
        "weight_norm": lambda: _weighted(parametrizations.weight_norm),
        "spectral_norm": lambda: _weighted(parametrizations.spectral_norm),
        "weight_norm (old)": lambda: _weighted(nn.utils.weight_norm),
    },
    "Linear and other products": {
        "Linear": lambda: dense(nn.ReLU()),
        "Linear, no bias": lambda: dense(nn.Linear(WIDTH, WIDTH, bias=False)),
        "Linear over time": lambda: Net(
            lambda m, x: m.head(torch.relu(m.first(x.transpose(1, 2))).mean(1)),
            first=nn.Linear(LEADS, WIDTH), head=nn.Linear(WIDTH, LABELS),
        ),
        "Bilinear": lambda: Net(
            _bilinear, one=nn.Linear(LEADS, 5), two=nn.Linear(LEADS, 5), both=nn.Bilinear(5, 5, WIDTH),
            head=nn.Linear(WIDTH, LABELS),
        ),
        "Embedding": lambda: Net(_embedded, embedding=nn.Embedding(10, WIDTH), head=nn.Linear(WIDTH, LABELS)),
        "MultiheadAttention": lambda: Net(
            _attention, first=conv(LEADS, 8), attention=nn.MultiheadAttention(8, 2, batch_first=True),
            head=nn.Linear(8, LABELS),
        ),
        "TransformerEncoderLayer": lambda: Net(
            _encoder, first=conv(LEADS, 8), encoder=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            head=nn.Linear(8, LABELS),
        ),
        "matmul of activations": lambda: Net(
            lambda m, x: m.head(
                torch.matmul(torch.softmax(torch.matmul((y := m.first(x)), y.transpose(1, 2)), -1), y).mean(2)
            ),
            first=conv(LEADS), head=nn.Linear(WIDTH, LABELS),
        ),
    },
    "Recurrent layers": {
        "LSTM": lambda: sequence(nn.LSTM(LEADS, 5, batch_first=True)),
        "LSTM, time first": lambda: sequence(nn.LSTM(LEADS, 5), time_first=True),
        "LSTM, bidirectional": lambda: sequence(nn.LSTM(LEADS, 5, batch_first=True, bidirectional=True), 10),
        "LSTM, two layers, dropout": lambda: sequence(nn.LSTM(LEADS, 5, 2, batch_first=True, dropout=0.5)),
        "LSTM, no bias": lambda: sequence(nn.LSTM(LEADS, 5, batch_first=True, bias=False)),
        "LSTM, projection": lambda: sequence(nn.LSTM(LEADS, 5, batch_first=True, proj_size=3), 3),
        "LSTM, last state": lambda: sequence(
            nn.LSTM(LEADS, 5, batch_first=True), run=lambda m, x: m.head(m.layer(x.transpose(1, 2))[1][0][-1])
        ),
        "LSTM, first state": lambda: sequence(
            nn.LSTM(LEADS, 5, batch_first=True),
            run=lambda m, x: m.head(
                m.layer(x.transpose(1, 2), (x[:, :1, :5].transpose(0, 1).contiguous(),) * 2)[0][:, -1]
            ),
        ),
        "GRU": lambda: sequence(nn.GRU(LEADS, 5, batch_first=True)),
        "GRU, bidirectional, two layers": lambda: sequence(
            nn.GRU(LEADS, 5, 2, batch_first=True, bidirectional=True), 10
        ),
        "RNN, tanh": lambda: sequence(nn.RNN(LEADS, 5, batch_first=True)),
        "RNN, relu": lambda: sequence(nn.RNN(LEADS, 5, batch_first=True, nonlinearity="relu")),
        "LSTMCell": lambda: Net(_cells, cell=nn.LSTMCell(LEADS, 5), head=nn.Linear(5, LABELS)),
        "GRUCell": lambda: Net(_cells, cell=nn.GRUCell(LEADS, 5), head=nn.Linear(5, LABELS)),
        "RNNCell": lambda: Net(_cells, cell=nn.RNNCell(LEADS, 5), head=nn.Linear(5, LABELS)),
    },
    "Normalisation": {
        "BatchNorm1d": lambda: chain(nn.BatchNorm1d(WIDTH)),
        "BatchNorm1d after ReLU": lambda: chain(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(WIDTH))),
        "BatchNorm1d(affine=False)": lambda: chain(nn.BatchNorm1d(WIDTH, affine=False)),
        "BatchNorm1d after Linear": lambda: dense(nn.BatchNorm1d(WIDTH)),
        "BatchNorm2d": lambda: image(nn.BatchNorm2d(WIDTH)),
        "BatchNorm3d": lambda: volume(nn.BatchNorm3d(WIDTH)),
        "BatchNorm after ConvTranspose": lambda: chain(
            nn.Sequential(nn.ConvTranspose1d(WIDTH, WIDTH, 3), nn.BatchNorm1d(WIDTH))
        ),
        "InstanceNorm1d": lambda: chain(nn.InstanceNorm1d(WIDTH)),
        "InstanceNorm1d(affine=True)": lambda: chain(nn.InstanceNorm1d(WIDTH, affine=True)),
        "InstanceNorm2d": lambda: image(nn.InstanceNorm2d(WIDTH, affine=True)),
        "GroupNorm": lambda: chain(nn.GroupNorm(2, WIDTH)),
        "LayerNorm": lambda: dense(nn.LayerNorm(WIDTH)),
        "LayerNorm over time": lambda: chain(nn.LayerNorm(LENGTH)),
        "LayerNorm(affine=False)": lambda: dense(nn.LayerNorm(WIDTH, elementwise_affine=False)),
        "RMSNorm": lambda: dense(nn.RMSNorm(WIDTH)),
        "LocalResponseNorm": lambda: chain(nn.LocalResponseNorm(2)),
    },
    "Pooling and size": {
        "MaxPool1d": lambda: chain(nn.MaxPool1d(2)),
        "MaxPool1d(ceil_mode)": lambda: chain(nn.MaxPool1d(5, ceil_mode=True)),
        "AvgPool1d": lambda: chain(nn.AvgPool1d(3, padding=1)),
        "AvgPool1d(no pad count)": lambda: chain(nn.AvgPool1d(3, padding=1, count_include_pad=False)),
        "MaxPool2d": lambda: image(nn.MaxPool2d(2)),
        "AvgPool2d": lambda: image(nn.AvgPool2d(2)),
        "MaxPool3d": lambda: volume(nn.MaxPool3d(2)),
        "AvgPool3d": lambda: volume(nn.AvgPool3d(2)),
        "AdaptiveMaxPool1d": lambda: chain(nn.AdaptiveMaxPool1d(7)),
        "AdaptiveMaxPool2d": lambda: image(nn.AdaptiveMaxPool2d(2)),
        "AdaptiveAvgPool1d": lambda: chain(nn.AdaptiveAvgPool1d(7)),
        "LPPool1d": lambda: chain(nn.LPPool1d(2, 2)),
        "ConstantPad1d(value)": lambda: chain(nn.ConstantPad1d(2, 0.7)),
        "ZeroPad1d": lambda: chain(nn.ZeroPad1d(2)),
        "ReflectionPad1d": lambda: chain(nn.ReflectionPad1d(2)),
        "ReplicationPad1d": lambda: chain(nn.ReplicationPad1d(2)),
        "CircularPad1d": lambda: chain(nn.CircularPad1d(2)),
        "Upsample(nearest)": lambda: chain(nn.Upsample(scale_factor=2)),
        "Upsample(linear)": lambda: chain(nn.Upsample(scale_factor=2, mode="linear")),
        "Upsample(bilinear)": lambda: image(nn.Upsample(scale_factor=2, mode="bilinear")),
        "F.interpolate": lambda: chain(lambda x: functional.interpolate(x, scale_factor=2.0)),
        "F.interpolate(linear)": lambda: chain(lambda x: functional.interpolate(x, size=30, mode="linear")),
        "F.pad": lambda: chain(lambda x: functional.pad(x, (1, 2))),
        "F.max_pool1d": lambda: chain(lambda x: functional.max_pool1d(x, 2)),
        "PixelShuffle": lambda: image(
            nn.Sequential(nn.Conv2d(WIDTH, 4 * WIDTH, 1), nn.PixelShuffle(2)), WIDTH
        ),
        "PixelUnshuffle": lambda: image(nn.PixelUnshuffle(2), 4 * WIDTH),
        "ChannelShuffle": lambda: chain(nn.ChannelShuffle(2)),
        "Fold and Unfold": lambda: image(
            nn.Sequential(nn.Unfold(2, stride=2), nn.Fold((LEADS, LENGTH), 2, stride=2)), WIDTH
        ),
    },
    "Dropout and shape": {
        "Dropout": lambda: chain(nn.Dropout(0.5)),
        "Dropout1d": lambda: chain(nn.Dropout1d(0.5)),
        "AlphaDropout": lambda: chain(nn.AlphaDropout(0.5)),
        "FeatureAlphaDropout": lambda: chain(nn.FeatureAlphaDropout(0.5)),
        "F.dropout": lambda: chain(lambda x: functional.dropout(x, 0.5, training=False)),
        "Identity": lambda: chain(nn.Identity()),
        "Flatten and Unflatten": lambda: chain(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (WIDTH, LENGTH)))),
        "Flatten(0, 1)": lambda: chain(
            nn.Sequential(nn.Flatten(0, 1), nn.Unflatten(0, (-1, WIDTH)))
        ),
        "view": lambda: chain(lambda x: x.view(x.size(0), -1).view(-1, WIDTH, LENGTH)),
        "view after max pooling": lambda: Net(
            lambda m, x: m.head((y := m.pool(m.first(x))).view(y.size(0), -1)),
            first=conv(LEADS), pool=nn.MaxPool1d(4), head=nn.Linear(6 * WIDTH, LABELS),
        ),
        "reshape": lambda: chain(lambda x: x.reshape(-1, WIDTH, LENGTH)),
        "transpose and back": lambda: chain(lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)),
        "squeeze and unsqueeze": lambda: chain(lambda x: x.unsqueeze(-1).squeeze(-1)),
        "slices": lambda: chain(lambda x: x[:, :, 2:-2]),
        "chunk and cat": lambda: chain(lambda x: torch.cat(torch.chunk(x, 2, dim=2), dim=2)),
    },
    "Patterns": {
        "addition": lambda: _branches(lambda one, two: one + two),
        "addition with alpha": lambda: _branches(lambda one, two: torch.add(one, two, alpha=3)),
        "addition with alpha, ReLU": lambda: _branches(lambda one, two: torch.relu(torch.add(one, two, alpha=3))),
        "addition, ReLU": lambda: _branches(lambda one, two: torch.relu(one + two)),
        "subtraction": lambda: _branches(lambda one, two: one - two),
        "product": lambda: _branches(lambda one, two: one * two),
        "division": lambda: _branches(lambda one, two: one / (1 + two.abs())),
        "concatenation": lambda: _branches(lambda one, two: torch.cat([one, two], 1), 2 * WIDTH),
        "stack": lambda: _branches(lambda one, two: torch.stack([one, two]).sum(0)),
        "addition of a constant": lambda: chain(lambda x: x + 0.7),
        "product with a constant": lambda: chain(lambda x: x * 1.7),
        "product with a negative constant": lambda: chain(lambda x: torch.relu(x) * -2.0),
        "product and sum of large constants": lambda: chain(lambda x: x * -3.0 + 100.0),
        "sigmoid times a constant": lambda: chain(lambda x: torch.sigmoid(x) * 1.5),
        "constant minus": lambda: chain(lambda x: 1 - x),
        "power": lambda: chain(lambda x: x**2),
        "abs": lambda: chain(torch.abs),
        "clamp": lambda: chain(lambda x: torch.clamp(x, -0.3, 0.4)),
        "exp": lambda: chain(torch.exp),
        "residual of the input": lambda: chain(lambda x: x + torch.relu(x)),
        "residual block": lambda: Net(
            lambda m, x: m.head(torch.relu(m.norm(m.one(y := torch.relu(m.first(x)))) + y).mean(2)),
            first=conv(LEADS), one=conv(), norm=nn.BatchNorm1d(WIDTH), head=nn.Linear(WIDTH, LABELS),
        ),
        "squeeze and excite": lambda: Net(
            _squeeze_and_excite, first=conv(LEADS), down=nn.Linear(WIDTH, 4), up=nn.Linear(4, WIDTH),
            head=nn.Linear(WIDTH, LABELS),
        ),
        "maximum over time": lambda: Net(
            lambda m, x: m.head(m.first(x).max(2)[0]), first=conv(LEADS), head=nn.Linear(WIDTH, LABELS)
        ),
        "standard deviation over time": lambda: Net(
            lambda m, x: m.head(m.first(x).std(2)), first=conv(LEADS), head=nn.Linear(WIDTH, LABELS)
        ),
        "layer that runs twice": lambda: Net(
            _twice, first=conv(LEADS), shared=conv(), head=nn.Linear(WIDTH, LABELS)
        ),
        "ReLU that runs twice": lambda: Net(
            lambda m, x: m.head(m.act(m.second(m.act(m.first(x)))).mean(2)),
            first=conv(LEADS), act=nn.ReLU(), second=conv(), head=nn.Linear(WIDTH, LABELS),
        ),
        "convolution with two BatchNorms": lambda: Net(
            _normed_twice, first=conv(LEADS), shared=conv(), one=nn.BatchNorm1d(WIDTH), two=nn.BatchNorm1d(WIDTH),
            head=nn.Linear(WIDTH, LABELS),
        ),
        "one module under two names": lambda: _aliased(),
        "two layers of one weight": lambda: _tied(),
        "parameter outside of layers": lambda: _with_parameter(),
        "buffer outside of layers": lambda: _with_buffer(),
        "in-place ReLU": lambda: chain(nn.ReLU(inplace=True)),
        "in-place ReLU of a slice": lambda: _written(lambda x: x[:, :3].relu_()),
        "in-place product with a slice": lambda: _written(lambda x: x[:, 1].mul_(5.0)),
        "in-place addition between slices": lambda: _written(lambda x: x[:, :3].add_(x[:, 3:])),
        "in-place ReLU of a value read before": lambda: chain(lambda x: x * 2 + torch.relu_(x)),
        "ReLU of some channels": lambda: chain(lambda x: torch.cat([x[:, :-2], torch.relu(x[:, -2:])], 1)),
        "division by the number of channels": lambda: chain(lambda x: torch.relu(x) / x.size(1)),
        "F.linear with a layer's weight": lambda: Net(
            lambda m, x: m.head(functional.linear(x.mean(2), m.first.weight, m.first.bias)),
            first=nn.Linear(LEADS, 5), head=nn.Linear(5, LABELS),
        ),
        "F.conv1d with a layer's weight": lambda: Net(
            lambda m, x: m.head(functional.conv1d(x, m.first.weight, m.first.bias, padding=1).mean(2)),
            first=conv(LEADS), head=nn.Linear(WIDTH, LABELS),
        ),
        "in-place addition": lambda: chain(lambda x: torch.relu(x).add_(0.3)),
        "weight mask (prune)": lambda: _masked(),
        "branch on values": lambda: chain(lambda x: x * 2 if bool(x.sum() > 0) else x),
    },
}  # fmt: skip


def _aliased() -> Net:
    shared = conv()
    return Net(
        lambda m, x: m.head(m.two(torch.relu(m.one(m.first(x)))).mean(2)),
        first=conv(LEADS), one=shared, two=shared, head=nn.Linear(WIDTH, LABELS),
    )  # fmt: skip


def _tied() -> Net:
    net = Net(
        lambda m, x: m.head(m.two(torch.relu(m.one(m.first(x)))).mean(2)),
        first=conv(LEADS), one=conv(), two=conv(), head=nn.Linear(WIDTH, LABELS),
    )  # fmt: skip
    net.two.weight = net.one.weight
    return net


def _with_parameter() -> Net:
    net = Net(
        lambda m, x: m.head(m.second(m.first(x) * m.scale).mean(2)),
        first=conv(LEADS), second=conv(), head=nn.Linear(WIDTH, LABELS),
    )  # fmt: skip
    net.scale = nn.Parameter(torch.rand(WIDTH, 1) + 0.5)
    return net


def _with_buffer() -> Net:
    net = Net(
        lambda m, x: m.head(m.second(m.first(x) + m.offset).mean(2)),
        first=conv(LEADS), second=conv(), head=nn.Linear(WIDTH, LABELS),
    )  # fmt: skip
    net.register_buffer("offset", torch.rand(WIDTH, 1) + 0.5)
    return net


def _written(write: Callable[[Tensor], Tensor]) -> Net:
    """A network that writes to a part of an activation, and reads the whole activation after that."""

    def run(net: Any, x: Tensor) -> Tensor:
        x = net.first(x)
        write(x)
        return net.head(x.mean(2))  # type: ignore[no-any-return]

    return Net(run, first=conv(LEADS), head=nn.Linear(WIDTH, LABELS))


def _masked() -> Net:
    net = chain(conv())
    prune.random_unstructured(net.middle, "weight", 0.3)
    return net


def make(build: Callable[[], nn.Module]) -> nn.Module:
    """The network, with weights of its own and logits that differ from example to example by about one."""
    torch.manual_seed(0)
    network = build()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
            for name, parameter in module.named_parameters(recurse=False):
                nn.init.uniform_(parameter, *((0.5, 1.5) if name == "weight" else (-0.5, 0.5)))
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.6)
    network.eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1 and parameter is not network.head.weight:
                parameter.mul_(2)  # PyTorch's initial weights let the differences between examples fade
        logits = network(inputs(64))
        network.head.weight.div_(logits.std(0).clamp(min=1e-6)[:, None])
        network.head.bias.zero_().sub_(network(inputs(64)).mean(0))
    return network


def inputs(count: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, LEADS, LENGTH, generator=generator) + torch.randn(count, LEADS, 1, generator=generator)
