"""What the comparisons of a calibration amount to: shares of wrong and of right verdicts, and their table."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from tabulate import tabulate

from harness.calibration.rivals import RULES
from harness.margin import format_margin
from harness.measure.statistics import smallest_change

Comparison = Mapping[str, Any]
#: The ways to come to a verdict, with the table's words for them.
WAYS = {
    "alone": "harness: a comparison alone",
    "matrix": "harness: all as one matrix",
    "confirmed": "harness: confirmed by fresh processes",
    "regardless": "harness: alone, contaminated or not",
}
ARMS = {"interleaved": "our interleaved arms", "separate": "separate runs"}
MISSING = "-"
LEGEND = (
    "itself: the network against itself, where every alarm is false [upper 95 % bound, Clopper and Pearson].\n"
    "+5 %: against a copy that is slower by so much; the share that was called slower. What is not above the margin\n"
    "is not to be found. Of the harness, false alarms are counted among those that were not contaminated, right ones\n"
    "among all. Separate runs: the candidate against the reference of the comparison before."
)


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
            "smallest_change": smallest_change([comparison["per_process"] for comparison in clean]),
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


# ----------------------------------------------------------------------------------------------------------- table


def table(document: Mapping[str, Any]) -> str:
    """The document for the terminal: one table a condition."""
    plan = document["plan"]
    head = (
        f"{plan['processes']} processes x {plan['pairs']} pairs, margin {format_margin(plan['margin'])}, "
        f"{document['machine']['cpu']}, torch {document['versions']['torch']}, {document['date']}"
    )
    return "\n\n".join([head, *map(_condition, document["conditions"]), LEGEND])


def _condition(condition: Mapping[str, Any]) -> str:
    summary = condition["summary"]
    levels = [summary["itself"], *summary["planted"]]
    rows = [
        ["comparisons", *(str(level["comparisons"]) for level in levels)],
        ["contaminated", *(str(level["contaminated"]) for level in levels)],
        ["measured slowdown", *(_percent(level["ratio"], less=1, digits=2) for level in levels)],
        *([words, *(_alarms(level, level["alarms"][way]) for level in levels)] for way, words in WAYS.items()),
        ["interval alone, no margin", *(_alarms(level, level["alarms"]["interval"]) for level in levels)],
    ]
    for arms, words in ARMS.items():
        for rule in RULES:
            rows.append([f"{rule}, {words}", *(_alarms(level, level["rivals"][arms][rule]) for level in levels)])
    headers = ["", "itself", *(f"+{format_margin(level['planted'])}" for level in levels[1:])]
    name = f"busy (CPUs {condition['loaded_cpus']} loaded)" if condition["busy"] else "quiet"
    body = tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True)
    return f"{name}, {condition['seconds'] / 60:.0f} min\n\n{body}\n\n{_remarks(summary)}"


def _remarks(summary: Mapping[str, Any]) -> str:
    itself, cost = summary["itself"], summary["cost"]
    verdicts = ", ".join(f"{number} {kind}" for kind, number in sorted(itself["verdicts"]["alone"].items()))
    coverage = itself["coverage"]
    return (
        f"Against itself, each alone: {verdicts}.\n"
        f"The 95 % interval contains 1 in {_percent(coverage['student']['share'])} of the clean ones, that by "
        f"bootstrap in {_percent(coverage['bootstrap']['share'])}.\n"
        f"Standard deviation between comparisons: {_percent(itself['deviation'], digits=2)}; smallest change that one "
        f"sees: {_percent(itself['smallest_change'], digits=2)}.\n"
        f"A comparison takes {cost['wall']:.2f} s, {cost['beyond_calls']:.2f} s of it ({_percent(cost['share'])}) "
        "beyond the timed calls (medians)."
    )


def _alarms(level: Mapping[str, Any], share: Mapping[str, Any]) -> str:
    shown = _percent(share["share"])
    return f"{shown} [{_percent(share['at_most'])}]" if level["planted"] == 0 and share["of"] else shown


def _percent(share: float | None, less: float = 0.0, digits: int = 1) -> str:
    return MISSING if share is None else f"{100 * (share - less):.{digits}f} %"
