"""The gate's judgement of what is not latency: quality by its paired interval, sizes exactly."""

from __future__ import annotations

import dataclasses
import math

from harness.gate.findings import Change, Finding, change_of, measured_again, on_one_machine, placed
from harness.policy.rules import Tolerance
from harness.records.record import Against, Interval, MetricValue, Record
from harness.run.declarations import declaration

#: How a difference in quality is known that was not resampled: that it is worse may be chance.
NO_INTERVAL = "from the records, which have no interval"


def judge_figure(name: str, old: Record, new: Record, tolerance: Tolerance) -> Finding | None:
    """What became of a figure; None where there is nothing to judge: no value before, or none that is better."""
    before, now = _known(old, name), _known(new, name)
    if now is None:
        return None if before is None or before.better is None else _vanished(name, before, tolerance)
    if now.better is None:
        return None
    if tolerance.kind == "kept":
        if not new.is_reference:
            return _kept(name, now, before, new.differences.get(name), tolerance)
        # It has no reference to keep a share of: it keeps that share of what it was itself.
        tolerance = Tolerance("share", 1 - tolerance.value)
    again = measured_again(old, new)
    if declaration(name, now).per_machine and not on_one_machine(old, new):
        before = None if again is None else _known(again, name)
    if before is None:
        return None
    change, how = _difference(name, old, new, again, _value(now) - _value(before))
    return _judged(name, now, _value(before), change, tolerance, how)


def _known(record: Record | Against, name: str) -> MetricValue | None:
    """The figure, if it has a finite value."""
    found = record.figures.get(name)
    return found if found is not None and found.value is not None and math.isfinite(found.value) else None


def _value(figure: MetricValue) -> float:
    value = figure.value
    assert value is not None  # it is known
    return value


def _vanished(name: str, before: MetricValue, tolerance: Tolerance) -> Finding:
    reason = f"this run has no {name}, and the earlier one had"
    unit, digits = before.unit, before.digits
    return Finding(name, "inconclusive", before.value, None, None, tolerance, unit, digits, reason=reason)


def _difference(name: str, old: Record, new: Record, again: Against | None, value: float) -> tuple[Change | None, str]:
    """How a figure changed, now less earlier, and how that is known; None where it cannot be, and why."""
    others = old.test_examples != new.test_examples
    if again is not None and name in again.differences:
        paired = again.differences[name]
        if paired.low is None or paired.high is None:
            return Change(value), NO_INTERVAL
        if others or again.sha256 != old.artefact.sha256:
            # The earlier figure is of other examples, or of another file of the same model: it says nothing of today's.
            return change_of(paired), f"both models measured today, {paired.method}"
        # What the earlier model itself is better or worse today, by other versions of what runs it, is exact.
        drift = value - paired.value
        return change_of(paired).map(lambda entry: entry + drift), f"on the same test examples, {paired.method}"
    if name not in new.differences:
        exact = declaration(name, new.figures[name]).exact
        return Change(value), "exact" if exact else "one measurement in each run"
    if others:
        return None, "the test examples are others, and the earlier model was not measured on them"
    if old.artefact.sha256 == new.artefact.sha256:
        return Change(value), "the same model, evaluated in each run"
    same = old.reference_artefact.sha256 == new.reference_artefact.sha256
    spread = 0.0
    for record in (old, new):
        # Their errors are added as if they were independent, though both are of the same patients: it is too wide.
        entry = record.differences.get(name) if same else record.figures[name].interval
        if entry is None or entry.low is None or entry.high is None:
            return Change(value), NO_INTERVAL
        spread = math.hypot(spread, (entry.high - entry.low) / 2)
    source = "each run's difference to the same reference" if same else "each run's own interval"
    return Change(value, value - spread, value + spread), f"from the records: {source}"


def _judged(
    name: str, now: MetricValue, earlier: float, difference: Change | None, tolerance: Tolerance, how: str
) -> Finding:
    """The finding from a difference, now less earlier."""
    unit, digits = now.unit, now.digits
    if difference is None:
        return Finding(name, "inconclusive", earlier, now.value, None, tolerance, unit, digits, reason=how)
    share = tolerance.kind == "share"
    allowed = tolerance.value * (abs(earlier) if share else 1)
    sign = 1 if now.better == "lower" else -1
    kind, reason = placed(difference.map(lambda value: sign * value), allowed)
    if kind == "regressed" and how == NO_INTERVAL:
        kind, reason = "inconclusive", "the difference is beyond what is allowed, but has no interval"
    shown = difference.map(lambda value: 1 + value / earlier) if share and earlier else difference
    return Finding(name, kind, earlier, now.value, shown, tolerance, unit, digits, how, reason)


def _kept(
    name: str, now: MetricValue, before: MetricValue | None, difference: Interval | None, tolerance: Tolerance
) -> Finding:
    """Whether a share of the reference's figure is kept: the cell against its reference, both in the new run."""
    earlier = None if before is None else before.value
    if difference is None:
        reason = f"{name} has no difference to the reference"
        unit, digits = now.unit, now.digits
        return Finding(name, "inconclusive", earlier, now.value, None, tolerance, unit, digits, reason=reason)
    reference = _value(now) - difference.value
    allowed = Tolerance("absolute", (1 - tolerance.value) * abs(reference))
    bounded = difference.low is not None and difference.high is not None
    how = f"against the reference's {reference:.{now.digits}f}, {difference.method}" if bounded else NO_INTERVAL
    found = _judged(name, now, reference, change_of(difference), allowed, how)
    return dataclasses.replace(found, old=earlier, tolerance=tolerance)
