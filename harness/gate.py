"""The gate: what has become of each cell of an earlier run, figure by figure. Records in, findings out; all is pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from harness.changes import environment
from harness.fingerprint import fingerprint, same_machine
from harness.margin import format_margin
from harness.policy import LATENCY, OUTCOMES, Outcome, Policy, Tolerance
from harness.record import Against, FigureValue, Interval, Record, Timing

#: "fine" is no worse than the tolerance allows.
Kind = Literal["regressed", "improved", "fine", "inconclusive", "contaminated"]
#: Where the earlier model cannot be timed again, both runs' ratios to the reference are compared. Between undisturbed
#: runs on one machine they moved by up to 1.5 % without a cause (results/README.md); twice that is a change.
BETWEEN_RUNS = 0.03
#: How a difference in quality is known whose interval is not.
NO_INTERVAL = "from the records, which have no interval"
#: What a command that judged ends with, where the policy lets the outcome fail it. (13 is: nothing was measured.)
EXIT_CODES: Mapping[Outcome, int] = {"regressed": 10, "inconclusive": 11, "contaminated": 12, "lost": 14}


@dataclasses.dataclass(frozen=True)
class Change:
    """How a figure changed, with its interval; without bounds it is exact.

    Of a tolerance that is a share it is now / earlier, of an absolute one now - earlier, and of "kept" now - the
    reference's.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def map(self, function: Callable[[float], float]) -> Change:
        """The change on another scale; a falling function swaps the bounds."""
        if self.low is None or self.high is None:
            return Change(function(self.value))
        return Change(function(self.value), *sorted((function(self.low), function(self.high))))


@dataclasses.dataclass(frozen=True)
class Finding:
    """One figure of one cell, earlier and now in ``unit``; ``how`` the change was found, and the ``reason``."""

    figure: str
    kind: Kind
    old: float | None
    new: float | None
    change: Change | None
    tolerance: Tolerance
    unit: str = ""
    digits: int = 4
    how: str = ""
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A cell of either run: its findings, or why it has none. ``old`` or ``new`` is None where the run lacks it."""

    name: str
    old: Record | None
    new: Record | None
    policy: Policy
    findings: tuple[Finding, ...] = ()
    #: Of a lost cell, why.
    reason: str = ""

    @property
    def outcomes(self) -> set[Outcome]:
        """What there is to say against the cell; empty when it is fine, or new."""
        if self.new is None:
            return {"lost"}
        kinds = {finding.kind for finding in self.findings}
        return {outcome for outcome in OUTCOMES if outcome in kinds}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """All cells of two runs, and what that means for a build."""

    comparisons: tuple[Comparison, ...]
    #: How many cells of the earlier run were left out on purpose.
    left_out: int = 0

    def having(self, outcome: Outcome) -> list[Comparison]:
        """The cells with this outcome."""
        return [comparison for comparison in self.comparisons if outcome in comparison.outcomes]

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes that fail the build by their cells' policies, the gravest first."""
        return [
            outcome
            for outcome in OUTCOMES
            if any(outcome in comparison.policy.fail_on for comparison in self.having(outcome))
        ]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.failures[0]] if self.failures else 0


def name_of(record: Record) -> str:
    """A cell's name in all runs: what pytest calls its item."""
    return f"{record['suite']}::{record['matrix']}[{record['cell']}]"


def judge(
    old: Mapping[str, Record],
    new: Mapping[str, Record],
    lost: Mapping[str, str],
    policy_of: Callable[[Record], Policy],
) -> Judgement:
    """Compare two runs' records, which are by their names (``name_of``).

    ``lost`` has the cells of the earlier run that this one should have, each with the reason why it has not. What is
    neither there nor in ``new`` was left out on purpose, and is not judged.
    """
    found = [
        compare(name, old[name], record, policy_of(record))
        if name in old
        else Comparison(name, None, record, policy_of(record))
        for name, record in new.items()
    ]
    found += [Comparison(name, old[name], None, policy_of(old[name]), reason=reason) for name, reason in lost.items()]
    return Judgement(tuple(found), left_out=len(old.keys() - new.keys() - lost.keys()))


def compare(name: str, old: Record, new: Record, policy: Policy) -> Comparison:
    """One cell of both runs. A figure that only the new run has is not judged; one that it lost is inconclusive."""
    findings: list[Finding] = []
    for figure, tolerance in policy.tolerances.items():
        judged = _latency(old, new, tolerance) if figure == LATENCY else _figure(figure, old, new, tolerance)
        findings += judged
    return Comparison(name, old, new, policy, tuple(findings))


# ---------------------------------------------------------------------------------------------------------- figures


def _figure(name: str, old: Record, new: Record, tolerance: Tolerance) -> Iterator[Finding]:
    """A figure that is not latency: quality with its interval, or what is exact."""
    now, before = new["figures"].get(name), old["figures"].get(name)
    earlier = (
        None if before is None or before["value"] is None or not math.isfinite(before["value"]) else before["value"]
    )
    if now is None or now["value"] is None or not math.isfinite(now["value"]):
        if before is not None and earlier is not None and before["better"] is not None:
            reason = f"this run has no {name}, and the earlier one had"
            unit, digits = before["unit"], before["digits"]
            yield Finding(name, "inconclusive", earlier, None, None, tolerance, unit, digits, reason=reason)
        return
    if now["better"] is None:
        return
    if tolerance.kind == "kept" and new["cell"] == new["reference"]:
        # It has no reference to keep a share of: it keeps that share of what it was itself.
        tolerance = Tolerance("share", 1 - tolerance.value)
    if tolerance.kind == "kept":
        yield _kept(name, now, earlier, new["differences"].get(name), tolerance)
        return
    again, how = _again(old, new), ""
    if name == "memory" and not _same_machine(old, new):
        if again is None or name not in again["figures"]:
            return
        earlier, how = again["figures"][name]["value"], "both models on this machine, a process each"
    if earlier is not None:
        change, known = _difference(name, old, new, again, now["value"] - earlier)
        found = _judged(name, now, earlier, change, tolerance, how or known)
        paired = again is not None and name in again["differences"]
        if name in new["differences"] and not paired and old["test_examples"] != new["test_examples"]:
            reason = "the test examples are others, and the earlier model was not measured on them"
            found = dataclasses.replace(found, kind="inconclusive", change=None, reason=reason)
        elif known == NO_INTERVAL:
            found = _unproved(found)
        yield found


def _difference(name: str, old: Record, new: Record, again: Against | None, value: float) -> tuple[Change, str]:
    """How a figure changed, now less earlier, and how that is known."""
    if again is not None and name in again["differences"]:
        paired = again["differences"][name]
        if paired["low"] is None or paired["high"] is None:
            return Change(value), NO_INTERVAL
        if old["test_examples"] != new["test_examples"]:
            return _change(paired), f"both models on today's test examples, {paired['method']}"
        # What the earlier model itself is better or worse today, by other versions of what runs it, is exact.
        drift = value - paired["value"]
        return _change(paired).map(lambda entry: entry + drift), f"on the same test examples, {paired['method']}"
    if name not in new["differences"]:
        return Change(value), "a process in each run" if name == "memory" else "exact"
    if old["artefact"]["sha256"] == new["artefact"]["sha256"]:
        return Change(value), "the same model, evaluated in each run"
    same = old["reference_artefact"]["sha256"] == new["reference_artefact"]["sha256"]
    spread = 0.0
    for record in (old, new):
        # Their errors are added as if they were independent, though both are of the same patients: it is too wide.
        entry = record["differences"].get(name) if same else record["figures"][name].get("interval")
        if entry is None or entry["low"] is None or entry["high"] is None:
            return Change(value), NO_INTERVAL
        spread = math.hypot(spread, (entry["high"] - entry["low"]) / 2)
    source = "each run's difference to the same reference" if same else "each run's own interval"
    return Change(value, value - spread, value + spread), f"from the records: {source}"


def _judged(name: str, now: FigureValue, earlier: float, difference: Change, tolerance: Tolerance, how: str) -> Finding:
    """The finding from a difference, now less earlier."""
    share = tolerance.kind == "share"
    allowed = tolerance.value * (abs(earlier) if share else 1)
    sign = 1 if now["better"] == "lower" else -1
    kind, reason = _placed(difference.map(lambda value: sign * value), allowed)
    shown = difference.map(lambda value: 1 + value / earlier) if share and earlier else difference
    return Finding(
        name, kind, earlier, now["value"], shown, tolerance, now["unit"], now["digits"], how=how, reason=reason
    )


def _kept(
    name: str, now: FigureValue, earlier: float | None, difference: Interval | None, tolerance: Tolerance
) -> Finding:
    """Whether a share of the reference's figure is kept: the cell against its reference, both in the new run."""
    value = now["value"]
    if value is None or difference is None:
        reason = f"{name} has no difference to the reference"
        return Finding(name, "inconclusive", earlier, value, None, tolerance, now["unit"], now["digits"], reason=reason)
    reference = value - difference["value"]
    allowed = Tolerance("absolute", (1 - tolerance.value) * abs(reference))
    how = f"against the reference's {reference:.{now['digits']}f}, {difference['method']}"
    found = _judged(name, now, reference, _change(difference), allowed, how)
    if difference["low"] is None or difference["high"] is None:
        found = _unproved(found)
    return dataclasses.replace(found, old=earlier, tolerance=tolerance)


def _unproved(found: Finding) -> Finding:
    """The same of quality whose difference has no interval: that it is worse may be chance."""
    if found.kind != "regressed":
        return found
    return dataclasses.replace(found, kind="inconclusive", reason="the difference is beyond, but has no interval")


def _placed(worse: Change, allowed: float) -> tuple[Kind, str]:
    """Where a worsening with its interval lies: beyond what is allowed, below it, or across."""
    low = worse.value if worse.low is None else worse.low
    high = worse.value if worse.high is None else worse.high
    slack = 1e-9 * max(1.0, abs(allowed))  # figures are floats
    if low > allowed + slack:
        return "regressed", ""
    if high <= allowed + slack:
        return ("improved" if high < -allowed - slack else "fine"), ""
    side = "beyond" if worse.value > allowed else "within"
    return "inconclusive", f"{side} what is allowed, but the interval holds both; more test patients would settle it"


# ---------------------------------------------------------------------------------------------------------- latency


def _latency(old: Record, new: Record, tolerance: Tolerance) -> Iterator[Finding]:
    """The latency: of both models in pairs, or else of each beside its reference in its own run."""
    again = _again(old, new)
    if new["timing"] is None:
        if old["timing"] is not None:
            reason = "this run timed nothing, and the earlier one did"
            yield Finding(LATENCY, "inconclusive", None, None, None, tolerance, reason=reason)
        return
    if again is not None and again["timing"] is not None:
        yield _in_pairs(again["timing"], _latency_of(again), _latency_of(new), tolerance)
    elif old["timing"] is not None:
        same = old["artefact"]["sha256"] == new["artefact"]["sha256"] or (again is not None and again["same"])
        why = new["against"]["reason"] if "against" in new else ""
        yield _beside_references(old, new, old["timing"], new["timing"], same, why, tolerance)


def _in_pairs(timing: Timing, earlier: float | None, now: float | None, tolerance: Tolerance) -> Finding:
    """What the pairs of the earlier model and the new one say; the verdict was reached when they were timed."""
    kinds: Mapping[str, Kind] = {
        "slower": "regressed",
        "faster": "improved",
        "same": "fine",
        "contaminated": "contaminated",
    }
    kind: Kind = "inconclusive"
    reason = "the run ended before it was judged"
    how = f"timed in pairs with the earlier model, {timing['processes']} processes"
    verdict = timing.get("verdict")
    if verdict is not None:
        kind, reason = kinds.get(verdict["kind"], kind), verdict["reason"]
    if kind == "regressed":
        how += ", confirmed by fresh ones"
    return Finding(LATENCY, kind, earlier, now, _change(timing["ratio"]), tolerance, "us", 1, how, reason)


def _beside_references(
    old: Record, new: Record, before: Timing, now: Timing, same: bool, why: str, tolerance: Tolerance
) -> Finding:
    """Both runs' ratios to the reference, by Welch's t interval of their quotient; the unit is the process."""
    known = f" ({why})" if why else ""

    def unknown(kind: Kind, how: str, reason: str) -> Finding:
        return Finding(LATENCY, kind, None, None, None, tolerance, how=how, reason=reason)

    problem, contaminated = _incomparable(old, new), ""
    for run, timing in (("the earlier", before), ("this", now)):
        verdict = timing.get("verdict")
        if verdict is not None and verdict["kind"] == "contaminated":
            contaminated = f"{run} run was contaminated: {verdict['reason']}"
    if same and (problem or contaminated):
        reason = f"whether what runs it became slower is not known: {problem or contaminated}"
        return unknown("fine", "the same file", reason)
    if problem:
        return unknown("inconclusive", "", f"{problem}, and the earlier model was not timed again{known}")
    if contaminated:
        return unknown("contaminated", "", contaminated)
    from harness.measure.statistics import quotient

    margin = max(tolerance.value, BETWEEN_RUNS)
    change = Change(*quotient(before["per_process"], now["per_process"]))
    kind, reason = _placed(change.map(math.log), math.log1p(margin))
    if kind == "inconclusive" and same:  # only code that runs it can have become slower, and that is not shown
        kind, reason = "fine", "the same file"
    elif kind == "inconclusive":
        reason = "the interval holds changes within the margin and beyond it"
    how = f"each run's ratio to its reference, at {format_margin(margin)}{known}"
    ratios = before["ratio"]["value"], now["ratio"]["value"]
    return Finding(LATENCY, kind, *ratios, change, tolerance, "of the reference", 3, how, reason)


def _incomparable(old: Record, new: Record) -> str:
    """Why two runs' ratios to the reference cannot be compared; empty when they can."""
    if not _same_machine(old, new):
        return "the earlier run is of another machine"
    if old["cell"] == old["reference"]:
        return "this cell is its own reference"
    if old["reference_artefact"]["sha256"] != new["reference_artefact"]["sha256"]:
        return "its reference changed too"
    for run, record in (("the earlier", old), ("this", new)):
        timing = record["timing"]
        if timing is None or len(timing.get("per_process", ())) < 2:
            return f"{run} run's ratio has no interval"
        if not all(math.isfinite(ratio) and ratio > 0 for ratio in timing["per_process"]):
            return f"{run} run has ratios that no clock gives, {timing['per_process']}"
    if environment(old) != environment(new):
        return "it was timed in another environment"
    return ""


# ---------------------------------------------------------------------------------------------------------- common


def _again(old: Record, new: Record) -> Against | None:
    """What the new run measured of the very model that the old record is of."""
    found = new.get("against")
    return found if found is not None and found["artefact"]["key"] == old["artefact"]["key"] else None


def _same_machine(old: Record, new: Record) -> bool:
    return same_machine(fingerprint(old), fingerprint(new))


def _change(found: Interval) -> Change:
    return Change(found["value"], found["low"], found["high"])


def _latency_of(record: Record | Against) -> float | None:
    found = record["figures"].get(LATENCY)
    return None if found is None else found["value"]
