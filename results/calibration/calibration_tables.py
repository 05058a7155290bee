"""Summarize and print a calibration of version 0.1, whose rule called comparisons contaminated."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from tabulate import tabulate

from harness.text import format_margin
from load_tables import share_with_bounds
from rival_rules import RULES

#: One comparison of a calibration's document; `calibrate` makes it.
ComparisonRecord = Mapping[str, Any]
#: The ways to reach a verdict, with their labels in the table.
WAYS = {
    "alone": "harness: a comparison alone",
    "matrix": "harness: all as one matrix",
    "confirmed": "harness: confirmed by fresh processes",
    "regardless": "harness: alone, contaminated or not",
}
ARMS = {"interleaved": "our interleaved arms", "separate": "separate runs"}
MISSING = "-"
LEGEND = (
    "A/A: the network against itself, where every alarm is false [upper 95 % bound, Clopper and Pearson].\n"
    "+x %: against a copy that is slower by x %; the share that was called slower. Slowdowns up to the margin should\n"
    "not be called slower. The harness's false alarms are shares of the comparisons that were not contaminated, its\n"
    "right ones of all. Separate runs: the candidate against the reference of the comparison before."
)


# ------------------------------------------------------------------------------------------------------- summary


def summarize(comparisons: Sequence[ComparisonRecord]) -> dict[str, Any]:
    """Summarize one condition: the A/A comparisons ("itself"), each planted slowdown, and the cost."""
    aa_comparisons = [comparison for comparison in comparisons if comparison["planted"] == 0]
    shares = sorted({comparison["planted"] for comparison in comparisons} - {0})
    clean = _clean(aa_comparisons)
    return {
        "itself": {
            **_level(aa_comparisons, 0.0),
            "coverage": {
                "student": share_with_bounds(_alarm_by_interval(comparison) is None for comparison in clean),
                "bootstrap": share_with_bounds(low <= 1 <= high for low, high in (each["bootstrap"] for each in clean)),
            },
            "smallest_change": _smallest_change([comparison["per_process"] for comparison in clean]),
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


def _smallest_change(per_process: Sequence[Sequence[float]]) -> float | None:
    """The minimum detectable effect as 0.1 approximated it, by the sum of two quantiles of Student's t."""
    if not per_process:
        return None
    logs = np.log(per_process)
    processes = logs.shape[1]
    quantiles = stats.t.ppf(0.975, processes - 1) + stats.t.ppf(0.8, processes - 1)
    return float(np.expm1(quantiles * np.sqrt(logs.var(axis=1, ddof=1).mean() / processes)))


def _level(comparisons: Sequence[ComparisonRecord], planted: float) -> dict[str, Any]:
    """Summarize the comparisons of one planted slowdown (0: A/A).

    ``alarms`` of A/A comparisons are false in either direction. Of a planted slowdown only "slower" counts, and it is
    right. Each denominator is the one that is worse for the harness: false alarms are shares of the clean comparisons,
    right alarms are shares of all. The other tools know no contamination, so theirs are shares of all. ``interval`` is
    an alarm by the 95 % interval alone, without the margin. ``ratio`` and ``deviation`` (the standard deviation of the
    log ratio between comparisons) are of the clean comparisons.
    """
    clean = _clean(comparisons)
    ours = clean if planted == 0 else comparisons
    alarm_kinds = ("slower", "faster") if planted == 0 else ("slower",)
    logs = np.log([comparison["ratio"]["value"] for comparison in clean])

    def alarms(verdicts: Iterable[str | None]) -> dict[str, Any]:
        return share_with_bounds(verdict in alarm_kinds for verdict in verdicts)

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
            "interval": alarms(map(_alarm_by_interval, ours)),
        },
        "rivals": {
            arms: {
                rule: alarms(answers[rule] for each in comparisons if (answers := each["rivals"][arms]) is not None)
                for rule in RULES
            }
            for arms in ARMS
        },
    }


def _clean(comparisons: Iterable[ComparisonRecord]) -> list[ComparisonRecord]:
    return [comparison for comparison in comparisons if not comparison["contaminated"]]


def _alarm_by_interval(comparison: ComparisonRecord) -> str | None:
    """The alarm that an interval without 1 raises."""
    if comparison["ratio"]["low"] > 1:
        return "slower"
    return "faster" if comparison["ratio"]["high"] < 1 else None


# -------------------------------------------------------------------------------------------------------- tables


def table(document: Mapping[str, Any]) -> str:
    """Print a calibration's document for the terminal: one table per condition."""
    plan = document["plan"]
    head = (
        f"{plan['processes']} processes x {plan['pairs']} pairs, margin {format_margin(plan['margin'])}, "
        f"{document['machine']['cpu']}, torch {document['versions']['torch']}, {document['date']}"
    )
    return "\n\n".join([head, *map(_condition_table, document["conditions"]), LEGEND])


def _condition_table(condition: Mapping[str, Any]) -> str:
    summary = condition["summary"]
    levels = [summary["itself"], *summary["planted"]]
    rows = [
        ["comparisons", *(str(level["comparisons"]) for level in levels)],
        ["contaminated", *(str(level["contaminated"]) for level in levels)],
        ["measured slowdown", *(_percent(level["ratio"], less=1, digits=2) for level in levels)],
        *([words, *(_alarm_cell(level, level["alarms"][way]) for level in levels)] for way, words in WAYS.items()),
        ["interval alone, no margin", *(_alarm_cell(level, level["alarms"]["interval"]) for level in levels)],
    ]
    for arms, words in ARMS.items():
        for rule in RULES:
            rows.append([f"{rule}, {words}", *(_alarm_cell(level, level["rivals"][arms][rule]) for level in levels)])
    headers = ["", "A/A", *(f"+{format_margin(level['planted'])}" for level in levels[1:])]
    name = f"busy (CPUs {condition['loaded_cpus']} loaded)" if condition["busy"] else "quiet (no CPU loaded by us)"
    body = tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True)
    return f"{name}, {condition['seconds'] / 60:.0f} min\n\n{body}\n\n{_remarks(summary)}"


def _remarks(summary: Mapping[str, Any]) -> str:
    aa, cost = summary["itself"], summary["cost"]
    verdicts = ", ".join(f"{number} {kind}" for kind, number in sorted(aa["verdicts"]["alone"].items()))
    coverage = aa["coverage"]
    return (
        f"A/A verdicts, each comparison alone: {verdicts}.\n"
        f"The 95 % interval contains 1 in {_percent(coverage['student']['share'])} of the clean A/A comparisons, the "
        f"bootstrap's in {_percent(coverage['bootstrap']['share'])}.\n"
        f"Standard deviation between A/A comparisons: {_percent(aa['deviation'], digits=2)}; minimum detectable effect "
        f"of one: {_percent(aa['smallest_change'], digits=2)}.\n"
        f"A comparison takes {cost['wall']:.2f} s, {cost['beyond_calls']:.2f} s of it ({_percent(cost['share'])}) "
        "beyond the timed calls (medians)."
    )


def _alarm_cell(level: Mapping[str, Any], share: Mapping[str, Any]) -> str:
    shown = _percent(share["share"])
    return f"{shown} [{_percent(share['at_most'])}]" if level["planted"] == 0 and share["of"] else shown


def _percent(share: float | None, less: float = 0.0, digits: int = 1) -> str:
    return MISSING if share is None else f"{100 * (share - less):.{digits}f} %"
