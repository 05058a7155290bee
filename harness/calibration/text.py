"""A calibration for the terminal: a table a condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from harness.calibration.rivals import RULES
from harness.calibration.summary import ARMS, WAYS
from harness.text import format_margin

MISSING = "-"
LEGEND = (
    "itself: the network against itself, where every alarm is false [upper 95 % bound, Clopper and Pearson].\n"
    "+x %: against a copy that is slower by so much; the share that was called slower. What is not above the margin\n"
    "is not to be found. Of the harness, false alarms are counted among those that were not contaminated, right ones\n"
    "among all. Separate runs: the candidate against the reference of the comparison before."
)


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
    name = f"busy (CPUs {condition['loaded_cpus']} loaded)" if condition["busy"] else "nothing loaded by us"
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
