"""Define runtimes, which execute deployed files, and profiles, the environments of timings."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from harness.errors import UsageError, nearest
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


class Runtime(FormerNames, abc.ABC):
    """Write deployable files and execute them."""

    _former_names: ClassVar = {"about": "summary"}
    name: ClassVar[str]
    version: ClassVar[str] = "1"
    summary: ClassVar[str] = ""

    @abc.abstractmethod
    def deploy(self, artefact: Path, folder: Path) -> Path:
        """Write the deployable file for this artefact into ``folder``, and return its path.

        Raise Unsupported for a model that the runtime cannot execute.
        """

    @abc.abstractmethod
    def load(self, file: Path) -> Predictor:
        """Load a deployed file for inference; called inside the timing workers."""
