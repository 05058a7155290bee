"""Matrix: axes expand into cells, and every invalid axis is refused by name."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import Halve, Mimic

from harness import Matrix, Profile, Skip, UsageError, train
from harness.suite.matrix import Cell


def matrix(**changes: Any) -> Matrix:
    """A matrix of 2 networks x 2 trainings x 3 prunings x 2 seeds."""
    axes: dict[str, Any] = {
        "dataset": "toy",
        "architecture": ["conv", "lstm"],
        "training": {"plain": [train()], "distilled": [train(), Mimic()]},
        "pruning": {"full": [], "keep0.5": [Halve()], "keep0.25": [Halve(0.25)]},
        "seed": range(2),
    }
    return Matrix(**(axes | changes))


def ids(**changes: Any) -> list[str]:
    return [cell.id for cell in matrix(**changes).cells("m")]


def cell(id_: str, **changes: Any) -> Cell:
    return next(entry for entry in matrix(**changes).cells("m", "suite.py") if entry.id == id_)


def test_ids_read_like_the_table() -> None:
    all_ids = ids()
    assert all_ids[0] == "conv-plain-full-seed0"
    assert all_ids[-1] == "lstm-distilled-keep0.25-seed1"
    assert len(all_ids) == len(set(all_ids)) == 2 * 2 * 3 * 2


def test_a_cell_knows_its_names_options_and_recipe() -> None:
    half = cell("conv-distilled-keep0.5-seed1")
    assert half.name == "suite.py::m[conv-distilled-keep0.5-seed1]"
    assert half.steps == (train(), Mimic(), Halve(0.5))
    assert (half.dataset, half.architecture, half.runtime, half.seed) == ("toy", "conv", "torch", 1)
    assert (half.axes["training"], half.axes["pruning"], half.columns) == ("distilled", "keep0.5", "pruning")


def test_axes_with_one_option_stay_out_of_the_id_unless_they_are_steps_or_seeds() -> None:
    assert ids(architecture="conv", training={"plain": [train()]}, pruning={"full": []}, seed=3) == [
        "conv-plain-full-seed3"
    ]
    several = ids(dataset=["toy", "other"], runtime=["torch", "onnxruntime"], seed=0)
    assert several[0] == "toy-conv-plain-full-torch-seed0"
    assert several[-1] == "other-lstm-distilled-keep0.25-onnxruntime-seed0"


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(1, 3), st.integers(1, 2))
def test_the_matrix_is_the_product_of_its_axes(sizes: list[int], seeds: int, runtimes: int) -> None:
    axes = {f"axis{i}": {f"o{j}": [Halve(j / 8)] for j in range(size)} for i, size in enumerate(sizes)}
    made = Matrix(dataset="d", architecture="a", seed=range(seeds), runtime=[f"r{i}" for i in range(runtimes)], **axes)
    cells = list(made.cells("m"))
    expected = set(itertools.product(*(tuple(options) for options in axes.values()), made.runtimes, made.seeds))
    assert {tuple(c.axes[n] for n in (*axes, "runtime", "seed")) for c in cells} == expected
    assert len({c.id for c in cells}) == len(cells) == len(expected)
    assert {c.reference for c in cells} <= {c.id for c in cells}


# ------------------------------------------------------------------------------------------------------- reference


def test_the_reference_is_the_first_option_of_each_axis_of_steps() -> None:
    assert cell("lstm-distilled-keep0.25-seed1").reference == "lstm-plain-full-seed1"
    assert cell("lstm-plain-full-seed1").reference == "lstm-plain-full-seed1"
    assert cell("lstm-plain-full-seed1").reference_name == "suite.py::m[lstm-plain-full-seed1]"


def test_a_reference_rule_replaces_only_the_axes_that_it_names() -> None:
    changed = {"reference": {"training": "distilled"}}
    assert cell("lstm-plain-keep0.5-seed0", **changed).reference == "lstm-distilled-full-seed0"
    across = {"reference": {"architecture": "conv", "seed": 0}}
    assert cell("lstm-plain-full-seed1", **across).reference == "conv-plain-full-seed0"


@pytest.mark.parametrize("axis", ["dataset", "profile"])
def test_a_cell_and_its_reference_share_data_and_profile(axis: str) -> None:
    one = {"dataset": "toy", "profile": "one"}
    with pytest.raises(
        UsageError, match=f"reference names axis '{axis}', but a cell and its reference always run on the same"
    ):
        matrix(profile=Profile(name="one"), reference={axis: one[axis]})


def test_a_cell_may_be_compared_with_another_runtime() -> None:
    across = list(matrix(runtime=["torch", "fast"], reference={"runtime": "torch"}).cells("m"))
    references = {cell.id: cell for cell in across}
    fast = [cell for cell in across if cell.runtime == "fast"]
    assert len(fast) == len(across) / 2
    assert {references[cell.reference].runtime for cell in across} == {"torch"}


def test_none_stands_for_the_cell_s_own_option() -> None:
    cells = {cell.id: cell for cell in matrix(reference={"pruning": None, "training": "plain"}).cells("m")}
    for cell in cells.values():
        assert cells[cell.reference].axes == {**cell.axes, "training": "plain"}


def test_cells_of_a_runtime_that_is_not_there_are_skipped_and_so_are_those_compared_with_it() -> None:
    def skipped(reference: dict[str, str]) -> set[str]:
        cells = matrix(runtime=["torch", "fast"], reference=reference).cells("m", unavailable={"fast": "install it"})
        return {cell.runtime for cell in cells if cell.skip == "install it"}

    assert skipped({}) == {"fast"}
    assert skipped({"runtime": "fast"}) == {"torch", "fast"}


def test_a_reference_seed_that_the_preset_leaves_out_is_an_error() -> None:
    made = matrix(reference={"seed": 1})
    with pytest.raises(UsageError, match=r"reference.*seed.*1"):
        list(made.cells("m", seeds=[0]))


# ------------------------------------------------------------------------------------------------ fallbacks, skips


def test_a_fallback_is_named_in_the_id_and_the_axes() -> None:
    first = next(iter(matrix().cells("m", datasets={"toy": "toy-synthetic"})))
    assert first.id == "toy-synthetic-conv-plain-full-seed0"
    assert first.dataset == "toy-synthetic"


def test_skip_rules_leave_cells_out_with_their_reason() -> None:
    rules = [Skip("too slow", architecture="lstm", pruning=["keep0.5", "keep0.25"]), Skip("later", seed=1)]
    reasons = {entry.id: entry.skip for entry in matrix(skip=rules).cells("m")}
    assert reasons["lstm-plain-keep0.5-seed0"] == "too slow"
    assert reasons["lstm-plain-keep0.5-seed1"] == "too slow"
    assert reasons["lstm-plain-full-seed0"] is None
    assert reasons["conv-plain-keep0.5-seed0"] is None
    assert reasons["conv-plain-keep0.5-seed1"] == "later"


def test_skip_rules_name_data_sets_as_the_suite_does() -> None:
    made = matrix(skip=[Skip("not this one", dataset="toy")])
    assert {entry.skip for entry in made.cells("m", datasets={"toy": "toy-synthetic"})} == {"not this one"}


def test_a_skip_rule_needs_a_reason_and_a_condition() -> None:
    with pytest.raises(UsageError, match="reason"):
        Skip("", architecture="conv")
    with pytest.raises(UsageError, match="no condition"):
        Skip("why")


def test_seeds_can_be_replaced() -> None:
    assert [entry.seed for entry in matrix(architecture="conv", training={"plain": []}).cells("m", seeds=[7])] == [
        7
    ] * 3


# -------------------------------------------------------------------------------------------------------- profiles


def test_profiles_by_architecture_with_a_rest() -> None:
    slow, fast = Profile(threads=1), Profile(threads=2)
    made = {c.architecture: c.profile for c in matrix(profile={"lstm": slow, "*": fast}).cells("m")}
    assert made == {"conv": fast, "lstm": slow}


def test_several_profiles_are_an_axis() -> None:
    one, two = Profile(name="one"), Profile(threads=2, name="two")
    (half,) = (c for c in matrix(profile=[one, two]).cells("m") if c.id == "conv-plain-keep0.5-two-seed1")
    assert half.profile == two
    assert half.reference == "conv-plain-full-two-seed1"
    assert len(ids(profile=[one, two])) == 2 * len(ids())


# ---------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": []}, "axis 'dataset' needs one or more names"),
        ({"architecture": ["conv", "conv"]}, "axis 'architecture' has duplicate names"),
        ({"seed": []}, "axis 'seed' needs integers"),
        ({"seed": ["zero"]}, "axis 'seed' needs integers"),
        ({"seed": [1, 1]}, "axis 'seed' has duplicate values"),
        ({"pruning": {}}, "axis 'pruning' needs a mapping"),
        ({"pruning": [Halve()]}, "axis 'pruning' needs a mapping"),
        ({"pruning": {"keep 50%": []}}, r"'keep 50%' is not a valid option name"),
        ({"pruning": {"full": ["halve"]}}, r"'halve' is not a step; write step\('name'"),
        ({"pruning": {"full": [Halve]}}, r"axis 'pruning', option 'full': .* is not a step; write halve\(\)"),
        ({"pruning": {"full": Halve}}, r"axis 'pruning', option 'full': .* is not a step; write halve\(\)"),
        ({"pruning": {"full": [train(), train]}}, r"is not a step; write train\(\)"),
        ({"pruning": {"full": "halve"}}, r"'halve' is not a step; write step\('name'"),
        ({"pruning": {"full": 3}}, r"option 'full': 3 is not a step$"),
        ({"columns": "prunning"}, "columns names axis 'prunning'; did you mean 'pruning'"),
        ({"reference": {"prunin": "full"}}, "reference names axis 'prunin'; did you mean 'pruning'"),
        ({"reference": {"pruning": "ful"}}, "reference names option 'ful' of axis 'pruning'; did you mean 'full'"),
        ({"reference": {"seed": 7}}, "reference names option 7 of axis 'seed'"),
        ({"skip": [Skip("x", pruning="keep0.7")]}, "skip names option 'keep0.7' of axis 'pruning'; did you mean 'k"),
        ({"skip": [Skip("x", acrhitecture="conv")]}, "skip names axis 'acrhitecture'; did you mean 'architecture'"),
        ({"profile": {"lstn": Profile()}}, "no entry for architecture 'conv'"),
        ({"profile": {"lstn": Profile(), "*": Profile()}}, "names architecture 'lstn'; did you mean 'lstm'"),
        ({"profile": [Profile(), Profile(threads=2)]}, "each needs its own name"),
        ({"profile": "fast"}, "needs Profile"),
    ],
)  # fmt: skip
def test_an_invalid_axis_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        matrix(**changes)


# ----------------------------------------------------------------------------------------------------------- speed


@pytest.mark.timing
def test_ten_thousand_cells_take_seconds_and_time_grows_linearly() -> None:
    def seconds(seeds: int) -> float:
        big = matrix(seed=range(seeds), pruning={f"o{i}": [Halve()] for i in range(25)})
        began = time.process_time()
        assert sum(1 for _ in big.cells("m")) == 100 * seeds
        return time.process_time() - began

    seconds(1)
    small, large = seconds(20), seconds(100)
    assert large < 3
    assert large < 15 * small


def test_an_unknown_protocol_is_refused() -> None:
    assert next(Matrix(dataset="toy", architecture="conv").cells("m")).protocol == "paired"
    assert next(Matrix(dataset="toy", architecture="conv", protocol="single").cells("m")).protocol == "single"
    with pytest.raises(UsageError, match="protocol 'singel' is unknown; did you mean 'single'"):
        Matrix(dataset="toy", architecture="conv", protocol="singel")
