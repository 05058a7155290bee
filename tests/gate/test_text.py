"""The gate's text, Markdown and JUnit XML, also with hostile names."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from records import decoded, record

from harness.gate.judge import CellComparison, FigureChange, Finding, Judgement, judge
from harness.gate.output import MOST, gate_markdown, junit_xml
from harness.gate.text import Background, conclusion, format_options, gate_text, headline, summary
from harness.policy.rules import Tolerance, policy

BASE = Path("base run.json")
BACKGROUND = Background(BASE, {}, {}, format_options({"--harness-gate": None, "--harness-against": BASE}))
HOSTILE = "s.py::m[<script>alert(1)</script>|`a`\n\x00\x1b[31m&<!--@everyone ](http://x)-é漢]"


class Hostile(Background):
    """A background with hostile changes."""

    def changed(self, before: Any, now: Any) -> list[str]:
        return [HOSTILE]


def finding(kind: Any = "regressed", **changes: Any) -> Finding:
    given: Any = {
        "figure": "latency",
        "kind": kind,
        "old": 100.0,
        "new": 110.0,
        "change": FigureChange(1.1, 1.09, 1.11),
        "tolerance": Tolerance("share", 0.01),
        "unit": "us",
        "digits": 1,
        "method": "timed in pairs",
        "reason": f"why it is {kind}",
    }
    return Finding(**(given | changes))


def cell(*findings: Finding, name: str = "s.py::m[a]", **changes: Any) -> CellComparison:
    made = decoded(record() | {"artefact": {"key": "k", "sha256": "s"}, "versions": {}})
    given: Any = {"name": name, "old": made, "new": made, "policy": policy(), "findings": findings}
    return CellComparison(**(given | changes))


LOST = cell(name="s.py::m[gone]", new=None, reason="the suite no longer declares it")
NEW = cell(name="s.py::m[new]", old=None)
ALL = Judgement((cell(finding(), finding("improved", figure="file_size")), cell(finding("contaminated")), LOST, NEW))


def text(judgement: Judgement) -> str:
    return gate_text(judgement, BACKGROUND)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "latency 100.0 -> 110.0 us, x 1.1000 [1.0900, 1.1100], allowed 1 %"),
        ({"change": FigureChange(1.1)}, "latency 100.0 -> 110.0 us, x 1.1000, allowed 1 %"),
        ({"old": None, "new": None, "change": None}, "latency, allowed 1 %"),
        (
            {
                "figure": "auroc",
                "old": 0.93,
                "new": 0.91,
                "unit": "",
                "digits": 4,
                "tolerance": Tolerance("absolute", 0.005),
                "change": FigureChange(-0.02, -0.03, -0.01),
            },
            "auroc 0.9300 -> 0.9100, -0.0200 [-0.0300, -0.0100], allowed 0.005",
        ),
        (
            {"tolerance": Tolerance("kept", 0.99), "change": None},
            "latency 100.0 -> 110.0 us, at least 99 % of reference",
        ),
    ],
)
def test_a_headline(changes: Any, line: str) -> None:
    assert headline(finding(**changes)).startswith(line)


def test_the_text_holds_every_finding() -> None:
    found = text(ALL)
    assert found.splitlines()[0] == (
        "against base run.json: 2 of 3 figures of 2 cells judged, 0 fine, 1 regressed, 1 lost, 1 contaminated, 1 new"
    )
    assert "REGRESSED s.py::m[a]\n  latency 100.0 -> 110.0 us" in found
    assert "  better, which does not make up for it: file_size 100.0" in found
    assert "  changed: nothing that is recorded" in found
    assert "  again: pytest 's.py::m[a]' '--harness-against=base run.json'" in found
    assert "LOST s.py::m[gone]\n  the suite no longer declares it" in found
    assert "contaminated: latency 100.0 -> 110.0 us, x 1.1000 [1.0900, 1.1100], allowed 1 %: why it is contam" in found
    assert found.endswith("The gate is closed: regressed and lost (exit code 10).")


def test_an_open_gate_names_the_outcomes_that_it_ignored() -> None:
    assert conclusion(Judgement((cell(finding("fine")),))) == "The gate is open."
    found = conclusion(Judgement((cell(finding("inconclusive")), cell(finding("contaminated")))))
    assert found == "The gate is open: fail_on of the policy does not include contaminated or inconclusive."
    assert summary(Judgement((cell(finding("fine")),))) == "1 of 1 figure of 1 cell judged, 1 fine"


def test_markdown_has_a_table_of_regressions_and_folds_the_rest() -> None:
    found = gate_markdown(ALL, BACKGROUND)
    assert found.startswith("### Compression gate: closed\n")
    (row,) = [line for line in found.splitlines() if line.startswith("| <code>")]
    assert row.split(" | ") == [
        "| <code>s.py::m[a]</code>",
        "latency",
        "100.0 us",
        "110.0 us",
        "x 1.1000 \\[1.0900, 1.1100\\]",
        "1 %",
        "timed in pairs |",
    ]
    assert "- lost: <code>s.py::m[gone]</code>: the suite no longer declares it" in found
    for folded in ("What changed, and how to measure it again", "Not settled (1)", "Better (1)"):
        assert f"<summary>{folded}</summary>" in found
    assert gate_markdown(Judgement((NEW,)), BACKGROUND).startswith("### Compression gate: open\n")


def test_hostile_names_are_escaped() -> None:
    harmful = Judgement((cell(finding(figure=HOSTILE, reason=HOSTILE, method=HOSTILE), name=HOSTILE), cell(name="x")))
    markdown = gate_markdown(harmful, Hostile(BASE, {}, {}, ""))
    assert "<script" not in markdown
    assert "<!--" not in markdown
    (row,) = [line for line in markdown.splitlines() if line.startswith("| <code>")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 8, "no name may break the table"
    root = ElementTree.fromstring(junit_xml(harmful, Hostile(BASE, {}, {}, "")))
    names = [case.get("name") for case in root.iter("testcase")]
    assert names[0] == HOSTILE.replace("\x00", "?").replace("\x1b", "?")
    assert names[1] == "x"


@pytest.mark.slow
def test_a_run_of_ten_thousand_regressions_fits_into_a_comment() -> None:
    many = Judgement(tuple(cell(finding(), name=f"s.py::m[{index}]") for index in range(10_000)))
    found = gate_markdown(many, BACKGROUND)
    assert len(found) < MOST
    assert "lines more" in found
    assert "10000 regressed" in found


def test_junit_has_a_test_case_for_each_cell() -> None:
    root = ElementTree.fromstring(junit_xml(ALL, BACKGROUND))
    (suite,) = root
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped", "errors")} == {
        "tests": "4",
        "failures": "2",
        "skipped": "1",
        "errors": "0",
    }
    children = [[child.tag for child in case] for case in suite]
    assert children == [["failure"], ["skipped"], ["failure"], []]
    failure = root.find(".//failure")
    assert failure is not None
    assert failure.get("message") == "regressed"
    assert "again: pytest" in (failure.text or "")


def test_a_name_from_a_file_controls_neither_a_terminal_nor_a_ci_system() -> None:
    """GitHub's runner treats a line that begins with :: as a command."""
    old = decoded(record() | {"cell": "a\n::error::\x1b[31m<b>"})
    found = judge({old.name: old}, {}, {old.name: "gone"}, lambda entry: policy())
    assert "[a\\n::error::\\x1b[31m<b>]" in text(found)


def test_the_command_names_the_suite_from_the_working_directory() -> None:
    background = dataclasses.replace(BACKGROUND, suites={"s.py": "../there/s.py"})
    assert "again: pytest '../there/s.py::m[a]' " in gate_text(ALL, background)


def auroc(**changes: Any) -> Finding:
    """An AUROC whose interval crosses the tolerance."""
    made: Any = {
        "figure": "auroc",
        "old": 0.93,
        "new": 0.926,
        "unit": "",
        "digits": 4,
        "tolerance": Tolerance("absolute", 0.005),
        "change": FigureChange(-0.004, -0.02, 0.012),
    }
    return finding("inconclusive", **(made | changes))


def test_what_the_test_examples_do_not_resolve_is_said_once() -> None:
    wider = auroc(change=FigureChange(-0.006, -0.03, 0.018))
    judgement = Judgement(
        (cell(finding("fine"), auroc(), name="s.py::m[a]"), cell(finding(), wider, name="s.py::m[b]"))
    )
    sentence = (
        "inconclusive: auroc in 2 cells: 20 test examples do not resolve 0.005, the intervals of the change reach "
        "±0.024; use more test examples"
    )
    for shown in (text(judgement), gate_markdown(judgement, BACKGROUND)):
        assert shown.count(sentence) == 1
        assert shown.count("auroc") == 1
    assert junit_xml(judgement, BACKGROUND).count("auroc") == 2, "each test case stands alone"


@pytest.mark.parametrize(
    "changes",
    [
        {"figure": "latency", "tolerance": Tolerance("share", 0.01)},
        {"change": None},
        {"change": FigureChange(-0.02)},
        {"tolerance": Tolerance("absolute", 0.01)},
    ],
)
def test_what_is_open_for_other_reasons_is_said_of_each_cell(changes: dict[str, Any]) -> None:
    name = changes.get("figure", "auroc")
    cells = (cell(auroc(**changes), name="s.py::m[a]"), cell(auroc(), name="s.py::m[b]"))
    shown = text(Judgement(cells))
    assert f"s.py::m[a]: inconclusive: {name}" in shown
    assert "s.py::m[b]: inconclusive: auroc" in shown
    assert "do not resolve" not in shown
