"""Format the plan of a run as text and as JSON: cells, steps to build, and the estimated time."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from harness.api import Step
from harness.build.estimate import NONE_BUILT, Duration, DurationEstimate, Previews, Shape
from harness.build.plan import Node, describe
from harness.run.session import Session
from harness.text import pluralize


def plan_document(run: Session) -> dict[str, Any]:
    """The plan as JSON: each cell's ``id``, axes, ``parameters`` and ``macs``, and each step's key, state and estimate.

    Parameters and multiply-accumulates come from the shapes alone; they are None if a step cannot preview.
    An invalid cell or step has a ``problem``, and takes no time. ``seconds`` of a step are None if unknown; ``minutes``
    are the sums of what is known, and ``unknown`` counts the steps to build and the cells that they leave out.
    """
    previews = Previews(run.plugins)

    def shape_of(dataset: str, architecture: str, steps: tuple[Step, ...]) -> Shape:
        task = run.plugins.datasets.get(dataset).task_in(run.plugins.architectures.get(architecture).layout)
        return previews.shape(architecture, task, steps)

    estimate = DurationEstimate(run.plugins, run.store)
    missing = {node.key for node in run.plan.needed(run.store.has)}
    cells: list[dict[str, Any]] = []
    times: list[float | None] = []
    for cell in run.planner.runnable:
        problem = run.plan.problems.get(cell.name)
        shape = Shape(None, None, str(problem)) if problem else shape_of(cell.dataset, cell.architecture, cell.steps)
        if not shape.problem:
            is_reference = cell.protocol == "paired" and cell.reference == cell.id
            times.append(estimate.time(shape.macs, run.options.preset, cell.profile.pause, is_reference))
        row: dict[str, Any] = {
            "id": cell.id,
            "suite": cell.suite,
            "matrix": cell.matrix,
            "axes": dict(cell.axes),
            "recipe": [describe(step) for step in cell.steps],
            "reference": cell.reference,
            "key": run.plan.artefacts.get(cell.name),
            "built": cell.name in run.plan.artefacts and run.plan.artefacts[cell.name] not in missing,
            "parameters": shape.parameters,
            "macs": shape.macs,
        }
        cells.append(row | ({"problem": shape.problem} if shape.problem else {}))
    start = estimate.start(run.options.preset) * len({cell.profile for cell in run.planner.runnable})
    steps = []
    for node in run.plan.nodes.values():
        refused = shape_of(node.root.dataset, node.root.architecture, node.steps).problem
        steps.append(_step(node, node.key in missing, 0.0 if refused else estimate.build(node), refused))
    building, timing = Duration.of(step["seconds"] for step in _to_build(steps)), Duration.of(times)
    return {
        "preset": run.options.preset.name,
        "cells": cells,
        "steps": steps,
        "minutes": {"building": building.seconds / 60, "timing": (start + timing.seconds) / 60},
        "unknown": {"building": building.unknown, "timing": timing.unknown},
    }


def _to_build(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [step for step in steps if not step["built"] and "problem" not in step]


def _step(node: Node, missing: bool, seconds: float | None, problem: str | None) -> dict[str, Any]:
    row = {"key": node.key, "step": node.label, "parent": node.parent, "built": not missing, "seconds": seconds}
    return row | ({"problem": problem} if problem else {})


def plan_text(run: Session) -> str:
    """The plan as text for the terminal."""
    document = plan_document(run)
    rows = [
        [cell["id"], _number(cell["parameters"]), _number(cell["macs"]), cell.get("problem") or _state(cell)]
        for cell in document["cells"]
    ]
    cells = tabulate(rows, headers=["cell", "parameters", "MACs", "model"], colalign=("left", "right", "right", "left"))
    missing = _to_build(document["steps"])
    have = sum(step["built"] for step in document["steps"])
    runnable = sum("problem" not in cell for cell in document["cells"])
    building, timing = (
        Duration(60 * document["minutes"][name], count - document["unknown"][name], document["unknown"][name])
        for name, count in (("building", len(missing)), ("timing", runnable))
    )
    return "\n".join(
        [
            cells,
            "",
            f"steps to build: {len(missing)}; in the store {run.store.places}: {have}",
            *(f"  {step['step']}  ({Duration.of([step['seconds']]).text('step', NONE_BUILT)})" for step in missing),
            "",
            f"time to build: {building.text('step', NONE_BUILT)}",
            f"time to measure {pluralize(runnable, 'cell')}, preset {document['preset']}: "
            f"{timing.text('cell', 'their size is unknown')}",
            "These are guesses, from the steps in the store and the size of the networks.",
            "",
        ]
    )


def _state(cell: dict[str, Any]) -> str:
    return "in the store" if cell["built"] else "to build"


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"
