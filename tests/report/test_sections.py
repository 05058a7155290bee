"""Sections that plugins add: every part appears in every view, and the terminal prints one alone by its name."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import run_files
from records import decoded, record

from harness import Chart, ReportContext, Section, Table, UsageError, hookimpl
from harness.plugin.manager import Origin, Plugins
from harness.records.runs import read
from harness.report import framed
from harness.report.charts import all_charts
from harness.report.markdown import markdown
from harness.report.model import Report, report
from harness.report.output import file_sections
from harness.report.page import island, page
from harness.report.terminal import named_section, report_text

CHART = framed("grams", "Grams", "Grams of each cell.", {"mark": "bar"}, [{"cell": "a", "grams": 3}])
CARBON = Section(
    "Carbon: all cells",
    paragraphs=("What each *training* emitted.",),
    text="  kept   as it is",
    charts=(CHART,),
    tables=(Table("CO2 of each training", ("cell", "grams"), (("conv", "3.1"), ("lstm", "12.0"))),),
    notes=("Grid average of 2025.",),
    name="carbon",
)
WATER = Section("Water", ("Nobody measured it.",), name="water", on_request=True)


def plugins(answer: Any) -> Plugins:
    loaded = Plugins()
    module = types.ModuleType("made")
    vars(module)["harness_report_section"] = answer
    loaded.add(module, Origin("made", "made", "1"))
    return loaded


@hookimpl
def both(records: Sequence[Mapping[str, Any]], context: ReportContext) -> list[Section]:
    return [CARBON, WATER]


@pytest.fixture
def made(tmp_path: Path) -> Report:
    return report([read(run_files.write(tmp_path / "run.json", [run_files.cell(1.0)]))])


def test_the_terminal_prints_every_part_but_charts() -> None:
    text = report_text([decoded(record())], plugins(both))
    start = text.index("Carbon: all cells\n=================\n\nWhat each *training* emitted.\n\n  kept   as it is\n\n")
    table = "CO2 of each training\n\ncell  grams\nconv  3.1\nlstm  12.0\n\n- Grid average of 2025.\n\nSummary"
    assert text.index(table) > start
    assert "Water" not in text


def test_a_section_is_printed_alone_by_its_name_or_title() -> None:
    loaded = plugins(both)
    assert named_section([decoded(record())], loaded, "WATER") == "Water\n=====\n\nNobody measured it."
    assert named_section([decoded(record())], plugins(hookimpl(lambda: ("Old", "text"))), "old") == "Old\n===\n\ntext"
    with pytest.raises(UsageError, match=r"the report has no section 'watre'; did you mean 'water'\?"):
        named_section([decoded(record())], loaded, "watre")


def test_a_section_that_could_not_be_made_is_a_usage_error_alone_and_a_paragraph_in_the_report() -> None:
    broken = Section("Study X", ("study X: x.toml has no entry 'title': add it",), name="X", failed=True)
    loaded = plugins(hookimpl(lambda: broken))
    with pytest.raises(UsageError, match=r"^study X: x\.toml has no entry 'title': add it$"):
        named_section([decoded(record())], loaded, "x")
    assert "x.toml has no entry 'title'" in report_text([decoded(record())], loaded)


def test_a_plugin_learns_what_the_report_is_made_for() -> None:
    seen: list[ReportContext] = []

    @hookimpl
    def watch(context: ReportContext) -> Section:
        seen.append(context)
        return Section("A", name="a")

    loaded = plugins(watch)
    named_section([decoded(record())], loaded, "a", 77)
    report_text([decoded(record())], loaded, 90)
    file_sections(Report((), (), (), ()), loaded)
    assert [(context.section, context.width) for context in seen] == [("a", 77), (None, 90), (None, None)]
    assert list(seen[0].things["step"]) == ["train"]
    assert [context.wants("A") for context in seen] == [True] * 3
    assert not seen[0].wants("b")


def test_files_have_every_part(made: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.report.page._library", lambda: "/* Vega */")
    monkeypatch.setattr("harness.report.page.DRAWN_NETWORKS", 0)
    sections = file_sections(made, plugins(both))
    assert sections == [CARBON]
    text = markdown(made, sections)
    assert "## Carbon: all cells\n\nWhat each \\*training\\* emitted.\n\n      kept   as it is\n\nCO2 of each" in text
    assert "| conv | 3.1 |" in text
    assert "- Grid average of 2025." in text
    shown = page(made, sections)
    for part in (
        "What each *training* emitted.",
        "  kept   as it is",
        ">12.0</td>",
        "<li>Grid average of 2025.</li>",
    ):
        assert part in shown
    assert '<div id="section1-charts"' in shown
    ((chart,),) = island(made, sections)["sections"]
    assert chart["values"] == [{"cell": "a", "grams": 3}]
    assert list(all_charts(made, sections))[-1] == ("Grams", CHART)


@pytest.mark.parametrize(
    "parts",
    [
        {"title": 3},
        {"paragraphs": "one text"},
        {"paragraphs": (3,)},
        {"tables": ("a table",)},
        {"charts": ({"mark": "bar"},)},
        {"notes": (None,)},
    ],
)
def test_a_part_of_another_type_is_refused_where_it_is_made(parts: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"Section.{next(iter(parts))} "):
        Section(**{"title": "a", **parts})


def test_a_table_knows_its_numbers() -> None:
    table = Table("", ("a", "b", "c"), (("x", "1,000.5", "0.9 [0.8, 1.0]"), ("y", "-", "50 %")))
    assert table.numeric == (False, True, True)
    assert isinstance(CHART, Chart)
