"""Charts of a study show the figures that are judged by an interval, with that interval, and no others."""

from __future__ import annotations

from pathlib import Path

from made_study import cell, comparison, sections, study

from harness.report.charts import to_svg, with_data
from harness.report.model import Report
from harness.report.page import island
from harness_studies.charts import study_charts


def test_a_chart_shows_the_differences_as_they_are_judged(tmp_path: Path) -> None:
    records = [
        cell(seed=seed, figures={"auroc": value, "parameters": 1000.0, "latency": 9.0})
        for seed, value in enumerate((0.929, 0.931))
    ]
    found = comparison(tmp_path, records)
    (chart,) = study_charts(found)  # parameters are exact, and latency is of another machine
    assert chart.title == "Study made, AUROC"
    assert "the band is the margin of 0.01" in chart.caption
    (value,) = chart.values
    judged = found.comparisons[0].difference
    assert judged is not None
    assert value == {
        "place": "M_F",
        "outcome": "reproduced",
        "published": 0.93,
        "measured": 0.93,
        "seeds": 2,
        "difference": judged.value,
        "low": judged.low,
        "high": judged.high,
    }
    assert ">M_F<" in to_svg(chart)


def test_of_other_data_there_is_no_interval_and_no_margin(tmp_path: Path) -> None:
    (chart,) = study_charts(comparison(tmp_path, [cell(dataset="other", figures={"auroc": 0.9})]))
    assert [(value["outcome"], value["low"]) for value in chart.values] == [("other data", None)]
    assert "margin" not in chart.caption
    assert all(layer["mark"] != "rect" for layer in with_data(chart)["layer"])


def test_the_page_has_the_studies_charts(tmp_path: Path) -> None:
    records = [cell(figures={"auroc": 0.93})]
    made = sections(study(tmp_path), records)
    found = island(Report((), (), (), ()), made)
    ((chart,),) = found["sections"]
    assert [value["place"] for value in chart["values"]] == ["M_F"]
