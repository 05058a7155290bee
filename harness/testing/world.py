"""A small world to check plugins in: made-up data, four tiny networks, and the real executor in a folder of its own."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import (
    Architecture,
    Data,
    Dataset,
    Phase,
    Profile,
    Progress,
    Split,
    Step,
    Task,
    Training,
    silent,
)
from harness.data.synthetic import make_once
from harness.errors import DataError
from harness.plugin.manager import KERNEL, Origin, Plugins, Registry, installed
from harness.suite.matrix import Cell

if TYPE_CHECKING:
    import torch

    from harness.api import FloatArray
    from harness.store.entry import Artefact

SHAPE, LABELS = (3, 32), ("high", "shaky")
SIZES = {"train": 64, "validation": 48, "test": 40}
ORIGIN = Origin("conformance kit", KERNEL.distribution, KERNEL.version)


def examples(count: int, seed: int) -> Split:
    """Noise in which the first label lifts channel 0 and the second one shakes channel 1; two examples a patient."""
    import numpy as np

    random = np.random.default_rng(seed)
    targets = np.stack([np.arange(count) % 2, np.arange(count) // 2 % 2], axis=1).astype(np.float32)
    inputs = random.normal(size=(count, *SHAPE)).astype(np.float32)
    inputs[:, 0] += targets[:, :1]
    inputs[:, 1] += targets[:, 1:] * np.resize([1.0, -1.0], SHAPE[1]).astype(np.float32)
    return Split(inputs, targets, np.arange(count) // 2)


class Conformance(Dataset):
    """The kit's data: each part is a file of its own, so that one sees whether the test split is opened."""

    name = "conformance-synthetic"
    task = Task(SHAPE, LABELS)
    examples = SIZES["train"]
    synthetic = True
    summary = "made-up series for the conformance kit"

    def matches(self, folder: Path) -> bool:
        return all(_file(folder, part).is_file() for part in SIZES)

    def fingerprint(self, folder: Path) -> str:
        """Of the training and validation parts alone: with another test split all seeds are to stay as they are."""
        with _readable(folder):
            parts = [_file(folder, part).read_bytes() for part in ("train", "validation")]
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        import numpy as np

        parts = {}
        for name in SIZES:
            with _readable(folder), np.load(_file(folder, name), allow_pickle=False) as arrays:
                parts[name] = Split(arrays["inputs"], arrays["targets"], arrays["patients"])
        return Data(self.task, **parts)

    def make(self, folder: Path) -> None:
        make_once(self, folder, _file(folder, "test"), _write)


def _file(folder: Path, part: str) -> Path:
    return folder / f"{part}.npz"


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    import zipfile

    try:
        yield
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{folder}: not the kit's data ({error}); remove it, it is made again") from error


def _write(folder: Path, test_seed: int = 2) -> None:
    for name, seed in {"train": 0, "validation": 1, "test": test_seed}.items():
        _write_part(folder, name, seed)


def _write_part(folder: Path, name: str, seed: int) -> None:
    import numpy as np

    part = examples(SIZES[name], seed)
    patients = part.patients + 1000 * seed
    np.savez(_file(folder, name), inputs=part.inputs, targets=part.targets, patients=patients)


class Network(Architecture):
    """One of the kit's networks; they share their training."""

    def training(self, phase: Phase) -> Training:
        return Training(3 if phase == "train" else 1, 16, "Adam", {"lr": 0.01}, clip=5.0)


class Conv(Network):
    """Convolutions with BatchNorm."""

    name = "conformance-conv"
    summary = "the conformance kit's convolutional network"

    def build(self, task: Task) -> torch.nn.Module:
        from harness.testing._networks import convolutional

        channels, length = task.input_shape
        return convolutional(channels, length, len(task.labels))


class LSTM(Network):
    """An LSTM."""

    name = "conformance-lstm"
    summary = "the conformance kit's recurrent network"

    def build(self, task: Task) -> torch.nn.Module:
        from harness.testing._networks import Recurrent

        return Recurrent(task.input_shape[0], len(task.labels))


class MLP(Network):
    """Linear layers."""

    name = "conformance-mlp"
    summary = "the conformance kit's network of linear layers"

    def build(self, task: Task) -> torch.nn.Module:
        from harness.testing._networks import dense

        channels, length = task.input_shape
        return dense(channels, length, len(task.labels))


class OddOne(Network):
    """A network by hand that few steps can handle."""

    name = "conformance-odd"
    summary = "the conformance kit's network without layers"

    def build(self, task: Task) -> torch.nn.Module:
        from harness.testing._networks import Odd

        channels, length = task.input_shape
        return Odd(channels, length, len(task.labels))


#: The networks that a step is tried on, and the one besides that it may refuse but must not fall over.
NETWORKS: tuple[str, ...] = (Conv.name, LSTM.name, MLP.name)
ODD = OddOne.name


@contextlib.contextmanager
def lent(*things: Any) -> Iterator[Plugins]:
    """The installed plugins with the kit's data and networks, and those of ``things`` that no plugin registers.

    Artefacts load by the names of what is registered; so what is checked before it is installed is lent too.
    """
    plugins = installed()
    kinds: list[tuple[type, Registry[Any]]] = [
        (Dataset, plugins.datasets),
        (Architecture, plugins.architectures),
    ]
    added: list[tuple[Registry[Any], str]] = []
    try:
        for thing in (Conformance(), Conv(), LSTM(), MLP(), OddOne(), *things):
            registry = next((registry for kind, registry in kinds if isinstance(thing, kind)), plugins.steps)
            if thing.name not in registry:
                registry.add(thing.name, type(thing) if isinstance(thing, Step) else thing, ORIGIN)
                added.append((registry, thing.name))
        yield plugins
    finally:
        for registry, name in added:
            registry.discard(name)


class World:
    """A store in ``folder`` with the kit's data, and an executor for one recipe at a time.

    ``test_seed`` draws the test split; all else is the same in every world.
    """

    def __init__(self, folder: Path, test_seed: int = 2) -> None:
        from harness.store.local import Store

        self.store = Store(folder)
        data = self.store.data(Conformance.name) / f"made-{Conformance.version}"
        Conformance().make(data)
        if test_seed != 2:
            _write_part(data, "test", test_seed)
        #: The file that no step may open.
        self.test_file = _file(data, "test")

    def build(
        self, network: str | Architecture, steps: Sequence[Step], seed: int = 0, dataset: str = Conformance.name
    ) -> Artefact:
        """The artefact of a recipe. Raises what kept it from being built, as in a run."""
        from harness.build.executor import Executor
        from harness.build.plan import make
        from harness.data.library import Library
        from harness.progress import Display
        from harness.suite.presets import preset

        borrowed = [] if isinstance(network, str) else [network]
        with lent(*borrowed, *steps) as plugins:
            name = network if isinstance(network, str) else network.name
            cell = Cell(
                suite="conformance",
                matrix="kit",
                columns="",
                axes={"dataset": dataset, "architecture": name, "seed": seed, "runtime": "", "profile": ""},
                steps=tuple(steps),
                profile=Profile(affinity=None),
                reference="cell",
                id="cell",
            )
            display = Display(None)
            library = Library(plugins, self.store, None, display)
            plan = make([cell], plugins, library.fingerprint, preset("study"), "cpu")
            return Executor(plan, plugins, library, self.store, display).build(plan.artefacts[cell.name])

    def load(self, artefact: Artefact, *things: Any) -> torch.nn.Module:
        """The model of an artefact, read from its file."""
        from harness.build import artefact as artefacts

        with lent(*things) as plugins:
            return artefacts.load(artefact.file, plugins)


def probe(count: int) -> FloatArray:
    """Inputs (count, *SHAPE) that are in no part."""
    return examples(count, 99).inputs


__all__ = ["LABELS", "NETWORKS", "ODD", "SHAPE", "Conformance", "World", "examples", "lent", "probe"]
