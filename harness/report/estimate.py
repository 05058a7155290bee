"""Estimates with their uncertainty: one seed's as its record has it, or several seeds' together."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

from harness.records.record import Interval

OVER_SEEDS = (
    "Of several seeds: the mean, with Student's 95 % interval over seeds; for quality and its differences the mean "
    "interval over patients is added to it, as variances add."
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its 95 % interval, None where there is none, and how that was found."""

    value: float
    low: float | None = None
    high: float | None = None
    how: str = ""

    def text(self, digits: int, sign: str = "") -> str:
        """For people: the value, and the interval in brackets where there is one."""
        shown = f"{self.value:{sign},.{digits}f}"
        if self.low is None or self.high is None:
            return shown
        return f"{shown} [{self.low:{sign},.{digits}f}, {self.high:{sign},.{digits}f}]"


def pooled(intervals: Sequence[Interval]) -> Estimate | None:
    """One estimate of one seed each, or several seeds' mean: its interval adds the seeds' to that of each one."""
    intervals = [entry for entry in intervals if math.isfinite(entry["value"])]
    if not intervals:
        return None
    if len(intervals) == 1:
        only = intervals[0]
        return Estimate(only["value"], only["low"], only["high"], only.get("method", ""))
    values = [entry["value"] for entry in intervals]
    centre, over_seeds = statistics.fmean(values), _half(values)
    known = [(entry["high"] - entry["low"]) / 2 for entry in intervals if None not in (entry["low"], entry["high"])]
    own = statistics.fmean(known) if len(known) == len(values) else 0.0
    half = math.hypot(over_seeds, own)
    how = f"Student's t over {len(values)} seeds" + (" and the interval over patients" if own else "")
    return Estimate(centre, centre - half, centre + half, how)


def pooled_ratio(ratios: Sequence[Interval]) -> Estimate | None:
    """One ratio of one seed, or the geometric mean of several seeds' with an interval over them."""
    ratios = [entry for entry in ratios if math.isfinite(entry["value"]) and entry["value"] > 0]
    if len(ratios) < 2:
        return pooled(ratios)
    logs = [math.log(entry["value"]) for entry in ratios]
    centre, half = statistics.fmean(logs), _half(logs)
    value, low, high = (math.exp(log) for log in (centre, centre - half, centre + half))
    return Estimate(value, low, high, f"Student's t over {len(logs)} seeds")


def reversed_sign(estimate: Estimate) -> Estimate:
    """The estimate of the negative."""
    low, high = (None if bound is None else -bound for bound in (estimate.high, estimate.low))
    return Estimate(-estimate.value, low, high, estimate.how)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else None


def _half(values: Sequence[float]) -> float:
    """Half of Student's 95 % interval of a mean."""
    from scipy.special import stdtrit

    return float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
