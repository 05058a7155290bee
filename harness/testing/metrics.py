"""What every metric must hold to. An author's module imports all of it and defines the fixture ``metric``.

The evidence is that of a small network of the kit: its file, its answers on the kit's test split, made-up timings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.api import Metric, Split
from harness.testing.blame import fail_check, some
from harness.testing.imports import imports_cleanly
from harness.testing.world import MLP, World, examples, lent

TOLERANCE = 1e-6

Case = Callable[..., Any]


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Makes contracts.EvalContext of a part and its scores, by default the kit's own, timed."""
    folder: Path = tmp_path_factory.mktemp("metrics")
    world = World(folder)
    made: list[Any] = []

    def build(part: Split | None = None, scores: Any = None, timed: bool = True) -> Any:
        import torch

        from harness.api import Data, Task
        from harness.api.train import Train
        from harness.run.evaluation import CellContext
        from harness.testing.world import LABELS, SHAPE

        if not made:
            made.append(world.build(MLP.name, [Train()]))
        (artefact,) = made
        part = part or examples(40, 5)
        if scores is None:
            with torch.inference_mode():
                scores = torch.sigmoid(world.load(artefact)(torch.from_numpy(part.inputs))).numpy()
        with lent() as plugins:
            data = Data(Task(SHAPE, LABELS), part, part, part)
            evidence = CellContext(artefact.file, artefact.sha256, artefact.file, data, plugins, scores)
            evidence.model  # noqa: B018 (loaded while the kit's network is registered)
        if timed:
            evidence.samples = np.random.default_rng(0).integers(90_000, 110_000, (4, 50))
            evidence.peak_memory, evidence.base_memory = 300_000_000, 250_000_000
        return evidence

    return build


def test_metric_describes_itself(metric: Metric, case: Case) -> None:
    """Its figures have different names, and compute() gives exactly those."""
    evidence, thing = case(), f"metric {metric.name!r}"
    figures = metric.specs(evidence.task)
    names = [figure.name for figure in figures]
    if not names or len(set(names)) < len(names):
        fail_check(thing, wanted="figures of different names, at least one", got=str(names), fix="see specs()")
    computed = _computed(metric, evidence)
    if set(computed) != set(names):
        fail_check(
            thing,
            wanted=f"compute() gives the figures that specs() names: {sorted(names)}",
            got=str(sorted(computed)),
            fix="let both agree; None for a figure that is undefined",
        )
    for figure in figures:
        if figure.better not in (None, "higher", "lower"):
            fail_check(thing, wanted="better: 'higher', 'lower' or None", got=repr(figure.better), fix="see MetricSpec")


def test_metric_module_loads_no_torch(metric: Metric) -> None:
    """Its module can be imported, prints nothing and loads no torch."""
    imports_cleanly(f"metric {metric.name!r}", type(metric))


@pytest.mark.parametrize("what", ["usual", "not timed", "constant scores", "a label without positives"])
def test_metric_gives_numbers_or_none(metric: Metric, what: str, case: Case) -> None:
    """Every figure is a finite number, or None where it is undefined, also at the edges."""
    part = examples(40, 5)
    match what:
        case "usual":
            evidence = case()
        case "not timed":
            evidence = case(timed=False)
        case "constant scores":
            evidence = case(scores=np.full(part.targets.shape, 0.5, np.float32))
        case _:
            targets = part.targets.copy()
            targets[:, 0] = 0
            evidence = case(Split(part.inputs, targets, part.patients))
    odd = {
        name: value
        for name, value in _computed(metric, evidence).items()
        if value is not None and not (_is_number(value) and math.isfinite(value))
    }
    if odd:
        fail_check(
            f"metric {metric.name!r}, {what}",
            wanted="finite numbers, or None where a figure is undefined",
            got=str(odd),
            fix="return None instead of NaN or infinity",
        )


def test_metric_weighs_as_it_computes(metric: Metric, case: Case) -> None:
    """weighted() with all weights 1 gives what compute() does, and weight 2 counts an example twice."""
    evidence = case()
    weighted, computed = metric.weighted(evidence.task), _computed(metric, evidence)
    if not weighted:
        pytest.skip(f"metric {metric.name!r} has no weighted figures, so none has an interval")
    if unknown := set(weighted) - set(computed):
        fail_check(
            f"metric {metric.name!r}",
            wanted="weighted() names figures that compute() gives",
            got=f"also {sorted(unknown)}",
            fix="let both agree",
        )
    count = len(evidence.scores)
    twice = np.random.default_rng(0).integers(1, 3, count)
    repeated = np.repeat(np.arange(count), twice)
    weights = np.stack([np.ones(count), twice], axis=1).astype(np.float64)
    for name, function in weighted.items():
        values = np.asarray(function(evidence.scores, evidence.targets, weights))
        if values.shape != (2,):
            fail_check(
                f"metric {metric.name!r}, figure {name!r}",
                wanted="a value for each column of weights (n, 2): shape (2,)",
                got=f"shape {values.shape}",
                fix="sum over the examples, axis 0 of the weights",
            )
        whole = function(evidence.scores[repeated], evidence.targets[repeated], np.ones((len(repeated), 1)))[0]
        for wanted, got, what in (
            (computed[name], values[0], "weights of 1 give what compute() gives"),
            (whole, values[1], "an example of weight 2 counts as two"),
        ):
            if wanted is not None and not math.isclose(wanted, got, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                fail_check(
                    f"metric {metric.name!r}, figure {name!r}",
                    wanted=what,
                    got=f"{wanted} and {got}",
                    fix="make compute() and weighted() share their code",
                )


def test_metric_does_not_mind_the_order(metric: Metric, case: Case) -> None:
    """The order of the test examples changes no figure."""
    evidence, part = case(), examples(40, 5)
    order = np.random.default_rng(1).permutation(len(part))
    shuffled = case(
        Split(part.inputs[order], part.targets[order], part.patients[order]), np.array(evidence.scores)[order]
    )
    first, second = _computed(metric, evidence), _computed(metric, shuffled)
    differ = [
        f"{name}: {value} and {second[name]}" for name, value in first.items() if not _close(value, second.get(name))
    ]
    if differ:
        fail_check(
            f"metric {metric.name!r}",
            wanted="the same figures for the same examples in another order",
            got=some(differ),
            fix="break ties alike, and pair scores with targets by row",
        )


def test_metric_leaves_the_evidence(metric: Metric, case: Case) -> None:
    """compute() changes neither scores, targets nor samples, and gives the same again."""
    evidence = case()
    before = {name: np.array(getattr(evidence, name)) for name in ("scores", "targets", "patients", "samples")}
    first, second = _computed(metric, evidence), _computed(metric, evidence)
    changed = [name for name, array in before.items() if not np.array_equal(array, getattr(evidence, name))]
    if changed:
        fail_check(
            f"metric {metric.name!r}",
            wanted="compute() leaves the evidence as it was; other metrics read it too",
            got=f"changed: {some(changed)}",
            fix="work on copies",
        )
    if any(not _close(value, second.get(name)) for name, value in first.items()):
        fail_check(
            f"metric {metric.name!r}", wanted="the same figures again", got=f"{first}, {second}", fix="seed draws"
        )


def _computed(metric: Metric, evidence: Any) -> Mapping[str, float | None]:
    try:
        return metric.compute(evidence)
    except Exception as error:
        fail_check(
            f"metric {metric.name!r}",
            wanted="figures",
            got=f"compute() raised {type(error).__name__}: {error}",
            fix="give None for what is undefined: nothing was timed, or a label has one class alone",
        )


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float | np.integer | np.floating)


def _close(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    if math.isnan(one) and math.isnan(other):
        return True
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


#: What an author imports: the checks and their fixtures.
__all__ = ["case", *(name for name in dir() if name.startswith("test_"))]
