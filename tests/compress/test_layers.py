"""Try quantize and prune on a small network for each layer and pattern; docs/layers.md lists the outcomes.

``PYTHONPATH=tests python tests/compress/test_layers.py`` writes the page's tables again.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from layers import LEADS, LENGTH, NETWORKS, Net, chain, inputs, make
from safetensors.torch import load, save
from torch import nn

from harness.errors import Unsupported
from harness.nn import structure
from harness_compress import _fx_int8
from harness_compress.prune import Prune
from harness_compress.quantize import Quantize
from harness_compress.tracing import trace

PAGE = Path(__file__).parents[2] / "docs" / "layers.md"
START = "<!-- tables -->\n"
#: The root of the mean squared difference between the probabilities of the int8 network and of the float one, at most.
TOLERANCE = 0.07
SCHEMES = ("ptq-int8", "uniform8")
ROWS = [(section, name) for section, rows in NETWORKS.items() for name in rows]
#: The rows that every run of the tests tries: faults of PyTorch that were found, and one row of each kind of outcome.
QUICK = {
    "ELU", "PReLU", "Sigmoid", "Softmax(channels)", "Conv3d", "LSTM, no bias", "layer that runs twice",
    "convolution with two BatchNorms", "weight_norm (old)", "padding_mode='circular'", "TransformerEncoderLayer",
    "view", "residual block", "chunk and cat", "GRU", "addition with alpha", "product and sum of large constants",
    "in-place product with a slice", "in-place ReLU of a value read before", "ReLU of some channels",
    "division by the number of channels", "F.linear with a layer's weight",
}  # fmt: skip


class Context:
    """The part of StepContext that the steps use; a training changes nothing."""

    example = torch.zeros(1, LEADS, LENGTH)

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}

    def calibration(self, examples: int) -> torch.Tensor:
        return inputs(examples)

    def fit(self, model: nn.Module, phase: str, name: str) -> nn.Module:
        return model

    def report(self, **facts: Any) -> None:
        self.facts.update(facts)


@pytest.fixture(autouse=True)
def _quiet_on_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def probabilities(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        answer: torch.Tensor = model.eval()(batch)
    return answer if getattr(model, "gives_probabilities", False) else answer.sigmoid()


def quantized(build: Callable[[], nn.Module], scheme: str) -> str:
    """The outcome of quantize on a network: the share of int8 work, or the reason of the refusal."""
    model, context, batch = make(build), Context(), inputs(64, seed=5)
    step = Quantize(scheme=scheme, coverage=0.0)
    float_answers = probabilities(model, batch)
    try:
        int8 = step.apply(copy.deepcopy(model), context)  # type: ignore[arg-type]
    except Unsupported as error:
        return f"refused: {_gist(error)}"
    answers = probabilities(int8, batch)
    difference = float((answers - float_answers).square().mean().sqrt())
    assert difference <= TOLERANCE, f"int8 answers another function: {difference:.3f}"
    tensors, notes = step.dump(int8)
    torch.manual_seed(7)
    restored = step.restore(build().eval(), load(save(tensors)), json.loads(json.dumps(notes)))
    assert torch.equal(probabilities(restored, batch), answers), "the reloaded network answers otherwise"
    share = context.facts["int8_macs"]
    return "right" if share == 1 else "right, all float" if not share else f"right, {share:.0%} of the work in int8"


def pruned(build: Callable[[], nn.Module]) -> str:
    """The outcome of prune on a network: right, or the reason of the refusal.

    The pruned network must equal the whole one in which nothing reads the removed units: the weights of all consumers
    are zero there.
    """
    model, context, batch = make(build), Context(), inputs(64, seed=5)
    try:
        small = Prune(keep=0.5).apply(model, context)  # type: ignore[arg-type]
        tracing = trace(model, Context.example)
    except Unsupported as error:
        return f"refused: {_gist(error)}"
    masked, removed = copy.deepcopy(model), 0
    kept = {
        label: index in units
        for name, units in context.facts["units"].items()
        for index, label in enumerate(tracing.roots(tracing.cells[name].outputs))
    }
    for cell in tracing.cells.values():
        gone = [not kept.get(label, True) for label in tracing.roots(cell.inputs)]
        removed += sum(gone)
        if cell.makes and (any(gone) or cell.name != cell.path):
            layer: Any = masked.get_submodule(cell.path)
            suffix = cell.name.removeprefix(cell.path).removeprefix(".")
            with torch.no_grad():
                getattr(layer, f"weight_ih_{suffix}" if suffix else "weight")[:, torch.tensor(gone)] = 0
                if suffix:
                    out = [not kept.get(label, True) for label in tracing.roots(cell.outputs)]
                    getattr(layer, f"weight_hh_{suffix}")[:, torch.tensor(out)] = 0
    if any(isinstance(cell.module, nn.LayerNorm) for cell in tracing.cells.values()):
        assert probabilities(small, batch).isfinite().all()
        return "right, it normalises over the units that remain"
    torch.testing.assert_close(probabilities(small, batch), probabilities(masked, batch), rtol=0, atol=1e-5)
    tensors, notes = structure.dump(small)
    torch.manual_seed(7)
    restored = structure.restore(build().eval(), load(save(tensors)), json.loads(json.dumps(notes)))
    assert torch.equal(probabilities(restored, batch), probabilities(small, batch))
    return "right" if removed else "right, nothing to remove"


def _gist(error: Exception) -> str:
    """The reason of a refusal without what depends on the network, on one line of a table."""
    text = re.sub(r"^(int8|uniform8|prune): |^prune cannot follow Net's units through ", "", str(error))
    text = text.replace("|", "/").partition("\n")[0]
    return text if len(text) <= 110 else text[:107].rsplit(" ", 1)[0] + " ..."


def outcomes(section: str, name: str) -> list[str]:
    """The outcomes of one row: those of the two schemes of quantize, and that of prune."""
    build = NETWORKS[section][name]
    return [*(quantized(build, scheme) for scheme in SCHEMES), pruned(build)]


def row(section: str, name: str) -> str:
    return f"| {' | '.join([f'`{name}`' if section != 'Patterns' else name, *outcomes(section, name)])} |"


def rows_of_page() -> dict[str, str]:
    lines = PAGE.read_text().partition(START)[2].splitlines()
    return {line.split(" | ")[0].strip("| `"): line for line in lines if line.startswith("| ")}


def test_the_page_has_each_row_once() -> None:
    names = [line for line in rows_of_page() if line not in ("layer", "---")]
    assert names == [name for _, name in ROWS]
    assert {name for _, name in ROWS} >= QUICK


@pytest.mark.parametrize(
    ("section", "name"),
    [pytest.param(*entry, marks=[] if entry[1] in QUICK else [pytest.mark.slow], id=entry[1]) for entry in ROWS],
)
def test_the_page_says_what_becomes_of_each_layer(section: str, name: str) -> None:
    assert row(section, name) == rows_of_page()[name]


@pytest.mark.parametrize(
    "wide",
    [
        nn.Sigmoid(), nn.Hardsigmoid(), nn.Softmax(1), torch.sigmoid, torch.tanh, lambda x: x.tanh(),
        nn.functional.hardsigmoid,
    ],
    ids=["Sigmoid", "Hardsigmoid", "Softmax", "torch.sigmoid", "torch.tanh", "Tensor.tanh", "F.hardsigmoid"],
)  # fmt: skip
def test_what_a_layer_reads_has_seven_bits(wide: Any) -> None:
    """With eight, two products may exceed the 16 bits in which AVX2 kernels add them."""
    context = Context()
    Quantize().apply(make(lambda: chain(wide)), context)  # type: ignore[arg-type]
    widest = [entry["quant_max"] for entry in context.facts["ranges"].values()]
    assert sorted(widest)[-2:] == [127, 255], "only the network's own sigmoid has all eight bits"


@pytest.mark.parametrize(
    ("constant", "kernel"),
    [
        (lambda x: x * -1.0, False), (lambda x: -2 * torch.relu(x), False), (lambda x: torch.mul(x, -3), False),
        (lambda x: x + 100.0, False), (lambda x: torch.add(x, 1.0, alpha=2), False), (lambda x: x * 1.7, True),
    ],
)  # fmt: skip
def test_constants_whose_int8_kernels_use_eight_bits_stay_float(constant: Any, kernel: bool) -> None:
    int8: Any = Quantize(coverage=0.0).apply(make(lambda: chain(constant)), Context())  # type: ignore[arg-type]
    assert ("torch.ops.quantized.mul" in int8.code or "torch.ops.quantized.add" in int8.code) == kernel


def test_a_sigmoid_that_only_a_constant_multiplies_has_seven_bits() -> None:
    context = Context()
    Quantize().apply(make(NETWORKS["Patterns"]["sigmoid times a constant"]), context)  # type: ignore[arg-type]
    assert [entry["quant_max"] for entry in context.facts["ranges"].values()].count(255) == 1


def test_an_instance_norm_is_right_for_a_large_batch() -> None:
    """PyTorch's int8 kernel mixes up about a quarter of the values of 128 images with channels last."""
    model = make(NETWORKS["Normalisation"]["InstanceNorm2d"])
    int8 = Quantize(coverage=0.0).apply(copy.deepcopy(model), Context())  # type: ignore[arg-type]
    difference = probabilities(int8, inputs(128)) - probabilities(model, inputs(128))
    assert float(difference.square().mean().sqrt()) < TOLERANCE


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("bias", r"0\.second \(ConvReLU1d\) is another function.*: \d.*% of its values are off by more than 2 q"),
        ("weight", r"the weight of 0\.second in PyTorch's int8 network is no rounding"),
    ],
)
def test_an_int8_network_that_is_no_rounding_is_refused(
    monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    convert = _fx_int8.convert

    def faulty(prepared: Any) -> Any:
        network = convert(prepared)
        layer: Any = network.get_submodule("0.second")
        if fault == "weight":
            layer.set_weight_bias(_moved(layer.weight()), layer.bias())
        else:
            layer.set_weight_bias(layer.weight(), layer.bias() + 1)
        return network

    monkeypatch.setattr(_fx_int8, "convert", faulty)
    with pytest.raises(Unsupported, match=message):
        Quantize(coverage=0.0).apply(make(lambda: chain(nn.ReLU())), Context())  # type: ignore[arg-type]


def test_a_lost_write_is_found_where_a_float_function_reads_it() -> None:
    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = net.first(x)
        x[:, :3].mul_(-3.0)
        answer: torch.Tensor = net.head(torch.sin(x).mean(2))
        return answer

    network = make(lambda: Net(run, first=nn.Conv1d(LEADS, 6, 3), head=nn.Linear(6, 3)))
    with pytest.raises(Unsupported, match=r"int8: sin is another function.*: its values are off by \d+%"):
        Quantize(coverage=0.0).apply(network, Context())  # type: ignore[arg-type]


def _moved(weight: torch.Tensor) -> torch.Tensor:
    return torch._make_per_channel_quantized_tensor(
        weight.int_repr().roll(1, 0), weight.q_per_channel_scales(), weight.q_per_channel_zero_points(), 0
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("unsteady", [lambda x: x + torch.randn_like(x), lambda x: x.mul_(2)], ids=["random", "write"])
def test_a_network_that_answers_otherwise_the_second_time_is_refused(scheme: str, unsteady: Any) -> None:
    head = nn.Linear(LEADS, 3)
    network = make(lambda: Net(lambda net, x: net.head(unsteady(x).mean(2)), head=head))
    with pytest.raises(Unsupported, match="before any rounding"):
        Quantize(scheme=scheme).apply(network, Context())  # type: ignore[arg-type]


def test_a_gate_that_a_product_reads_stays_int8() -> None:
    context = Context()
    Quantize().apply(make(NETWORKS["Patterns"]["squeeze and excite"]), context)  # type: ignore[arg-type]
    widest = [entry["quant_max"] for entry in context.facts["ranges"].values()]
    assert widest.count(255) == 2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_hook_is_refused_with_its_layer(scheme: str) -> None:
    network = make(NETWORKS["Linear and other products"]["Linear"])
    network.get_submodule("first").register_forward_hook(lambda module, arguments, output: 2 * output)
    with pytest.raises(Unsupported, match=r"first \(Linear\) has hooks, which an int8 layer loses"):
        Quantize(scheme=scheme).apply(network, Context())  # type: ignore[arg-type]


def write() -> None:
    """Write the tables of the page again."""
    text = [PAGE.read_text().partition(START)[0] + START.rstrip()]
    for section, rows in NETWORKS.items():
        text += [
            "",
            f"## {section}",
            "",
            f"| layer | {' | '.join(f'`{s}`' for s in SCHEMES)} | `prune` |",
            "|---|---|---|---|",
        ]
        text += [row(section, name) for name in rows]
    PAGE.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    write()
