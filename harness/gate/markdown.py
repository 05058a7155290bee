"""What the gate found as Markdown, for a comment on a pull request."""

from __future__ import annotations

from harness.gate.findings import Finding
from harness.gate.judge import Comparison, Judgement
from harness.gate.text import Background, cell_lines, change_text, conclusion, summary, unsettled, value_text
from harness.text import escape_html, escape_markdown, one_line

#: GitHub refuses comments of more than 65,536 characters.
MOST = 60_000
HEADERS = ("cell", "figure", "earlier", "now", "change", "allowed", "by")


def gate_markdown(judgement: Judgement, background: Background) -> str:
    """The verdict, a table of what became worse, and the rest folded away."""
    mark = "closed" if judgement.failures else "open"
    parts = [
        f"### Compression gate: {mark}",
        f"{escape_markdown(conclusion(judgement))}",
        escape_markdown(summary(judgement)) + ".",
    ]
    regressed = [(entry, finding) for entry in judgement.having("regressed") for finding in entry.findings]
    worse = [_row(entry, finding) for entry, finding in regressed if finding.kind == "regressed"]
    if worse:
        head = ["| " + " | ".join(HEADERS) + " |", "|" + "---|" * len(HEADERS)]
        kept, more = _fitting(worse)
        parts += ["\n".join([*head, *kept]), *more]
    lost = [f"- lost: {_code(entry.name)}: {escape_markdown(entry.reason)}" for entry in judgement.having("lost")]
    if lost:
        kept, more = _fitting(lost)
        parts += ["\n".join(kept), *more]
    details = [
        line
        for entry in judgement.having("regressed")
        for line in ("", one_line(entry.name), *(f"  {line}" for line in cell_lines(entry, background)))
    ]
    parts += _folded("What changed, and how to measure it again", details)
    open_ends = [f"{one_line(entry.name)}: {line}" for entry in judgement.comparisons for line in unsettled(entry)]
    parts += _folded(f"Not settled ({len(open_ends)})", open_ends)
    improved = [
        f"{one_line(entry.name)}: {finding.figure}, {change_text(finding)}"
        for entry in judgement.comparisons
        for finding in entry.findings
        if finding.kind == "improved"
    ]
    parts += _folded(f"Better ({len(improved)})", improved)
    return "\n\n".join(parts) + "\n"


def _row(entry: Comparison, finding: Finding) -> str:
    unit = f" {finding.unit}" if finding.unit else ""
    values = (f"{value_text(finding, value)}{unit}" for value in (finding.old, finding.new))
    shown = (finding.figure, *values, change_text(finding), str(finding.tolerance), finding.how)
    return "| " + " | ".join([_code(entry.name), *map(escape_markdown, shown)]) + " |"


def _folded(title: str, lines: list[str]) -> list[str]:
    """A folded block of verbatim lines; none where there are no lines."""
    if not lines:
        return []
    kept, more = _fitting(lines)
    text = "\n".join([*kept, *more]).replace("&", "&amp;").replace("<", "&lt;").strip("\n")
    return [f"<details><summary>{title}</summary>\n\n<pre>\n{text}\n</pre>\n\n</details>"]


def _fitting(lines: list[str]) -> tuple[list[str], list[str]]:
    """As many of the lines as a part of the comment may have, and what is to be said of the others."""
    room, kept = MOST // 6, 0
    while kept < len(lines) and (room := room - len(lines[kept]) - 1) > 0:
        kept += 1
    left = len(lines) - kept
    return lines[:kept], [f"... and {left} lines more, which the run printed"] if left else []


def _code(text: str) -> str:
    """Verbatim text in one cell of a table."""
    return f"<code>{escape_html(text).replace('|', '&#124;')}</code>"
