"""Write a judgement to files: Markdown for a comment on a pull request, JUnit XML for CI systems."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from harness.files import atomic_write
from harness.gate.judge import CellComparison, Finding, Judgement
from harness.gate.text import (
    Background,
    cell_lines,
    change_text,
    conclusion,
    summary,
    synthetic_text,
    unresolved,
    unsettled,
    value_text,
)
from harness.policy.rules import OUTCOMES
from harness.text import escape_html, escape_markdown, one_line

#: GitHub refuses comments of more than 65,536 characters.
MOST = 60_000
HEADERS = ("cell", "figure", "earlier", "now", "change", "allowed", "by")
#: Characters that XML 1.0 cannot hold.
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_findings(judgement: Judgement, background: Background, markdown: Path | None, junit: Path | None) -> None:
    """Write the judgement into each file that is not None. Raises StoreError if a file cannot be written."""
    for file, render in ((markdown, gate_markdown), (junit, junit_xml)):
        if file is not None:
            with atomic_write(file, "or choose another file") as temporary:
                temporary.write_text(render(judgement, background), encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------- Markdown


def gate_markdown(judgement: Judgement, background: Background) -> str:
    """The conclusion, a table of the figures that became worse, and the rest in folded blocks."""
    shared = unresolved(judgement)
    mark = "closed" if judgement.failures else "open"
    paragraphs = [
        f"### Compression gate: {mark}",
        f"{escape_markdown(conclusion(judgement))}",
        escape_markdown(summary(judgement)) + ".",
    ]
    if remark := synthetic_text(judgement):
        paragraphs.append(escape_markdown(remark) + ".")
    regressed = judgement.having("regressed")
    paragraphs += _table(
        [_row(entry, finding) for entry in regressed for finding in entry.findings if finding.kind == "regressed"]
    )
    lost_lines = [
        f"- lost: {_code(entry.name)}: {escape_markdown(reason)}"
        for entry in judgement.having("lost")
        for reason in [entry.reason or "; ".join(each.reason for each in entry.findings if each.kind == "lost")]
    ]
    unjudged_lines = [
        f"- not judged: {_code(entry.name)}: {finding.figure}: {escape_markdown(finding.reason)}"
        for entry in judgement.having("not judged")
        for finding in entry.findings
        if finding.kind == "not judged"
    ]
    for items in (lost_lines, unjudged_lines):
        shown, note = _fitting(items)
        paragraphs += ["\n".join(shown), *note] if items else []
    details = [
        line
        for entry in regressed
        for line in ("", one_line(entry.name), *(f"  {line}" for line in cell_lines(entry, background, shared)))
    ]
    paragraphs += _folded("What changed, and how to measure it again", details)
    open_ends = [*shared.values()]
    open_ends += [
        f"{one_line(entry.name)}: {line}" for entry in judgement.comparisons for line in unsettled(entry, shared)
    ]
    paragraphs += _folded(f"Not settled ({len(open_ends)})", open_ends)
    improved = [
        f"{one_line(entry.name)}: {finding.figure}, {change_text(finding)}"
        for entry in judgement.comparisons
        for finding in entry.findings
        if finding.kind == "improved"
    ]
    paragraphs += _folded(f"Better ({len(improved)})", improved)
    good = [
        _row(entry, finding) for entry in judgement.comparisons for finding in entry.findings if finding.kind == "fine"
    ]
    table = "\n\n".join(_table(good))
    if good and judgement.failures:
        paragraphs.append(f"<details><summary>Not worse ({len(good)})</summary>\n\n{table}\n\n</details>")
    elif good:
        paragraphs.append(table)
    return "\n\n".join(paragraphs) + "\n"


def _table(rows: list[str]) -> list[str]:
    """A table of rows, and a note on the rows that do not fit; empty without rows."""
    if not rows:
        return []
    head = ["| " + " | ".join(HEADERS) + " |", "|" + "---|" * len(HEADERS)]
    shown, note = _fitting(rows)
    return ["\n".join([*head, *shown]), *note]


def _row(comparison: CellComparison, finding: Finding) -> str:
    unit = f" {finding.unit}" if finding.unit else ""
    values = (f"{value_text(finding, value)}{unit}" for value in (finding.old, finding.new))
    columns = (finding.figure, *values, change_text(finding), str(finding.tolerance), finding.method)
    return "| " + " | ".join([_code(comparison.name), *map(escape_markdown, columns)]) + " |"


def _folded(title: str, lines: list[str]) -> list[str]:
    """A folded block of verbatim lines; empty without lines."""
    if not lines:
        return []
    shown, note = _fitting(lines)
    text = "\n".join([*shown, *note]).replace("&", "&amp;").replace("<", "&lt;").strip("\n")
    return [f"<details><summary>{title}</summary>\n\n<pre>\n{text}\n</pre>\n\n</details>"]


def _fitting(lines: list[str]) -> tuple[list[str], list[str]]:
    """As many of the lines as fit into a section of the comment, and a note on the number of the others."""
    room, count = MOST // 8, 0
    while count < len(lines) and (room := room - len(lines[count]) - 1) > 0:
        count += 1
    omitted = len(lines) - count
    return lines[:count], [f"... and {omitted} lines more, which the run printed"] if omitted else []


def _code(text: str) -> str:
    """Verbatim text in one cell of a table."""
    return f"<code>{escape_html(text).replace('|', '&#124;')}</code>"


# ---------------------------------------------------------------------------------------------------------- JUnit XML


def junit_xml(judgement: Judgement, background: Background) -> str:
    """A test case for each cell: outcomes that fail the build are a failure, others are skipped, with the reason."""
    suite = ElementTree.Element("testsuite", name="harness gate")
    failures = skipped = 0
    for comparison in judgement.comparisons:
        case = ElementTree.SubElement(suite, "testcase", classname="harness.gate", name=_clean(comparison.name))
        if not comparison.outcomes:
            continue
        fails = bool(comparison.failures)
        failures, skipped = failures + fails, skipped + (not fails)
        outcomes = ", ".join(outcome for outcome in OUTCOMES if outcome in comparison.outcomes)
        entry = ElementTree.SubElement(case, "failure" if fails else "skipped", message=outcomes)
        entry.text = _clean("\n".join(cell_lines(comparison, background)))
    suite.set("tests", str(len(judgement.comparisons)))
    suite.set("failures", str(failures))
    suite.set("skipped", str(skipped))
    suite.set("errors", "0")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def _clean(text: str) -> str:
    return FORBIDDEN.sub("?", text)
