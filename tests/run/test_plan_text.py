"""The plan for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy import Halve, Picky

from harness import Matrix, Skip, train
from harness.plugin.manager import Plugins
from harness.run.options import Options
from harness.run.plan_text import plan_document, plan_text
from harness.run.session import Session
from harness.suite.matrix import Cell
from harness.suite.presets import preset


def cells() -> list[Cell]:
    """Not a Matrix at the module's level: that would be collected."""
    matrix = Matrix(
        dataset="toy-synthetic",
        architecture=["conv", "lstm"],
        runtime="eager",
        steps={"full": [train()], "half": [train(), Halve()], "picky": [train(), Picky()]},
        skip=[Skip("not this one", architecture="lstm", steps="half")],
    )
    return list(matrix.cells("m", "suite.py"))


@pytest.fixture
def run(plugins: Plugins, tmp_path: Path) -> Iterator[Session]:
    options = Options(preset("quick"), tmp_path / "store")
    with Session(cells(), {entry.name: entry for entry in cells()}, plugins, options, None) as session:
        yield session


def cell(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in document["cells"] if entry["id"] == name)


def test_cells_have_ids_axes_parameters_and_macs(run: Session) -> None:
    document = json.loads(json.dumps(plan_document(run)))
    assert [entry["id"] for entry in document["cells"]] == [
        "conv-full-seed0", "conv-half-seed0", "conv-picky-seed0", "lstm-full-seed0", "lstm-picky-seed0",
    ]  # fmt: skip
    found = cell(document, "conv-half-seed0")
    assert (found["parameters"], found["macs"]) == (90, 392)
    assert found["axes"]["steps"] == "half"
    assert found["recipe"] == ["train()", "halve(factor=0.5)"]
    assert (found["reference"], found["built"], len(found["key"])) == ("conv-full-seed0", False, 64)
    assert cell(document, "conv-picky-seed0")["problem"] == "picky cannot prune a Sequential"


def test_a_step_that_is_refused_is_not_among_those_to_build(run: Session) -> None:
    steps = plan_document(run)["steps"]
    refused = [step for step in steps if "problem" in step]
    assert len(refused) == 2  # of either network
    assert all("picky" in step["step"] and step["seconds"] == 0 for step in refused)
    text = plan_text(run)
    assert f"steps to build: {len(steps) - 2}; in the store" in text
    assert "picky(" not in text.partition("steps to build")[2]


def test_planning_builds_nothing_and_reads_no_data(run: Session) -> None:
    from toy import Toy

    Toy.loads.clear()
    plan_text(run)
    assert Toy.loads == []
    assert not any(run.store.has(key) for key in run.plan.nodes)


def test_what_the_store_has_is_told_from_what_must_be_built(run: Session) -> None:
    before = plan_document(run)
    assert [step["built"] for step in before["steps"]] == [False] * len(run.plan.nodes)
    assert before["minutes"]["building"] == 0
    assert [step["seconds"] for step in before["steps"] if "problem" not in step] == [None] * 5
    assert before["unknown"] == {"building": 5, "timing": 0}
    run.executor.build(run.plan.artefacts["suite.py::m[conv-half-seed0]"])
    after = plan_document(run)
    assert cell(after, "conv-half-seed0")["built"]
    assert cell(after, "conv-full-seed0")["built"]
    assert not cell(after, "lstm-full-seed0")["built"]
    assert sum(step["built"] for step in after["steps"]) == 3
    assert after["unknown"] == {"building": 0, "timing": 0}
    assert after["minutes"]["building"] > 0


def test_the_text_says_the_same(run: Session) -> None:
    run.executor.build(run.plan.artefacts["suite.py::m[conv-full-seed0]"])
    text = plan_text(run)
    lines = [line.split() for line in text.splitlines()]
    assert ["conv-full-seed0", "90", "392", "in", "the", "store"] in lines
    assert ["conv-half-seed0", "90", "392", "to", "build"] in lines
    assert ["conv-picky-seed0", "?", "?", "picky", "cannot", "prune", "a", "Sequential"] in lines
    assert "steps to build: 3" in text
    assert (
        "toy-synthetic conv seed 0: train() > halve(factor=0.5)  (unknown, because the store has no such step yet)"
        in text
    )
    assert "toy-synthetic lstm seed 0: train()  (about" in text
    (building,) = (line for line in text.splitlines() if line.startswith("time to build: about "))
    assert building.endswith(" for 2 steps, unknown for 1, because the store has no such step yet")
    assert "time to measure 3 cells, preset quick: about" in text
