"""The page on the measuring method says what the calibration found, and the constants that the code has."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.gate.judge import BETWEEN_RUNS
from harness.measure.timing import TOLERANCE, WINDOW
from harness.records.runs import read_records
from harness.records.signals import SIGNALS
from harness.run.deployment import TIMED_INPUTS
from harness.suite.presets import PRESETS
from harness.text import DEFAULT_MARGIN, format_margin

ROOT = Path(__file__).parent.parent
PAGE = " ".join((ROOT / "docs" / "measuring.md").read_text().split())
CALIBRATION: Mapping[str, Any] = json.loads((ROOT / "results" / "calibration" / "calibration.json").read_text())
IDLE, BUSY = CALIBRATION["conditions"]

WAYS = {
    "this harness, each comparison alone": "alone",
    "this harness, all as one matrix": "matrix",
    "this harness, confirmed by fresh processes": "confirmed",
    "the interval alone, no margin": "interval",
}
RIVALS = {
    "pytest-benchmark `mean:5%`, separate runs": "pytest-benchmark mean:5%",
    "pyperf `compare_to`, separate runs": "pyperf compare_to",
    "asv factor 1.1, separate runs": "asv factor 1.1",
}


def levels(condition: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [condition["summary"]["itself"], *condition["summary"]["planted"]]


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


@pytest.mark.parametrize(("condition", "which"), [(IDLE, 0), (BUSY, 1)], ids=["idle", "busy"])
def test_the_tables_are_the_calibration_s(condition: Mapping[str, Any], which: int) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", (ROOT / "docs" / "measuring.md").read_text(), re.MULTILINE)
    table = tables[which]
    head = ["rule", "A/A", *(f"+{format_margin(level['planted'])}" for level in levels(condition)[1:])]
    rows = {"comparisons": [str(level["comparisons"]) for level in levels(condition)]}
    for words, way in WAYS.items():
        rows[words] = [f"{percent(level['alarms'][way]['share'])} %" for level in levels(condition)]
    for words, rule in RIVALS.items():
        rows[words] = [f"{percent(level['rivals']['separate'][rule]['share'])} %" for level in levels(condition)]
    wanted = [head, ["---"] * len(head), *([words, *cells] for words, cells in rows.items())]
    assert [[cell.strip(" ") for cell in line.strip("|").split("|")] for line in table.splitlines()] == wanted


def test_the_command_and_the_machine_are_the_calibration_s() -> None:
    assert f"`{CALIBRATION['command']}`" in PAGE
    machine = CALIBRATION["machine"]
    words = {2: "two"}
    assert f"a virtual machine with {words[machine['allowed_cpus']]} cores of an {machine['cpu']}" in PAGE
    assert machine["hypervisor"]


def test_the_sentences_are_the_calibration_s() -> None:
    itself = [condition["summary"]["itself"] for condition in (IDLE, BUSY)]
    clean = sum(level["alarms"]["alone"]["of"] for level in itself)
    assert sum(level["alarms"]["alone"]["number"] for level in itself) == 0
    assert f"None of {clean} A/A comparisons that were not contaminated was called faster or slower" in PAGE
    bound = 1 - 0.05 ** (1 / clean)  # Clopper and Pearson's, one-sided, of none
    assert bound < 0.008
    assert "below 0.8 % with 95 % confidence" in PAGE

    def both(values: list[float], digits: int = 1) -> str:
        return " and ".join(percent(value, digits) for value in values)

    alarms = both([level["alarms"]["interval"]["share"] for level in itself])
    student = both([level["coverage"]["student"]["share"] for level in itself])
    bootstrap = both([level["coverage"]["bootstrap"]["share"] for level in itself])
    deviation = both([level["deviation"] for level in itself], 2)
    costs = [condition["summary"]["cost"] for condition in (IDLE, BUSY)]
    wall, beyond = (" and ".join(f"{cost[name]:.2f}" for cost in costs) for name in ("wall", "beyond_calls"))
    for sentence in (
        f"The interval's {alarms} % in the first column",
        f"held the true ratio 1 in {student} % of the A/A comparisons, the bootstrap's in {bootstrap} %",
        f"had a standard deviation of {deviation} %",
        f"A comparison took {wall} s, of which {beyond} s were not timed calls",
    ):
        assert sentence in PAGE, sentence


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("the ratio of the 15 comparisons", "of the 15 comparisons that were disturbed in neither run the ratio"),
        (
            "moved by -1.5 to +0.5 %, and of all 40 by -5.1 to +5.8 %",
            "moved by -1.5 to +0.5 %, of all 40 by -5.1 to +5.8 %",
        ),
        ("when 45 cells were timed a second time", "45 cells were timed a second time"),
        (
            "the median latencies of networks of one shape differed by up to 78 % within one run",
            "The median latencies of networks of one shape differ within one run by up to 26 % (`ptbxl/cnn`), 55 % "
            "(`ptbxl/cnn.r5`), 52 % (`ptbxl/rnn`), 55 % (`ptbxl/rnn.r5`), 35 % (`ptbxl/resnet`), 8 % (`ptbxl/epochs`) "
            "and 78 % (`icu/physionet2012`)",
        ),
        ("an int8 network a tenth of its time", "up to a tenth beside int8 networks"),
    ],
)
def test_what_is_quoted_from_the_results_is_there(here: str, there: str) -> None:
    assert here in PAGE
    assert there in " ".join((ROOT / "results" / "README.md").read_text().split())


def test_the_constants_are_the_code_s() -> None:
    sizes = ", ".join(
        f"{preset.processes} in {'the preset ' * (not i)}*{name}*" for i, (name, preset) in enumerate(PRESETS.items())
    )
    for words in (
        f"{TIMED_INPUTS} examples are drawn from the test split",
        f"two windows of {WINDOW} calls agree: their quartiles within {percent(TOLERANCE, 0)} %",
        f"at {format_margin(BETWEEN_RUNS)} at least",
        f"(`--harness-margin`, {format_margin(DEFAULT_MARGIN)} by default)",
        sizes,
        "A 90th percentile is given from 64 samples, a 99th from 662",
    ):
        assert words in PAGE, words


def test_every_kind_of_signal_is_told() -> None:
    words = {
        "switches": "switches to other programs",
        "waiting": "waiting for the CPU",
        "steal": "time that a hypervisor took",
        "throttled": "a quota or heat",
        "collections": "garbage collection",
        "spread": "spreads",
        "drift": "drifts",
        "moved": "moved",
        "itself": "timed against a copy of itself",  # the A/A ratio
    }
    assert list(words) == list(SIGNALS)
    (section,) = re.findall(r"## When the machine is disturbed (.*?) ## ", PAGE)
    for name, word in words.items():
        assert word in section, name


def test_references_are_cited_and_citations_are_referenced() -> None:
    text, references = PAGE.split("## References")
    listed = {(names.split(",")[0], year) for names, year in re.findall(r"- ([A-Z].*?):.*?((?:19|20)\d\d)", references)}
    cited = {
        (name, year)
        for name, year in re.findall(
            r"([A-Z]\w+)(?:,? (?:et al\.|and|[A-Z]\w+)(?: [A-Z]\w+)*)* \(?((?:19|20)\d\d)\)?", text
        )
    }
    assert len(listed) == 9
    assert listed == cited


def test_networks_of_one_shape_differ_in_their_records_as_is_said() -> None:
    latencies: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for file in ("cnn", "rnn", "resnet"):
        for record in read_records(ROOT / "results" / "ptbxl" / f"{file}.json"):
            timing, axes = record.timing, record.axes
            assert timing is not None
            shape = (file, str(axes["profile"]), str(axes["precision"]), str(axes["pruning"]).partition("keep")[2])
            latency = record.figures["latency"].value
            latencies.setdefault(shape, []).append((latency, timing.ratio.value))
    medians, ratios = (
        max(max(values) / min(values) for values in ([pair[side] for pair in pairs] for pairs in latencies.values()))
        for side in (0, 1)
    )
    assert (round(100 * (medians - 1)), round(100 * (ratios - 1))) == (52, 14)
