"""Define runtimes, which deploy networks and execute the deployed files, and profiles, the environments of timings."""

from __future__ import annotations

import abc
import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from harness.api.data import Task
from harness.errors import Unsupported, UsageError, nearest
from harness.former_names import FormerNames
from harness.text import parse_duration

if TYPE_CHECKING:
    import torch


#: Memory allocators that a profile can name; "system" is the C library's own.
ALLOCATORS = ("system", "tcmalloc", "jemalloc", "mimalloc")
#: Instruction sets that a profile can limit torch to; "auto" is the best that the processor supports.
INSTRUCTION_SETS = ("auto", "default", "avx2", "avx512")
#: The longest pause before a timed call, in seconds. A process with the most calls then answers within minutes.
LONGEST_PAUSE = 1.0


@dataclasses.dataclass(frozen=True)
class Profile:
    """The environment of a timing. ``allocator`` is one of system, tcmalloc, jemalloc, mimalloc, or a preference order.

    ``affinity`` is a list of CPU numbers, "auto" for one CPU per thread, or None. ``onednn`` switches oneDNN's kernels.
    ``isa`` is one of auto, default, avx2, avx512: the best instruction set that torch's own kernels, oneDNN and MKL may
    use. The one of torch's kernels is verified; oneDNN and MKL do not report theirs, and FBGEMM, which runs int8,
    chooses its own.

    ``pace`` is the regime of the timed calls: "back-to-back" (without a pause), or how long the process sleeps before
    each timed call, such as "20ms", at most 1 s. Raises UsageError for invalid values.
    """

    threads: int = 1
    allocator: str | Sequence[str] = "system"
    affinity: Sequence[int] | Literal["auto"] | None = "auto"
    onednn: bool = True
    isa: str = "auto"
    name: str = ""
    pace: str = "back-to-back"

    def __post_init__(self) -> None:
        if not isinstance(self.threads, int) or self.threads < 1:
            raise UsageError(f"Profile(threads={self.threads!r}): threads must be a whole number, at least 1")
        for field in ("allocator", "affinity"):
            value = getattr(self, field)
            if isinstance(value, Iterable) and not isinstance(value, str):
                object.__setattr__(self, field, tuple(value))
        if not isinstance(self.onednn, bool):
            raise UsageError(f"Profile(onednn={self.onednn!r}): onednn must be True or False")
        if not self.allocators:
            raise UsageError("Profile(allocator=[]): name at least one allocator")
        for name in self.allocators:
            if name not in ALLOCATORS:
                raise UsageError(f"Profile(allocator={name!r}): unknown allocator{nearest(name, ALLOCATORS)}")
        if self.isa not in INSTRUCTION_SETS:
            raise UsageError(
                f"Profile(isa={self.isa!r}): unknown instruction set{nearest(str(self.isa), INSTRUCTION_SETS)}"
            )
        if self.pause > LONGEST_PAUSE:
            raise UsageError(f"Profile(pace={self.pace!r}): a pause of more than {LONGEST_PAUSE:g} s takes too long")
        if self.affinity is None or self.affinity == "auto":
            return
        numbers = self.affinity if isinstance(self.affinity, tuple) else ()
        if not numbers or not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise UsageError(
                f"Profile(affinity={self.affinity!r}): affinity must be None, 'auto' or a list of CPU numbers"
            )
        if len(set(numbers)) < self.threads:
            raise UsageError(
                f"Profile(threads={self.threads}, affinity={list(numbers)}): several threads would share a CPU; "
                "list at least as many CPUs as threads"
            )

    @property
    def allocators(self) -> tuple[str, ...]:
        """The allocators in order of preference."""
        return (self.allocator,) if isinstance(self.allocator, str) else tuple(self.allocator)

    @property
    def pause(self) -> float:
        """The seconds that the process sleeps before each timed call; 0 for back-to-back calls."""
        if self.pace == BACK_TO_BACK:
            return 0.0
        try:
            return parse_duration(str(self.pace))
        except UsageError as error:
            raise UsageError(f"Profile(pace={self.pace!r}): neither {BACK_TO_BACK!r} nor a pause; {error}") from None


#: The pace of timed calls that follow one another without a pause.
BACK_TO_BACK = Profile.pace


class Predictor(Protocol):
    """A loaded deployed file: maps inputs (batch, *input_shape) float32 to probabilities (batch, labels)."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor: ...


@dataclasses.dataclass(frozen=True)
class Quantization:
    """A request to quantize a float network, which each runtime carries out in its own way.

    A step makes the request by setting it as the attribute ``quantization`` of the float network that it returns. The
    artefact holds it beside that network: ``split``, ``seed`` and ``rows`` identify the calibration examples (row
    numbers within the split, drawn with the seed), and the examples themselves are in no file.

    The deployed network must reach ``coverage``: the least share of weights, and of multiply-accumulates, in the type
    ``dtype``. Its probabilities stay close to those of the float network: ``mean_difference`` limits the mean absolute
    difference, and ``changed`` the share of probabilities that differ by more than 0.01.
    """

    dtype: str = "int8"
    split: Literal["validation", "train"] = "validation"
    seed: int = 0
    rows: tuple[int, ...] = ()
    coverage: float = 0.9
    mean_difference: float = 0.02
    changed: float = 0.5


def _no_calibration() -> torch.Tensor:
    raise Unsupported("the artefact requests no quantization, so it names no calibration examples")


@dataclasses.dataclass(frozen=True, eq=False)
class Deployment:
    """What a runtime deploys: a network with all that may be needed to convert it.

    ``model`` is the network restored from its artefact, in evaluation mode: the float network, or what the last step
    left (such as an int8 network of PyTorch). It gives logits, unless it sets ``gives_probabilities``.
    """

    model: torch.nn.Module
    #: One example of the validation split as a batch of one, (1, *input_shape) float32.
    example: torch.Tensor
    task: Task
    #: The stored artefact, which ``harness.load_artefact`` reads; for runtimes that deploy it as it is.
    artefact: Path
    #: The request that the network carries; None to deploy it as it is.
    quantization: Quantization | None = None
    #: Reads the calibration examples of the request, (n, *input_shape) float32.
    calibration: Callable[[], torch.Tensor] = _no_calibration

    @property
    def network(self) -> torch.nn.Module:
        """The network that gives probabilities: ``model``, followed by the task's activation where it gives logits."""
        from harness.api.tasks import kind_of

        return kind_of(self.task).activated(self.model)


@dataclasses.dataclass(frozen=True)
class ExecutedOperator:
    """How many operators of one kind a deployed file executes in one precision, such as 6 "Conv" in "int8"."""

    kind: str
    precision: str
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Audit:
    """What a deployed file really executes, read from the runtime's own graph after its optimizations.

    ``int8_weights`` and ``int8_macs`` are the shares (0 to 1) of weights that multiply and of multiply-accumulates in
    int8; None where the runtime does not report them, with the ``reason``.
    """

    operators: tuple[ExecutedOperator, ...] = ()
    int8_weights: float | None = None
    int8_macs: float | None = None
    reason: str = ""


class Runtime(FormerNames, abc.ABC):
    """Deploy networks as files, and execute these. Importing its module must load neither torch nor its own packages.

    The key of a deployed file hashes the artefact, ``name``, ``version``, the code of the runtime, the versions of its
    ``packages``, its ``options()`` and, with ``depends_on_cpu``, the features of the processor.
    """

    _former_names: ClassVar = {"about": "summary"}
    name: ClassVar[str]
    #: Increase it whenever the same artefact would give another file.
    version: ClassVar[str] = "1"
    summary: ClassVar[str] = ""
    #: The distributions that it needs, as pip names them. Where one is missing, the runtime's cells are skipped.
    packages: ClassVar[tuple[str, ...]] = ()
    #: What to pass to ``pip install`` to get them, such as "compression-harness[onnx]".
    requirement: ClassVar[str] = ""
    #: The fields "isa" and "onednn" of a profile that it honours. A cell whose profile sets another one is refused.
    profile_fields: ClassVar[frozenset[str]] = frozenset()
    #: How much the probabilities of a float network may differ from PyTorch's; more for coarser arithmetic.
    tolerance: ClassVar[float] = 1e-4
    #: Whether the deployed file depends on the processor that it was written on.
    depends_on_cpu: ClassVar[bool] = False
    #: Whether a deployed file holds the whole program. Where it does not, as with Python classes, the code of
    #: architecture, steps and runtime is part of what is deployed, and the gate runs the code of the earlier run.
    holds_program: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        method = vars(cls).get("deploy")
        if inspect.isfunction(method) and _takes_artefact(method):
            warnings.warn(
                f"{cls.__module__}.{cls.__qualname__}.deploy(artefact, folder): since version 0.2 a runtime defines "
                "deploy(self, deployment, folder), and the artefact is deployment.artefact; version 0.3 no longer "
                "calls the old form",
                DeprecationWarning,
                stacklevel=2,
            )
            cls.deploy = _adapted(method)  # type: ignore[method-assign, assignment]
            if "profile_fields" not in vars(cls):  # version 0.1 let every runtime be timed under these
                cls.profile_fields = frozenset(PROFILE_FIELDS)

    def unavailable(self) -> str | None:
        """Return why the runtime cannot be used on this machine, or None. It must be fast, and import nothing."""
        for package in self.packages:
            try:
                version(package)
            except PackageNotFoundError:
                wanted = self.requirement or " ".join(self.packages)
                return f"runtime {self.name!r} needs the package {package}: pip install '{wanted}'"
        return None

    def options(self) -> Mapping[str, Any]:
        """Return what else the deployed file depends on, as JSON values for its key."""
        return {}

    @abc.abstractmethod
    def deploy(self, deployment: Deployment, folder: Path) -> Path:
        """Write one deployable file into ``folder``, and return its path; pack several files into one archive.

        Carry out ``deployment.quantization`` if there is one. Raise Unsupported for a network or a request that the
        runtime cannot handle.
        """

    @abc.abstractmethod
    def load(self, file: Path) -> Predictor:
        """Load a deployed file for inference.

        Called inside a timing worker, whose environment is that of the cell's profile: ``torch.get_num_threads()`` is
        the number of threads to use. The process is pinned to its CPUs already; the runtime pins no thread itself.
        """

    def audit(self, file: Path, example: torch.Tensor) -> Audit:
        """Report from the runtime's own graph which operators run in which precision for ``example``, a batch of one.

        Called in a worker process, as ``load`` is.
        """
        return Audit(reason=f"runtime {self.name!r} does not report what it executes")

    def network(self, file: Path) -> torch.nn.Module | None:
        """Return the PyTorch network that a deployed file holds; None for files in other formats."""
        return None


#: The fields of a profile that only some runtimes honour.
PROFILE_FIELDS = ("isa", "onednn")


def _takes_artefact(method: Callable[..., Any]) -> bool:
    """Whether ``method`` is deploy(self, artefact, folder), as version 0.1 declared it."""
    parameters = list(inspect.signature(method).parameters.values())
    return len(parameters) > 1 and (
        parameters[1].name == "artefact" or parameters[1].annotation in (Path, "Path", "pathlib.Path")
    )


def _adapted(method: Callable[..., Path]) -> Callable[[Any, Deployment, Path], Path]:
    """Return deploy(self, deployment, folder) for a method of version 0.1."""

    @functools.wraps(method)
    def deploy(self: Any, deployment: Deployment, folder: Path) -> Path:
        if not isinstance(deployment, Deployment):  # super().deploy(artefact, folder) in a subclass
            return method(self, deployment, folder)
        if deployment.quantization is not None:
            raise Unsupported(
                f"runtime {self.name!r} was written for version 0.1 of the harness and cannot carry out a "
                "quantization: define deploy(self, deployment, folder)"
            )
        return method(self, deployment.artefact, folder)

    del deploy.__wrapped__  # its signature is the new one
    return deploy
