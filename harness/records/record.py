"""Define the record of a cell as classes, and convert them from and to JSON.

A record is in ``benchmarks[].extra_info["harness"]`` of a pytest-benchmark file; the paired samples are beside it in
``extra_info["harness_samples"]``, and its checksum in ``extra_info["harness_sha256"]``. In the file a record is plain
JSON: no value in it needs this package to be read. Fields that this version does not know are ignored, because later
versions add some.
"""

from __future__ import annotations

import copy
import re
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType, field

from harness.api.runtimes import BACK_TO_BACK
from harness.errors import UsageError
from harness.keys import key_of
from harness.records.machine_id import Fingerprint, fingerprint
from harness.records.signals import SIGNALS

SCHEMA = 1
#: Where a benchmark's ``extra_info`` has the record and the paired samples; a file has its other entries under FIELD.
FIELD = "harness"
SAMPLES = "harness_samples"
AA_SAMPLES = "harness_aa_samples"
CHECKSUM = "harness_sha256"

T = TypeVar("T")


class Interval(msgspec.Struct, frozen=True):
    """An estimate with its confidence interval at ``level`` (0.95 is 95 %), and the method that gave it.

    The bounds are None where there are too few units for an interval; ``method`` then says so.
    """

    value: float
    low: float | None
    high: float | None
    level: float
    method: str


class MetricValue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One figure of one metric; ``value`` is None where it is undefined, with the ``reason`` if the metric gave one.

    The rest is what its MetricSpec declares.

    Only a figure that follows from the answers alone has an ``interval``: by bootstrap over patients.
    """

    metric: str
    value: float | None
    unit: str
    better: str | None
    digits: int
    headline: bool
    exact: bool = False
    per_machine: bool = False
    gate: str | None = None
    role: str | None = None
    chance: float | None = None
    interval: Interval | None = None
    reason: str = ""


class SignalRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A noise signal: a sign that the machine was disturbed, if it is ``beyond`` its limit. It decides nothing.

    ``value`` is None if the machine does not report it.
    """

    signal: str
    value: float | None
    limit: float
    beyond: bool

    @property
    def sentence(self) -> str:
        """The sentence for users."""
        spec = SIGNALS.get(self.signal)
        return self.signal if spec is None else spec.describe(self.value or 0.0)


class AARun(msgspec.Struct, frozen=True, kw_only=True):
    """The reference timed against a copy of itself in the same minutes and profile.

    ``smallest_change`` is the minimum detectable effect of as many processes, by their spread in this run alone.
    ``disturbed``: a noise signal was beyond its limit.
    """

    sha256: str
    ratio: Interval
    per_process: list[float]
    smallest_change: float | None
    disturbed: bool


class Confirmation(msgspec.Struct, frozen=True, kw_only=True):
    """The measurement by fresh processes of a cell that looked slower."""

    ratio: Interval
    per_process: list[float]
    signals: list[SignalRecord]

    @property
    def exceeded(self) -> list[SignalRecord]:
        """The signals beyond their limits."""
        return [signal for signal in self.signals if signal.beyond]


class VerdictRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a ratio at a ``margin`` (0.01 is 1 %): faster, slower, same or inconclusive.

    ``p`` is adjusted for the looks and for the cells of the matrix; ``processes_needed`` would decide an inconclusive
    cell. Version 0.1 also had "contaminated": the machine was disturbed, and the result discarded.
    """

    kind: str
    margin: float
    p: float | None
    processes_needed: int | None
    reason: str
    confirmation: Confirmation | None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of wall time that the timing took, and seconds that the timed calls took."""

    wall: float
    calls: float


class Timing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the latency was measured: ``ratio`` is candidate / reference, ``environment`` what each worker verified.

    Processes were added until the verdict was decided or the budget spent: ``looks`` counts how often it was tested,
    and ``level`` is the level of the last test.

    ``protocol`` is "paired" or "single" (study B's: the mean of one process), which has only the fields that both
    have. ``steady``: whether the warm-up ended with steady times; ``bootstrap``: a second interval of the ratio;
    ``per_process``: the ratio of each process; ``canary``: the canary's nanoseconds, one list a process, in the order
    of time.
    """

    # A factory keeps a default from being omitted: the files always name the protocol. The oldest have none.
    protocol: str = field(default_factory=lambda: "paired")
    profile: dict[str, Any]
    processes: int
    pairs: int
    warmup: int
    #: Null and absent differ in the files: null is "not known" of a paired timing.
    steady: bool | UnsetType | None = UNSET
    #: The relative difference that matters (0.01 is 1 %), for the verdict; in old files only the verdict has it.
    margin: float | None = None
    ratio: Interval
    bootstrap: Interval | UnsetType | None = UNSET
    per_process: list[float] = []
    environment: list[dict[str, Any]]
    involuntary_switches: list[int] = []
    load: dict[str, Any] = {}
    signals: list[SignalRecord] = []
    canary: list[list[int]] = []
    recorded_aa_runs: list[AARun] = field(default_factory=list, name="aa_runs")
    #: Version 0.1 had one A/A run, here.
    itself: AARun | None = None
    looks: int = 1
    level: float = 0.05
    cost: Cost | None = None
    #: It depends on the other cells of the matrix, so it stands in a section of the run file of its own and is attached
    #: on reading (harness.records.verdicts). Old files have it here.
    verdict: VerdictRecord | None = None

    @property
    def exceeded(self) -> list[SignalRecord]:
        """The signals beyond their limits."""
        return [signal for signal in self.signals if signal.beyond]

    @property
    def pace(self) -> str:
        """The regime of the timed calls: "back-to-back", or the pause before each, such as "20ms"."""
        return str(self.profile.get("pace", BACK_TO_BACK))

    @property
    def aa_runs(self) -> list[AARun]:
        """The A/A runs of the same minutes, the newest last; empty in the oldest files."""
        return self.recorded_aa_runs or ([] if self.itself is None else [self.itself])

    @property
    def aa_ratios(self) -> list[list[float]]:
        """The per-process ratios of each A/A run."""
        return [run.per_process for run in self.aa_runs]

    @property
    def contaminated(self) -> bool:
        """Whether the verdict is "contaminated", which only version 0.1 gave."""
        return self.verdict is not None and self.verdict.kind == "contaminated"


class ArtefactRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """The artefact behind a cell: its key, and the hash of the deployed file that was timed and evaluated.

    ``deployable`` is the key under which the store holds that file; empty in files of earlier versions.
    """

    key: str
    sha256: str
    deployable: str = ""


class Parity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far the deployed file's probabilities are from those of the network before its deployment.

    ``against`` is "network" (the artefact's), or "float network" for an int8 deployment: the network before any
    quantization. ``difference`` is the largest absolute difference, ``mean`` the mean one, ``changed`` the share of
    probabilities that differ by more than 0.01, on so many validation ``examples``. ``limits`` holds the largest
    allowed values of these; it is empty where the recipe states none.
    """

    against: str
    difference: float
    mean: float
    changed: float
    examples: int
    limits: dict[str, float] = {}


class OperatorRecord(msgspec.Struct, frozen=True):
    """So many operators of one kind that the deployed file executes in one ``precision``."""

    kind: str
    precision: str
    count: int


class AuditRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the deployed file executes, by its runtime's own graph.

    The shares of weights and of multiply-accumulates in int8, 0 to 1, are None where the runtime does not report them,
    with the ``reason``.
    """

    operators: list[OperatorRecord]
    int8_weights: float | None
    int8_macs: float | None
    reason: str = ""


class DeploymentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How the artefact was deployed: the runtime, its version, and the versions of its packages.

    ``parity`` has one entry for each network that the file was compared with. ``batch`` is the number of examples in a
    call when quality was evaluated: 1, as timed, where the answers depend on the batch. ``batch_difference`` is the
    largest difference of probabilities between single examples and a batch; None where the file cannot answer a batch.
    """

    runtime: str
    version: str
    packages: dict[str, str]
    parity: list[Parity]
    batch: int
    batch_difference: float | None
    audit: AuditRecord


class Against(msgspec.Struct, frozen=True, kw_only=True):
    """The cell's model of an earlier run, measured again in this run beside the new model.

    ``timing`` has the earlier model as the reference; it is None, with the ``reason``, where the model was not timed
    again. ``latency`` is the new model's median in these pairs, in microseconds. ``sha256`` is the hash of the
    earlier file that was measured: the one that the earlier run deployed, or one that is deployed from the artefact
    today; empty if there is none. ``same``: it is the file of the new model.
    ``differences`` are the new model's figures minus the earlier model's.

    ``code`` has the digests of the code that ran the model in the earlier run. ``code_changed``: this run has other
    code under these names. Then the model was timed, if at all, by the code of the earlier run's ``commit``.
    """

    run: str
    artefact: ArtefactRef
    sha256: str
    same: bool
    timing: Timing | None
    latency: float | None
    reason: str
    figures: dict[str, MetricValue]
    differences: dict[str, Interval]
    code: dict[str, str] = {}
    code_changed: bool = False
    commit: str | None = None

    def value(self, figure: str) -> float | None:
        """The value of a figure; None where the record has no such figure, or it is undefined."""
        return self.figures[figure].value if figure in self.figures else None


class StepRecord(msgspec.Struct, frozen=True):
    """One step of the recipe: as the suite wrote it, what it reported, and the seconds that building it took.

    ``facts`` is empty and ``seconds`` None when the store no longer has the step's artefact.
    """

    step: str
    facts: dict[str, Any]
    seconds: float | None

    @property
    def trainings(self) -> Any:
        """What the step reported of its calls of ``fit``; records of version 0.1 call it "fits". None where absent."""
        return self.facts.get("trainings", self.facts.get("fits"))


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measured cell."""

    schema: int
    suite: str
    matrix: str
    cell: str
    reference: str
    axes: dict[str, str | int]
    columns: str
    synthetic: bool
    preset: str
    device: str
    artefact: ArtefactRef
    reference_artefact: ArtefactRef
    steps: list[StepRecord]
    figures: dict[str, MetricValue]
    differences: dict[str, Interval]
    test_examples: int
    #: None in files of earlier versions.
    deployment: DeploymentRecord | None = None
    timing: Timing | None
    machine: dict[str, Any] = {}
    versions: dict[str, str]
    #: Digests of the Python code that runs the deployed file, by what the code defines, such as "architecture cnn".
    #: Empty where the file holds the whole program; None in records of earlier versions.
    code: dict[str, str] | None = None
    #: The gate rules that the matrix declares. The files have it even when it is empty.
    gate: dict[str, str] = field(default_factory=lambda: {})
    against: Against | None = None
    #: What metrics tell beside their figures, by metric.
    details: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The cell's name in all runs: the id of its pytest item."""
        return f"{self.suite}::{self.matrix}[{self.cell}]"

    @property
    def identity(self) -> tuple[str, ...]:
        """The identity of the measurement, equal in comparable records: suite, matrix, cell, preset and protocol."""
        return (self.suite, self.matrix, self.cell, self.preset, self.protocol or "")

    @property
    def is_reference(self) -> bool:
        """Whether the cell is its own reference."""
        return self.cell == self.reference

    @property
    def protocol(self) -> str | None:
        """How the cell was timed: "paired", "single", or None where it was not timed."""
        return None if self.timing is None else self.timing.protocol

    @property
    def contaminated(self) -> bool:
        """Whether the verdict on the latency is "contaminated", which only version 0.1 gave."""
        return self.timing is not None and self.timing.contaminated

    @property
    def verdict(self) -> VerdictRecord | None:
        """The verdict on the latency; None if it was not timed in pairs, or is not decided yet."""
        return None if self.timing is None else self.timing.verdict

    @property
    def fingerprint(self) -> Fingerprint:
        """The machine that the cell was measured on."""
        return fingerprint(self.machine)

    @property
    def headlines(self) -> dict[str, MetricValue]:
        """The headline figures of all metrics."""
        return {name: figure for name, figure in self.figures.items() if figure.headline}

    def value(self, figure: str) -> float | None:
        """The value of a figure; None where the record has no such figure, or it is undefined."""
        return self.figures[figure].value if figure in self.figures else None


class Unmeasured(msgspec.Struct, frozen=True, kw_only=True):
    """A cell that was selected and not measured: ``outcome`` is "skipped", "failed" or "not run", with the reason."""

    suite: str
    matrix: str
    cell: str
    outcome: str
    reason: str

    @property
    def name(self) -> str:
        """The cell's name in all runs, as that of a record."""
        return f"{self.suite}::{self.matrix}[{self.cell}]"

    @property
    def description(self) -> str:
        """The outcome and the reason, for users."""
        return self.reason if self.outcome == "not run" else f"{self.outcome}: {self.reason}"


def decode(document: Any, kind: type[T] = Record) -> T:  # type: ignore[assignment]
    """Convert parsed JSON to a record, or to another class of this module.

    Raises ValueError with the path of the field and the expected type.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        path = _with_key(path.removesuffix("`"), document, kind).removeprefix(".")
        raise ValueError(f"{path}: {problem}" if path else problem) from error


def to_json(value: Any) -> Any:
    """Convert a record, or another class of this module, to new plain mappings and lists."""
    return msgspec.to_builtins(value)


def checksum(document: Any) -> str:
    """The SHA-256 of a JSON value in canonical form, which is the same before it is written and after it is read."""
    return key_of(document)


def verify(document: Any, expected: object) -> None:
    """Raise ValueError unless ``expected`` is the checksum of a JSON value."""
    try:
        matches = checksum(document) == expected
    except UsageError:  # NaN, which no record holds
        matches = False
    if not matches:
        raise ValueError("it does not match its SHA-256: it was damaged, or edited after it was written")


def _with_key(path: str, document: Any, kind: type[Any]) -> str:
    """Complete the path of a fault: msgspec writes "..." for the key of a mapping."""
    if "[...]" not in path:
        return path
    place = document = copy.deepcopy(document)
    for name, number in re.findall(r"\.(\w+)|\[(\d+)\]", path.partition("[...]")[0]):
        place = place[int(number)] if number else place[name]
    entries = dict(place)
    for key, value in entries.items():
        place.clear()
        place[key] = value
        try:
            msgspec.convert(document, kind)
        except msgspec.ValidationError:
            return path.replace("[...]", f".{key}")
    return path
