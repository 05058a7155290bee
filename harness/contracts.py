"""The contracts: what a plugin brings, and the frozen values that pass between it and the harness.

Importing this module loads no torch. Plugins import what they need from ``harness``, or the smaller things from here.
"""

from __future__ import annotations

import abc
import dataclasses
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from harness.errors import DataError, UsageError, nearest

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

Phase = Literal["train", "finetune"]
Better = Literal["higher", "lower"]


# ----------------------------------------------------------------------------------------------------------- data


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network must fit, known without reading any data.

    ``input_shape`` is the shape of one example without the batch axis; ``labels`` names the outputs in order.
    Every task is multi-label: one logit a label, targets 0 or 1; a binary task has one label.
    """

    input_shape: tuple[int, ...]
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """One part of a data set: ``inputs`` (n, *input_shape) and ``targets`` (n, labels), both float32.

    ``patients`` (n,) names the patient of each example: the unit that the quality bootstrap resamples.
    """

    inputs: FloatArray
    targets: FloatArray
    patients: NDArray[Any]

    def __post_init__(self) -> None:
        if not len(self.inputs) == len(self.targets) == len(self.patients):
            raise DataError(
                f"a part's arrays differ in length: {len(self.inputs)} inputs, {len(self.targets)} targets, "
                f"{len(self.patients)} patients"
            )

    def __len__(self) -> int:
        return len(self.inputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A loaded data set. Steps see ``train`` and ``validation`` alone; ``test`` is for the final figures."""

    task: Task
    train: Part
    validation: Part
    test: Part

    def parts(self) -> Iterator[tuple[str, Part]]:
        yield "train", self.train
        yield "validation", self.validation
        yield "test", self.test

    def check(self, name: str) -> None:
        """Raise DataError unless each part has finite examples of the task's shape, and both classes of each label."""
        import numpy as np

        for part_name, part in self.parts():
            where = f"{name}, {part_name} part"
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


class Dataset(abc.ABC):
    """A data set that is read from a folder in its official layout."""

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    task: ClassVar[Task]
    #: About how many training examples it has: only to guess at durations before any data is read.
    examples: ClassVar[int] = 10_000
    #: True when the data is made up; the name must then say so.
    synthetic: ClassVar[bool] = False
    #: Other forms of the same examples by name, each with its task, for architectures that read one.
    views: ClassVar[Mapping[str, Task]] = {}
    #: The data set that takes this one's place when it is found nowhere, or None.
    stand_in: ClassVar[str | None] = None
    #: One line for ``harness list`` and ``harness data status``: what it is, its licence, its source.
    about: ClassVar[str] = ""

    @abc.abstractmethod
    def recognises(self, folder: Path) -> bool:
        """Whether the folder holds this data set; quick, reads no signals."""

    @abc.abstractmethod
    def fingerprint(self, folder: Path) -> str:
        """64 hex digits that change whenever the content, the split or the preprocessing does."""

    @abc.abstractmethod
    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        """Read the folder; keep what is slow to make under ``cache`` (a folder for this data set alone).

        Raises DataError naming file and reason for anything that is not as the format promises.
        """

    def view(self, inputs: FloatArray, name: str) -> FloatArray:
        """The inputs of a part, (n, *input_shape), in the form called ``name``: (n, *views[name].input_shape)."""
        raise DataError(f"{self.name} declares the view {name!r} but does not define view()")

    def task_in(self, view: str) -> Task:
        """The task in the form called ``view`` ("": its own). Raises UsageError for one that there is not."""
        if view and view not in self.views:
            has = f"has {', '.join(self.views)}" if self.views else "has no other form than its own"
            raise UsageError(f"data set {self.name!r} has no view {view!r}{nearest(view, self.views)}; it {has}")
        return self.views[view] if view else self.task

    def fetch(self, folder: Path, progress: Progress = silent) -> None:
        """Download into ``folder``: resumable, verified by checksum. A data set that cannot says why."""
        raise DataError(f"{self.name} cannot be downloaded by the harness: {self.about or 'see its own site'}")

    def make(self, folder: Path) -> None:
        """Write a synthetic data set into ``folder``; only those with ``synthetic = True`` have this."""
        raise DataError(f"{self.name} is not synthetic, so it cannot be made")


# -------------------------------------------------------------------------------------------------- architectures


@dataclasses.dataclass(frozen=True)
class Training:
    """How a network is trained. ``optimizer`` and ``scheduler`` name classes of torch.optim and its lr_scheduler.

    The scheduler steps once an epoch; ReduceLROnPlateau is given the validation AUROC (set ``mode="max"``).
    ``clip`` bounds the gradient's norm. ``examples`` bounds the training examples (a seeded choice, for quick runs).
    """

    epochs: int
    batch: int
    optimizer: str
    optimizer_args: Mapping[str, Any]
    scheduler: str | None = None
    scheduler_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    clip: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    examples: int | None = None

    def __post_init__(self) -> None:
        for field in ("epochs", "batch", "examples"):
            value = getattr(self, field)
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            if not (whole and value >= 1) and not (field == "examples" and value is None):
                raise UsageError(
                    f"training needs at least one epoch, one example and a batch of one, in whole numbers: "
                    f"{field}={value!r}"
                )
        if self.precision not in ("float32", "bfloat16"):
            raise UsageError(f"precision {self.precision!r} is not one of float32, bfloat16")


class Architecture(abc.ABC):
    """A network: how it is built for a task, and how its authors train it."""

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    about: ClassVar[str] = ""
    #: The form of the data that it reads, one of the data set's ``views``; "" is the data set's own.
    view: ClassVar[str] = ""
    #: At most so many epochs, on at most so many examples, in the preset *quick*: a minute or less on two cores.
    quick_epochs: ClassVar[int] = 3
    quick_examples: ClassVar[int] = 2048

    @abc.abstractmethod
    def build(self, task: Task) -> torch.nn.Module:
        """A fresh network that maps (batch, *input_shape) to logits (batch, labels); the harness seeds torch."""

    @abc.abstractmethod
    def training(self, phase: Phase) -> Training:
        """How to train it from scratch, or to fine-tune it after a compression."""


# ---------------------------------------------------------------------------------------------------------- steps

#: (logits, targets, teacher logits or None), each (batch, labels) -> scalar loss.
Loss = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor | None"], "torch.Tensor"]


class StepContext(Protocol):
    """What a step may use. There is no way from here to the test part."""

    #: The task, and one validation example as a batch of one.
    task: Task
    example: torch.Tensor
    #: The model that teaches under the objective in force, in evaluation mode; None where none does.
    teacher: torch.nn.Module | None
    #: Shows how far the step is, for what takes longer than a moment and is not ``fit``.
    progress: Progress

    def seed(self, purpose: str) -> int:
        """A seed for one purpose, derived from the cell's seed: the same whenever the step is run again."""
        ...

    def generator(self, purpose: str = "") -> torch.Generator:
        """A generator of random numbers on the CPU with ``seed(purpose)``, for whatever a step draws."""
        ...

    def fit(
        self, model: torch.nn.Module, phase: Phase = "finetune", name: str = "fit", **changes: Any
    ) -> torch.nn.Module:
        """A copy of ``model``, trained under the objective in force, with its best epoch's weights.

        ``name`` tells apart several fits of one step (an interrupted one resumes; of two with one name the second is
        called ``name-2``); ``changes`` replace fields of the architecture's Training for this phase, as ``epochs=3``.
        """
        ...

    def fresh(self) -> torch.nn.Module:
        """A newly initialised network of the cell's architecture."""
        ...

    def teach(self, teacher: torch.nn.Module) -> None:
        """From here on the objective is this step's ``loss`` with this teacher (a step with ``teaches = True``)."""
        ...

    def calibration(self, examples: int, part: Literal["validation", "train"] = "validation") -> torch.Tensor:
        """That many random examples of a part, (examples, *input_shape); all where there are fewer."""
        ...

    def report(self, **facts: Any) -> None:
        """Facts about what was done (JSON values), kept with the artefact and shown in the record."""
        ...


class Step:
    """What makes or changes a model. Subclass as a frozen dataclass: its fields are its parameters.

    A compressor needs a ``name``, fields with types, a docstring and ``apply``. Importing it must load no torch:
    import torch inside the methods.
    """

    name: ClassVar[str]
    #: Raise it whenever the same parameters would give another model.
    version: ClassVar[str] = "1"
    #: True for a step whose incoming model teaches a fresh network, and all training from here on; it defines ``loss``.
    teaches: ClassVar[bool] = False

    def parameters(self) -> dict[str, Any]:
        """The parameters by name; they enter the artefact's key."""
        if not dataclasses.is_dataclass(self):
            return {}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def examples(cls) -> Sequence[Step]:
        """Values of the step that the conformance kit checks; a step with a parameter to be given defines it."""
        try:
            return [cls()]
        except TypeError as error:
            raise UsageError(
                f"step {cls.name!r} does not say with which parameters to check it ({error}): define examples(), or "
                "give every parameter a default"
            ) from error

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        """The changed model; ``model`` stays as it was. Raise Unsupported for a network that the step cannot handle.

        A model that ends in its own sigmoid sets ``gives_probabilities = True``; all others give logits.
        """
        raise NotImplementedError(f"step {self.name!r} does not define apply()")

    def fits(self) -> Sequence[tuple[Phase, Mapping[str, Any]]] | None:
        """The trainings that ``apply`` runs, each as it is passed to ``context.fit``; None when that is not told.

        From them come the guess at how long it takes, and which of the architecture's trainings enter the key (both,
        when it is not told). A step that trains nothing returns ``()``.
        """
        return None

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module | None:
        """A model of the shape that ``apply`` would give, without data or training; None when it cannot be told."""
        return None

    def loss(self, task_loss: Loss) -> Loss:
        """The objective that this step puts in force (only with ``teaches = True``)."""
        raise NotImplementedError(f"step {self.name!r} has teaches = True but does not define loss()")

    def dump(self, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The model as plain tensors and JSON notes; the default handles any network of stock torch modules."""
        from harness.structure import dump

        return dump(model)

    def restore(
        self, fresh: torch.nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]
    ) -> torch.nn.Module:
        """The inverse of ``dump``, given a fresh network of the architecture."""
        from harness.structure import restore

        return restore(fresh, tensors, notes)


# --------------------------------------------------------------------------------------------- runtimes, profiles


#: Memory allocators that a profile can name; "system" is the C library's own.
ALLOCATORS = ("system", "tcmalloc", "jemalloc", "mimalloc")
#: Instruction sets that a profile can hold torch to; "auto" is the best that the processor has.
INSTRUCTION_SETS = ("auto", "default", "avx2", "avx512")


@dataclasses.dataclass(frozen=True)
class Profile:
    """The environment of a timing. ``allocator`` is one of system, tcmalloc, jemalloc, mimalloc, or a preference order.

    ``affinity`` lists CPU numbers, or "auto" for as many as there are threads; ``onednn`` switches oneDNN's kernels.
    ``isa`` is one of auto, default, avx2, avx512: the best instructions that torch's own kernels, oneDNN and MKL may
    use. What torch's kernels use is verified; oneDNN and MKL do not tell, and FBGEMM, which runs int8, chooses itself.
    """

    threads: int = 1
    allocator: str | Sequence[str] = "system"
    affinity: Sequence[int] | Literal["auto"] | None = "auto"
    onednn: bool = True
    isa: str = "auto"
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.threads, int) or self.threads < 1:
            raise UsageError(f"Profile(threads={self.threads!r}): a whole number of threads, at least one")
        for field in ("allocator", "affinity"):
            value = getattr(self, field)
            if isinstance(value, Iterable) and not isinstance(value, str):
                object.__setattr__(self, field, tuple(value))
        if not isinstance(self.onednn, bool):
            raise UsageError(f"Profile(onednn={self.onednn!r}): True or False")
        if not self.allocators:
            raise UsageError("Profile(allocator=[]): name at least one allocator")
        for name in self.allocators:
            if name not in ALLOCATORS:
                raise UsageError(f"Profile(allocator={name!r}): there is no such allocator{nearest(name, ALLOCATORS)}")
        if self.isa not in INSTRUCTION_SETS:
            raise UsageError(
                f"Profile(isa={self.isa!r}): there is no such set{nearest(str(self.isa), INSTRUCTION_SETS)}"
            )
        if self.affinity is None or self.affinity == "auto":
            return
        numbers = self.affinity if isinstance(self.affinity, tuple) else ()
        if not numbers or not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise UsageError(f"Profile(affinity={self.affinity!r}): None, 'auto' or a list of CPU numbers")
        if len(set(numbers)) < self.threads:
            raise UsageError(
                f"Profile(threads={self.threads}, affinity={list(numbers)}): the threads would wait for one another; "
                "name as many CPUs as there are threads"
            )

    @property
    def allocators(self) -> tuple[str, ...]:
        """The allocators in order of preference."""
        return (self.allocator,) if isinstance(self.allocator, str) else tuple(self.allocator)


class Predictor(Protocol):
    """A deployed file, loaded: maps inputs (batch, *input_shape) float32 to probabilities (batch, labels)."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor: ...


class Runtime(abc.ABC):
    """What executes a deployed file."""

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    about: ClassVar[str] = ""

    @abc.abstractmethod
    def deploy(self, artefact: Path, folder: Path) -> Path:
        """Write into ``folder`` the file that would be shipped for this artefact, and return it."""

    @abc.abstractmethod
    def load(self, file: Path) -> Predictor:
        """Load a deployed file for inference; called inside the timing workers."""


# -------------------------------------------------------------------------------------------------------- metrics


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number that a metric gives: how to print it and which way is good."""

    name: str
    unit: str = ""
    better: Better | None = None
    digits: int = 4


class WeightedMetric(Protocol):
    """A quality figure under many weightings of the examples at once; NaN where it is undefined."""

    def __call__(
        self, scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64], /
    ) -> NDArray[np.float64]:
        """``scores`` and ``targets`` (n, labels), ``weights`` (n, samples) -> (samples,)."""
        ...


class Evidence(Protocol):
    """What a metric may look at: one cell, after it was built and timed. Each is made when first asked for."""

    task: Task
    #: The deployed file.
    file: Path
    #: On the test part: probabilities and targets (n, labels), and each row's patient.
    scores: NDArray[Any]
    targets: NDArray[Any]
    patients: NDArray[Any]
    #: Nanoseconds of each timed call, bytes resident at the peak of inference, and those before the file was loaded;
    #: None when nothing was timed.
    samples: NDArray[Any] | None
    peak_memory: int | None
    base_memory: int | None

    @property
    def model(self) -> torch.nn.Module:
        """The artefact's model, in evaluation mode."""
        ...

    @property
    def example(self) -> torch.Tensor:
        """One example as a batch of one."""
        ...


class Metric(abc.ABC):
    """One or more figures about a cell."""

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    about: ClassVar[str] = ""

    @abc.abstractmethod
    def figures(self, task: Task) -> tuple[Figure, ...]:
        """The figures that ``compute`` gives for this task, the first being the headline."""

    @abc.abstractmethod
    def compute(self, evidence: Evidence) -> Mapping[str, float | None]:
        """The figures by name; None for one that is undefined here."""

    def weighted(self, task: Task) -> Mapping[str, WeightedMetric]:
        """Those of the figures that the answers alone give, as functions that a bootstrap over patients can weigh.

        Each gets an interval, and so does its difference from the reference.
        """
        return {}


# -------------------------------------------------------------------------------------------------------- studies


@dataclasses.dataclass(frozen=True)
class Study:
    """A published study, to set beside what is measured: ``file`` is its TOML (``harness.studies.document``).

    The file is read when the study is first asked for.
    """

    name: str
    file: Path
    about: str = ""
