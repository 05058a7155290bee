"""Define data sets: a task and three splits, read from a folder in the official layout."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

from harness.errors import DataError, UsageError, nearest
from harness.former_names import FormerNames

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

#: (stored inputs of a batch) -> (n, *input_shape) float32.
Prepare = Callable[["torch.Tensor"], "torch.Tensor"]
#: (prepared batch, random number generator on the CPU) -> a batch of the same shape.
Augment = Callable[["torch.Tensor", "torch.Generator"], "torch.Tensor"]
#: (logits (batch, labels), targets, teacher logits (batch, labels) or None) -> scalar loss. See `Task` for targets.
Loss = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor | None"], "torch.Tensor"]

#: The kinds of tasks: see `Task`.
KindName = Literal["multilabel", "binary", "multiclass", "regression"]
KINDS: tuple[KindName, ...] = get_args(KindName)
#: So many examples are checked for NaN at once, because a data set may be larger than the memory.
CHECKED_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Task:
    """Inputs and outputs of a network, known without reading any data.

    ``input_shape`` is the shape of one example without the batch axis; ``labels`` names the outputs in order. A network
    gives one output a label. ``kind`` decides what an output and a target is:

    - ``multilabel``: each label is present or not, independently of the others. Targets (n, labels) are 0.0 or 1.0.
    - ``binary``: the same with one label. A task of kind ``multilabel`` with one label is trained in the same way.
    - ``multiclass``: an example belongs to one of at least two classes. Targets (n,) are int64, the class's index.
    - ``regression``: each output is a number. Targets (n, labels) are finite. Scale them so that they vary by about 1.

    ``class_weights`` are the weights in the loss, one for each label: of the examples of that class (``multiclass``),
    or of the examples that have the label (``multilabel``, ``binary``). Raises UsageError for invalid values.
    """

    input_shape: tuple[int, ...]
    labels: tuple[str, ...]
    kind: KindName = "multilabel"
    class_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"Task(kind={self.kind!r}): unknown kind{nearest(str(self.kind), KINDS)}")
        if self.kind == "binary" and len(self.labels) != 1:
            raise UsageError(f"Task(kind='binary', labels={self.labels}): a binary task has one label")
        if self.kind == "multiclass" and len(self.labels) < 2:
            raise UsageError(f"Task(kind='multiclass', labels={self.labels}): name at least two classes")
        if self.class_weights:
            if self.kind == "regression":
                raise UsageError("Task(kind='regression', class_weights=...): a regression has no classes")
            if len(self.class_weights) != len(self.labels) or not all(weight > 0 for weight in self.class_weights):
                raise UsageError(
                    f"Task(class_weights={self.class_weights}): give one weight above 0 for each of the "
                    f"{len(self.labels)} labels"
                )


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The train, validation or test part of a data set.

    ``inputs`` (n, *input_shape) are float32, or uint8, which takes a quarter of the memory; the data set's ``prepare``
    makes float32 of a batch. They may be memory-mapped, and larger than the memory. ``targets`` are as the kind of task
    says, float32 or int64 (see `Task`).

    ``patients`` (n,) identifies the patient of each example, the unit that the bootstrap of quality resamples; None
    where the examples are independent of each other. ``unit`` names these units where they are no patients, such as
    "sites". ``records`` (n,) identifies the examples, so that metrics can list them. ``groups`` has arrays (n,) by
    name, such as "age", "sex", "device" or "site", so that metrics can compare groups.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    patients: NDArray[Any] | None = None
    records: NDArray[Any] | None = None
    groups: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    unit: str = "patients"
    #: The data set's methods of these names; the harness sets them, the last two of the training split alone.
    prepare: Prepare | None = None
    augment: Augment | None = None
    loss: Callable[[Loss], Loss] | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in self.arrays().items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise DataError(f"a split's arrays differ in length: {listed}")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name; those of groups are called "group NAME"."""
        arrays = self._unnamed() | {f"group {name}": array for name, array in self.groups.items()}
        return {name: array for name, array in arrays.items() if array is not None}

    def units(self) -> tuple[NDArray[Any], str]:
        """Return the unit of each example (n,) that a bootstrap resamples, and what these units are."""
        import numpy as np

        return (np.arange(len(self)), "examples") if self.patients is None else (self.patients, self.unit)

    def take(self, rows: Any) -> Split:
        """Return the examples of ``rows``, a slice or indices."""
        arrays: dict[str, Any] = {n: None if array is None else array[rows] for n, array in self._unnamed().items()}
        groups = {name: array[rows] for name, array in self.groups.items()}
        return dataclasses.replace(self, groups=groups, **arrays)

    def _unnamed(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("inputs", "targets", "patients", "records")}

    def tensor(self, rows: Any) -> torch.Tensor:
        """Return a copy of the inputs of ``rows``, a slice or indices, as networks read them: (n, *input_shape)."""
        import numpy as np
        import torch

        tensor = torch.from_numpy(np.array(self.inputs[rows]))
        return tensor if self.prepare is None else self.prepare(tensor)

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

    def read_by(self, dataset: Dataset) -> Data:
        """Return these data with the data set's ``prepare``, where it is needed, and its ``augment``, if it has one."""
        overrides = type(dataset).prepare is not Dataset.prepare
        splits = {
            name: dataclasses.replace(
                split,
                prepare=dataset.prepare if overrides or split.inputs.dtype == "uint8" else None,
                augment=dataset.augment if name == "train" and type(dataset).augment is not Dataset.augment else None,
            )
            for name, split in self.splits()
        }
        if type(dataset).loss is not Dataset.loss:
            splits["train"] = dataclasses.replace(splits["train"], loss=dataset.loss)
        return Data(self.task, **splits)

    def check(self, name: str) -> None:
        """Raise DataError unless each split has finite examples of the task's shape and targets of its kind.

        Each split needs both classes of each label, an example of each class, or targets that vary.
        """
        import numpy as np

        multiclass = self.task.kind == "multiclass"
        for part_name, part in self.splits():
            where = f"{name}, {part_name} split"
            if len(part) == 0:
                raise DataError(f"{where}: no examples; is the data set complete?")
            example = None if part.prepare is None else part.tensor(slice(0, 1))
            shape = tuple(part.inputs.shape[1:] if example is None else example.shape[1:])
            if shape != self.task.input_shape:
                raise DataError(f"{where}: examples have shape {shape}, not {self.task.input_shape}")
            if example is not None and str(example.dtype) != "torch.float32":
                raise DataError(f"{where}: prepare() gives {example.dtype}, not torch.float32")
            if part.targets.shape != ((len(part),) if multiclass else (len(part), len(self.task.labels))):
                raise DataError(f"{where}: targets have shape {part.targets.shape} for labels {self.task.labels}")
            if part.inputs.dtype not in (np.float32, np.uint8):
                raise DataError(f"{where}: the inputs are {part.inputs.dtype}, neither float32 nor uint8")
            wanted = "int64" if multiclass else "float32"
            if part.targets.dtype != wanted:
                raise DataError(f"{where}: the targets are {part.targets.dtype}, not {wanted}")
            for start in range(0, len(part), CHECKED_ROWS) if part.inputs.dtype == np.float32 else ():
                rows = part.inputs[start : start + CHECKED_ROWS]
                if not np.isfinite(rows).all():
                    row = int(np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1))[0])
                    raise DataError(f"{where}: example {start + row} holds NaN or infinity; repair or drop it")
            self._check_targets(where, part.targets)

    def _check_targets(self, where: str, targets: NDArray[Any]) -> None:
        import numpy as np

        labels = self.task.labels
        if self.task.kind == "multiclass":
            outside = np.flatnonzero((targets < 0) | (targets >= len(labels)))
            if len(outside):
                raise DataError(
                    f"{where}: example {outside[0]} has the class {targets[outside[0]]}; the {len(labels)} classes "
                    f"are 0 to {len(labels) - 1}"
                )
            for label, count in zip(labels, np.bincount(targets, minlength=len(labels)), strict=True):
                if count == 0:
                    raise DataError(
                        f"{where}: class {label} has no example, so its quality is undefined; use more records"
                    )
        elif self.task.kind == "regression":
            if not np.isfinite(targets).all():
                row = int(np.flatnonzero(~np.isfinite(targets).all(axis=1))[0])
                raise DataError(f"{where}: the target of example {row} is NaN or infinite; repair or drop it")
            for label, spread in zip(labels, np.ptp(targets, axis=0), strict=True):
                if spread == 0:
                    raise DataError(
                        f"{where}: all examples have the same {label}, so its quality is undefined; use more records"
                    )
        else:
            for label, count in zip(labels, targets.sum(axis=0), strict=True):
                if not 0 < count < len(targets):
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
    #: True for real data that come with an installed package: ``make`` writes them into a folder of the store.
    bundled: ClassVar[bool] = False
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

    def prepare(self, inputs: torch.Tensor) -> torch.Tensor:
        """Convert a batch of stored inputs to what networks read, (n, *input_shape) float32; by default uint8 to 0..1.

        It is called for each batch, on the device that trains, and for the inputs of deployed files before any timing.
        """
        return inputs if inputs.is_floating_point() else inputs.float() / 255

    def augment(self, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return a batch of the training split, (n, *input_shape) float32, changed at random; its shape stays.

        ``generator`` is on the CPU, and seeded for each epoch. Draw from it alone, so that an interrupted training ends
        with the same weights.
        """
        return batch

    def loss(self, task_loss: Loss) -> Loss:
        """Return the loss that networks are trained with on these data; by default that of the kind of task."""
        return task_loss

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
        """Write a synthetic or bundled data set into ``folder``; only these define this."""
        raise DataError(f"{self.name} is neither synthetic nor part of a package, so it cannot be made")
