"""Comparisons: each outcome, from records whose answer is known."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from made_study import INT8, TEXT, cell, prune, study

from harness import UsageError
from harness_studies.comparison import OUTCOMES, FigureComparison, StudyComparison, compare

#: t(0.975, 4)
T4 = 2.7764


def compared(folder: Path, *records: Any, text: str = TEXT) -> StudyComparison:
    return compare(study(folder, text), records, {})


def place(found: StudyComparison, row: str = "M_F", column: str = "100 %") -> FigureComparison:
    (entry,) = (entry for entry in found.comparisons if (entry.row, entry.column) == (row, column))
    return entry


def seeds(*values: float, steps: tuple[str, ...] = (), **changes: Any) -> list[Any]:
    return [cell(*steps, seed=seed, figures={"auroc": value}, **changes) for seed, value in enumerate(values)]


def test_seeds_around_the_published_mean_reproduce_it(tmp_path: Path) -> None:
    found = place(compared(tmp_path, *seeds(0.929, 0.930, 0.931)))
    assert (found.outcome, found.reason, found.data) == ("reproduced", "", "toy")
    assert found.measured is not None
    assert found.measured.count == 3
    assert found.measured.spread == pytest.approx(0.001)
    # Welch, by hand: errors 0.001/sqrt(3) and 0.001/sqrt(5); freedom (8/15)^2 / (1/18 + 1/100) = 4.34, t 2.693
    assert found.difference is not None
    assert found.difference.value == pytest.approx(0)
    assert found.difference.high == pytest.approx(2.693 * 0.001 * math.sqrt(1 / 3 + 1 / 5), abs=3e-6)


@pytest.mark.parametrize(
    ("values", "outcome", "reason"),
    [
        ((0.900, 0.901, 0.902), "differs", ""),
        ((0.9250, 0.9255, 0.9260), "differs", "by less than the margin"),
        ((0.90, 0.93, 0.96), "inconclusive", "the interval reaches beyond the margin"),
    ],
)
def test_what_else_seeds_can_show(tmp_path: Path, values: tuple[float, ...], outcome: str, reason: str) -> None:
    found = place(compared(tmp_path, *seeds(*values)))
    assert (found.outcome, found.reason) == (outcome, reason)


def test_one_seed_is_set_where_one_more_run_of_the_study_would_fall(tmp_path: Path) -> None:
    found = place(compared(tmp_path, *seeds(0.931, interval=(0.91, 0.95))))
    assert found.measured is not None
    assert (found.measured.low, found.measured.high, found.measured.over) == (0.91, 0.95, "patients")
    assert found.difference is not None
    assert found.difference.low == pytest.approx(0.001 - T4 * 0.001 * math.sqrt(1.2), abs=1e-6)
    assert found.outcome == "reproduced"


def test_the_best_of_the_choices_that_were_run_stands_beside_the_best_published(tmp_path: Path) -> None:
    records = [
        *seeds(0.920, 0.921, steps=(prune("l1", 1),)),
        *seeds(0.918, 0.919, steps=(prune("l2", 5),)),
        *seeds(0.999, steps=(prune("l2", 1),)),
    ]
    found = place(compared(tmp_path, *records), column="50 %")
    assert found.published.choice == "5/L2"
    assert (found.chosen, found.choices) == ("1/L1", ("1/L1", "1/L2", "5/L2")), "a single lucky seed is not the best"
    assert found.possible == 4
    assert found.measured is not None
    assert found.measured.value == pytest.approx(0.9205)
    assert found.named is not None
    assert found.named.value == pytest.approx(0.9185)


def test_the_study_s_own_choice_is_not_told_twice(tmp_path: Path) -> None:
    found = place(compared(tmp_path, *seeds(0.92, steps=(prune("l2", 5),))), column="50 %")
    assert (found.chosen, found.named) == ("5/L2", None)


def test_of_a_seed_that_was_run_again_the_last_counts(tmp_path: Path) -> None:
    found = place(compared(tmp_path, *seeds(0.80), *seeds(0.93)))
    assert found.measured is not None
    assert (found.measured.value, found.measured.count) == (0.93, 1)


@pytest.mark.parametrize(
    ("figures", "column", "outcome", "reason"),
    [
        ({"parameters": 1000.0}, "parameters", "reproduced", ""),
        ({"parameters": 1001.0}, "parameters", "differs", "+0.1%"),
        ({"state_size": 48.5}, "file", "reproduced", "-3.0%"),
        ({"state_size": 51.6}, "file", "differs", "+3.2%"),
    ],
)
def test_what_is_exact_has_a_tolerance(
    tmp_path: Path, figures: dict[str, float], column: str, outcome: str, reason: str
) -> None:
    found = place(compared(tmp_path, cell(figures=figures, preset="quick")), column=column)
    assert (found.outcome, found.reason) == (outcome, reason)


def test_times_of_other_machines_are_not_judged(tmp_path: Path) -> None:
    found = place(compared(tmp_path, cell(figures={"latency": 9.0})), column="latency")
    assert (found.outcome, found.reason, found.difference) == ("not comparable", "another machine", None)
    assert found.measured is not None


def test_other_data_reproduce_nothing(tmp_path: Path) -> None:
    found = place(compared(tmp_path, *seeds(0.929, 0.930, 0.931, dataset="other")))
    assert (found.outcome, found.reason, found.data) == ("other data", "other for toy", "other")
    assert found.difference is not None
    assert found.difference.low is None
    assert found.margin is None


def test_the_study_s_own_data_come_before_a_stand_in(tmp_path: Path) -> None:
    found = place(compared(tmp_path, *seeds(0.5, dataset="other"), *seeds(0.93)))
    assert found.data == "toy"


def test_synthetic_data_is_left_out_and_said(tmp_path: Path) -> None:
    found = compared(tmp_path, *seeds(0.93, synthetic=True))
    assert not found.measured
    assert {entry.outcome for entry in found.comparisons} == {"not run"}
    assert found.remarks == ("1 records of toy are left out: synthetic data cannot reproduce a figure",)


def test_short_trainings_give_no_quality(tmp_path: Path) -> None:
    text = TEXT.replace('label = "AUROC"', 'label = "AUROC"\npresets = ["study"]')
    quick, smoke = seeds(0.93, preset="quick"), seeds(0.93, preset="smoke")
    found = compared(tmp_path, *quick, *smoke, text=text)
    assert place(found).outcome == "not run"
    assert place(found, column="parameters").outcome == "reproduced", "of the preset quick"
    assert [remark.partition(":")[0] for remark in found.remarks] == [
        "1 records of preset quick give no AUROC",
        "1 records of preset smoke give nothing",
    ]


def test_another_recipe_runtime_or_network_is_not_the_study_s(tmp_path: Path) -> None:
    others = [cell("halve(factor=0.5)"), cell(architecture="lstm"), cell(runtime="onnx"), cell(dataset="third")]
    assert not compared(tmp_path, *others).measured


def test_without_a_published_deviation_ours_counts_alone(tmp_path: Path) -> None:
    text = TEXT.replace("[[0.93, 0.001], [", "[0.93, [")
    found = place(compared(tmp_path, *seeds(0.929, 0.930, 0.931), text=text))
    assert found.difference is not None
    # t(0.975, 2) = 4.3027
    assert found.difference.high == pytest.approx(4.3027 * 0.001 / math.sqrt(3), abs=1e-6)
    assert "no deviation" in found.difference.method
    one = place(compared(tmp_path, *seeds(0.93), text=text))
    assert (one.outcome, one.reason) == ("inconclusive", "there is no interval")


def test_it_is_plain_json(tmp_path: Path) -> None:
    found = compared(tmp_path, *seeds(0.93, 0.931), *seeds(0.92, steps=(INT8,)))
    document = json.loads(json.dumps(dataclasses.asdict(found)))
    assert len(document["comparisons"]) == 6
    assert {entry["outcome"] for entry in document["comparisons"]} <= set(OUTCOMES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "A study"', "", "has no entry 'title': add it"),
        ('figure = "auroc"\nparts', 'figure = "aurok"\nparts', "no figure is called 'aurok'; did you mean 'auroc'"),
        ('parts = ["half"]', 'parts = ["hulf"]', "no part is called 'hulf'"),
        ('relation = "above"', 'relation = "over"', "relation 'over' is unknown"),
        ("values = [1000, 50, 7]", "values = [1000, 50]", "has 2 values for 3 columns"),
        ("margin = 0.01", "margins = 0.01", "does not have the form of a study"),
        ('architecture = "conv"', 'architektur = "conv"', "unknown entry 'architektur'"),
        ('[parts.conv]\narchitecture = "conv"', "[parts.conv]", "names an architecture"),
        ("runs = 5", "runs = ", "cannot be read as TOML"),
    ],
)
def test_a_file_that_is_not_in_order_is_told_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(UsageError, match=f"study made: .*study.toml.*{message}"):
        compared(tmp_path, text=TEXT.replace(old, new, 1))
