"""What the comparisons of a calibration amount to: shares of wrong and of right verdicts."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from harness.calibration.rivals import RULES
from harness.stats.ratios import minimum_detectable_effect

Comparison = Mapping[str, Any]
#: The ways to come to a verdict, with the table's words for them.
WAYS = {
    "alone": "harness: a comparison alone",
    "matrix": "harness: all as one matrix",
    "confirmed": "harness: confirmed by fresh processes",
    "regardless": "harness: alone, contaminated or not",
}
ARMS = {"interleaved": "our interleaved arms", "separate": "separate runs"}


def summarise(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The summary of one condition: of the network against itself, of each planted slowdown, and what it cost."""
    itself = [comparison for comparison in comparisons if comparison["planted"] == 0]
    shares = sorted({comparison["planted"] for comparison in comparisons} - {0})
    clean = _clean(itself)
    return {
        "itself": {
            **_level(itself, 0.0),
            "coverage": {
                "student": _share(_by_interval(comparison) is None for comparison in clean),
                "bootstrap": _share(low <= 1 <= high for low, high in (each["bootstrap"] for each in clean)),
            },
            "smallest_change": minimum_detectable_effect([comparison["per_process"] for comparison in clean]),
        },
        "planted": [
            _level([comparison for comparison in comparisons if comparison["planted"] == share], share)
            for share in shares
        ],
        "cost": {
            "wall": statistics.median(comparison["wall"] for comparison in comparisons),
            "beyond_calls": statistics.median(each["wall"] - each["calls"] for each in comparisons),
            "share": statistics.median(1 - each["calls"] / each["wall"] for each in comparisons),
        },
    }


def _level(comparisons: Sequence[Comparison], planted: float) -> dict[str, Any]:
    """The comparisons of one planted slowdown (0: of the network with itself).

    ``alarms`` are false for the network against itself, whatever their direction; else they are right, and only
    "slower" counts. Each choice is the one against us: ours are shares of the clean comparisons when they are false,
    of all when they are right. The other tools know no contamination; theirs are shares of all. ``interval`` is an
    alarm by the 95 % interval alone, without the margin. ``ratio`` and ``deviation`` (the standard deviation of the
    log ratio between comparisons) are of the clean ones.
    """
    clean = _clean(comparisons)
    ours = clean if planted == 0 else comparisons
    counted = ("slower", "faster") if planted == 0 else ("slower",)
    logs = np.log([comparison["ratio"]["value"] for comparison in clean])

    def alarms(said: Iterable[str | None]) -> dict[str, Any]:
        return _share(word in counted for word in said)

    return {
        "planted": planted,
        "comparisons": len(comparisons),
        "contaminated": len(comparisons) - len(clean),
        "ratio": float(np.exp(logs.mean())) if len(logs) else None,
        "deviation": float(logs.std(ddof=1)) if len(logs) > 1 else None,
        "verdicts": {way: collections.Counter(each["verdict"][way] for each in comparisons) for way in WAYS},
        "alarms": {
            **{
                way: alarms(each["verdict"][way] for each in (comparisons if way == "regardless" else ours))
                for way in WAYS
            },
            "interval": alarms(map(_by_interval, ours)),
        },
        "rivals": {
            arms: {
                rule: alarms(said[rule] for each in comparisons if (said := each["rivals"][arms]) is not None)
                for rule in RULES
            }
            for arms in ARMS
        },
    }


def _clean(comparisons: Iterable[Comparison]) -> list[Comparison]:
    return [comparison for comparison in comparisons if not comparison["contaminated"]]


def _by_interval(comparison: Comparison) -> str | None:
    """The alarm of an interval that does not contain 1."""
    if comparison["ratio"]["low"] > 1:
        return "slower"
    return "faster" if comparison["ratio"]["high"] < 1 else None


def _share(flags: Iterable[bool]) -> dict[str, Any]:
    """How many of them are true, as a share with its two one-sided 95 % bounds (Clopper and Pearson 1934).

    The bounds take the comparisons for independent. Each of them loads its networks anew, but those that the same
    processes timed share what is common to these.
    """
    true = list(flags)
    if not true:
        return {"number": 0, "of": 0, "share": None, "at_least": None, "at_most": None}
    bounds = stats.binomtest(sum(true), len(true)).proportion_ci(0.9, method="exact")
    return {
        "number": sum(true),
        "of": len(true),
        "share": sum(true) / len(true),
        "at_least": float(bounds.low),
        "at_most": float(bounds.high),
    }
