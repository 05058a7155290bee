"""Memory of built-in networks: the narrower never needs more, weights are a lower bound, and loading imports little."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import Forks

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


class Networks:
    """The files of networks by architecture, precision and share of units that stay, each made when first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, name: str, precision: str, keep: float = 1) -> Path:
        file = self._folder / f"{name}-{keep}-{precision}"
        if not file.exists():
            task, context = Task(SHAPES[name], ("a", "b")), Context(SHAPES[name])
            inputs = np.random.default_rng(0).standard_normal((2, *SHAPES[name]), dtype=np.float32)
            np.save(self._folder / f"{name}.npy", inputs)
            model = installed().architectures.get(name).build(task).eval()
            steps = [
                train(),
                *([prune("l1", keep=keep)] if keep < 1 else []),
                *([quantize()] if precision == "int8" else []),
            ]
            for step in steps[1:]:
                model = step.apply(model, context)  # type: ignore[arg-type]
            artefact.save(file, model, steps, name, task, installed())
        return file


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    return Networks(tmp_path_factory.mktemp("networks"))


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
@pytest.mark.parametrize("name", ["cnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet", "lstm"))])
def test_a_narrower_network_never_needs_more(workers: Workers, networks: Networks, name: str, precision: str) -> None:
    files = [networks.file(name, precision, keep) for keep in KEEPS]
    measured = [needs(workers, file) for file in files]
    for wider, narrower in itertools.pairwise(measured):
        assert narrower[0] <= wider[0] + RESOLUTION
        assert narrower[1] <= wider[1] + RESOLUTION
    for file, (loaded, peak) in zip(files, measured, strict=True):
        weights = parameters(artefact.load(file)) * WIDTHS[precision]
        assert weights <= loaded <= peak
        assert peak < weights + 5 * 10**6, "neither imports nor the float network of an int8 one are in it"


@pytest.mark.slow
def test_two_processes_measure_the_same(networks: Networks) -> None:
    files = [networks.file(name, precision, KEEPS[1]) for name in SHAPES for precision in WIDTHS]
    measured = []
    for _ in range(2):
        with Workers(timeout=120) as workers:
            measured.append([needs(workers, file) for file in files])
    assert np.abs(np.subtract(*measured)).max() <= RESOLUTION


def test_an_int8_network_holds_no_float_weights(workers: Workers, networks: Networks) -> None:
    """0.5 MB of integers and 1 MB of PyTorch's objects are less than the 2 MB of float weights."""
    weights = parameters(artefact.load(networks.file("resnet", "float32"))) * 4
    assert needs(workers, networks.file("resnet", "int8"))[0] < weights


def test_what_is_held_is_measured(workers: Workers, networks: Networks) -> None:
    """The CNN's need at its peak can be computed: its weights, and input and output of its first normalisation."""
    loaded, peak = needs(workers, networks.file("cnn", "float32"))
    activations = 2 * 32 * 998 * 4
    assert abs(peak - loaded - activations) <= RESOLUTION


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks("import torch") as forks:
        yield forks


IMPORTS = """
import json, sys
from pathlib import Path
from harness.plugin.manager import installed
runtime = installed().runtimes.get("torch")
loaded = []
for file in sys.argv[1:]:
    before = set(sys.modules)
    runtime.load(Path(file))
    loaded.append(sorted(set(sys.modules) - before))
print(json.dumps(loaded))
"""


def imports(forks: Forks, *files: Path) -> list[list[str]]:
    """Return the modules that loading each file imports, one after the other."""
    reply = forks.run(IMPORTS, files[0].parent, *map(str, files))
    assert reply.returncode == 0, reply.stderr
    loaded: list[list[str]] = json.loads(reply.stdout)
    return loaded


@pytest.mark.parametrize("name", SHAPES)
def test_a_pruned_network_imports_no_more_than_the_whole_one(forks: Forks, networks: Networks, name: str) -> None:
    _, pruned = imports(forks, *(networks.file(name, "float32", keep) for keep in KEEPS[:2]))
    assert set(pruned) <= {"torch.utils._device"}  # the context manager of the meta device


@pytest.mark.slow
def test_an_int8_network_imports_neither_a_compiler_nor_the_other_scheme(forks: Forks, networks: Networks) -> None:
    (modules,) = imports(forks, networks.file("lstm", "int8"))
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


@pytest.mark.slow
def test_no_stock_layer_imports_a_compiler_when_it_is_rebuilt(forks: Forks, tmp_path: Path) -> None:
    reply = forks.run(STOCK, tmp_path)
    assert reply.returncode == 0, reply.stderr
    assert reply.stdout.strip() == "['torch.utils._device']"
