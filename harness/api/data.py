"""What a data set is, and what it gives: a task, and three parts."""

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
    """What a network must fit, known without reading any data.

    ``input_shape`` is the shape of one example without the batch axis; ``labels`` names the outputs in order.
    Every task is multi-label: one logit a label, targets 0 or 1; a binary task has one label.
    """

    input_shape: tuple[int, ...]
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set: ``inputs`` (n, *input_shape) and ``targets`` (n, labels), both float32.

    ``patients`` (n,) names the patient of each example: the unit that the quality bootstrap resamples.
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
    """A loaded data set. Steps see ``train`` and ``validation`` alone; ``test`` is for the final figures."""

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
                        f"{where}: label {label} has {have} example, so its AUROC is undefined; use more records"
                    )


class Progress(Protocol):
    """How a step or a loader tells how far it is; the harness shows it as a bar or as lines."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """A progress that shows nothing."""


class Dataset(FormerNames, abc.ABC):
    """A data set that is read from a folder in its official layout."""

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
    #: About how many training examples it has: only to guess at durations before any data is read.
    examples: ClassVar[int] = 10_000
    #: True when the data is made up; the name must then say so.
    synthetic: ClassVar[bool] = False
    #: Other forms of the same examples by name, each with its task, for architectures that read one.
    layouts: ClassVar[Mapping[str, Task]] = {}
    #: The data set that takes this one's place when it is found nowhere, or None.
    fallback: ClassVar[str | None] = None
    #: One line for ``harness list`` and ``harness data status``: what it is, its licence, its source.
    summary: ClassVar[str] = ""

    @abc.abstractmethod
    def matches(self, folder: Path) -> bool:
        """Whether the folder holds this data set; quick, reads no signals."""

    @abc.abstractmethod
    def fingerprint(self, folder: Path) -> str:
        """64 hex digits that change whenever the content, the split or the preprocessing does."""

    @abc.abstractmethod
    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        """Read the folder; keep what is slow to make under ``cache`` (a folder for this data set alone).

        Raises DataError naming file and reason for anything that is not as the format promises.
        """

    def to_layout(self, inputs: FloatArray, name: str) -> FloatArray:
        """The inputs of a split, (n, *input_shape), in the form called ``name``: (n, *layouts[name].input_shape)."""
        raise DataError(f"{self.name} declares the layout {name!r} but does not define to_layout()")

    def task_in(self, layout: str) -> Task:
        """The task in the form called ``layout`` ("": its own). Raises UsageError for one that there is not."""
        if layout and layout not in self.layouts:
            has = f"has {', '.join(self.layouts)}" if self.layouts else "has no other form than its own"
            raise UsageError(
                f"data set {self.name!r} has no layout {layout!r}{nearest(layout, self.layouts)}; it {has}"
            )
        return self.layouts[layout] if layout else self.task

    def fetch(self, folder: Path, progress: Progress = silent) -> None:
        """Download into ``folder``: resumable, verified by checksum. A data set that cannot says why."""
        raise DataError(f"{self.name} cannot be downloaded by the harness: {self.summary or 'see its own site'}")

    def make(self, folder: Path) -> None:
        """Write a synthetic data set into ``folder``; only those with ``synthetic = True`` have this."""
        raise DataError(f"{self.name} is not synthetic, so it cannot be made")
