"""Extract learning curves from records: quality on the validation split by epoch."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.records.record import Record
from harness.report.model import Network, Report


@dataclasses.dataclass(frozen=True)
class LearningCurve:
    """One model's learning curve: after each epoch, the mean, the lowest and the highest seed."""

    model: str
    seeds: int
    points: tuple[tuple[float, float, float], ...]


def learning_curves(report: Report) -> list[tuple[str, str, list[LearningCurve]]]:
    """For each data set and setting: a title, the figure's name, and the curves of its networks."""
    settings: dict[tuple[str, ...], list[Network]] = {}
    for network in report.networks:
        first = network.records[0]
        if network.quality is not None:
            key = (
                first.suite,
                first.matrix,
                first.preset,
                str(first.axes["dataset"]),
                network.quality.name,
            )
            settings.setdefault(key, []).append(network)
    titled = []
    for (_, matrix, _, dataset, figure), networks in settings.items():
        curves = _curves(networks, figure)
        if curves:
            titled.append((f"{figure} by epoch on {dataset}, matrix {matrix}", figure, curves))
    return titled


def _curves(networks: Sequence[Network], figure: str) -> list[LearningCurve]:
    """One curve for each network and each recipe up to a step that trained, named for the first variant that has it.

    Cells whose recipes begin alike share the curve.
    """
    names: dict[tuple[str, ...], str] = {}
    trained: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for network in networks:
        for variant in network.variants:
            for cell in variant.cells:
                name = f"{cell.record.axes['architecture']} {variant.label}"
                for recipe, history in _trainings(cell.record, figure):
                    names.setdefault(recipe, name + (f", {recipe[-1]}" if name in names.values() else ""))
                    trained.setdefault(recipe, {}).setdefault(str(cell.record.axes["seed"]), history)
    return [_curve(names[recipe], list(seeds.values())) for recipe, seeds in trained.items()]


def _trainings(record: Record, figure: str) -> Iterator[tuple[tuple[str, ...], list[float]]]:
    """Each training of a record: its architecture, the steps up to it and its number; and the figure by epoch.

    The profile is left out, because it only affects the timing.
    """
    recipe: tuple[str, ...] = (str(record.axes["architecture"]),)
    for step in record.steps:
        recipe = (*recipe, step.step)
        for number, history in enumerate(_histories(step.trainings, figure), 1):
            yield (*recipe, f"fit {number}"), history


def _curve(model: str, seeds: Sequence[Sequence[float]]) -> LearningCurve:
    epochs = range(min(map(len, seeds)))
    points = [[history[epoch] for history in seeds] for epoch in epochs]
    return LearningCurve(model, len(seeds), tuple((statistics.fmean(p), min(p), max(p)) for p in points))


def _histories(trainings: Any, figure: str) -> list[list[float]]:
    """The figure after each epoch, for each training of a step. Facts come from plugins and may have any form."""
    histories = []
    for fit in trainings if isinstance(trainings, list) else ():
        epochs = fit.get("history") if isinstance(fit, Mapping) else None
        entries = epochs if isinstance(epochs, list) else []
        values = [entry.get(figure) for entry in entries if isinstance(entry, Mapping)]
        known = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
        if len(known) == len(entries) > 1:
            histories.append(known)
    return histories
