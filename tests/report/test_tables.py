"""Tables: rows, columns, averages over seeds, and what must never be missing from their heading."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from records import decoded, line, record

from harness.report.terminal import network_tables


def tables(records: Sequence[Any]) -> str:
    return network_tables(list(map(decoded, records)))


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
    assert line(text, "parameters", "left") in (
        ["parameters", "left", "100.00", "%", share, "%"] for share in ("27.12", "27.13")
    )
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
    assert line(text, "parameters", "plain") == ["parameters", "plain", "float32", "1,000.0000"], (
        "what all seeds share is exact"
    )


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


def test_the_heading_names_the_runtime_where_it_is_not_pytorch() -> None:
    assert "runtime" not in tables([record()])
    assert "runtime onnx" in tables([record(runtime="onnx")]).splitlines()[0]


def test_tables_stand_in_the_order_of_the_records() -> None:
    text = tables([record(architecture=name, runtime=runtime) for name in "zy" for runtime in ("torch", "onnx")])
    headings = [entry.split(" on toy")[0] for entry in text.splitlines() if " on toy" in entry]
    assert headings == ["z", "z", "y", "y"]
    assert text.index("runtime onnx") > text.index("z on toy")


def sized(pruning: str, parameters: float, nonzero: float, state: float, file: float, **changes: Any) -> Any:
    figures = {"state_size": state, "file_size": file, "parameters": parameters, "nonzero": nonzero}
    made = record(pruning=pruning, figures=figures, **changes)
    for name in ("file_size", "parameters", "nonzero"):
        made["figures"][name] |= {
            "headline": False,
            "metric": "state_size",
            "unit": "kB" if name == "file_size" else "",
            "digits": 1,
        }
    return made


WHOLE = sized("full", 1000.0, 1000.0, 400.0, 410.0)


def test_zeroed_weights_have_a_row_of_the_share_that_is_left() -> None:
    text = tables([WHOLE, sized("half", 1000.0, 250.0, 400.0, 410.0)])
    assert line(text, "parameters", "left")[2:] == ["100.00", "%", "100.00", "%"]
    assert line(text, "nonzero", "left") == ["nonzero", "left", "plain", "float32", "100.00", "%", "25.00", "%"]
    assert "file_size" not in text


def test_nonzero_is_averaged_over_seeds_and_unknown_without_a_reference() -> None:
    cells = [sized("half", 1000.0, kept, 400.0, 410.0, seed=seed) for seed, kept in enumerate((200.0, 300.0))]
    wholes = [sized("full", 1000.0, 1000.0, 400.0, 410.0, seed=seed) for seed in (0, 1)]
    lost = sized("quarter", 1000.0, 100.0, 400.0, 410.0, precision="int8")
    lost["reference"] = "not measured"
    text = tables([*wholes, *cells, lost])
    assert line(text, "nonzero", "left")[-5:] == ["100.00", "%", "25.00", "%", "-"]


def test_a_few_zeros_by_rounding_are_no_row_nor_are_those_that_the_reference_has() -> None:
    assert "nonzero" not in tables([WHOLE, sized("half", 500.0, 480.0, 200.0, 210.0)])
    sparse = sized("full", 1000.0, 100.0, 400.0, 410.0)
    assert "nonzero" not in tables([sparse, sized("half", 500.0, 50.0, 200.0, 210.0)])


def test_a_deployed_form_of_one_s_own_has_a_row_of_its_size() -> None:
    text = tables([WHOLE, sized("half", 1000.0, 1000.0, 400.0, 102.5)])
    assert line(text, "file_size,", "kB") == ["file_size,", "kB", "plain", "float32", "410.0", "102.5"]
    assert "nonzero" not in text
    assert "file_size" not in tables([WHOLE, sized("half", 500.0, 500.0, 200.0, 240.0)]), "0.5 and 0.585"


def test_units_and_digits_are_the_figures_own() -> None:
    one = copy.deepcopy(record())
    one["figures"]["parameters"] |= {"unit": "kB", "digits": 0}  # type: ignore[typeddict-item]
    text = tables([one])
    assert line(text, "parameters,", "kB")[-1] == "1,000"


def test_tables_do_not_depend_on_the_order_of_records() -> None:
    mixed = [*GRID, record(architecture="lstm")]
    assert sorted(tables(mixed).split("\n\n")) == sorted(tables([mixed[-1], *mixed[:-1]]).split("\n\n"))
