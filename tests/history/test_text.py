"""The history as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from run_files import MACHINE, cell, contaminated, write_all

from harness.errors import UsageError
from harness.history.series import history
from harness.history.text import history_document, history_text, printable
from harness.records.runs import collect

STEP = [1.0, 1.001, 0.999, 1.0, 1.0, 1.1, 1.1, 1.101, 1.099]


def text_of(folder: Path, runs: Sequence[Sequence[Any]], **options: Any) -> str:
    return history_text(history(collect(write_all(folder, runs))[0], 0.01), **options)


def words(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def test_a_change_shows_its_run_its_levels_and_what_else_changed(tmp_path: Path) -> None:
    runs = [[cell(value, versions={"torch": "2.14" if value > 1.05 else "2.13"})] for value in STEP]
    text = text_of(tmp_path, runs)
    lines = text.splitlines()
    assert lines[0] == "9 runs: 2026-03-01 1000000 to 2026-03-09 14f1000"
    assert lines[2] == f"Some CPU, x86_64, 2 CPUs, 1 core, 16 GB, Linux, virtual (machine {digest(text)})"
    row = next(place for place, line in enumerate(lines) if "latency / reference" in line)
    assert lines[row].split() == ["conv-plain-full-float32-0", "latency", "/", "reference", "9", "1.000", "1.099"]
    assert lines[row + 1] == "    2026-03-06 9831000: 1.000 -> 1.100 (+10.0 %, worse)"
    assert "2026-03-05 1af0000 -> 2026-03-06 9831000: torch 2.13 -> 2.14." in lines
    assert "auroc" not in text
    assert "without a change" not in text


def digest(text: str) -> str:
    return text.partition("(machine ")[2][:8]


def test_a_changed_artefact_is_shown_with_the_cell_only(tmp_path: Path) -> None:
    other = {"key": "c" * 64, "sha256": "c" * 64}
    runs = [[cell(artefact=other, figures={"parameters": 900.0})], [cell()]]
    text = text_of(tmp_path, runs)
    assert "900 -> 1,000 (+11.1 %); artefact cccccccccccc -> aaaaaaaaaaaa" in text
    assert "1000000 -> 2026-03-02 9e30000: nothing that is recorded." in text
    assert "harness explain KEY KEY prints why" in words(text)


def test_cells_without_a_change_are_counted_and_listed_on_request(tmp_path: Path) -> None:
    runs = [[cell(value), cell(seed=1), cell(seed=2)] for value in STEP]
    assert "2 cells without a change (--all lists them)." in text_of(tmp_path, runs)
    text = text_of(tmp_path, runs, everything=True)
    assert "2 cells without a change." in text
    assert "conv-plain-full-float32-2  latency / reference" in text
    assert text.count("parameters") == 3


def test_four_runs_are_too_few(tmp_path: Path) -> None:
    text = words(text_of(tmp_path, [[cell(value)] for value in (1.0, 1.0, 2.0, 2.0)]))
    assert "1 cell with too few runs (fewer than 5) to distinguish a change from noise." in text
    assert "without a change" not in text


def test_one_run_is_not_compared(tmp_path: Path) -> None:
    text = text_of(tmp_path, [[cell()]])
    assert text.startswith("1 run: 2026-03-01 1000000\n")
    assert "Only one run: there is nothing to compare it with yet." in text
    assert "conv-plain-full-float32-0" in text_of(tmp_path, [[cell()]], everything=True)


def test_left_out_points_are_counted_by_reason(tmp_path: Path) -> None:
    runs = [[cell(), cell(seed=1)] for _ in range(6)]
    runs[1] = [contaminated(), contaminated(seed=1)]
    runs[2] = [contaminated(), cell(seed=1, figures={"auroc": None})]
    text = text_of(tmp_path, runs, everything=True)
    assert "Left out of latency / reference: 3 contaminated (in 2 cells)." in text
    assert "Left out of auroc: 1 undefined (in 1 cell)." in text
    assert "4 of 6" in text


def test_synthetic_data_is_labelled(tmp_path: Path) -> None:
    assert "SYNTHETIC DATA" in text_of(tmp_path / "a", [[cell(synthetic=True)]])
    assert "SYNTHETIC" not in text_of(tmp_path / "b", [[cell()]])


def test_presets_profiles_and_protocols_have_separate_tables(tmp_path: Path) -> None:
    profile = {"name": "fast", "threads": 1, "onednn": True, "allocator": ["tcmalloc", "system"]}
    text = words(
        text_of(tmp_path, [[cell()], [cell(preset="study", timing={"profile": profile})], [cell(None)]], width=1000)
    )
    assert (
        "quick, trained on cpu, protocol paired, affinity auto, allocator system, isa auto, onednn on, "
        "pace back-to-back, threads 1 1 run," in text
    )
    assert (
        "paired, profile fast, affinity auto, allocator tcmalloc or system, isa auto, onednn on, "
        "pace back-to-back, threads 1 1 run," in text
    )
    assert "trained on cpu, not timed 1 run," in text


def test_the_tables_of_one_machine_stand_together(tmp_path: Path) -> None:
    other = {"machine": MACHINE | {"cpu": "Other CPU"}}
    text = text_of(tmp_path, [[cell()], [cell(**other)], [cell(preset="study")]])
    assert text.count("Some CPU") == text.count("Other CPU") == 1
    assert text.index("preset study") < text.index("Other CPU")


def test_runs_of_unknown_machines_are_listed(tmp_path: Path) -> None:
    text = words(text_of(tmp_path, [[cell(machine=None)]]))
    assert "Not compared: 1 run with cells of an unknown machine" in text
    assert "2026-03-01 1000000." in text


def test_new_and_vanished_cells_are_listed_and_long_lists_cut(tmp_path: Path) -> None:
    cells = [cell(seed=seed) for seed in range(10)]
    runs = [cells[:9], cells[:1], cells[9:]]
    text = words(text_of(tmp_path, runs))
    assert "New with 2026-03-03 1d70000: conv-plain-full-float32-9." in text
    assert "Last seen in 2026-03-02 9e30000: conv-plain-full-float32-0." in text
    assert "conv-plain-full-float32-6, and 2 more." in text
    assert "conv-plain-full-float32-8." in words(text_of(tmp_path, runs, everything=True))


def test_clock_time_is_marked(tmp_path: Path) -> None:
    def timed(value: float) -> Any:
        made: Any = cell()
        made["figures"]["latency"] = {**made["figures"]["auroc"], "metric": "latency", "unit": "us", "value": value}
        return made

    text = words(text_of(tmp_path, [[timed(100 * value)] for value in STEP]))
    assert "latency, us (clock) 9 100.0000 109.9000" in text
    assert "It differs between runs with the state of the machine" in text
    assert "It differs between runs" not in text_of(tmp_path / "other", [[cell()]] * 2)


def test_names_cannot_control_a_terminal(tmp_path: Path) -> None:
    name = "a\x1b[31m\nb\u202ec\ud800 $x$"
    text = text_of(tmp_path, [[cell(cell=name)]], everything=True)
    assert "a\\x1b[31m\\nb\\u202ec\\ud800 $x$" in text
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize("text", ["", "plain", "ä 漢 😀", "two\nlines"])
def test_printable_text_is_unchanged(text: str) -> None:
    assert printable(text) == text


def test_a_figure_whose_name_could_control_a_terminal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"figures: 'auroc\\x07' is no line of printable text"):
        text_of(tmp_path, [[cell(figures={"auroc\x07": 1.0})]])


@pytest.mark.parametrize("digits", [-3, 18, 10**6])
def test_digits_out_of_range_are_refused(tmp_path: Path, digits: int) -> None:
    made: Any = cell(figures={"auroc": 1e90})
    made["figures"]["auroc"]["digits"] = digits
    with pytest.raises(UsageError, match=rf"figures.auroc.digits: {digits} is not from 0 to 17"):
        text_of(tmp_path, [[made]])


@pytest.mark.parametrize("digits", [0, 17])
def test_digits_are_bounded_and_huge_figures_short(tmp_path: Path, digits: int) -> None:
    made: Any = cell(figures={"auroc": 1e90})
    made["figures"]["auroc"]["digits"] = digits
    assert "1e+90" in text_of(tmp_path, [[made]], everything=True)
    made["figures"]["auroc"]["value"] = 2.5
    assert max(map(len, text_of(tmp_path, [[made]], everything=True).splitlines())) < 130


def test_lines_keep_to_the_width(tmp_path: Path) -> None:
    runs = [[cell(value, versions={f"library{n}": str(value) for n in range(30)})] for value in STEP]
    assert max(map(len, text_of(tmp_path, runs, width=70).splitlines())) <= 70


def test_the_document_is_json_and_complete(tmp_path: Path) -> None:
    runs: list[list[Any]] = [[cell(value)] for value in STEP]
    runs[3] = [contaminated()]
    found = history(collect(write_all(tmp_path, [*runs, [cell(machine=None)]]))[0], 0.02)
    document = json.loads(json.dumps(history_document(found, ["a remark"]), allow_nan=False))
    assert (document["margin"], document["remarks"], document["unknown_machine"]) == (0.02, ["a remark"], [9])
    assert document["runs"][0]["date"] == "2026-03-01T12:00:00+00:00"
    (group,) = document["groups"]
    assert group["machine"]["text"].startswith("Some CPU")
    assert group["runs"] == list(range(9))
    ratio = group["series"][0]
    assert (ratio["figure"], ratio["enough"], ratio["clock"]) == ("latency / reference", True, False)
    assert ratio["points"][3]["left_out"] == "contaminated"
    assert ratio["points"][0]["left_out"] is None
    assert [change["first"] for change in ratio["changes"]] == [5]


@pytest.mark.timing
def test_a_long_history_takes_seconds(tmp_path: Path) -> None:
    """Sixty cells in a hundred runs; noise must not make it slower."""
    import random
    import time

    chance = random.Random(0)
    runs = [[cell(chance.gauss(1, 0.01), seed=seed) for seed in range(60)] for _ in range(100)]
    files = write_all(tmp_path, runs)
    began = time.process_time()
    history_text(history(collect(files)[0], 0.01))
    assert time.process_time() - began < 6
