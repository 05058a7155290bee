"""Judge a run against an earlier one: compare the change of every figure of every cell with its tolerance.

Latency is judged by the ratio of both models timed in pairs, every other figure by a difference with its interval.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal

from harness.policy.rules import LATENCY, OUTCOMES, Outcome, Policy, Tolerance
from harness.records.changes import changed_code, timing_environment
from harness.records.machine_id import same_machine
from harness.records.record import Against, Interval, MetricValue, Record, Timing
from harness.run.declarations import declaration
from harness.text import format_margin

#: Exit codes of a command that judged, by the gravest outcome that fails the build. (13 means: nothing was measured.)
EXIT_CODES: Mapping[Outcome, int] = {
    "regressed": 10,
    "inconclusive": 11,
    "contaminated": 12,
    "lost": 14,
    "not judged": 15,
}
#: The least margin for ratios of two runs to the reference, used when the earlier model cannot be timed again. Between
#: undisturbed runs on one machine such ratios moved by up to 1.5 % without a cause (results/README.md); this is twice.
BETWEEN_RUNS = 0.03
#: The method of a difference that was not resampled: a worse value may be chance.
NO_INTERVAL = "from the records, without an interval"

#: "fine" is no worse than the tolerance allows.
FindingKind = Literal["regressed", "improved", "fine", "lost", "not judged", "inconclusive", "contaminated"]


@dataclasses.dataclass(frozen=True)
class FigureChange:
    """The change of a figure with its interval; without bounds it is exact.

    For a tolerance of kind "share" it is new / old, for "absolute" new - old, and for "kept" new - reference.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, interval: Interval) -> FigureChange:
        """The change that an interval of a record describes."""
        return cls(interval.value, interval.low, interval.high)

    def map(self, function: Callable[[float], float]) -> FigureChange:
        """The change on another scale; a falling function swaps the bounds."""
        if self.low is None or self.high is None:
            return FigureChange(function(self.value))
        return FigureChange(function(self.value), *sorted((function(self.low), function(self.high))))


@dataclasses.dataclass(frozen=True)
class Finding:
    """The judgement of one figure of one cell.

    ``old`` and ``new`` are its values in ``unit``, None if unknown. ``method`` says how the change was determined,
    ``reason`` why the kind is not "regressed" or "improved".
    """

    figure: str
    kind: FindingKind
    old: float | None
    new: float | None
    change: FigureChange | None
    tolerance: Tolerance
    unit: str = ""
    digits: int = 4
    method: str = ""
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class CellComparison:
    """A cell of either run with its findings. ``old`` or ``new`` is None if that run has no record of it."""

    name: str
    old: Record | None
    new: Record | None
    policy: Policy
    findings: tuple[Finding, ...] = ()
    #: Why the cell is lost.
    reason: str = ""

    @property
    def outcomes(self) -> set[Outcome]:
        """The outcomes that may fail a build; empty if the cell is fine or new."""
        if self.new is None:
            return {"lost"}
        kinds = {finding.kind for finding in self.findings}
        return {outcome for outcome in OUTCOMES if outcome in kinds}

    @property
    def failures(self) -> set[Outcome]:
        """The outcomes that fail the build, by the policy and by the tiers of its rules."""
        if self.new is None:
            return {"lost"} if "lost" in self.policy.fail_on else set()
        return {
            outcome
            for outcome in OUTCOMES
            for finding in self.findings
            if finding.kind == outcome and finding.tolerance.fails(outcome, self.policy.fail_on)
        }


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The comparison of two runs, cell by cell, and its exit code."""

    comparisons: tuple[CellComparison, ...]
    #: The number of cells of the earlier run that were not selected.
    not_selected: int = 0

    def having(self, outcome: Outcome) -> list[CellComparison]:
        """The cells with this outcome."""
        return [comparison for comparison in self.comparisons if outcome in comparison.outcomes]

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes that fail the build by their cells' policies, the gravest first."""
        failures = {outcome for comparison in self.comparisons for outcome in comparison.failures}
        return [outcome for outcome in OUTCOMES if outcome in failures]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.failures[0]] if self.failures else 0


def judge(
    old: Mapping[str, Record],
    new: Mapping[str, Record],
    lost: Mapping[str, str],
    policy_of: Callable[[Record], Policy],
) -> Judgement:
    """Compare the records of two runs, each by the name of its cell (`Record.name`).

    ``lost`` maps cells of the earlier run that are missing from this run, although expected, to the reason. Cells of
    the earlier run in neither ``lost`` nor ``new`` were not selected, and are not judged.
    """
    comparisons = [
        judge_cell(name, old[name], record, policy_of(record), _reference_code_changed(name, old, new))
        if name in old
        else judge_new_cell(name, record, policy_of(record))
        for name, record in new.items()
    ]
    comparisons += [
        CellComparison(name, old[name], None, policy_of(old[name]), reason=reason) for name, reason in lost.items()
    ]
    return Judgement(tuple(comparisons), not_selected=len(old.keys() - new.keys() - lost.keys()))


def _reference_code_changed(name: str, old: Mapping[str, Record], new: Mapping[str, Record]) -> bool:
    """Whether the records of the cell's reference say that its code changed."""
    reference = f"{new[name].suite}::{new[name].matrix}[{new[name].reference}]"
    return reference in old and reference in new and bool(changed_code(old[reference], new[reference]))


def judge_cell(
    name: str, old: Record, new: Record, policy: Policy, reference_code_changed: bool = False
) -> CellComparison:
    """Compare a cell of both runs. A figure that only the new run has is not judged; a lost one is inconclusive."""
    findings = (
        judge_latency(old, new, tolerance, reference_code_changed)
        if figure == LATENCY
        else judge_metric(figure, old, new, tolerance)
        for figure, tolerance in policy.tolerances.items()
    )
    return CellComparison(name, old, new, policy, tuple(finding for finding in findings if finding is not None))


def judge_new_cell(name: str, new: Record, policy: Policy) -> CellComparison:
    """Judge a cell that only the new run has: it is fine unless a critical figure is missing."""
    findings = []
    for figure, tolerance in policy.tolerances.items():
        missing = new.timing is None if figure == LATENCY else _finite(new, figure) is None
        if missing and tolerance.tier == "critical":
            findings.append(_missing(figure, None, tolerance))
    return CellComparison(name, None, new, policy, tuple(findings), "; ".join(finding.reason for finding in findings))


def classify(worsening: FigureChange, allowed: float) -> tuple[FindingKind, str]:
    """The kind of a worsening, by its interval: beyond ``allowed``, within, or across; and the reason if across."""
    low = worsening.value if worsening.low is None else worsening.low
    high = worsening.value if worsening.high is None else worsening.high
    slack = 1e-9 * max(1.0, abs(allowed))  # for rounding errors
    if low > allowed + slack:
        return "regressed", ""
    if high <= allowed + slack:
        return ("improved" if high < -allowed - slack else "fine"), ""
    side = "beyond" if worsening.value > allowed else "within"
    return "inconclusive", f"the change is {side} the tolerance, but its interval crosses it; use more test examples"


def _earlier_model(old: Record, new: Record) -> Against | None:
    """The new run's measurement of the earlier model, as the code of the earlier run deployed it."""
    against = new.against
    if against is None or against.artefact.key != old.artefact.key:
        return None
    return against if not against.code or against.code == old.code else None


def _on_one_machine(old: Record, new: Record) -> bool:
    return same_machine(old.fingerprint, new.fingerprint)


# ------------------------------------------------------------------------------------------------- figures of metrics


def judge_metric(name: str, old: Record, new: Record, tolerance: Tolerance) -> Finding | None:
    """Judge a metric's figure; None if the earlier run did not have it, or it has no better side."""
    before, now = _finite(old, name), _finite(new, name)
    if now is None and tolerance.tier == "critical":
        return _missing(name, before, tolerance)
    if now is None:
        if before is None or before.better is None:
            return None
        return _undecided(name, before, before.value, None, tolerance, f"this run has no {name}; the earlier run has")
    if now.better is None:
        return None
    if tolerance.kind == "kept":
        if not new.is_reference:
            return _judge_kept_share(name, now, before, new.differences.get(name), tolerance)
        # The reference itself has to keep that share of its own earlier value.
        tolerance = Tolerance("share", 1 - tolerance.value)
    if before is None and name in old.figures:
        reason = f"the earlier run could not compute {name}; compare with a run that did"
        return _undecided(name, now, None, now.value, tolerance, reason)
    remeasured = _earlier_model(old, new)
    if declaration(name, now).per_machine and not _on_one_machine(old, new):
        before = None if remeasured is None else _finite(remeasured, name)
    if before is None:
        return None
    difference, method = _difference(name, old, new, remeasured, _value(now) - _value(before))
    if difference is None:
        return _undecided(name, now, before.value, now.value, tolerance, method)
    return _judge_difference(name, now, _value(before), difference, tolerance, method)


def _finite(record: Record | Against, name: str) -> MetricValue | None:
    """The figure, if it has a finite value."""
    figure = record.figures.get(name)
    return figure if figure is not None and figure.value is not None and math.isfinite(figure.value) else None


def _value(figure: MetricValue) -> float:
    assert figure.value is not None  # by _finite
    return figure.value


def _missing(name: str, before: MetricValue | None, tolerance: Tolerance) -> Finding:
    """The finding for a critical figure that this run lacks."""
    reason = f"this run has no {name}, which the policy requires (critical)"
    return Finding(name, "lost", None if before is None else before.value, None, None, tolerance, reason=reason)


def _undecided(
    name: str, figure: MetricValue, old: float | None, new: float | None, tolerance: Tolerance, reason: str
) -> Finding:
    return Finding(name, "inconclusive", old, new, None, tolerance, figure.unit, figure.digits, reason=reason)


def _difference(
    name: str, old: Record, new: Record, remeasured: Against | None, value: float
) -> tuple[FigureChange | None, str]:
    """The difference new - old of a figure with the method of its interval, or None with the reason."""
    other_examples = old.test_examples != new.test_examples
    if remeasured is not None and name in remeasured.differences:
        paired = remeasured.differences[name]
        if paired.low is None or paired.high is None:
            return FigureChange(value), NO_INTERVAL
        if other_examples or remeasured.sha256 != old.artefact.sha256:
            # The old record describes other examples or another file, so only the values of this run are comparable.
            return FigureChange.of(paired), f"both models evaluated in this run, {paired.method}"
        # The earlier model's own drift, caused by other versions of the software, is known exactly.
        drift = value - paired.value
        return FigureChange.of(paired).map(lambda bound: bound + drift), f"on the same test examples, {paired.method}"
    if name not in new.differences:
        exact = declaration(name, new.figures[name]).exact
        return FigureChange(value), "exact" if exact else "one measurement in each run"
    if other_examples:
        return None, "the test examples differ, and this run did not evaluate the earlier model on them"
    if old.artefact.sha256 == new.artefact.sha256:
        return FigureChange(value), "the same model, evaluated in each run"
    same_reference = old.reference_artefact.sha256 == new.reference_artefact.sha256
    spread = 0.0
    for record in (old, new):
        # Both intervals resample the same examples; adding them as independent errors is conservative.
        interval = record.differences.get(name) if same_reference else record.figures[name].interval
        if interval is None or interval.low is None or interval.high is None:
            return FigureChange(value), NO_INTERVAL
        spread = math.hypot(spread, (interval.high - interval.low) / 2)
    source = "each run's difference to the same reference" if same_reference else "each run's own interval"
    return FigureChange(value, value - spread, value + spread), f"from the records: {source}"


def _judge_difference(
    name: str, now: MetricValue, earlier: float, difference: FigureChange, tolerance: Tolerance, method: str
) -> Finding:
    """Judge a difference, new - old."""
    share = tolerance.kind == "share"
    allowed = tolerance.value * (abs(earlier) if share else 1)
    sign = 1 if now.better == "lower" else -1
    kind, reason = classify(difference.map(lambda value: sign * value), allowed)
    if kind == "regressed" and method == NO_INTERVAL:
        kind, reason = "inconclusive", "the difference exceeds the tolerance, but has no interval"
    change = difference.map(lambda value: 1 + value / earlier) if share and earlier else difference
    return Finding(name, kind, earlier, now.value, change, tolerance, now.unit, now.digits, method, reason)


def _judge_kept_share(
    name: str, now: MetricValue, before: MetricValue | None, difference: Interval | None, tolerance: Tolerance
) -> Finding:
    """Judge whether the cell keeps a share of its reference's figure, both in the new run."""
    earlier = None if before is None else before.value
    if difference is None:
        return _undecided(name, now, earlier, now.value, tolerance, f"{name} has no difference to the reference")
    reference = _value(now) - difference.value
    allowed = Tolerance("absolute", (1 - tolerance.value) * abs(reference))
    bounded = difference.low is not None and difference.high is not None
    method = f"against the reference's {reference:.{now.digits}f}, {difference.method}" if bounded else NO_INTERVAL
    finding = _judge_difference(name, now, reference, FigureChange.of(difference), allowed, method)
    return dataclasses.replace(finding, old=earlier, tolerance=tolerance)


# ------------------------------------------------------------------------------------------------------------ latency


def judge_latency(
    old: Record, new: Record, tolerance: Tolerance, reference_code_changed: bool = False
) -> Finding | None:
    """Judge latency by pairs of both models, else by each run's ratio to its reference; None if never timed.

    Where the code that runs the model changed, only pairs count that timed the earlier code: a change of code slows the
    reference down too, or the earlier model if the new code runs it.
    """
    remeasured = _earlier_model(old, new)
    if new.timing is None:
        if tolerance.tier == "critical":
            return _missing(LATENCY, None, tolerance)
        if old.timing is None:
            return None
        return _latency_finding("inconclusive", tolerance, reason="this run did not time the cell; the earlier run did")
    if remeasured is not None and remeasured.timing is not None:
        return _judge_pairs(remeasured.timing, remeasured.value(LATENCY), remeasured.latency, tolerance)
    if old.timing is not None and (reason := _lacks_earlier_code(old, new, remeasured)):
        return _latency_finding("not judged", tolerance, reason=reason)
    if old.timing is not None:
        same_file = old.artefact.sha256 == new.artefact.sha256 or (remeasured is not None and remeasured.same)
        problem = "the code of its reference changed" if reference_code_changed else _incomparable(old, new)
        return _judge_ratios(old, new, old.timing, new.timing, same_file, tolerance, problem)
    return None


def _lacks_earlier_code(old: Record, new: Record, remeasured: Against | None) -> str:
    """Why a cell whose code changed is not judged; empty if its code did not change."""
    code = changed_code(old, new)
    if not code and (remeasured is None or not remeasured.code_changed):
        return ""
    because = remeasured.reason if remeasured is not None else "this run did not time the earlier code"
    return f"the code of {' and '.join(code) or 'the earlier model'} changed, and {because}"


def _latency_finding(kind: FindingKind, tolerance: Tolerance, *, method: str = "", reason: str = "") -> Finding:
    """A finding without values."""
    return Finding(LATENCY, kind, None, None, None, tolerance, method=method, reason=reason)


def _judge_pairs(timing: Timing, earlier: float | None, now: float | None, tolerance: Tolerance) -> Finding:
    """Convert the verdict on pairs of the earlier and the new model, which was reached when they were timed."""
    kinds: Mapping[str, FindingKind] = {
        "slower": "regressed",
        "faster": "improved",
        "same": "fine",
        "contaminated": "contaminated",
    }
    kind: FindingKind = "inconclusive"
    reason = "the run ended before the verdict"
    method = f"timed in pairs with the earlier model, {timing.processes} processes"
    verdict = timing.verdict
    if verdict is not None:
        kind, reason = kinds.get(verdict.kind, kind), verdict.reason
    if kind == "regressed":
        method += ", confirmed by fresh processes"
    change = FigureChange.of(timing.ratio)
    return Finding(LATENCY, kind, earlier, now, change, tolerance, "us", 1, method, reason)


def _judge_ratios(
    old: Record, new: Record, before: Timing, now: Timing, same_file: bool, tolerance: Tolerance, problem: str
) -> Finding:
    """Judge the quotient of both runs' ratios to the reference, by Welch's t interval; the unit is the process.

    Each run's A/A runs widen it. ``problem`` says why the ratios cannot be compared; empty if they can. A run of
    version 0.1 may have discarded the ratio as contaminated.
    """
    from harness.stats.ratios import mean_log_ratio, quotient

    not_timed = f" ({new.against.reason})" if new.against is not None and new.against.reason else ""
    contaminated = ""
    for run, timing in (("the earlier", before), ("this", now)):
        verdict = timing.verdict
        if verdict is not None and verdict.kind == "contaminated":
            contaminated = f"{run} run was contaminated: {verdict.reason}"
    if same_file and (problem or contaminated):
        reason = f"whether the runtime became slower is unknown: {problem or contaminated}"
        return _latency_finding("fine", tolerance, method="the same file", reason=reason)
    if problem:
        reason = f"{problem}, and this run did not time the earlier model again{not_timed}"
        return _latency_finding("inconclusive", tolerance, reason=reason)
    if contaminated:
        return _latency_finding("contaminated", tolerance, reason=contaminated)
    margin = max(tolerance.value, BETWEEN_RUNS)
    earlier, later = (mean_log_ratio(timing.per_process, timing.aa_ratios) for timing in (before, now))
    change = FigureChange(*quotient(earlier, later))
    kind, reason = classify(change.map(math.log), math.log1p(margin))
    if kind == "inconclusive" and same_file:  # only the runtime can have become slower, and that is not shown
        kind, reason = "fine", "the same file"
    elif kind == "inconclusive":
        reason = "the interval crosses the margin"
    elif kind == "regressed" and same_file and not _runtime_changed(old, new):
        # There is no known cause, and a file cannot be timed in pairs with itself.
        kind, reason = "inconclusive", "slower, although the file, its key and all versions are the same"
    method = f"each run's ratio to its reference, at {format_margin(margin)}{not_timed}"
    ratios = before.ratio.value, now.ratio.value
    return Finding(LATENCY, kind, *ratios, change, tolerance, "of the reference", 3, method, reason)


def _incomparable(old: Record, new: Record) -> str:
    """Why two runs' ratios to the reference cannot be compared; empty if they can."""
    if not _on_one_machine(old, new):
        return "the earlier run comes from another machine"
    if old.is_reference:
        return "this cell is its own reference"
    if old.reference_artefact.sha256 != new.reference_artefact.sha256:
        return "its reference changed too"
    for run, record in (("the earlier", old), ("this", new)):
        timing = record.timing
        if timing is None or len(timing.per_process) < 2:
            return f"{run} run's ratio has no interval"
        if not all(math.isfinite(ratio) and ratio > 0 for ratio in timing.per_process):
            return f"{run} run has invalid ratios, {timing.per_process}"
    if timing_environment(old) != timing_environment(new):
        return "the runs timed it in different environments"
    return ""


def _runtime_changed(old: Record, new: Record) -> bool:
    """Whether the key or a recorded version differs for one and the same file."""
    return old.artefact.key != new.artefact.key or old.versions != new.versions
