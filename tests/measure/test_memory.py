"""Memory of built-in networks: the narrower never needs more, weights are a lower bound, and loading imports little."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import Task, train
from harness.api import Profile
from harness.build import artefact
from harness.measure.memory import RESOLUTION
from harness.measure.pool import Workers
from harness.nn.operations import parameters
from harness.plugin.manager import installed
from harness_compress import prune, quantize

SHAPES = {"cnn": (12, 1000), "resnet": (12, 250), "lstm": (48, 76)}
KEEPS = (1, 0.5, 0.25, 0.125)
#: The least bytes of a stored weight.
WIDTHS = {"float32": 4, "int8": 1}

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux reports the pages of memory")


class Context:
    """A step's context that trains nothing."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.example = torch.randn(1, *shape)

    def fit(self, model: torch.nn.Module, *_: Any, **__: Any) -> torch.nn.Module:
        return model

    def calibration(self, _: int) -> torch.Tensor:
        return torch.randn(4, *self.example.shape[1:])

    def report(self, **_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Path]]:
    """The files of each architecture and precision, from the whole network to the narrowest."""
    folder = tmp_path_factory.mktemp("networks")
    plugins = installed()
    files: dict[tuple[str, str], list[Path]] = {}
    for name, shape in SHAPES.items():
        np.save(folder / f"{name}.npy", np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32))
        task, context = Task(shape, ("a", "b")), Context(shape)
        whole = plugins.architectures.get(name).build(task).eval()
        for keep in KEEPS:
            cut = prune("l1", keep=keep)
            pruned, steps = (whole, [train()]) if keep == 1 else (cut.apply(whole, context), [train(), cut])  # type: ignore[arg-type]
            int8 = quantize()
            for precision, model in (("float32", pruned), ("int8", int8.apply(pruned, context))):  # type: ignore[arg-type]
                file = folder / f"{name}-{keep}-{precision}"
                artefact.save(file, model, steps if precision == "float32" else [*steps, int8], name, task, plugins)
                files.setdefault((name, precision), []).append(file)
    return files


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(timeout=120) as workers:
        yield workers


def needs(workers: Workers, file: Path) -> tuple[int, int]:
    """What loading needs, and what inference does."""
    memory = workers.memory(Profile(), "torch", file, file.parent / f"{file.name.partition('-')[0]}.npy")
    assert memory is not None
    return memory.loaded - memory.baseline, memory.peak - memory.baseline


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_narrower_network_never_needs_more(
    workers: Workers, networks: dict[tuple[str, str], list[Path]], name: str, precision: str
) -> None:
    measured = [needs(workers, file) for file in networks[name, precision]]
    for wider, narrower in itertools.pairwise(measured):
        assert narrower[0] <= wider[0] + RESOLUTION
        assert narrower[1] <= wider[1] + RESOLUTION
    for keep, (loaded, peak) in zip(KEEPS, measured, strict=True):
        weights = parameters(artefact.load(networks[name, precision][KEEPS.index(keep)])) * WIDTHS[precision]
        assert weights <= loaded <= peak
        assert peak < weights + 5 * 10**6, "neither imports nor the float network of an int8 one are in it"


@pytest.mark.slow
def test_two_processes_measure_the_same(networks: dict[tuple[str, str], list[Path]]) -> None:
    measured = []
    for _ in range(2):
        with Workers(timeout=120) as workers:
            measured.append([needs(workers, files[1]) for files in networks.values()])
    assert np.abs(np.subtract(*measured)).max() <= RESOLUTION


def test_an_int8_network_holds_no_float_weights(workers: Workers, networks: dict[tuple[str, str], list[Path]]) -> None:
    """0.5 MB of integers and 1 MB of PyTorch's objects are less than the 2 MB of float weights."""
    (float_file, *_), (int8_file, *_) = networks["resnet", "float32"], networks["resnet", "int8"]
    weights = parameters(artefact.load(float_file)) * 4
    assert needs(workers, int8_file)[0] < weights


def test_what_is_held_is_measured(workers: Workers, networks: dict[tuple[str, str], list[Path]]) -> None:
    """The CNN's need at its peak can be computed: its weights, and input and output of its first normalisation."""
    loaded, peak = needs(workers, networks["cnn", "float32"][0])
    activations = 2 * 32 * 998 * 4
    assert abs(peak - loaded - activations) <= RESOLUTION


IMPORTS = """
import json, sys
from pathlib import Path
import torch
from harness.plugin.manager import installed
runtime = installed().runtimes.get("torch")
loaded = []
for file in sys.argv[1:]:
    before = set(sys.modules)
    runtime.load(Path(file))
    loaded.append(sorted(set(sys.modules) - before))
print(json.dumps(loaded))
"""


@pytest.mark.parametrize("name", SHAPES)
def test_a_pruned_network_imports_no_more_than_the_whole_one(
    networks: dict[tuple[str, str], list[Path]], name: str
) -> None:
    files = networks[name, "float32"][:2]
    reply = subprocess.run([sys.executable, "-c", IMPORTS, *files], capture_output=True, text=True, check=True)
    _, pruned = json.loads(reply.stdout)
    assert set(pruned) <= {"torch.utils._device"}  # the context manager of the meta device


def test_an_int8_network_imports_neither_a_compiler_nor_the_other_scheme(
    networks: dict[tuple[str, str], list[Path]],
) -> None:
    (file, *_) = networks["lstm", "int8"]
    reply = subprocess.run([sys.executable, "-c", IMPORTS, file], capture_output=True, text=True, check=True)
    (modules,) = json.loads(reply.stdout)
    packages = {".".join(module.split(".")[:2]) for module in modules}
    assert not packages & {"sympy", "torch._dynamo", "torch._inductor", "torch._refs", "harness_compress._uniform8"}
    assert "harness_compress._fx_int8" in modules


STOCK = """
import sys
import torch
from torch import nn
from harness.nn.structure import LAYERS, dump, restore
SIZES = {
    "Linear": (3, 3), "Conv1d": (3, 3, 3), "Conv2d": (3, 3, 3), "BatchNorm1d": (3,), "BatchNorm2d": (3,),
    "LayerNorm": (3,), "LSTM": (3, 3), "GRU": (3, 3), "Embedding": (3, 3, 1), "MaxPool1d": (3,), "MaxPool2d": (3,),
    "AvgPool1d": (3,), "AvgPool2d": (3,), "AdaptiveMaxPool1d": (1,), "AdaptiveMaxPool2d": (1,),
    "AdaptiveAvgPool1d": (1,), "AdaptiveAvgPool2d": (1,),
}
network = nn.Sequential(*(getattr(nn, name)(*SIZES.get(name, ())) for name in LAYERS))
tensors, notes = dump(network)
before = set(sys.modules)
restored = restore(nn.Sequential(), tensors, notes)
print(sorted(set(sys.modules) - before))
assert all(torch.equal(value, restored.state_dict()[name]) for name, value in network.state_dict().items())
"""


def test_no_stock_layer_imports_a_compiler_when_it_is_rebuilt() -> None:
    reply = subprocess.run([sys.executable, "-c", STOCK], capture_output=True, text=True, check=True)
    assert reply.stdout.strip() == "['torch.utils._device']"
