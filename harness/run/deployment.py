"""What was deployed: each artefact's file for a runtime, what it answers on the test split, and what it is timed on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.api import Data, Profile, Runtime
from harness.data.library import Library
from harness.errors import CellError, explain_disk_errors
from harness.plugin.containment import Tell
from harness.plugin.manager import Plugins
from harness.store.entry import Artefact, sha256_of
from harness.suite.matrix import Cell

if TYPE_CHECKING:
    from harness.measure.pool import Workers
    from harness.run.evaluation import CellContext

#: Real test examples that the timed calls take in turn.
TIMED_INPUTS = 64
#: Answers are computed on all CPUs, in a worker too: a kernel that crashes fails its own cell alone.
EVALUATION = Profile(threads=os.cpu_count() or 1, affinity=None)


class Deployment:
    """Deploys artefacts into ``folder`` and has them answer, each once. ``evaluation`` bounds the test examples."""

    def __init__(
        self,
        plugins: Plugins,
        library: Library,
        evaluation: int | None,
        folder: Path,
        pool: Callable[[], Workers],
        say: Tell | None = None,
    ) -> None:
        self._plugins = plugins
        self._library = library
        self._evaluation = evaluation
        self._folder = folder
        self._pool = pool
        self._say = say
        self._found: dict[tuple[str, str, str], CellContext] = {}

    def evidence(self, cell: Cell, artefact: Artefact) -> CellContext:
        """What there is to know of an artefact on the cell's data and runtime, but for its timing.

        Raises CellError when the model cannot answer, or answers nonsense.
        """
        from harness.run.evaluation import CellContext

        identity = (cell.dataset, cell.runtime, artefact.key)
        if identity not in self._found:
            runtime = self._plugins.runtimes.get(cell.runtime)
            folder = self._folder / cell.runtime / artefact.key
            with explain_disk_errors(f"cannot deploy {cell.id} in {folder}", "or choose another store"):
                folder.mkdir(parents=True, exist_ok=True)
                file = self._deploy(cell.runtime, runtime, artefact.file, folder)
            data = self._data(cell)
            sha256 = sha256_of(file)
            inputs, answers = self._arrays(cell, "test", data.test.inputs), folder / "scores.npy"
            scores = self._pool().predict(EVALUATION, cell.runtime, file, inputs, answers)
            if scores.shape != data.test.targets.shape:
                wanted, found = data.test.targets.shape, scores.shape
                raise CellError(
                    f"the model of {cell.id} gives answers of shape {found} for the test split, not {wanted}"
                )
            wrong = int((~np.isfinite(scores)).any(axis=1).sum())
            if wrong:
                raise CellError(
                    f"the model of {cell.id} answers NaN or infinity on {wrong} of {len(scores)} test examples"
                )
            self._found[identity] = CellContext(file, sha256, artefact.file, data, self._plugins, scores)
        return self._found[identity]

    def _deploy(self, name: str, runtime: Runtime, artefact: Path, folder: Path) -> Path:
        """What the runtime made of an artefact. Raises CellError when it fails, or makes no file."""
        origin, what = self._plugins.runtimes.origin(name), f"deploy() of runtime {name!r}"
        # An error of the operating system may be a full disk, and is explained.
        with self._plugins.contain(origin, what, self._say, thing=type(runtime), passing=OSError):
            file: object = runtime.deploy(artefact, folder)
        if not isinstance(file, Path) or not file.is_file():
            raise CellError(f"plugin {origin}: {what} gives {file!r}, not the path of a file that it wrote")
        return file

    def measure_memory(self, cell: Cell, evidence: CellContext) -> None:
        """Measure the memory that the file takes in the cell's profile."""
        memory = self._pool().memory(cell.profile, cell.runtime, evidence.file, self.inputs(cell))
        evidence.peak_memory, evidence.base_memory = memory.peak, memory.baseline

    def inputs(self, cell: Cell) -> Path:
        """The .npy of the real test examples that the cell's calls are timed on."""
        test = self._data(cell).test.inputs
        chosen = np.sort(np.random.default_rng(0).permutation(len(test))[:TIMED_INPUTS])
        return self._arrays(cell, "timed", test[chosen])

    def _data(self, cell: Cell) -> Data:
        layout = self._plugins.architectures.get(cell.architecture).layout
        return self._library.load(cell.dataset, self._evaluation, layout)

    def _arrays(self, cell: Cell, use: str, inputs: NDArray[Any]) -> Path:
        """The file from which workers read inputs; written once."""
        file = self._folder / f"{cell.dataset}-{self._plugins.architectures.get(cell.architecture).layout}-{use}.npy"
        if not file.exists():
            with explain_disk_errors(f"cannot write the inputs of workers to {file}", "or choose another store"):
                np.save(file, np.ascontiguousarray(inputs))
        return file
