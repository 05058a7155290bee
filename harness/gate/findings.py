"""A finding: what became of one figure of one cell, and where a change lies against what is allowed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from harness.policy.rules import Tolerance
from harness.records.machine_id import same_machine
from harness.records.record import Against, Interval, Record

#: "fine" is no worse than the tolerance allows.
Kind = Literal["regressed", "improved", "fine", "inconclusive", "contaminated"]


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


def placed(worse: Change, allowed: float) -> tuple[Kind, str]:
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


def change_of(found: Interval) -> Change:
    """An interval of a record as a change."""
    return Change(found.value, found.low, found.high)


def measured_again(old: Record, new: Record) -> Against | None:
    """What the new run measured of the very model that the old record is of."""
    found = new.against
    return found if found is not None and found.artefact.key == old.artefact.key else None


def on_one_machine(old: Record, new: Record) -> bool:
    """Whether both records are known to be of one machine."""
    return same_machine(old.fingerprint, new.fingerprint)
