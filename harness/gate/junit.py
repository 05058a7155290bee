"""What the gate found as JUnit XML, which CI systems show: a test case a cell."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from harness.gate.judge import Judgement
from harness.gate.text import Background, cell_lines
from harness.policy.rules import OUTCOMES

#: What XML 1.0 cannot hold.
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(judgement: Judgement, background: Background) -> str:
    """The document. What fails the build is a failure; what is not settled is skipped, with its reason."""
    suite = ElementTree.Element("testsuite", name="harness gate")
    failures = skipped = 0
    for comparison in judgement.comparisons:
        case = ElementTree.SubElement(suite, "testcase", classname="harness.gate.judge", name=_clean(comparison.name))
        if not comparison.outcomes:
            continue
        fails = bool(comparison.outcomes & comparison.policy.fail_on)
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
