"""Series over runs: which runs form a series, which points count, where it changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from run_files import MACHINE, cell, contaminated, write_all

from harness.history.series import RATIO, History, Series, SeriesGroup, history
from harness.records.runs import collect

STEP = [1.0, 1.001, 0.999, 1.0, 1.0, 1.1, 1.1, 1.101, 1.099]


def of(folder: Path, runs: Sequence[Sequence[Any]], margin: float = 0.01) -> History:
    return history(collect(write_all(folder, runs))[0], margin)


def series_of(group: SeriesGroup, figure: str, place: int = 0) -> Series:
    return [series for series in group.series if series.figure == figure][place]


def only(found: History) -> SeriesGroup:
    (group,) = found.groups
    return group


def test_a_cell_has_its_ratio_headlines_size_and_parameters(tmp_path: Path) -> None:
    group = only(of(tmp_path, [[cell()]]))
    assert [(series.figure, series.scale) for series in group.series] == [
        (RATIO, "ratio"), ("auroc", "plain"), ("parameters", "exact"), ("file_size", "exact"),
    ]  # fmt: skip
    assert not any(series.changes or series.enough for series in group.series)


def test_a_change_holds_its_runs_and_what_else_differs(tmp_path: Path) -> None:
    old = {"versions": {"torch": "2.13.0"}}
    new = {"versions": {"torch": "2.14.0"}, "artefact": {"key": "c" * 64, "sha256": "c" * 64}}
    ratio = series_of(only(of(tmp_path, [[cell(value, **(old if value < 1.05 else new))] for value in STEP])), RATIO)
    (change,) = ratio.changes
    assert (change.last, change.first, change.before, change.after) == (4, 5, 1.0, 1.1)
    assert change.relative == pytest.approx(0.1)
    assert change.worse is True
    assert change.environment == ("torch 2.13.0 -> 2.14.0",)
    assert change.cell == ("artefact aaaaaaaaaaaa -> cccccccccccc",)
    assert ratio.enough


def test_the_standard_errors_of_the_runs_count(tmp_path: Path) -> None:
    assert series_of(only(of(tmp_path, [[cell(value, error=0.1)] for value in STEP])), RATIO).changes == ()


def test_higher_quality_is_not_worse(tmp_path: Path) -> None:
    runs = [[cell(figures={"auroc": value})] for value in (0.8, 0.801, 0.8, 0.8, 0.9, 0.901, 0.9, 0.9)]
    (change,) = series_of(only(of(tmp_path, runs)), "auroc").changes
    assert (change.first, change.worse, change.relative) == (4, False, pytest.approx(0.125))


def test_exact_figures_change_by_any_amount_and_at_once(tmp_path: Path) -> None:
    runs = [[cell(figures={"parameters": value})] for value in (1000.0, 1000.0, 1001.0)]
    found = of(tmp_path, runs, margin=0.5)
    parameters = series_of(only(found), "parameters")
    assert [(change.first, change.before, change.after) for change in parameters.changes] == [(2, 1000.0, 1001.0)]
    assert parameters.enough


@pytest.mark.parametrize(
    "change",
    [
        {"machine": MACHINE | {"cpu": "Another CPU"}},
        {"suite": "suites/other.py"},
        {"matrix": "other"},
        {"preset": "study"},
        {"device": "cuda"},
        {"synthetic": True},
        {"timing": {"protocol": "single"}},
        {"timing": {"profile": {"threads": 2}}},
        {"ratio": None},
    ],
)
def test_other_settings_form_other_groups(tmp_path: Path, change: dict[str, Any]) -> None:
    groups = of(tmp_path, [[cell()], [cell(**change)], [cell()]]).groups
    assert [group.runs for group in groups] == [(0, 2), (1,)]


@pytest.mark.parametrize(
    "change",
    [
        {"machine": MACHINE | {"kernel": "7"}},
        {"versions": {}},
        {"timing": {"processes": 6}},
        {"timing": {"profile": {"isa": "auto"}}},
        {"test_examples": 3},
    ],
)
def test_other_surroundings_do_not_split_a_series(tmp_path: Path, change: dict[str, Any]) -> None:
    assert only(of(tmp_path, [[cell()], [cell(**change)]])).runs == (0, 1)


def test_runs_of_unknown_machines_are_not_compared(tmp_path: Path) -> None:
    found = of(tmp_path, [[cell(machine=None), cell(machine=None, seed=1)], [cell()], [cell(machine=None)]])
    assert found.unknown == (0, 2)
    assert only(found).runs == (1,)


def test_contaminated_timings_do_not_count_and_quality_does(tmp_path: Path) -> None:
    beyond = [{"signal": "steal", "value": 0.3, "limit": 0.05, "beyond": True}]
    runs = [[cell(value)] for value in STEP]
    runs[2] = [contaminated(ratio=5.0)]
    runs[7] = [cell(1.101, timing={"signals": beyond})]
    group = only(of(tmp_path, runs))
    ratio = series_of(group, RATIO)
    assert [point.left_out for point in ratio.points] == ["", "", "contaminated", *[""] * 6], "a signal leaves none out"
    assert [(change.first, change.before, change.after) for change in ratio.changes] == [(5, 1.0, pytest.approx(1.1))]
    assert len(series_of(group, "auroc").counted) == 9


def test_clock_time_is_a_ratio_and_contaminated_too(tmp_path: Path) -> None:
    def timed(made: Any, value: float | None) -> Any:
        made["figures"]["latency"] = {**made["figures"]["auroc"], "metric": "latency", "unit": "us", "value": value}
        return made

    group = only(of(tmp_path, [[timed(cell(), 100.0)], [timed(contaminated(), 300.0)], [timed(cell(), 0.0)]]))
    latency = series_of(group, "latency")
    assert (latency.scale, latency.clock) == ("ratio", True)
    assert [point.left_out for point in latency.points] == ["", "contaminated", "undefined"]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 1e200])
def test_undefined_figures_do_not_count(tmp_path: Path, value: Any) -> None:
    runs = [[cell(figures={"auroc": each})] for each in (0.8, value, 0.8)]
    auroc = series_of(only(of(tmp_path, runs)), "auroc")
    assert [(point.value, point.left_out) for point in auroc.points] == [(0.8, ""), (None, "undefined"), (0.8, "")]


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_invalid_ratios_do_not_count(tmp_path: Path, value: float) -> None:
    made: Any = cell()
    made["timing"]["ratio"] |= {"value": value}
    ratio = series_of(only(of(tmp_path, [[cell()], [made]])), RATIO)
    assert [point.left_out for point in ratio.points] == ["", "undefined"]


def test_the_ratio_s_standard_error_is_that_of_its_interval(tmp_path: Path) -> None:
    (point,) = series_of(only(of(tmp_path, [[cell(0.8, error=0.01)]])), RATIO).points
    assert point.error == pytest.approx(0.01, rel=1e-3)
    bare: Any = cell()
    bare["timing"]["ratio"] |= {"low": None, "high": None}
    (point,) = series_of(only(of(tmp_path / "bare", [[bare]])), RATIO).points
    assert point.error is None


def test_intervals_over_patients_are_no_errors_between_runs(tmp_path: Path) -> None:
    made: Any = cell()
    made["figures"]["auroc"]["interval"] = {"value": 0.93, "low": 0.9, "high": 0.95, "level": 0.95, "method": "b"}
    (point,) = series_of(only(of(tmp_path, [[made]])), "auroc").points
    assert (point.low, point.high, point.error) == (0.9, 0.95, None)


def test_ratios_to_another_reference_than_the_last_do_not_count(tmp_path: Path) -> None:
    group = only(of(tmp_path, [[cell(reference="other")], [cell()]]))
    assert [point.left_out for point in series_of(group, RATIO).points] == ["of another reference", ""]
    assert len(series_of(group, "auroc").counted) == 2


def test_new_and_vanished_cells(tmp_path: Path) -> None:
    a, b, c = (cell(seed=seed) for seed in range(3))
    group = only(of(tmp_path, [[a, b], [a], [a, c], [a, c]]))
    names = [made["cell"] for made in (a, b, c)]
    assert group.cells == tuple(names)
    assert group.appeared == {2: [names[2]]}
    assert group.vanished == {0: [names[1]]}


def test_runs_are_sorted_by_time(tmp_path: Path) -> None:
    files = write_all(tmp_path, [[cell(value)] for value in STEP])
    found = history(collect(files[::-1])[0], 0.01)
    assert [change.first for change in series_of(only(found), RATIO).changes] == [5]


def test_the_error_of_an_interval_over_all_looks_is_that_of_its_level(tmp_path: Path) -> None:
    # Half of the level: t(.9875, 3) = 4.176535 errors instead of t(.975, 3) = 3.182446.
    halved = cell(timing={"level": 0.025})
    errors = [
        series_of(only(of(tmp_path / name, [[made]])), RATIO).points[0].error
        for name, made in zip("ab", (cell(), halved), strict=True)
    ]
    assert errors[0] is not None
    assert errors[1] == pytest.approx(errors[0] * 3.182446 / 4.176535, rel=1e-5)
