"""What the report says: variants, estimates over seeds, shares, warnings and what was left, by cases worked by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import run_files

from harness.records.runs import read
from harness.report.model import Report, report
from harness.report.rows import level_order, rows
from harness.report.tables import classes_table, coverage_table, environment_table, results_table, unmeasured_table
from harness.report.training import learning_curves
from harness.stats.estimates import Estimate, pooled, pooled_ratio


def of(made: list[Any], tmp_path: Path, **entries: Any) -> Report:
    return report([read(run_files.write(tmp_path / "run.json", made, **entries))])


def interval(value: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(value, low, high, method="bootstrap")


def test_one_seed_s_interval_is_its_record_s() -> None:
    found = pooled([interval(0.1, 0.0, 0.3)])
    assert found is not None
    assert (found.value, found.low, found.high, found.method) == (0.1, 0.0, 0.3, "bootstrap")


def test_several_seeds_add_their_spread_to_that_of_patients() -> None:
    """Two seeds, 0 and 2: t(1) = 12.706, deviation sqrt(2), so half is 12.706; patients' halves are 3 and 5, mean 4."""
    found = pooled([interval(0, -3, 3), interval(2, -3, 7)])
    assert found is not None
    assert found.value == 1
    assert found.high == pytest.approx(1 + math.hypot(12.7062, 4), rel=1e-4)
    without = pooled([interval(0, None, None), interval(2, -3, 7)])
    assert without is not None
    assert without.high == pytest.approx(1 + 12.7062, rel=1e-4)


def test_ratios_have_a_geometric_mean() -> None:
    found = pooled_ratio([interval(0.5, 0.4, 0.6), interval(2, 1.9, 2.1)])
    assert found is not None
    assert found.value == pytest.approx(1)
    assert found.low is not None
    assert found.high is not None
    assert found.low * found.high == pytest.approx(1)
    assert pooled_ratio([]) is None


def test_cells_that_differ_in_their_seed_are_one_variant(tmp_path: Path) -> None:
    made = [
        run_files.cell(1.0, seed=seed, pruning=pruning, figures={"auroc": 0.9, "parameters": size})
        for seed in (0, 1)
        for pruning, size in (("full", 1000), ("half", 250))
    ]
    (found,) = of(made, tmp_path).networks
    full, half = found.variants
    assert [full.label, half.label] == ["plain-full-float32", "plain-half-float32"]
    assert full.is_reference
    assert not half.is_reference
    assert len(half.cells) == 2
    assert half.parameter_share == half.size_share == 0.25
    assert found.title == "conv on toy"


def test_levels_go_from_the_most_parameters_to_the_fewest_where_they_are_known(tmp_path: Path) -> None:
    sizes = {"full": 1000, "l1 half": 500, "l1 tenth": 100, "l2 half": 500, "l2 tenth": 100}
    made = [
        run_files.cell(1.0, pruning=pruning, figures={"auroc": 0.9, "parameters": size})
        for pruning, size in sizes.items()
    ]
    (found,) = of(made, tmp_path).networks
    shown = ["full (100 %)", "l1 half (50 %)", "l2 half (50 %)", "l1 tenth (10 %)", "l2 tenth (10 %)"]
    assert level_order(found) == shown
    made[2]["figures"].pop("parameters")
    (found,) = of(made, tmp_path).networks
    assert [level.split(" (")[0] for level in level_order(found)] == list(sizes)


def test_networks_of_one_name_are_told_apart(tmp_path: Path) -> None:
    settings = [("study", "m", "toy"), ("quick", "m", "toy"), ("quick", "n", "toy"), ("quick", "o", "b")]
    settings += [("study", "p", "c"), ("quick", "q", "c")]  # the preset alone tells them apart
    made = [run_files.cell(1.0, preset=preset, dataset=dataset) for preset, _, dataset in settings]
    for entry, (_, matrix, _) in zip(made, settings, strict=True):
        entry["matrix"] = matrix
    titles = sorted(entry.title for entry in of(made, tmp_path).networks)
    assert titles == [
        "conv on b",
        "conv on c, preset quick",
        "conv on c, preset study",
        "conv on toy, preset quick, matrix m",
        "conv on toy, preset quick, matrix n",
        "conv on toy, preset study, matrix m",
    ]


def test_networks_that_differ_in_nothing_that_is_told_are_numbered(tmp_path: Path) -> None:
    made = [run_files.cell(1.0), run_files.cell(1.0)]
    made[1]["timing"] = None
    made[1]["cell"] = "another"
    titles = sorted(entry.title for entry in of(made, tmp_path).networks)
    assert titles == ["conv on toy, number 1", "conv on toy, number 2"]


def test_synthetic_data_and_short_presets_are_said_loudly(tmp_path: Path) -> None:
    made = run_files.cell(1.0, dataset="toy-synthetic", synthetic=True)
    first, second = of([made], tmp_path).warnings
    assert "SYNTHETIC DATA (toy-synthetic)" in first
    assert "preset quick" in second
    assert of([run_files.cell(1.0, preset="study")], tmp_path).warnings == ()


def test_of_networks_in_several_presets_the_short_ones_are_named(tmp_path: Path) -> None:
    made = [run_files.cell(1.0, preset="quick", dataset=name, cell=name) for name in "abcde"]
    (every,) = of(made, tmp_path).warnings
    assert every.endswith("its quality means nothing.")
    (some,) = of([*made, run_files.cell(1.0, preset="study")], tmp_path).warnings
    assert some.endswith("its quality means nothing (conv on a; conv on b; conv on c and 2 more).")


def test_of_a_cell_in_two_runs_the_last_counts(tmp_path: Path) -> None:
    runs = [read(file) for file in run_files.write_all(tmp_path, [[run_files.cell(2.0)], [run_files.cell(3.0)]])]
    ((variant,),) = [network.variants for network in report(runs).networks]
    assert variant.ratio is not None
    assert variant.ratio.value == 3
    assert variant.cells[0].run == 1


def test_what_was_left_is_told_unless_another_run_has_it(tmp_path: Path) -> None:
    entry = {"suite": "suites/toy.py", "matrix": "m", "cell": "x", "outcome": "skipped", "reason": "no such kernel"}
    measured = entry | {"cell": run_files.cell()["cell"]}
    found = of([run_files.cell()], tmp_path, harness={"left": [entry, measured, "damaged", {"cell": 1}]})
    table = unmeasured_table(found)
    assert table is not None
    assert table.rows == (("m[x]", "skipped", "no such kernel", "run.json"),)
    assert unmeasured_table(of([run_files.cell()], tmp_path)) is None


def test_classes_are_those_of_the_headline(tmp_path: Path) -> None:
    made = run_files.cell(figures={"auroc": 0.9, "auroc_A": 0.8, "auroc_B": 1.0, "aurocish": 3.0})
    for name in ("auroc_A", "auroc_B"):
        made["figures"][name] |= {"metric": "quality", "headline": False}
    (network,) = of([made], tmp_path).networks
    table = classes_table(network)
    assert table is not None
    assert table.headers == ("variant", "A", "B")
    assert table.rows == (("plain-full-float32", "0.8000", "1.0000"),)


def test_int8_names_what_it_does_not_cover(tmp_path: Path) -> None:
    made = run_files.cell(precision="int8", figures={"auroc": 0.9, "parameters": 9.0, "int8_weights": 75.0})
    layers = [{"path": "conv", "dtype": "int8"}, {"path": "linear", "dtype": "float32"}]
    made["steps"] = [{"step": "quantize()", "facts": {"layers": layers}, "seconds": 1.0}]
    (network,) = of([run_files.cell(), made], tmp_path).networks
    table = coverage_table(network)
    assert table is not None
    assert table.rows == (("plain-full-int8", "75.0 %", "- %", "linear (float32)"),)


def test_the_results_and_the_environment_are_the_records(tmp_path: Path) -> None:
    found = of([run_files.cell(0.5, error=0.01, difference=(-0.01, -0.02, 0.0))], tmp_path)
    table = results_table(found.networks[0])
    row = dict(zip(table.headers, table.rows[0], strict=True))
    assert row["latency / reference"] == "0.500 [0.484, 0.516]"
    assert row["auroc - reference"] == "-0.0100 [-0.0200, +0.0000]"
    assert ("cpu", "Some CPU") in environment_table(found).rows
    assert ("version of torch", "2.13.0") in environment_table(found).rows


def test_the_results_tell_of_zeroed_weights_and_of_the_deployed_file_where_they_tell_more(tmp_path: Path) -> None:
    def found(nonzero: float, file: float) -> dict[str, str]:
        made = [run_files.cell(1.0), run_files.cell(1.0, pruning="half")]
        for entry, values in zip(made, ((1000.0, 410.0), (nonzero, file)), strict=True):
            size = entry["figures"]["file_size"]
            entry["figures"]["nonzero"] = {**size, "value": values[0], "unit": ""}
            entry["figures"]["file_size"] = {**size, "value": values[1], "digits": 1}
            entry["figures"]["state_size"] = {**size, "value": 400.0, "headline": True}
        network = of(made, tmp_path).networks[0]
        (_, row), table = rows(network), results_table(network)
        cells = dict(zip(table.headers, table.rows[1], strict=True))
        assert (row["nonzero_share"] is not None) == ("nonzero left" in cells)
        assert (row["file"] is not None) == ("file_size, kB" in cells)
        return cells

    assert not {"nonzero left", "file_size, kB"} & found(990, 400).keys()
    told = found(250, 100)
    assert (told["nonzero left"], told["file_size, kB"]) == ("25.0 %", "100.0")


def test_trainings_are_told_apart_by_their_recipe_and_averaged_over_seeds(tmp_path: Path) -> None:
    def steps(*values: float) -> list[dict[str, Any]]:
        history = [{"auroc": value} for value in values]
        return [{"step": "train()", "facts": {"trainings": [{"history": history}]}, "seconds": 1.0}]

    made = [run_files.cell(seed=0), run_files.cell(seed=1), run_files.cell(pruning="half")]
    made[0]["steps"], made[1]["steps"] = steps(0.5, 0.7), steps(0.7, 0.9)
    made[2]["steps"] = [*made[0]["steps"], {"step": "prune()", "facts": {"trainings": "damaged"}, "seconds": 1.0}]
    made.append(run_files.cell(profile="native"))  # timed otherwise, it is the same training
    made[3]["steps"] = made[0]["steps"]
    ((title, figure, (course,)),) = learning_curves(of(made, tmp_path))
    assert "toy" in title
    assert figure == "auroc"
    assert (course.model, course.seeds) == ("conv plain-full-float32", 2)
    assert [tuple(round(value, 6) for value in point) for point in course.points] == [(0.6, 0.5, 0.7), (0.8, 0.7, 0.9)]


def test_trainings_of_version_0_1_are_read_too(tmp_path: Path) -> None:
    history = [{"auroc": 0.5}, {"auroc": 0.7}]
    made = run_files.cell()
    made["steps"] = [{"step": "train()", "facts": {"fits": [{"history": history}]}, "seconds": 1.0}]
    ((_, _, (course,)),) = learning_curves(of([made], tmp_path))
    assert [value for value, _, _ in course.points] == [0.5, 0.7]
