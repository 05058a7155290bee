"""Describe a judgement as text: its outcome, each cell that became worse, and the command that measures it again."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from harness.gate.judge import CellComparison, Finding, FindingKind, Judgement
from harness.policy.rules import LATENCY, OUTCOMES, Outcome
from harness.records.changes import Documents, changes, surrounding_changes
from harness.records.record import Record
from harness.text import one_line, pluralize, printable


@dataclasses.dataclass(frozen=True)
class Background:
    """The context of a judgement: the earlier run, the key documents, and the options to measure again."""

    baseline: Path
    old: Documents
    new: Documents
    #: Options of pytest, as on a command line.
    options: str
    #: Paths of the suites from the working directory, by their names, which start from pytest's root.
    suites: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def changed(self, before: Record, now: Record) -> list[str]:
        """The differences between two records of a cell, a line each."""
        return changes(before, now, self.old, self.new) or ["nothing that is recorded"]


def format_options(options: Mapping[str, object]) -> str:
    """Options as on a command line, without those that are None."""
    return shlex.join(f"{name}={value}" for name, value in options.items() if value is not None)


def gate_text(judgement: Judgement, background: Background) -> str:
    """The whole judgement, for a terminal."""
    shared = unresolved(judgement)
    lines = [f"against {background.baseline}: {summary(judgement)}"]
    if surroundings := surroundings_text(judgement):
        lines.append(f"changed around the models: {surroundings}")
    if remark := synthetic_text(judgement):
        lines.append(remark)
    grave: tuple[Outcome, ...] = ("regressed", "lost", "not judged")
    for outcome in grave:
        for comparison in judgement.having(outcome):
            if outcome == next(other for other in grave if other in comparison.outcomes):
                lines += ["", f"{outcome.upper()} {one_line(comparison.name)}"]
                lines += [f"  {line}" for line in cell_lines(comparison, background, shared)]
    rest = [entry for entry in judgement.comparisons if entry.outcomes and not entry.outcomes & set(grave)]
    open_ends = [*shared.values()]
    open_ends += [f"{one_line(entry.name)}: {line}" for entry in rest for line in unsettled(entry, shared)]
    if open_ends:
        lines += ["", "not settled:", *(f"  {line}" for line in open_ends)]
    lines += ["", conclusion(judgement)]
    return printable("\n".join(lines))


def summary(judgement: Judgement) -> str:
    """The number of figures that were judged, then the number of cells by outcome, in one line."""
    compared = [entry for entry in judgement.comparisons if entry.old is not None and entry.new is not None]
    findings = [finding for entry in compared for finding in entry.findings]
    judged = sum(finding.kind in ("regressed", "improved", "fine") for finding in findings)
    of_cells = f"{pluralize(len(findings), 'figure')} of {pluralize(len(compared), 'cell')}"
    counts = [f"{judged} of {of_cells} judged", f"{sum(not entry.outcomes for entry in compared)} fine"]
    counts += [f"{len(cells)} {outcome}" for outcome in OUTCOMES if (cells := judgement.having(outcome))]
    new = sum(entry.old is None for entry in judgement.comparisons)
    counts += [f"{new} new"] if new else []
    return ", ".join([*counts, *([f"{judgement.not_selected} not selected"] if judgement.not_selected else [])])


#: What so few test examples cannot resolve, by the name of the figure and its tolerance: a line for all cells.
Unresolved = Mapping[tuple[str, str], str]
NOTHING: Unresolved = MappingProxyType({})


def unresolved(judgement: Judgement) -> Unresolved:
    """The figures whose intervals cross the tolerance in several cells: each is described once, not once a cell."""
    groups: dict[tuple[str, str], list[tuple[CellComparison, Finding]]] = {}
    for comparison in judgement.comparisons:
        for finding in comparison.findings:
            if _crosses(finding):
                groups.setdefault((finding.figure, str(finding.tolerance)), []).append((comparison, finding))
    return {key: _unresolved(*key, group) for key, group in groups.items() if len(group) > 1}


def _crosses(finding: Finding) -> bool:
    """Whether the interval of a difference crosses its tolerance."""
    return finding.kind == "inconclusive" and finding.figure != LATENCY and _half_width(finding) is not None


def _half_width(finding: Finding) -> float | None:
    change = finding.change
    return None if change is None or change.low is None or change.high is None else (change.high - change.low) / 2


def _unresolved(figure: str, tolerance: str, group: Sequence[tuple[CellComparison, Finding]]) -> str:
    widths = [width for _, finding in group if (width := _half_width(finding)) is not None]
    counts = sorted({comparison.new.test_examples for comparison, _ in group if comparison.new is not None})
    examples = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    cells = pluralize(len(group), "cell")
    return (
        f"inconclusive: {figure} in {cells}: {examples} test examples do not resolve {tolerance}, the intervals of the "
        f"change reach ±{max(widths):.2g}; use more test examples"
    )


def surroundings_text(judgement: Judgement) -> str:
    """The differences in the surroundings of both runs, each once; empty if there are none."""
    pairs = [(entry.old, entry.new) for entry in judgement.comparisons]
    lines = [
        line for old, new in pairs if old is not None and new is not None for line in surrounding_changes(old, new)
    ]
    return "; ".join(dict.fromkeys(lines))


def synthetic_text(judgement: Judgement) -> str:
    """Which quality figures were not judged because the data was generated; empty if none."""
    figures = [
        name
        for entry in judgement.comparisons
        if entry.new is not None and entry.old is not None and entry.new.synthetic
        for name in entry.new.differences
        if name not in entry.policy.tolerances
    ]
    if not figures:
        return ""
    names = ", ".join(sorted(set(figures)))
    return f"generated data says nothing about quality: {names} is judged only by a rule of yours"


def conclusion(judgement: Judgement) -> str:
    """Whether the build fails, and by which outcomes."""
    if judgement.failures:
        return f"The gate is closed: {' and '.join(judgement.failures)} (exit code {judgement.exit_code})."
    waived = [outcome for outcome in OUTCOMES if judgement.having(outcome)]
    advisory = [
        outcome
        for outcome in waived
        if all(outcome in comparison.policy.fail_on for comparison in judgement.having(outcome))
    ]
    if waived and waived == advisory:
        return f"The gate is open: only figures with advisory rules are {' or '.join(waived)}."
    if waived:
        return f"The gate is open: fail_on of the policy does not include {' or '.join(waived)}."
    return "The gate is open."


def headline(finding: Finding) -> str:
    """The figure in one line: both values, the change with its interval, the tolerance."""
    text = finding.figure
    if finding.old is not None or finding.new is not None:
        text += f" {value_text(finding, finding.old)} -> {value_text(finding, finding.new)}"
        text += f" {finding.unit}" if finding.unit else ""
    if finding.change is not None:
        text += f", {change_text(finding)}"
    return f"{text}, {'at least' if finding.tolerance.kind == 'kept' else 'allowed'} {finding.tolerance}"


def cell_lines(comparison: CellComparison, background: Background, shared: Unresolved = NOTHING) -> list[str]:
    """The findings against a cell, a line each, then what changed and the command that measures it again.

    Findings that ``shared`` describes for several cells are left out.
    """
    if comparison.old is None or comparison.new is None:
        return [comparison.reason] if comparison.reason else []
    lines = [f"{headline(finding)}: {finding.method}" for finding in _having(comparison, "regressed")]
    if lines:
        better = _having(comparison, "improved")
        lines += [f"better, which does not make up for it: {headline(finding)}" for finding in better]
    lines += unsettled(comparison, shared)
    lines += [f"changed: {line}" for line in background.changed(comparison.old, comparison.new)]
    return [*lines, f"again: {_command(comparison, background)}"]


def unsettled(comparison: CellComparison, shared: Unresolved = NOTHING) -> list[str]:
    """The undecided findings of a cell, a line each, without those that ``shared`` describes."""
    findings = _having(comparison, "lost", "not judged", "contaminated", "inconclusive")
    return [
        f"{finding.kind}: {headline(finding)}: {finding.reason}"
        for finding in findings
        if not (_crosses(finding) and (finding.figure, str(finding.tolerance)) in shared)
    ]


def value_text(finding: Finding, value: float | None) -> str:
    return "?" if value is None else f"{value:,.{finding.digits}f}"


def change_text(finding: Finding) -> str:
    """The change with its interval: a factor or a difference."""
    change = finding.change
    if change is None:
        return "?"
    share = finding.tolerance.kind == "share"

    def number(value: float) -> str:
        return f"{value:.4f}" if share else f"{value:+.{max(finding.digits, 4)}f}"

    text = f"{'x ' if share else ''}{number(change.value)}"
    return (
        text if change.low is None or change.high is None else f"{text} [{number(change.low)}, {number(change.high)}]"
    )


def _command(comparison: CellComparison, background: Background) -> str:
    """The command that measures the cell again."""
    suite, separator, cell = comparison.name.partition("::")
    item = f"{background.suites.get(suite, suite)}{separator}{cell}"
    return f"pytest {shlex.quote(one_line(item))} {background.options}"


def _having(comparison: CellComparison, *kinds: FindingKind) -> list[Finding]:
    return [finding for finding in comparison.findings if finding.kind in kinds]
