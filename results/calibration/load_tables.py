"""Summarize a calibration: wrong and right verdicts under each load, what they cost, and 10,000 resampled ones."""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from tabulate import tabulate

from harness.stats.ratios import minimum_detectable_effect
from harness.stats.verdict import Comparison, Looks, decide_alone
from harness.suite.presets import SAMPLING_LIMIT, Preset
from harness.text import format_margin
from rival_rules import RULES

#: One comparison of a calibration's document; `calibrate` makes it.
ComparisonRecord = Mapping[str, Any]
#: The harness's rules, with their labels in the table.
WAYS = {
    "old": "harness 0.1, alone",
    "new": "harness, alone",
    "confirmed": "harness, confirmed by fresh processes",
}
ARMS = {"interleaved": "our interleaved arms", "separate": "separate runs"}
#: Comparisons that are resampled from the traces of one load.
RESAMPLED = 10_000
#: The smallest change that is found in this share of resampled comparisons is looked for among CHANGES.
FOUND = 0.95
CHANGES = (*(0.001 * step for step in range(11, 31)), *(0.005 * step for step in range(7, 41)), 0.25, 0.3, 0.5)
#: The columns of resampled errors.
ERRORS = ("A/A: false", "at the margin: false")
MISSING = "-"
LEGEND = (
    "A/A: the network against itself, where every alarm is false [upper 95 % bound, Clopper and Pearson].\n"
    "+x %: against a copy that is slower by x %; the share that was called slower. Slowdowns up to the margin should\n"
    "not be called slower. All shares are of all comparisons. Separate runs: the candidate against the reference of\n"
    "the comparison before. Decided: faster, slower or same. Resampled: drawn from the A/A traces of this load."
)


# ------------------------------------------------------------------------------------------------------- summary


def summarize(
    comparisons: Sequence[ComparisonRecord], aa_runs: Sequence[Sequence[float]], preset: Preset, margin: float
) -> dict[str, Any]:
    """Summarize one load: the A/A comparisons, each planted slowdown, the cost, and resampled comparisons.

    ``aa_runs`` has the per-process ratios of each A/A run that was made beside the comparisons.
    """
    aa_comparisons = [comparison for comparison in comparisons if comparison["planted"] == 0]
    shares = sorted({comparison["planted"] for comparison in comparisons} - {0})
    effect = minimum_detectable_effect([each["per_process"] for each in aa_comparisons], preset.processes)
    covered = [each for each in aa_comparisons if each["low"] is not None]
    walls = [comparison["wall"] for comparison in comparisons if comparison["wall"] is not None]
    return {
        "aa": {
            **_level(aa_comparisons, 0.0),
            "coverage": share_with_bounds(each["low"] <= 1 <= each["high"] for each in covered),
            "detectable_effect": None if effect is None else effect.value,
        },
        "planted": [
            _level([comparison for comparison in comparisons if comparison["planted"] == share], share)
            for share in shares
        ],
        "cost": {
            "processes": statistics.mean(len(comparison["per_process"]) for comparison in comparisons),
            "looks": statistics.mean(comparison["looks"] for comparison in comparisons),
            "median_seconds": statistics.median(walls) if walls else None,
            "mean_seconds": statistics.mean(walls) if walls else None,
        },
        "resampled": _resampled(aa_comparisons, aa_runs, preset, margin),
    }


def _level(comparisons: Sequence[ComparisonRecord], planted: float) -> dict[str, Any]:
    """Summarize the comparisons of one planted slowdown (0: A/A).

    ``alarms`` of A/A comparisons are false in either direction. Of a planted slowdown only "slower" counts, and it is
    right. ``deviation`` is the standard deviation of the log ratio between comparisons.
    """
    alarm_kinds = ("slower", "faster") if planted == 0 else ("slower",)
    logs = np.asarray([np.log(comparison["per_process"]).mean() for comparison in comparisons])

    def alarms(verdicts: Iterable[str | None]) -> dict[str, Any]:
        return share_with_bounds(verdict in alarm_kinds for verdict in verdicts)

    return {
        "planted": planted,
        "comparisons": len(comparisons),
        "ratio": float(np.exp(logs.mean())) if len(logs) else None,
        "deviation": float(logs.std(ddof=1)) if len(logs) > 1 else None,
        "verdicts": {way: dict(collections.Counter(each[way] for each in comparisons)) for way in WAYS},
        "alarms": {way: alarms(each[way] for each in comparisons) for way in WAYS},
        "decided": {
            way: share_with_bounds(each[way] in ("faster", "slower", "same") for each in comparisons) for way in WAYS
        },
        "rivals": {
            arms: {
                rule: alarms(answers[rule] for each in comparisons if (answers := each["rivals"][arms]) is not None)
                for rule in RULES
            }
            for arms in ARMS
        },
    }


def share_with_bounds(flags: Iterable[bool]) -> dict[str, Any]:
    """The share of true flags with its two one-sided 95 % bounds (Clopper and Pearson 1934).

    The bounds assume independent comparisons. Each comparison loads its networks anew, but comparisons that the same
    processes timed share the process effect.
    """
    values = list(flags)
    if not values:
        return {"number": 0, "of": 0, "share": None, "at_least": None, "at_most": None}
    bounds = stats.binomtest(sum(values), len(values)).proportion_ci(0.9, method="exact")
    return {
        "number": sum(values),
        "of": len(values),
        "share": sum(values) / len(values),
        "at_least": float(bounds.low),
        "at_most": float(bounds.high),
    }


# ---------------------------------------------------------------------------------------------------- resampling


class Traces:
    """The log ratios of A/A comparisons and runs, to draw new comparisons from.

    A drawn comparison has the shift of one trace and the deviations of processes of all traces. The shifts are the
    traces' means, shrunk so that their variance is what remains when the variance of a mean of as many processes is
    subtracted; deviations are enlarged by sqrt(n / (n - 1)), as n processes lie closer to their own mean.
    """

    def __init__(self, comparisons: Sequence[ComparisonRecord], aa_runs: Sequence[Sequence[float]]) -> None:
        ratios = [each["per_process"] for each in comparisons]
        logs = [np.log(values) for values in (*ratios, *aa_runs) if len(values) > 1]
        means = np.asarray([values.mean() for values in logs])
        expected = float(np.mean([values.var(ddof=1) / len(values) for values in logs]))
        between = float(np.mean(np.square(means)))
        self._shifts = means * math.sqrt(max(0.0, between - expected) / between) if between else means
        self._deviations = np.concatenate(
            [(values - values.mean()) * math.sqrt(len(values) / (len(values) - 1)) for values in logs]
        )

    def draw(self, rng: np.random.Generator, count: int, mean: float) -> NDArray[np.float64]:
        """The ratios of one comparison of ``count`` processes whose true log ratio is ``mean``."""
        return np.exp(mean + rng.choice(self._shifts) + rng.choice(self._deviations, count))


def resample(traces: Traces, preset: Preset, margin: float, mean: float, rng: np.random.Generator) -> tuple[str, str]:
    """Draw one comparison with its A/A runs, and decide it by the old and by the new rule."""
    most = max(SAMPLING_LIMIT, preset.processes)
    cell = traces.draw(rng, most, mean)
    aa_runs = [traces.draw(rng, most, 0.0) for _ in range(preset.aa_runs)]
    old = decide_alone(Comparison(list(cell[: preset.processes])), margin)
    looks, processes = Looks(), preset.processes
    while True:
        more = preset.more_processes(processes, 0.0 if preset.budget else math.inf)
        beside = [list(run[:processes]) for run in aa_runs]
        kind = decide_alone(Comparison(list(cell[:processes]), beside, looks.next(last=more is None)), margin)
        if more is None or kind != "inconclusive":
            return old, kind
        processes = more


def _resampled(
    comparisons: Sequence[ComparisonRecord], aa_runs: Sequence[Sequence[float]], preset: Preset, margin: float
) -> dict[str, Any] | None:
    """The errors of both rules in resampled comparisons, without a time limit, and the smallest change found."""
    if sum(len(comparison["per_process"]) > 1 for comparison in comparisons) < 2:
        return None
    traces, rng = Traces(comparisons, aa_runs), np.random.default_rng(0)

    def kinds(ratio: float, number: int) -> list[tuple[str, str]]:
        return [resample(traces, preset, margin, math.log(ratio), rng) for _ in range(number)]

    answer: dict[str, Any] = {"comparisons": RESAMPLED}
    for name, ratio in (("aa", 1.0), ("at_margin", 1 + margin)):
        drawn = kinds(ratio, RESAMPLED)
        answer[name] = {
            rule: {
                kind: share_with_bounds(pair[place] == kind for pair in drawn) for kind in ("slower", "faster", "same")
            }
            for place, rule in enumerate(("old", "new"))
        }
    answer["smallest_change"] = next(
        (
            change
            for change in CHANGES
            if change > margin
            and sum(new == "slower" for _, new in kinds(1 + change, RESAMPLED // 20)) >= FOUND * (RESAMPLED // 20)
        ),
        None,
    )
    return answer


# -------------------------------------------------------------------------------------------------------- tables


def table(document: Mapping[str, Any]) -> str:
    """Print a calibration's document for the terminal: one table per load."""
    plan = document["plan"]
    preset = plan["preset"]
    head = (
        f"preset {preset['name']}: from {preset['processes']} processes x {preset['pairs']} pairs, "
        f"margin {format_margin(plan['margin'])}, {document['machine']['cpu']}, torch {document['versions']['torch']}, "
        f"{document['date']}"
    )
    return "\n\n".join([head, *(_load_table(name, entry) for name, entry in document["loads"].items()), LEGEND])


def overview(document: Mapping[str, Any]) -> str:
    """Two Markdown tables with a row per load: the errors of each rule, and what the present rule decides and costs."""
    loads = {name: entry["summary"] for name, entry in document["loads"].items()}
    ways = {"0.1": ("alarms", "old"), "now": ("alarms", "confirmed")}
    errors, decisions = [], []
    for name, summary in loads.items():
        levels = (summary["aa"], *summary["planted"])
        answers = [[level[kind][way] for level in levels] for kind, way in ways.values()]
        answers += [[level["rivals"]["separate"][rule] for level in levels] for rule in RULES]
        errors.append([name, *(" / ".join(_percent(answer["share"]) for answer in each) for each in answers)])
        aa, cost, resampled = summary["aa"], summary["cost"], summary["resampled"]
        found = resampled["smallest_change"]
        decisions.append(
            [
                name,
                *(_percent(aa["decided"][way]["share"]) for way in ("old", "new")),
                _percent(aa["deviation"], digits=2),
                f"{cost['processes']:.1f}",
                f"{cost['mean_seconds']:.1f}",
                *(
                    _percent(sum(resampled[true]["new"][kind]["share"] for kind in kinds), digits=2)
                    for true, kinds in (("aa", ("slower", "faster")), ("at_margin", ("slower", "same")))
                ),
                _percent(found) if found else f"above {_percent(CHANGES[-1], digits=0)}",
            ]
        )
    tables = (
        (["load", *(f"harness {way}" for way in ways), *RULES], errors),
        (
            ["load", "decided by 0.1", "decided now", "deviation", "processes", "seconds", *ERRORS, "found"],
            decisions,
        ),
    )
    return "\n\n".join(
        tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True) for headers, rows in tables
    )


def _load_table(name: str, entry: Mapping[str, Any]) -> str:
    summary = entry["summary"]
    levels = [summary["aa"], *summary["planted"]]
    rows = [
        ["comparisons", *(str(level["comparisons"]) for level in levels)],
        ["measured slowdown", *(_percent(level["ratio"], less=1, digits=2) for level in levels)],
        *([words, *(_alarm_cell(level, level["alarms"][way]) for level in levels)] for way, words in WAYS.items()),
    ]
    for arms, words in ARMS.items():
        for rule in RULES:
            rows.append([f"{rule}, {words}", *(_alarm_cell(level, level["rivals"][arms][rule]) for level in levels)])
    for way in ("old", "new"):
        rows.append([f"decided: {WAYS[way]}", *(_percent(level["decided"][way]["share"]) for level in levels)])
    headers = ["", "A/A", *(f"+{format_margin(level['planted'])}" for level in levels[1:])]
    body = tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True)
    return f"{name}: {entry['description']}, {entry['seconds'] / 60:.0f} min\n\n{body}\n\n{_remarks(summary)}"


def _remarks(summary: Mapping[str, Any]) -> str:
    aa, cost, resampled = summary["aa"], summary["cost"], summary["resampled"]
    verdicts = ", ".join(f"{number} {kind}" for kind, number in sorted(aa["verdicts"]["new"].items()))
    lines = [
        f"A/A verdicts: {verdicts}. The 95 % interval contains 1 in {_percent(aa['coverage']['share'])} of them.",
        f"Standard deviation between A/A comparisons: {_percent(aa['deviation'], digits=2)}; minimum detectable effect "
        f"of one, by Student's t alone: {_percent(aa['detectable_effect'], digits=2)}.",
        f"A comparison takes {cost['processes']:.1f} processes and {cost['mean_seconds'] or 0:.2f} s (means; median "
        f"{cost['median_seconds'] or 0:.2f} s), in {cost['looks']:.2f} looks.",
    ]
    if resampled is not None:
        old, new = (
            ", ".join(
                f"{_percent(resampled[place][rule][kind]['share'], digits=2)} {words}"
                for place, kind, words in (
                    ("aa", "slower", "slower than itself"),
                    ("aa", "faster", "faster"),
                    ("at_margin", "slower", "slower on the margin"),
                    ("at_margin", "same", "same on the margin"),
                )
            )
            for rule in ("old", "new")
        )
        found = resampled["smallest_change"]
        lines += [
            f"Resampled {resampled['comparisons']:,} times: by 0.1 {old}; now {new}.",
            f"The smallest change found in {100 * FOUND:.0f} %: {_percent(found) if found else 'above 50 %'}.",
        ]
    return "\n".join(lines)


def _alarm_cell(level: Mapping[str, Any], share: Mapping[str, Any]) -> str:
    shown = _percent(share["share"])
    return f"{shown} [{_percent(share['at_most'])}]" if level["planted"] == 0 and share["of"] else shown


def _percent(share: float | None, less: float = 0.0, digits: int = 1) -> str:
    return MISSING if share is None else f"{100 * (share - less):.{digits}f} %"
