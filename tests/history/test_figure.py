"""The chart of a history, read from its SVG, which keeps text as text."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from run_files import MACHINE, cell, contaminated, write_all

from harness import UsageError
from harness.history.figure import OTHER, PANELS, draw
from harness.history.series import History, history
from harness.records.runs import collect

pytestmark = pytest.mark.filterwarnings("error")

STEP = [1.0, 1.001, 0.999, 1.0, 1.0, 1.1, 1.1, 1.101, 1.099]


def of(folder: Path, runs: Sequence[Sequence[Any]]) -> History:
    return history(collect(write_all(folder, runs))[0], 0.01)


def texts(found: History, folder: Path) -> list[str]:
    draw(found, folder / "figure.svg")
    tree = ElementTree.parse(folder / "figure.svg")
    return ["".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text")]


def test_a_change_has_its_label_and_comes_first(tmp_path: Path) -> None:
    shown = texts(of(tmp_path, [[cell(seed=1), cell(value)] for value in STEP]), tmp_path)
    assert any("2026-03-06 9831000: +10.0 %, worse" in text for text in shown)
    cells = [text for text in shown if text.startswith("conv")]
    assert cells == ["conv-plain-full-float32-0", "conv-plain-full-float32-1"]
    for text in ("latency / reference of separate runs in the order of time", "2026-03-01", "2026-03-09", "change"):
        assert text in shown
    assert any("Some CPU" in text for text in shown)


def test_one_run_can_be_drawn(tmp_path: Path) -> None:
    shown = texts(of(tmp_path, [[cell()]]), tmp_path)
    assert "conv-plain-full-float32-0" in shown
    assert not any("worse" in text for text in shown)


def test_a_page_has_a_limit_and_states_it(tmp_path: Path) -> None:
    shown = texts(of(tmp_path, [[cell(seed=seed) for seed in range(60)]]), tmp_path)
    assert len([text for text in shown if text.startswith("conv")]) == PANELS == 24
    assert any("24 of 60 series are drawn, those with a change first" in text for text in shown)


def test_groups_are_numbered_and_synthetic_data_is_labelled(tmp_path: Path) -> None:
    other = {"machine": MACHINE | {"cpu": "Other CPU"}, "synthetic": True}
    shown = texts(of(tmp_path, [[cell(), cell(**other)]]), tmp_path)
    assert {"[1] conv-plain-full-float32-0", "[2] conv-plain-full-float32-0"} <= set(shown)
    assert any(text.startswith("[2] Other CPU") for text in shown)
    assert len([text for text in shown if "SYNTHETIC DATA" in text]) == 1


def test_left_out_points_are_crosses(tmp_path: Path) -> None:
    def crosses(folder: Path, last: Any) -> int:
        draw(of(folder, [[cell()], [cell()], [last]]), folder / "figure.svg")
        return (folder / "figure.svg").read_text().count(OTHER.lower())

    assert crosses(tmp_path / "a", contaminated(ratio=9.0)) > crosses(tmp_path / "b", cell(1.001))


def test_names_are_neither_formulas_nor_markup(tmp_path: Path) -> None:
    shown = texts(of(tmp_path, [[cell(cell="a$\\frac{$ <b>&\x1b\n漢😀")]]), tmp_path)
    assert "a$\\frac{$ <b>&\\x1b\\n漢😀" in shown


def test_at_most_five_changes_have_labels(tmp_path: Path) -> None:
    values = [1 + 0.3 * (run // 6 % 2) + 0.001 * (run % 3) for run in range(60)]
    shown = texts(of(tmp_path, [[cell(value)] for value in values]), tmp_path)
    assert len([text for text in shown if "worse" in text or "better" in text]) == 5


@pytest.mark.parametrize("ratio", [1e-90, 1e90])
def test_extreme_ratios_can_be_drawn(tmp_path: Path, ratio: float) -> None:
    draw(of(tmp_path, [[cell(ratio)], [contaminated(ratio=1 / ratio)]]), tmp_path / "figure.svg")


def test_a_series_without_counted_points_can_be_drawn(tmp_path: Path) -> None:
    draw(of(tmp_path, [[contaminated()], [contaminated(ratio=1.2)]]), tmp_path / "figure.svg")


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")]
)
def test_the_suffix_selects_the_format_and_bytes_are_reproducible(tmp_path: Path, suffix: str, magic: bytes) -> None:
    found = of(tmp_path, [[cell(value)] for value in STEP])
    files = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for file in files:
        draw(found, file)
    first, second = (file.read_bytes() for file in files)
    assert first.startswith(magic)
    assert first == second


def test_a_history_without_a_ratio_cannot_be_drawn(tmp_path: Path) -> None:
    for number, made in enumerate((cell(None), cell(machine=None))):
        with pytest.raises(UsageError, match="there is no ratio of latencies to draw"):
            draw(of(tmp_path / str(number), [[made]]), tmp_path / "figure.svg")
    assert not (tmp_path / "figure.svg").exists()
