"""Tables: rows, columns, averages over seeds, and what must never be missing from their heading."""

from __future__ import annotations

import copy
from typing import Any

from records import line, record

from harness.report.tables import tables

GRID = [
    record(pruning=pruning, precision=precision, figures={"auroc": auroc, "parameters": parameters})
    for pruning, precision, auroc, parameters in (
        ("full", "float32", 0.93, 1000),
        ("full", "int8", 0.92, 1000),
        ("half", "float32", 0.91, 271.25),
        ("half", "int8", 0.90, 271.25),
    )
]


def test_rows_are_recipes_and_columns_are_what_is_left() -> None:
    text = tables(GRID)
    assert line(text, "training") == ["training", "precision", "full", "half"]
    assert "100.00 %" in text
    assert "27.12 %" in text or "27.13 %" in text
    assert line(text, "auroc", "plain") == ["auroc", "plain", "float32", "0.9300", "0.9100"]
    assert ["plain", "int8", "0.9200", "0.9000"] in [entry.split() for entry in text.splitlines()]


def test_the_heading_says_what_was_measured_and_how() -> None:
    heading = tables(GRID).splitlines()[0]
    for part in (
        "conv on toy",
        "matrix m",
        "preset quick",
        "seed 0",
        "20 test examples",
        "4 processes x 50 pairs",
        "jemalloc",
    ):
        assert part in heading


def test_synthetic_data_is_called_synthetic() -> None:
    assert "SYNTHETIC" not in tables(GRID)
    assert "SYNTHETIC DATA" in tables([record(dataset="toy-synthetic", synthetic=True)])


def test_a_cell_that_was_not_measured_is_a_dash() -> None:
    text = tables([entry for entry in GRID if entry["cell"] != "conv-plain-half-int8-0"])
    assert ["plain", "int8", "0.9200", "-"] in [entry.split() for entry in text.splitlines()]


def test_seeds_are_averaged_with_their_deviation() -> None:
    seeds = [record(seed=seed, figures={"auroc": value}) for seed, value in enumerate((0.90, 0.92, 0.94))]
    text = tables(seeds)
    assert "seeds 0, 1, 2" in text
    assert line(text, "auroc", "plain") == ["auroc", "plain", "float32", "0.9200", "±0.0200"]
    assert line(text, "parameters") == ["parameters", "plain", "float32", "1,000.0000"], "what all seeds share is exact"


def test_one_seed_shows_its_interval_and_a_difference_its_sign() -> None:
    text = tables([record(difference=(0.0123, -0.004, 0.03), ratio=(0.5, 0.25, 0.75))])
    assert "+0.0123 [-0.0040, +0.0300]" in text
    assert "0.500 [0.250, 0.750]" in text


def test_an_interval_that_could_not_be_had_is_left_out() -> None:
    text = tables([record(difference=(0.0123, None, None), ratio=(0.5, None, None))])
    assert "+0.0123\n" in text + "\n"
    assert line(text, "latency", "/", "reference")[-1] == "0.500"


def test_nothing_timed_means_no_line_of_latency() -> None:
    assert "latency" not in tables([record(ratio=None)])


def test_an_undefined_figure_is_a_dash_and_no_figure_is_lost() -> None:
    text = tables([record(figures={"auroc": None, "bytes": 4096.0})])
    assert line(text, "auroc", "plain")[-1] == "-"
    assert line(text, "bytes", "plain")[-1] == "4,096.0000"


def test_a_table_for_every_network_runtime_and_profile() -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"architecture": "lstm"},
        {"runtime": "onnx"},
        {"profile": "slow"},
        {"dataset": "other"},
    ]
    text = tables([record(**kind) for kind in kinds])
    assert text.count("auroc - reference") == len(kinds)
    assert "lstm on toy" in text
    assert "conv on other" in text
    assert "profile slow" in text


def test_units_and_digits_are_the_figures_own() -> None:
    one = copy.deepcopy(record())
    one["figures"]["parameters"] |= {"unit": "kB", "digits": 0}  # type: ignore[typeddict-item]
    text = tables([one])
    assert line(text, "parameters,", "kB")[-1] == "1,000"


def test_tables_do_not_depend_on_the_order_of_records() -> None:
    mixed = [*GRID, record(architecture="lstm")]
    assert sorted(tables(mixed).split("\n\n")) == sorted(tables([mixed[-1], *mixed[:-1]]).split("\n\n"))
