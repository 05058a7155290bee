"""Writing the report: by the command, at the end of a run, and as figures for papers."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import fakes
import pytest
import run_files
from fakes import Suite

from harness.cli.main import main
from harness.plugin.manager import installed
from harness.records.record import decode, to_json
from harness.records.runs import read
from harness.report import page
from harness.report.charts import all_charts, slug, to_svg
from harness.report.model import report
from harness.report.terminal import report_text

MADE = [run_files.cell(1.0), run_files.cell(0.5, pruning="half", difference=(-0.001, -0.002, 0.0), error=0.01)]


@pytest.fixture(autouse=True)
def _small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_library", lambda: "/* Vega */")
    monkeypatch.setattr(page, "DRAWN_NETWORKS", 0)


@pytest.mark.parametrize(
    ("name", "begins"), [("r.html", "<!DOCTYPE html>"), ("r.md", "# Compression report"), ("new/r.csv", "suite,matrix")]
)
def test_the_command_writes_what_the_name_says(
    toy_installed: ModuleType, capsys: pytest.CaptureFixture[str], name: str, begins: str
) -> None:
    file = str(run_files.write(Path("run.json"), MADE))
    assert main(["report", file, "-o", name]) == 0
    assert Path(name).read_text().lstrip().startswith(begins)
    assert capsys.readouterr().out == f"the report is {name}\n"


def test_a_wrong_name_is_answered_with_the_nearest(
    toy_installed: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "absent.json", "-o", "x.htlm"]) == 4
    assert "not x.htlm; did you mean '.html'" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told(toy_installed: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(run_files.write(Path("run.json"), MADE))
    Path("taken").write_text("")
    assert main(["report", file, "-o", "taken/r.md"]) == 4
    assert "cannot write taken/r.md" in capsys.readouterr().err


def test_the_terminal_has_the_tables_and_a_summary(
    toy_installed: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert main(["report", str(run_files.write(Path("run.json"), MADE))]) == 0
    tables, _, summary = capsys.readouterr().out.partition("Summary\n")
    assert "latency / reference" in tables
    assert "fastest is plain-half-float32" in " ".join(summary.split())
    assert "The preset quick" in summary
    assert max(map(len, summary.splitlines())) <= 70


def test_figures_are_drawn_twice_and_always_alike(
    toy_installed: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_files.write(Path("run.json"), MADE)
    assert main(["report", str(file), "--figures", "drawn"]) == 0
    names = sorted(entry.name for entry in Path("drawn").iterdir())
    assert capsys.readouterr().out == f"{len(names)} figures are in drawn\n"
    assert "01-conv-on-toy-quality-latency.svg" in names
    assert {Path(name).suffix for name in names} == {".svg", ".png"}
    for (_, chart), name in zip(all_charts(report([read(file)])), names[1::2], strict=True):
        assert to_svg(chart) == (Path("drawn") / name).read_text()


def test_any_name_makes_a_file_s_name() -> None:
    assert slug("A/B: ../x\n") == "a-b-x"
    assert slug("模型") == "network"
    assert len(slug("x" * 10_000)) <= 60


def test_a_run_writes_its_report_and_says_where(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    result = suite(fakes.TOYS, "--harness-report=out/report.html", "--benchmark-json=run.json", "-k", "conv")
    assert "harness: the report is out/report.html" in result.outlines
    text = Path("out/report.html").read_text()
    assert "SYNTHETIC DATA" in text
    assert "toy-synthetic-conv-half-seed0" in text
    assert "run.json" in text


def test_a_report_that_fails_costs_no_run_its_file(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(page, "island", fail)
    result = suite(fakes.TOYS, "--harness-report=report.html", "--benchmark-json=run.json", "-k", "conv and seed0")
    result.assert_outcomes(passed=2, deselected=2)
    assert "harness: no report: ValueError: a bug" in str(result.stdout)
    assert len(fakes.benchmarks()) == 2


def test_a_wrong_report_is_told_before_anything_is_built(suite: Suite) -> None:
    result = suite(fakes.TOYS, "--harness-report=report.pdf")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--harness-report: a report is a file *.html, *.md or *.csv, not report.pdf" in str(result.stderr)
    assert not Path(".harness").exists()


LEAVING = """
toys = Matrix(
    dataset="toy", architecture=["conv", "lstm"], runtime="eager",
    pruning={"full": [train(epochs=1)], "half": [train(epochs=1), step("halve")]},
    skip=[Skip("no kernel for it", architecture="lstm", pruning="half")],
)
"""


def test_what_was_not_measured_is_in_the_file_and_in_the_report(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, *arguments: object) -> None:
        raise ValueError("too narrow")

    import toy

    monkeypatch.setattr(toy.Halve, "apply", fail)
    suite(LEAVING, "--benchmark-json=run.json", "--harness-report=report.md").assert_outcomes(
        passed=2, failed=1, skipped=1
    )
    left = {entry["cell"]: entry for entry in json.loads(Path("run.json").read_text())["harness"]["left"]}
    assert list(left) == ["toy-synthetic-conv-half-seed0", "toy-synthetic-lstm-half-seed0"]
    failed, skipped = left.values()
    assert (failed["outcome"], skipped["outcome"]) == ("failed", "skipped")
    assert "too narrow" in failed["reason"]
    assert skipped["reason"] == "no kernel for it"
    assert list(map(to_json, read(Path("run.json")).unmeasured)) == [failed, skipped]
    assert "no kernel for it" in Path("report.md").read_text()


def test_a_run_without_a_file_has_a_report_too(suite: Suite) -> None:
    suite(fakes.TOYS, "--harness-report=report.csv", "-k", "conv and seed0")
    with Path("report.csv").open() as file:
        assert [row["run"] for row in csv.DictReader(file)] == ["this run, which has no file"] * 2


def test_asking_for_options_loads_no_charts() -> None:
    code = "import sys, harness.pytest_plugin; print('vl_convert' in sys.modules, 'jinja2' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


def test_report_sections_of_plugins_get_plain_mappings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def sections(records: Any, context: object) -> list[Any]:
        seen.extend(records)
        return []

    plugins = installed()
    monkeypatch.setattr(plugins, "sections", sections)
    report_text([decode(made) for made in MADE], plugins)
    assert [type(record) for record in seen] == [dict, dict]
    assert seen[0]["timing"]["ratio"]["value"] == 1.0
