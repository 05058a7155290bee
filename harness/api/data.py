"""Define data sets: a task and three splits, read from a folder in the official layout."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from harness.errors import DataError, UsageError, nearest
from harness.former_names import FormerNames

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Task:
    """Inputs and outputs of a network, known without reading any data.

    ``input_shape`` is the shape of one example without the batch axis; ``labels`` names the outputs in order.
    Every task is multi-label: one logit per label, targets 0 or 1; a binary task has one label.
    """

    input_shape: tuple[int, ...]
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The train, validation or test part of a data set: ``inputs`` (n, *input_shape), ``targets`` (n, labels), float32.

    ``patients`` (n,) identifies the patient of each example, the unit that the bootstrap of quality resamples.
    """

    inputs: FloatArray
    targets: FloatArray
    patients: NDArray[Any]

    def __post_init__(self) -> None:
        if not len(self.inputs) == len(self.targets) == len(self.patients):
            raise DataError(
                f"a split's arrays differ in length: {len(self.inputs)} inputs, {len(self.targets)} targets, "
                f"{len(self.patients)} patients"
            )

    def __len__(self) -> int:
        return len(self.inputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A loaded data set. Steps see only ``train`` and ``validation``; ``test`` is for the final metrics."""

    task: Task
    train: Split
    validation: Split
    test: Split

    def splits(self) -> Iterator[tuple[str, Split]]:
        yield "train", self.train
        yield "validation", self.validation
        yield "test", self.test

    def check(self, name: str) -> None:
        """Raise DataError unless each split has finite examples of the task's shape, and both classes of each label."""
        import numpy as np

        for part_name, part in self.splits():
            where = f"{name}, {part_name} split"
            if len(part) == 0:
                raise DataError(f"{where}: no examples; is the data set complete?")
            if part.inputs.shape[1:] != self.task.input_shape:
                raise DataError(f"{where}: examples have shape {part.inputs.shape[1:]}, not {self.task.input_shape}")
            if part.targets.shape != (len(part), len(self.task.labels)):
                raise DataError(f"{where}: targets have shape {part.targets.shape} for labels {self.task.labels}")
            for what, array in (("inputs", part.inputs), ("targets", part.targets)):
                if array.dtype != np.float32:
                    raise DataError(f"{where}: the {what} are {array.dtype}, not float32")
            if not np.isfinite(part.inputs).all():
                row = int(np.flatnonzero(~np.isfinite(part.inputs.reshape(len(part), -1)).all(axis=1))[0])
                raise DataError(f"{where}: example {row} holds NaN or infinity; repair or drop it")
            positives = part.targets.sum(axis=0)
            for label, count in zip(self.task.labels, positives, strict=True):
                if not 0 < count < len(part):
                    have = "no positive" if count == 0 else "no negative"
                    raise DataError(
                        f"{where}: label {label} has {have} example, so its quality is undefined; use more records"
                    )


class Progress(Protocol):
    """Report the progress of a step or a loader; the harness shows it as a bar or as lines."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """Report no progress."""


class Dataset(FormerNames, abc.ABC):
    """Read a data set from a folder in its official layout."""

    _former_names: ClassVar = {
        "about": "summary",
        "recognises": "matches",
        "stand_in": "fallback",
        "view": "to_layout",
        "views": "layouts",
    }
    name: ClassVar[str]
    version: ClassVar[str] = "1"
    task: ClassVar[Task]
    #: Approximate number of training examples, to estimate durations before any data is read.
    examples: ClassVar[int] = 10_000
    #: True for generated data; the name must then say so.
    synthetic: ClassVar[bool] = False
    #: Other layouts of the same examples by name, each with its task, for architectures that read one of them.
    layouts: ClassVar[Mapping[str, Task]] = {}
    #: The data set to use when this one is not available, or None.
    fallback: ClassVar[str | None] = None
    #: One line for ``harness list`` and ``harness data status``: content, licence, source.
    summary: ClassVar[str] = ""

    @abc.abstractmethod
    def matches(self, folder: Path) -> bool:
        """Return whether the folder holds this data set. Must be fast: reads no signals."""

    @abc.abstractmethod
    def fingerprint(self, folder: Path) -> str:
        """Return 64 hexadecimal digits that change whenever content, splits or preprocessing change."""

    @abc.abstractmethod
    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        """Read the folder. ``cache`` is a folder for this data set alone, for results that are slow to compute.

        Raises DataError, with the file and the reason, for anything that violates the format.
        """

    def to_layout(self, inputs: FloatArray, name: str) -> FloatArray:
        """Convert the inputs of a split, (n, *input_shape), to the layout ``name``: (n, *layouts[name].input_shape)."""
        raise DataError(f"{self.name} declares the layout {name!r} but does not define to_layout()")

    def task_in(self, layout: str) -> Task:
        """Return the task in a layout ("": the data set's own). Raises UsageError for an unknown layout."""
        if layout and layout not in self.layouts:
            known = f"known: {', '.join(self.layouts)}" if self.layouts else "it has only its own"
            raise UsageError(
                f"data set {self.name!r} has no layout {layout!r}{nearest(layout, self.layouts)} ({known})"
            )
        return self.layouts[layout] if layout else self.task

    def fetch(self, folder: Path, progress: Progress = silent) -> None:
        """Download into ``folder``, resumable and verified by checksum. Raises DataError where that is impossible."""
        raise DataError(f"{self.name} cannot be downloaded by the harness: {self.summary or 'see its web site'}")

    def make(self, folder: Path) -> None:
        """Write a synthetic data set into ``folder``; only data sets with ``synthetic = True`` define this."""
        raise DataError(f"{self.name} is not synthetic, so it cannot be generated")
