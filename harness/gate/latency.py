"""The gate's judgement of latency: both models in pairs, or else each run's ratio to its reference."""

from __future__ import annotations

import math
from collections.abc import Mapping

from harness.gate.findings import Change, Finding, Kind, change_of, measured_again, on_one_machine, placed
from harness.policy.rules import LATENCY, Tolerance
from harness.records.changes import environment
from harness.records.record import Record, Timing
from harness.text import format_margin

#: Where the earlier model cannot be timed again, both runs' ratios to the reference are compared. Between undisturbed
#: runs on one machine they moved by up to 1.5 % without a cause (results/README.md); twice that is a change.
BETWEEN_RUNS = 0.03
#: How a difference in quality is known whose interval is not.
NO_INTERVAL = "from the records, which have no interval"


def judge_latency(old: Record, new: Record, tolerance: Tolerance) -> Finding | None:
    """The latency: of both models in pairs, or else of each beside its reference in its own run."""
    again = measured_again(old, new)
    if new.timing is None:
        if old.timing is not None:
            reason = "this run timed nothing, and the earlier one did"
            return Finding(LATENCY, "inconclusive", None, None, None, tolerance, reason=reason)
        return None
    if again is not None and again.timing is not None:
        return _in_pairs(again.timing, again.value(LATENCY), again.latency, tolerance)
    if old.timing is not None:
        same = old.artefact.sha256 == new.artefact.sha256 or (again is not None and again.same)
        why = "" if new.against is None else new.against.reason
        return _beside_references(old, new, old.timing, new.timing, same, why, tolerance)
    return None


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
    how = f"timed in pairs with the earlier model, {timing.processes} processes"
    verdict = timing.verdict
    if verdict is not None:
        kind, reason = kinds.get(verdict.kind, kind), verdict.reason
    if kind == "regressed":
        how += ", confirmed by fresh ones"
    return Finding(LATENCY, kind, earlier, now, change_of(timing.ratio), tolerance, "us", 1, how, reason)


def _beside_references(
    old: Record, new: Record, before: Timing, now: Timing, same: bool, why: str, tolerance: Tolerance
) -> Finding:
    """Both runs' ratios to the reference, by Welch's t interval of their quotient; the unit is the process."""
    known = f" ({why})" if why else ""

    def unknown(kind: Kind, how: str, reason: str) -> Finding:
        return Finding(LATENCY, kind, None, None, None, tolerance, how=how, reason=reason)

    problem, contaminated = _incomparable(old, new), ""
    for run, timing in (("the earlier", before), ("this", now)):
        verdict = timing.verdict
        if verdict is not None and verdict.kind == "contaminated":
            contaminated = f"{run} run was contaminated: {verdict.reason}"
    if same and (problem or contaminated):
        reason = f"whether what runs it became slower is not known: {problem or contaminated}"
        return unknown("fine", "the same file", reason)
    if problem:
        return unknown("inconclusive", "", f"{problem}, and the earlier model was not timed again{known}")
    if contaminated:
        return unknown("contaminated", "", contaminated)
    from harness.stats.ratios import quotient

    margin = max(tolerance.value, BETWEEN_RUNS)
    change = Change(*quotient(before.per_process, now.per_process))
    kind, reason = placed(change.map(math.log), math.log1p(margin))
    if kind == "inconclusive" and same:  # only code that runs it can have become slower, and that is not shown
        kind, reason = "fine", "the same file"
    elif kind == "inconclusive":
        reason = "the interval holds changes within the margin and beyond it"
    elif kind == "regressed" and same and not _changed(old, new):
        # Nobody can time it again beside itself, and what is known to be the same cannot have become slower.
        kind, reason = "inconclusive", "slower, though the file, its key and all versions are the same"
    how = f"each run's ratio to its reference, at {format_margin(margin)}{known}"
    ratios = before.ratio.value, now.ratio.value
    return Finding(LATENCY, kind, *ratios, change, tolerance, "of the reference", 3, how, reason)


def _incomparable(old: Record, new: Record) -> str:
    """Why two runs' ratios to the reference cannot be compared; empty when they can."""
    if not on_one_machine(old, new):
        return "the earlier run is of another machine"
    if old.is_reference:
        return "this cell is its own reference"
    if old.reference_artefact.sha256 != new.reference_artefact.sha256:
        return "its reference changed too"
    for run, record in (("the earlier", old), ("this", new)):
        timing = record.timing
        if timing is None or len(timing.per_process) < 2:
            return f"{run} run's ratio has no interval"
        if not all(math.isfinite(ratio) and ratio > 0 for ratio in timing.per_process):
            return f"{run} run has ratios that no clock gives, {timing.per_process}"
    if environment(old) != environment(new):
        return "it was timed in another environment"
    return ""


def _changed(old: Record, new: Record) -> bool:
    """Whether anything that is known of what runs one and the same file is another."""
    return old.artefact.key != new.artefact.key or old.versions != new.versions
