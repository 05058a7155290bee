"""Studies in the report show only what was run, and count the rest."""

from __future__ import annotations

from pathlib import Path

from made_study import INT8, cell, sections, study

from harness.report.markdown import markdown
from harness.report.model import Report
from harness_studies import Study


def test_published_stands_beside_measured_and_what_was_not_run_is_counted(tmp_path: Path) -> None:
    made = study(tmp_path)
    records = [cell(seed=seed, figures={"auroc": value}) for seed, value in enumerate((0.929, 0.931))]
    (section,) = sections(made, records)
    table = next(table for table in section.tables if table.caption == "AUROC (table 1)")
    (row,) = table.rows
    found = dict(zip(table.headers, row, strict=True))
    assert found["published"] == "0.9300 ±0.0010"
    assert found["measured"].startswith("0.9300 [")
    assert found["measured - published"].startswith("+0.0000 [")
    assert "not run" in section.paragraphs[1]
    assert section.paragraphs[1].startswith("Of 6 published figures: ")


def test_findings_come_first_with_the_pairs_that_were_run(tmp_path: Path) -> None:
    timed = {"latency": 9.0}
    records = [cell(figures=timed), cell(INT8, ratio=(1.3, 1.2, 1.4), figures=timed)]
    (section,) = sections(study(tmp_path), records)
    rows = section.tables[0].rows
    assert rows[0][0] == "int8 is slower (latency a / b > 1)"
    assert ("1.300 [1.204, 1.404]" in rows[0][-1]) or ("1.300 [1.204, 1.404]" in rows[1][-1])
    assert all(row[2] != "not run" for row in rows)


def test_a_study_of_which_nothing_was_run_is_left_out(tmp_path: Path) -> None:
    assert sections(study(tmp_path), [cell(architecture="lstm")]) == []


def test_a_study_that_is_not_in_order_says_so_in_its_place(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("title = 1")
    (section,) = sections(Study("X", broken), [cell()])
    assert "broken.toml" in section.paragraphs[0]
    assert section.failed
    assert section.tables == ()
    assert "broken.toml" in markdown(Report((), (), (), ()), [section])
