"""Provide a small environment for checks: synthetic data, four tiny networks, and the real executor with its store."""

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
    Deployment,
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
    """Noise with two labels, which raise channel 0 and add an oscillation to channel 1; two examples per patient."""
    import numpy as np

    random = np.random.default_rng(seed)
    targets = np.stack([np.arange(count) % 2, np.arange(count) // 2 % 2], axis=1).astype(np.float32)
    inputs = random.normal(size=(count, *SHAPE)).astype(np.float32)
    inputs[:, 0] += targets[:, :1]
    inputs[:, 1] += targets[:, 1:] * np.resize([1.0, -1.0], SHAPE[1]).astype(np.float32)
    return Split(inputs, targets, np.arange(count) // 2)


class Conformance(Dataset):
    """The kit's data. Each split has its own file, so that openings of the test split are visible."""

    name = "conformance-synthetic"
    task = Task(SHAPE, LABELS)
    examples = SIZES["train"]
    synthetic = True
    summary = "synthetic series for the conformance kit"

    def matches(self, folder: Path) -> bool:
        return all(_file(folder, split).is_file() for split in SIZES)

    def fingerprint(self, folder: Path) -> str:
        """Of the training and validation splits alone, so that the test split does not affect the seeds."""
        with _readable(folder):
            content = [_file(folder, split).read_bytes() for split in ("train", "validation")]
        return hashlib.sha256(b"".join(content)).hexdigest()

    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        import numpy as np

        splits = {}
        for name in SIZES:
            with _readable(folder), np.load(_file(folder, name), allow_pickle=False) as arrays:
                splits[name] = Split(arrays["inputs"], arrays["targets"], arrays["patients"])
        return Data(self.task, **splits)

    def make(self, folder: Path) -> None:
        make_once(self, folder, _file(folder, "test"), _write)


def _file(folder: Path, split: str) -> Path:
    return folder / f"{split}.npz"


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    import zipfile

    try:
        yield
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{folder}: cannot read the kit's data ({error}); remove the folder, it is made again"
        ) from error


def _write(folder: Path, test_seed: int = 2) -> None:
    for name, seed in {"train": 0, "validation": 1, "test": test_seed}.items():
        _write_split(folder, name, seed)


def _write_split(folder: Path, name: str, seed: int) -> None:
    import numpy as np

    split = examples(SIZES[name], seed)
    patients = split.units()[0] + 1000 * seed
    np.savez(_file(folder, name), inputs=split.inputs, targets=split.targets, patients=patients)


class Network(Architecture):
    """Base of the kit's networks, which share their training."""

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
    """A network without layers, which few steps can handle."""

    name = "conformance-odd"
    summary = "the conformance kit's network without layers"

    def build(self, task: Task) -> torch.nn.Module:
        from harness.testing._networks import Odd

        channels, length = task.input_shape
        return Odd(channels, length, len(task.labels))


#: The networks that a step is tried on.
NETWORKS: tuple[str, ...] = (Conv.name, LSTM.name, MLP.name)
#: A further one, which a step may refuse; any other exception fails its check.
ODD = OddOne.name


@contextlib.contextmanager
def temporarily_registered(*objects: Any) -> Iterator[Plugins]:
    """Register the kit's data and networks, and those of ``objects`` that no plugin registers, for the block.

    Artefacts are loaded by registered names; this also makes objects checkable before their plugin is installed.
    """
    plugins = installed()
    kinds: list[tuple[type, Registry[Any]]] = [
        (Dataset, plugins.datasets),
        (Architecture, plugins.architectures),
    ]
    added: list[tuple[Registry[Any], str]] = []
    try:
        for item in (Conformance(), Conv(), LSTM(), MLP(), OddOne(), *objects):
            registry = next((registry for kind, registry in kinds if isinstance(item, kind)), plugins.steps)
            if item.name not in registry:
                registry.add(item.name, type(item) if isinstance(item, Step) else item, ORIGIN)
                added.append((registry, item.name))
        yield plugins
    finally:
        for registry, name in added:
            registry.discard(name)


class World:
    """A store in ``folder`` with the kit's data, and an executor that builds one recipe at a time.

    ``test_seed`` seeds the test split; everything else is the same in every world.
    """

    def __init__(self, folder: Path, test_seed: int = 2) -> None:
        from harness.store.local import Store

        self.store = Store(folder)
        data = self.store.data(Conformance.name) / f"made-{Conformance.version}"
        Conformance().make(data)
        if test_seed != 2:
            _write_split(data, "test", test_seed)
        #: The file of the test split, which no step may open.
        self.test_file = _file(data, "test")

    def build(
        self, network: str | Architecture, steps: Sequence[Step], seed: int = 0, dataset: str = Conformance.name
    ) -> Artefact:
        """Build a recipe and return its artefact. Raises the error that stops the build, as in a run."""
        from harness.build.executor import Executor
        from harness.build.plan import make
        from harness.data.library import Library
        from harness.progress import Display
        from harness.suite.presets import preset

        architectures = [] if isinstance(network, str) else [network]
        with temporarily_registered(*architectures, *steps) as plugins:
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
            if cell.name in plan.problems:
                raise plan.problems[cell.name]
            return Executor(plan, plugins, library, self.store, display).build(plan.artefacts[cell.name])

    def deployment(self, artefact: Artefact) -> Deployment:
        """What a runtime gets of an artefact that this world built."""
        from harness.build import artefact as artefacts

        folder = self.store.data(Conformance.name) / f"made-{Conformance.version}"
        with temporarily_registered() as plugins:
            return artefacts.deployment(artefact.file, Conformance().load(folder, folder), plugins)

    def load(self, artefact: Artefact, *objects: Any) -> torch.nn.Module:
        """Load the model of an artefact from its file, with ``objects`` registered."""
        from harness.build import artefact as artefacts

        with temporarily_registered(*objects) as plugins:
            return artefacts.load(artefact.file, plugins)


def probe(count: int) -> FloatArray:
    """Return inputs (count, *SHAPE) that are in no split."""
    return examples(count, 99).inputs


__all__ = ["LABELS", "NETWORKS", "ODD", "SHAPE", "Conformance", "World", "examples", "probe", "temporarily_registered"]
