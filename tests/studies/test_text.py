"""Tables of a study in the terminal: their content and their width."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_study import INT8, TEXT, cell, comparison, prune, study
from records import line

from harness.api.sections import Section
from harness.report.terminal import section_text
from harness_studies.comparison import RULES, compare
from harness_studies.text import study_text


def text(folder: Path, *records: object, width: int = 200) -> str:
    return study_text(comparison(folder, records), width)


def test_published_stands_beside_measured(tmp_path: Path) -> None:
    records = [
        cell(seed=seed, figures={"auroc": value, "parameters": 1000.0}) for seed, value in enumerate((0.929, 0.931))
    ]
    shown = text(tmp_path, *records, cell(prune("l2", 5), figures={"auroc": 0.921}))
    fields = line(shown, "M_F", "100", "%")
    assert fields[3:6] == ["0.9300", "±0.0010", "0.9300"]
    assert fields[-1] in {"reproduced", "margin"}
    assert line(shown, "50", "%")[2:6] == ["0.9200", "±0.0020", "5/L2", "0.9210"]
    assert "1 seed, 5/L2 (1 of 4 run)" in shown
    assert line(shown, "M_F", "parameters")[2:5] == ["1,000", "1,000", "2"]


def test_findings_are_told_with_their_pairs(tmp_path: Path) -> None:
    timed = {"latency": 9.0}
    shown = text(tmp_path, cell(figures=timed), cell(INT8, ratio=(1.3, 1.2, 1.4), figures=timed))
    assert "int8 is slower (latency a / b > 1)" in shown
    assert "holds: in 1, not run in 1" in shown
    assert "1.300 [1.204, 1.404]" in shown
    assert "1 seed, over processes" in shown


def test_what_a_reader_must_know_is_there(tmp_path: Path) -> None:
    shown = " ".join(text(tmp_path, cell(synthetic=True)).split())
    for part in (
        *RULES,
        "a note",
        "Someone: Somewhere 2020",
        "10.1/x",
        "synthetic data",
        "No cell of this study was run.",
    ):
        assert part in shown


@pytest.mark.parametrize("width", [80, 100, 160])
def test_it_fits_the_terminal(tmp_path: Path, width: int) -> None:
    records = [cell(seed=seed, figures={"auroc": 0.9 + seed / 100}) for seed in range(3)]
    records += [cell(prune(norm, 5), INT8, seed=seed) for seed in range(3) for norm in ("l1", "l2")]
    assert max(map(len, text(tmp_path, *records, width=width).splitlines())) <= width


def test_a_file_does_not_steer_the_terminal(tmp_path: Path) -> None:
    made = study(tmp_path, TEXT.replace('title = "A study"', 'title = "A \\u001b[31mstudy"'))
    shown = section_text(Section("made", text=study_text(compare(made, [], {}))), 80)
    assert "\x1b" not in shown
    assert "[31mstudy" in shown
