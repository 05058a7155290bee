"""Which compression is chosen, and how sure that is: cases worked by hand, and laws of the front."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import run_files
from hypothesis import given
from hypothesis import strategies as st

from harness.records.runs import read
from harness.report.choice import OFF, ON, OPEN, choice, choices, front, lead
from harness.report.model import Network, report
from harness.report.tables import choice_table
from harness.stats.estimates import Estimate

#: The option of pruning, the difference in quality with its interval, the ratio of latency, the parameters.
Case = tuple[str, tuple[float, float | None, float | None], float, float]
CASES: list[Case] = [
    ("full", (0.0, 0.0, 0.0), 1.0, 1000),
    ("half", (-0.003, -0.004, -0.002), 0.7, 500),
    ("third", (-0.004, -0.012, 0.004), 0.5, 333),
    ("tenth", (-0.05, -0.06, -0.04), 0.2, 100),
]


def network(cases: Sequence[Case], tmp_path: Path, better: str = "higher") -> Network:
    made = [
        run_files.cell(ratio, pruning=name, difference=difference, figures={"auroc": 0.9, "parameters": parameters})
        for name, difference, ratio, parameters in cases
    ]
    for record in made:
        record["figures"]["auroc"]["better"] = better
    (found,) = report([read(run_files.write(tmp_path / "run.json", made))]).networks
    return found


def test_sure_is_what_the_whole_interval_loses_at_most(tmp_path: Path) -> None:
    found = network(CASES, tmp_path)
    sure, likely = choice(found, 0.005, True), choice(found, 0.005, False)
    assert [sure.smallest and sure.smallest.label, sure.fastest and sure.fastest.label] == ["plain-half-float32"] * 2
    assert likely.smallest is not None
    assert likely.smallest.label == "plain-third-float32"
    assert likely.smallest.size_share == pytest.approx(0.333)
    wide = choice(found, 0.02, True)
    assert wide.smallest is not None
    assert wide.smallest.label == "plain-third-float32", "its upper bound of 0.012 is within 0.02"


def test_nothing_is_sure_without_an_interval_but_the_reference(tmp_path: Path) -> None:
    cases: list[Case] = [("full", (0.0, None, None), 1.0, 1000), ("half", (-0.001, None, None), 0.7, 500)]
    found = network(cases, tmp_path)
    sure, likely = choice(found, 0.005, True), choice(found, 0.005, False)
    assert sure.smallest is not None
    assert sure.smallest.is_reference
    assert likely.smallest is not None
    assert likely.smallest.label == "plain-half-float32"


def test_of_a_figure_that_is_better_lower_a_rise_is_a_loss(tmp_path: Path) -> None:
    cases: list[Case] = [CASES[0], ("half", (0.05, 0.04, 0.06), 0.7, 500), ("third", (-0.05, -0.06, -0.04), 0.8, 400)]
    found = choice(network(cases, tmp_path, "lower"), 0.001, True)
    assert found.fastest is not None
    assert found.fastest.label == "plain-third-float32"


def test_what_is_as_fast_is_named_and_what_was_disturbed_is_not_the_fastest(tmp_path: Path) -> None:
    made = [
        run_files.contaminated(ratio=ratio, pruning=name, error=0.01)
        for name, ratio in (("full", 1.0), ("a", 0.700), ("b", 0.705), ("c", 0.1))
    ]
    made.append(run_files.contaminated(ratio=0.7, pruning="a", seed=1))
    for record in made[:3]:
        assert record["timing"] is not None
        record["timing"]["verdict"]["kind"] = "faster"
    (found,) = report([read(run_files.write(tmp_path / "run.json", made))]).networks
    fastest = choice(found, 0.001, True)
    assert fastest.fastest is not None
    assert fastest.fastest.label == "plain-a-float32"
    assert fastest.fastest.disturbance == " (1 of 2 timings disturbed)"
    assert [other.label for other in fastest.as_fast] == ["plain-b-float32"]


def test_the_lead_names_the_smallest_and_the_fastest(tmp_path: Path) -> None:
    text = lead(network(CASES, tmp_path))
    assert text.startswith("Surely within 0.005 auroc of the reference: the smallest is plain-half-float32 (50 %")
    assert "the fastest is plain-half-float32 (0.700 [0.698, 0.702] of the reference's latency)" in text
    assert "Probably within it too, and smaller: plain-third-float32 (33 % of the reference's size)." in text
    assert "Nothing to choose" in lead(network(CASES[:1], tmp_path))


def test_beside_a_reference_that_guesses_nothing_is_chosen(tmp_path: Path) -> None:
    found = network(CASES, tmp_path)
    assert found.quality is not None
    assert found.quality.chance == 0.5, "records without it have the installed metric's"

    def having(value: float, low: float | None) -> Network:
        high = None if low is None else 2 * value - low
        (reference, *others) = found.variants
        changed = dataclasses.replace(reference, quality=Estimate(value, low, high))
        return dataclasses.replace(found, variants=(changed, *others))

    for guess in (having(0.5, None), having(0.5, 0.4), having(0.6, 0.49)):
        assert lead(guess).startswith("The reference is not shown to be better than chance (auroc 0.")
        assert "urely" not in lead(guess)
        assert choice_table(guess) is None
    for better in (having(0.51, None), having(0.6, 0.51)):
        assert lead(better).startswith("Surely within 0.005 auroc")
        assert choice_table(better) is not None


def test_what_is_faster_beyond_the_loss_is_named_where_the_reference_is_the_fastest(tmp_path: Path) -> None:
    text = lead(network([CASES[0], CASES[3]], tmp_path))
    assert (
        "the fastest is the reference itself; faster, with a loss that is not shown to be within it: plain-te" in text
    )
    slower: Case = ("slow", (-0.05, -0.06, -0.04), 1.2, 100)
    assert "faster, with" not in lead(network([CASES[0], slower], tmp_path))


def test_every_margin_has_what_is_sure_and_what_is_likely(tmp_path: Path) -> None:
    found = choices(network(CASES, tmp_path))
    assert [(entry.margin, entry.sure) for entry in found[:4]] == [
        (0.001, True), (0.001, False), (0.005, True), (0.005, False),
    ]  # fmt: skip


def test_the_front_by_hand() -> None:
    points = [
        (Estimate(1.0, 0.9, 1.1), Estimate(0.0, 0.0, 0.0)),
        (Estimate(0.5, 0.4, 0.6), Estimate(-0.01, -0.02, 0.0)),
        (Estimate(0.7, 0.6, 0.8), Estimate(-0.02, -0.03, -0.005)),
        (Estimate(2.0, 1.9, 2.1), Estimate(-0.5, -0.6, -0.4)),
    ]
    assert front(points) == [ON, ON, OPEN, OFF]


POINT = st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 3), st.integers(0, 3))


@given(st.lists(POINT, min_size=1, max_size=12))
def test_the_front_is_what_its_definition_says(values: list[tuple[int, int, int, int]]) -> None:
    points = [(Estimate(x, x - dx, x + dx), Estimate(y, y - dy, y + dy)) for x, y, dx, dy in values]

    def beaten(x: float, y: float, others: list[tuple[float, float]]) -> bool:
        return any(a <= x and b >= y and (a, b) != (x, y) for a, b in others)

    estimates = [(float(x), float(y)) for x, y, _, _ in values]
    worst = [(float(x + dx), float(y - dy)) for x, y, dx, dy in values]
    for state, (x, y, dx, dy) in zip(front(points), values, strict=True):
        expected = ON if not beaten(x, y, estimates) else OFF if beaten(x - dx, y + dy, worst) else OPEN
        assert state == expected
