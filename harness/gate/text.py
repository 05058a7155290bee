"""What the gate found, for a person: each cell that became worse, by how much, how sure that is, and what changed."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path

from harness.files import atomic_write
from harness.gate.findings import Finding, Kind
from harness.gate.judge import Comparison, Judgement
from harness.policy.rules import OUTCOMES, Outcome
from harness.records.changes import Documents, around_it, changes
from harness.records.record import Record
from harness.text import one_line, pluralize, printable


@dataclasses.dataclass(frozen=True)
class Background:
    """What is told beside the findings: of which run, from which documents, and with which options to measure again."""

    baseline: Path
    old: Documents
    new: Documents
    #: Options of pytest, as they are typed.
    options: str
    #: Where suites are from here, by their names, which pytest takes from its root.
    suites: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def changed(self, before: Record, now: Record) -> list[str]:
        """What differs between two records of a cell, a line each."""
        return changes(before, now, self.old, self.new) or ["nothing that is recorded"]


def typed(options: Mapping[str, object]) -> str:
    """Options as they are typed; what is None is left out."""
    return shlex.join(f"{name}={value}" for name, value in options.items() if value is not None)


def gate_text(judgement: Judgement, background: Background) -> str:
    """The whole verdict, for a terminal."""
    lines = [f"against {background.baseline}: {summary(judgement)}"]
    if around := surroundings_text(judgement):
        lines.append(f"changed around the models: {around}")
    grave: tuple[Outcome, ...] = ("regressed", "lost")
    for outcome in grave:
        for entry in judgement.having(outcome):
            lines += ["", f"{outcome.upper()} {one_line(entry.name)}"]
            lines += [f"  {line}" for line in cell_lines(entry, background)]
    rest = [entry for entry in judgement.comparisons if entry.outcomes and not entry.outcomes & set(grave)]
    if rest:
        lines += ["", "not settled:"]
        lines += [f"  {one_line(entry.name)}: {line}" for entry in rest for line in unsettled(entry)]
    lines += ["", conclusion(judgement)]
    return printable("\n".join(lines))


def write_findings(judgement: Judgement, background: Background, markdown: Path | None, junit: Path | None) -> None:
    """Write what the gate found into the files that are asked for. Raises StoreError when that fails."""
    from harness.gate.junit import junit_xml
    from harness.gate.markdown import gate_markdown

    for file, text in ((markdown, gate_markdown), (junit, junit_xml)):
        if file is not None:
            with atomic_write(file, "or choose another file") as temporary:
                temporary.write_text(text(judgement, background), encoding="utf-8")


def summary(judgement: Judgement) -> str:
    """How many cells are fine, and how many are not, in one line."""
    compared = [entry for entry in judgement.comparisons if entry.old is not None and entry.new is not None]
    parts = [f"{pluralize(len(compared), 'cell')} compared", f"{sum(not entry.outcomes for entry in compared)} fine"]
    parts += [f"{len(found)} {outcome}" for outcome in OUTCOMES if (found := judgement.having(outcome))]
    new = sum(entry.old is None for entry in judgement.comparisons)
    parts += [f"{new} new, not judged"] if new else []
    return ", ".join([*parts, *([f"{judgement.left_out} not selected"] if judgement.left_out else [])])


def surroundings_text(judgement: Judgement) -> str:
    """What differs around the models of both runs, each once; empty when nothing does."""
    pairs = [(entry.old, entry.new) for entry in judgement.comparisons]
    found = [line for old, new in pairs if old is not None and new is not None for line in around_it(old, new)]
    return "; ".join(dict.fromkeys(found))


def conclusion(judgement: Judgement) -> str:
    """Whether the build fails, and by what."""
    if judgement.failures:
        return f"The gate is closed: {' and '.join(judgement.failures)} (exit code {judgement.exit_code})."
    waived = [outcome for outcome in OUTCOMES if judgement.having(outcome)]
    if waived:
        return f"The gate is open: the policy's fail_on does not hold what is {' or '.join(waived)}."
    return "The gate is open."


def headline(finding: Finding) -> str:
    """The figure: earlier and now, the change with its interval, what is allowed."""
    text = finding.figure
    if finding.old is not None or finding.new is not None:
        text += f" {value_text(finding, finding.old)} -> {value_text(finding, finding.new)}"
        text += f" {finding.unit}" if finding.unit else ""
    if finding.change is not None:
        text += f", {change_text(finding)}"
    return f"{text}, {'at least' if finding.tolerance.kind == 'kept' else 'allowed'} {finding.tolerance}"


def command(comparison: Comparison, background: Background) -> str:
    """The command that measures the cell again."""
    suite, separator, cell = comparison.name.partition("::")
    item = f"{background.suites.get(suite, suite)}{separator}{cell}"
    return f"pytest {shlex.quote(one_line(item))} {background.options}"


def cell_lines(comparison: Comparison, background: Background) -> list[str]:
    """All there is to say against a cell, a line each: findings, what changed, and how to measure it again."""
    if comparison.old is None or comparison.new is None:
        return [comparison.reason] if comparison.reason else []
    lines = [f"{headline(finding)}: {finding.how}" for finding in _having(comparison, "regressed")]
    if lines:
        better = _having(comparison, "improved")
        lines += [f"better, which does not pay for it: {headline(finding)}" for finding in better]
    lines += unsettled(comparison)
    lines += [f"changed: {line}" for line in background.changed(comparison.old, comparison.new)]
    return [*lines, f"again: {command(comparison, background)}"]


def unsettled(comparison: Comparison) -> list[str]:
    """What could not be settled of a cell, a line each."""
    found = _having(comparison, "contaminated", "inconclusive")
    return [f"{finding.kind}: {headline(finding)}: {finding.reason}" for finding in found]


def _having(comparison: Comparison, *kinds: Kind) -> list[Finding]:
    return [finding for finding in comparison.findings if finding.kind in kinds]


def value_text(finding: Finding, value: float | None) -> str:
    return "?" if value is None else f"{value:,.{finding.digits}f}"


def change_text(finding: Finding) -> str:
    """The change with its interval: a factor or a difference."""
    if finding.change is None:
        return "?"
    share = finding.tolerance.kind == "share"

    def shown(value: float) -> str:
        return f"{value:.4f}" if share else f"{value:+.{max(finding.digits, 4)}f}"

    found = finding.change
    text = f"{'x ' if share else ''}{shown(found.value)}"
    return text if found.low is None or found.high is None else f"{text} [{shown(found.low)}, {shown(found.high)}]"
