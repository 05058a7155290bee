"""Deploy artefacts with their runtimes, predict the test split with the deployed files, and write the timed inputs."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.api import Counter, Data, Profile, Runtime, Split
from harness.api.tasks import kind_of
from harness.data.library import Library
from harness.errors import CellError, explain_disk_errors
from harness.files import atomic_write
from harness.plugin.manager import Plugins
from harness.store.entry import Artefact, sha256_of
from harness.suite.matrix import Cell

if TYPE_CHECKING:
    from harness.measure.pool import Workers
    from harness.run.evaluation import CellContext

#: The number of test examples that the timed calls cycle through.
TIMED_INPUTS = 64
#: So many examples are prepared and written at once.
WRITTEN_ROWS = 1024
#: Predictions use all CPUs, in a worker process, so that a kernel that crashes fails only its own cell.
EVALUATION = Profile(threads=os.cpu_count() or 1, affinity=None)


class Deployer:
    """Deploys artefacts into ``folder`` and predicts with them, each once; ``evaluation`` limits the test examples."""

    def __init__(
        self,
        plugins: Plugins,
        library: Library,
        evaluation: int | None,
        folder: Path,
        pool: Callable[[], Workers],
        deployed: str = "",
    ) -> None:
        """``deployed`` is the folder below ``folder`` for deployed files."""
        self._plugins = plugins
        self._library = library
        self._evaluation = evaluation
        self._folder = folder
        self._pool = pool
        self._deployed = folder / deployed
        self._found: dict[tuple[str, str, str], CellContext] = {}

    def under(self, pool: Callable[[], Workers], deployed: str) -> Deployer:
        """The same data, with files that are deployed into another folder and run by other workers."""
        return Deployer(self._plugins, self._library, self._evaluation, self._folder, pool, deployed)

    def context(self, cell: Cell, artefact: Artefact) -> CellContext:
        """The context in which metrics judge an artefact on the cell's data and runtime, without its timing.

        Raises CellError when the model fails, or predicts wrong shapes, NaN or infinity.
        """
        identity = (cell.dataset, cell.runtime, artefact.key)
        if identity not in self._found:
            folder = self._folder_of(cell, artefact)
            with explain_disk_errors(f"cannot deploy {cell.id} in {folder}", "or choose another store"):
                folder.mkdir(parents=True, exist_ok=True)
                runtime = self._plugins.runtimes.get(cell.runtime)
                file = self._deploy(runtime, artefact.file, self._data(cell), folder)
            self._found[identity] = self._context(cell, artefact, file)
        return self._found[identity]

    def context_of_file(self, cell: Cell, artefact: Artefact) -> CellContext:
        """As `context`, for a runtime that deploys the artefact's own file; no code of the runtime runs here."""
        identity = (cell.dataset, cell.runtime, artefact.key)
        if identity not in self._found:
            folder = self._folder_of(cell, artefact)
            with explain_disk_errors(f"cannot deploy {cell.id} in {folder}", "or choose another store"):
                folder.mkdir(parents=True, exist_ok=True)
                file = Path(shutil.copy(artefact.file, folder))
            self._found[identity] = self._context(cell, artefact, file)
        return self._found[identity]

    def _folder_of(self, cell: Cell, artefact: Artefact) -> Path:
        return self._deployed / cell.runtime / artefact.key

    def _context(self, cell: Cell, artefact: Artefact, file: Path) -> CellContext:
        """The context of a deployed file, with its answers for the test split."""
        from harness.run.evaluation import CellContext

        data, sha256 = self._data(cell), sha256_of(file)
        predict = functools.partial(self._predict, cell, file, data)
        validation_scores = functools.partial(predict, "validation")
        return CellContext(file, sha256, artefact.file, data, self._plugins, predict("test"), validation_scores)

    def _predict(self, cell: Cell, file: Path, data: Data, split: str) -> NDArray[Any]:
        """What a deployed file answers on a split. Raises CellError for impossible answers."""
        part: Split = getattr(data, split)
        inputs, answers = self._arrays(cell, split, part), file.parent / f"{split}-scores.npy"
        scores = self._pool().predict(EVALUATION, cell.runtime, file, inputs, answers)
        expected = (len(part), len(data.task.labels))
        if scores.shape != expected:
            raise CellError(
                f"the model of {cell.id} gives answers of shape {scores.shape} for the {split} split, not {expected}"
            )
        wrong = int((~np.isfinite(scores)).any(axis=1).sum())
        if wrong:
            raise CellError(
                f"the model of {cell.id} answers NaN or infinity on {wrong} of {len(scores)} {split} examples"
            )
        if fault := kind_of(data.task).impossible(scores):
            raise CellError(
                f"the answers of {cell.id} {fault}: runtime {cell.runtime!r} must deploy the network with the "
                f"activation of a {data.task.kind} task (TaskKind.activated)"
            )
        return scores

    def _deploy(self, runtime: Runtime, artefact: Path, data: Data, folder: Path) -> Path:
        """The file that the runtime writes for an artefact. Raises CellError when it fails or writes no file."""
        from harness.build.artefact import deployment

        try:
            file = self._plugins.call(runtime, "deploy", deployment(artefact, data, self._plugins), folder)
        except CellError as error:
            if isinstance(error.__cause__, OSError):  # possibly a full disk, which the caller explains
                raise error.__cause__ from None
            raise
        if not isinstance(file, Path) or not file.is_file():
            raise CellError(
                f"plugin {self._plugins.origin(runtime)}: {self._plugins.name_of(runtime, 'deploy')} gives {file!r}, "
                "not the path of a file that it wrote"
            )
        return file

    def measure_memory(self, cell: Cell, context: CellContext) -> None:
        """Measure the memory of the deployed file in the cell's profile."""
        memory = self._pool().memory(cell.profile, cell.runtime, context.file, self.inputs(cell))
        if memory is not None:
            context.base_memory, context.loaded_memory, context.peak_memory = dataclasses.astuple(memory)

    def counter(self, cell: Cell, context: CellContext) -> Callable[[Counter], float]:
        """The function that measures a counter of the deployed file in the cell's profile."""
        return lambda counter: self._pool().count(cell.profile, cell.runtime, context.file, self.inputs(cell), counter)

    def inputs(self, cell: Cell) -> Path:
        """The .npy file of the test examples that the cell's calls are timed on."""
        test = self._data(cell).test
        rows = np.sort(np.random.default_rng(0).permutation(len(test))[:TIMED_INPUTS])
        return self._arrays(cell, "timed", test, rows)

    def _data(self, cell: Cell) -> Data:
        layout = self._plugins.architectures.get(cell.architecture).layout
        return self._library.load(cell.dataset, self._evaluation, layout)

    def _arrays(self, cell: Cell, use: str, split: Split, rows: NDArray[Any] | None = None) -> Path:
        """The file from which workers read the inputs of ``rows``, by default all, written once."""
        file = self._folder / f"{cell.dataset}-{self._plugins.architectures.get(cell.architecture).layout}-{use}.npy"
        if not file.exists():
            # Whole or not at all, because the next cell uses the file if it exists.
            with atomic_write(file, "or choose another store", sync=False) as temporary, temporary.open("wb") as stream:
                rows = np.arange(len(split)) if rows is None else rows
                header = {
                    "descr": "<f4",
                    "fortran_order": False,
                    "shape": (len(rows), *self._data(cell).task.input_shape),
                }
                np.lib.format.write_array_header_1_0(stream, header)
                for start in range(0, len(rows), WRITTEN_ROWS):  # a split may be larger than the memory
                    stream.write(split.tensor(rows[start : start + WRITTEN_ROWS]).contiguous().numpy().tobytes())
        return file
