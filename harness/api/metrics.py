"""Define what a metric declares and computes, and what it may read of a cell."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

from harness.api.data import Split, Task
from harness.api.runtimes import Audit
from harness.errors import UsageError, nearest
from harness.former_names import FormerNames

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

Better = Literal["higher", "lower"]
#: What a figure measures, where the report has a place of its own for it (see `MetricSpec.role`).
Role = Literal["parameters", "nonzero", "file", "int8 weights", "int8 macs"]


#: What `EvalContext.count` measures of one call. "instructions": executed in user mode, by perf.
#: "instructions_valgrind": the same by valgrind, which takes minutes and runs kernels for AVX2 at most.
#: "energy": joules of the whole processor, by RAPL. "repeated_input": the time on an input that the model got just
#: before / on a new one. A serving counter is the milliseconds of loading the file or of the first call after that, or
#: the examples a second in batches of so many.
ServingCounter = Literal["load_time", "first_call", "throughput_1", "throughput_8", "throughput_64"]
Counter = Literal["instructions", "instructions_valgrind", "energy", "repeated_input"] | ServingCounter


#: The most digits after the point that a figure is printed with: a float has no more.
MOST_DIGITS = 17


@dataclasses.dataclass(frozen=True)
class Absent:
    """The value of a figure that is undefined here, with the reason, which records and reports state."""

    reason: str

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str):
            raise UsageError(f"Absent(reason={self.reason!r}): the reason must be a text")


@dataclasses.dataclass(frozen=True)
class MetricSpec:
    """Declare one figure of a metric: how to print it, which direction is better, how to judge and follow it.

    Reports, the gate and the history know figures by these declarations alone, never by their names.
    """

    name: str
    unit: str = ""
    better: Better | None = None
    digits: int = 4
    #: The figure that decides for its metric. When no figure of a metric says so, the first one does.
    headline: bool = False
    #: Counted, not estimated: two runs of the same model give the same value, so any difference is a change.
    exact: bool = False
    #: Depends on the machine, so the gate compares it only between runs of one machine.
    per_machine: bool = False
    #: The gate's rule where a user gives none: a share of the earlier value ("1%") or an amount ("0.005").
    gate: str | None = None
    #: What the report uses the figure for. "parameters": what remains of the network; orders the levels of compression.
    #: "nonzero": parameters that are not zero; shown where pruning left zeros in place. "file": the size of the
    #: deployed file; shown where it shrinks otherwise than its metric's headline figure. "int8 weights", "int8 macs":
    #: the shares of weights and of multiply-accumulates in int8, in per cent.
    role: Role | None = None
    #: The value that guessing gives. Beside a reference that is not shown to be better, the report makes no choice.
    chance: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isprintable() or not self.name.strip():
            raise UsageError(f"MetricSpec(name={self.name!r}): a name is a line of printable text")
        flags = {name: isinstance(getattr(self, name), bool) for name in ("headline", "exact", "per_machine")}
        allowed = flags | {
            "unit": isinstance(self.unit, str),
            "better": self.better is None or self.better in get_args(Better),
            "digits": type(self.digits) is int and 0 <= self.digits <= MOST_DIGITS,
            "gate": self.gate is None or isinstance(self.gate, str),
            "chance": self.chance is None or (isinstance(self.chance, int | float) and math.isfinite(self.chance)),
        }
        for field in (field for field, valid in allowed.items() if not valid):
            # A record would hold it, and nobody could read the run file.
            raise UsageError(f"figure {self.name!r} has {field}={getattr(self, field)!r}, which is no valid {field}")
        if self.gate is not None and self.better is None:
            raise UsageError(
                f"figure {self.name!r} has the gate rule {self.gate!r}, but no direction that is better: "
                "add better='higher' or better='lower'"
            )
        if self.role is not None and self.role not in get_args(Role):
            raise UsageError(
                f"figure {self.name!r} has the unknown role {self.role!r}{nearest(self.role, get_args(Role))}"
            )


def headlines(specs: Sequence[MetricSpec]) -> set[str]:
    """Return the names of the headline figures among all specs of one metric."""
    return {spec.name for spec in specs if spec.headline} or {spec.name for spec in specs[:1]}


class WeightedMetric(Protocol):
    """Compute a quality figure under many weightings of the examples at once; NaN where it is undefined."""

    def __call__(
        self, scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64], /
    ) -> NDArray[np.float64]:
        """``scores`` (n, labels), ``targets`` (see `Task`), ``weights`` (n, samples) -> (samples,)."""
        ...


class EvalContext(Protocol):
    """Give a metric read access to one cell that was built and timed. Attributes are computed on first use."""

    task: Task
    #: The deployed file, and what its runtime reports that it executes.
    file: Path
    audit: Audit
    #: On the test split: the file's answers (n, labels), and the targets (see `Task`). Answers are probabilities, or
    #: the outputs of a regression.
    scores: NDArray[Any]
    targets: NDArray[Any]
    #: The patient of each test example (n,), or another unit that a bootstrap resamples, which ``unit`` names.
    patients: NDArray[Any]
    unit: str
    #: The ids of the test examples (n,); None where the data set has none. Groups by name, such as "sex": arrays (n,).
    records: NDArray[Any] | None
    groups: Mapping[str, NDArray[Any]]
    #: Nanoseconds of each timed call (processes, calls); None when nothing was timed.
    samples: NDArray[Any] | None
    #: Bytes of the process before the file was loaded, after that, and at the peak of inference. Interpreter, libraries
    #: and caches of kernels are in all three. None when nothing was timed, or where the system is not Linux.
    base_memory: int | None
    loaded_memory: int | None
    peak_memory: int | None

    @property
    def reference(self) -> EvalContext:
        """The cell that this one is compared with, on the same examples; a reference is its own reference."""
        ...

    def count(self, counter: Counter) -> float:
        """Run the deployed file in a worker of the cell's profile, and measure what one call costs.

        Raises MeasureError where this machine cannot count it, and where nothing was timed.
        """
        ...

    @property
    def validation(self) -> Split:
        """The validation split, to fix an operating point before test data are looked at."""
        ...

    @property
    def validation_scores(self) -> NDArray[Any]:
        """The file's answers to the validation split (n, labels)."""
        ...

    @property
    def model(self) -> torch.nn.Module:
        """The artefact's model, in evaluation mode.

        Where the recipe requests a quantization: the network in the deployed file, if that is one of PyTorch; otherwise
        the float network, whose attribute ``quantization`` is the request.
        """
        ...

    @property
    def example(self) -> torch.Tensor:
        """One example as a batch of one."""
        ...


class Metric(FormerNames, abc.ABC):
    """Compute one or more figures of a cell."""

    _former_names: ClassVar = {"about": "summary", "figures": "specs"}
    name: ClassVar[str]
    version: ClassVar[str] = "1"
    #: One line for ``harness list``.
    summary: ClassVar[str] = ""
    #: Computed only where a suite (``Matrix(metrics=[...])``) or the option ``--harness-metrics`` names it.
    optional: ClassVar[bool] = False

    @abc.abstractmethod
    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        """Declare the figures that ``compute`` returns for this task; return () to leave out tasks of this kind."""

    @abc.abstractmethod
    def compute(self, evidence: EvalContext) -> Mapping[str, float | Absent | None]:
        """Return the figures by name; None, or Absent with the reason, for a figure that is undefined here."""

    def weighted(self, task: Task) -> Mapping[str, WeightedMetric]:
        """Return the figures that depend on scores and targets alone, as functions of the examples' weights.

        The harness bootstraps each over patients: the figure and its difference from the reference get an interval.
        """
        return {}

    def answers(self, evidence: EvalContext) -> NDArray[Any]:
        """Return what the functions of ``weighted`` get as scores, (n, columns): by default, the scores."""
        return evidence.scores

    def details(self, evidence: EvalContext) -> Mapping[str, Any] | None:
        """Return JSON values for the cell's record that are no figures, such as lists of records; or None."""
        return None
