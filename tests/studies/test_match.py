"""Matching: on what a recipe does, with the steps' defaults, never on what a suite calls its options."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import step
from harness.build.plan import describe
from harness.plugin.manager import installed
from harness_studies.document import CellSpec, StepPattern
from harness_studies.match import Matcher, parse, same, value_of

MATCHER = Matcher([], installed().things["step"])
PRUNED = StepPattern("prune", (("keep", (0.5,)), ("norm", ("l1", "l2")), ("precision", ("", "bfloat16"))))


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("prune(norm=l2, keep=0.5, rounds=1)", {"norm": "l2", "precision": ""}),
        ("prune(norm=l2, keep=0.5)", {"norm": "l2", "precision": ""}),
        ("prune(norm=l1, keep=0.50, rounds=1, precision=bfloat16)", {"norm": "l1", "precision": "bfloat16"}),
        ("prune(norm=l1, keep=0.25, rounds=1)", None),
        ("prune(norm=l1, keep=0.5, rounds=5)", None),
        ("prune(norm=l3, keep=0.5, rounds=1)", None),
        ("prune(norm=l1, keep=0.5, rounds=1, precision=float16)", None),
        ("prune(norm=l1, keep=0.5, rounds=1, sideways=True)", None),
        ("prune_quantile(quantile=0.5)", None),
    ],
)
def test_what_the_study_does_not_name_is_the_step_s_default(text: str, taken: dict[str, str] | None) -> None:
    found = MATCHER.recipe([PRUNED], [text])
    assert found == (None if taken is None else {("prune", name): value for name, value in taken.items()})


def test_a_recipe_is_whole_and_in_order() -> None:
    train = StepPattern("train")
    assert MATCHER.recipe([train, PRUNED], ["train()", "prune(norm=l1, keep=0.5, rounds=1)"]) is not None
    assert MATCHER.recipe([PRUNED, train], ["train()", "prune(norm=l1, keep=0.5, rounds=1)"]) is None
    assert MATCHER.recipe([train], ["train()", "prune(norm=l1, keep=0.5, rounds=1)"]) is None
    assert MATCHER.recipe([train], ["train(epochs=1)"]) is None, "shorter than its authors train it"


@pytest.mark.parametrize(
    ("profile", "matches"), [({}, True), ({"pace": "back-to-back"}, True), ({"pace": "20ms"}, False)]
)
def test_published_figures_are_of_calls_without_pauses(profile: dict[str, str], matches: bool) -> None:
    made = {
        "synthetic": False,
        "axes": {"dataset": "toy", "architecture": "conv", "runtime": "torch"},
        "timing": {"profile": profile},
        "preset": "study",
        "steps": [{"step": "train()"}],
    }
    cell = CellSpec((), ("toy",), "conv", "torch", (), (StepPattern("train"),))
    figure = SimpleNamespace(presets=("study",))
    assert bool(Matcher([made], installed().things["step"]).matches(cell, figure)) is matches  # type: ignore[arg-type]


def test_of_a_step_that_is_not_installed_only_what_is_named_counts() -> None:
    wanted = StepPattern("condensa", (("scheme", ("Prune",)),))
    assert MATCHER.recipe([wanted], ["condensa(scheme=Prune, cycles=45)"]) == {}
    assert MATCHER.recipe([wanted], ["condensa(scheme=FilterPrune)"]) is None


@given(st.sampled_from(["l1", "l2"]), st.floats(0.01, 1), st.integers(1, 100))
def test_a_record_s_text_is_taken_apart(norm: str, keep: float, rounds: int) -> None:
    made = step("prune", norm=norm, keep=keep, rounds=rounds)
    assert parse(describe(made)) == ("prune", {"norm": norm, "keep": str(keep), "rounds": str(rounds)})
    wanted = StepPattern("prune", (("norm", (norm,)), ("keep", (keep,)), ("rounds", (rounds,))))
    assert MATCHER.recipe([wanted], [describe(made)]) == {}


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        (0.5, "0.50", True),
        (5, "5", True),
        (5, "five", False),
        (False, "False", True),
        (False, "0", False),
        (None, "", True),
        ("", None, True),
        (None, "3", False),
        ("l1", "l1", True),
    ],
)
def test_values(option: Any, value: Any, expected: bool) -> None:
    assert same(option, value) is expected


def test_training_is_the_seconds_of_all_steps() -> None:
    made: Any = {"steps": [{"seconds": 2.0}, {"seconds": 3.0}], "figures": {}}
    assert value_of(made, "training") == 5.0
    made["steps"][0]["seconds"] = None
    assert value_of(made, "training") is None
    assert value_of(made, "auroc") is None
