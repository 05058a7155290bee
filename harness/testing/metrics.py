"""Rules for metrics. An author's module imports everything from here and defines the fixture ``metric``.

The context is that of one of the kit's networks: its file, its scores on the kit's test split, and synthetic timings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pytest

from harness.api import Absent, Audit, Metric, Split
from harness.testing._failing import fail_check, imports_cleanly, listing
from harness.testing._world import LABELS, MLP, SHAPE, World, examples, temporarily_registered

TOLERANCE = 1e-6

Case = Callable[..., Any]


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Makes the EvalContext of a split and its scores, by default the kit's own, with timings."""
    folder: Path = tmp_path_factory.mktemp("metrics")
    world = World(folder)
    artefacts: list[Any] = []

    def build(split: Split | None = None, scores: Any = None, timed: bool = True) -> Any:
        import torch

        from harness.api import Data, Task
        from harness.api.train import Train
        from harness.run.evaluation import CellContext

        if not artefacts:
            artefacts.append(world.build(MLP.name, [Train()]))
        (artefact,) = artefacts
        split = split or examples(40, 5)
        if scores is None:
            with torch.inference_mode():
                scores = torch.sigmoid(world.load(artefact)(torch.from_numpy(split.inputs))).numpy()
        with temporarily_registered() as plugins:
            data = Data(Task(SHAPE, LABELS), split, split, split)
            audit, runtime = Audit(reason="the conformance kit deploys nothing"), plugins.runtimes.get("torch")
            context = CellContext(
                artefact.file, artefact.sha256, artefact.file, data, plugins, scores, audit, runtime, lambda: scores
            )
            context.model  # noqa: B018 (loaded here, while the kit's network is registered)
        if timed:
            context.samples = np.random.default_rng(0).integers(90_000, 110_000, (4, 50))
            context.base_memory, context.loaded_memory, context.peak_memory = 250_000_000, 251_000_000, 253_000_000
        return context

    return build


def test_metric_describes_itself(metric: Metric, case: Case) -> None:
    """Its figures have different names, and compute() returns exactly those."""
    context, subject = case(), f"metric {metric.name!r}"
    specs = metric.specs(context.task)
    names = [spec.name for spec in specs]
    if not names or len(set(names)) < len(names):
        fail_check(subject, wanted="figures of different names, at least one", got=str(names), fix="see specs()")
    computed = _computed(metric, context)
    if set(computed) != set(names):
        fail_check(
            subject,
            wanted=f"compute() returns the figures that specs() names: {sorted(names)}",
            got=str(sorted(computed)),
            fix="make both agree; return None for a figure that is undefined",
        )
    for spec in specs:
        if spec.better not in (None, "higher", "lower"):
            fail_check(subject, wanted="better: 'higher', 'lower' or None", got=repr(spec.better), fix="see MetricSpec")


def test_metric_module_loads_no_torch(metric: Metric) -> None:
    """Its module imports, prints nothing and does not load torch."""
    imports_cleanly(f"metric {metric.name!r}", type(metric))


@pytest.mark.parametrize("what", ["usual", "not timed", "constant scores", "a label without positives"])
def test_metric_gives_numbers_or_none(metric: Metric, what: str, case: Case) -> None:
    """Every figure is a finite number, or None where it is undefined, in edge cases too."""
    split = examples(40, 5)
    match what:
        case "usual":
            context = case()
        case "not timed":
            context = case(timed=False)
        case "constant scores":
            context = case(scores=np.full(split.targets.shape, 0.5, np.float32))
        case _:
            targets = split.targets.copy()
            targets[:, 0] = 0
            context = case(Split(split.inputs, targets, split.patients))
    invalid = {
        name: value
        for name, value in _computed(metric, context).items()
        if not (value is None or isinstance(value, Absent) or (_is_number(value) and math.isfinite(value)))
    }
    if invalid:
        fail_check(
            f"metric {metric.name!r}, {what}",
            wanted="finite numbers, or None where a figure is undefined",
            got=str(invalid),
            fix="return None instead of NaN or infinity",
        )


def test_metric_weighs_as_it_computes(metric: Metric, case: Case) -> None:
    """weighted() with all weights 1 equals compute(), and an example of weight 2 counts twice."""
    context = case()
    weighted, computed = metric.weighted(context.task), _computed(metric, context)
    if not weighted:
        pytest.skip(f"metric {metric.name!r} has no weighted figures, so none has an interval")
    if unknown := set(weighted) - set(computed):
        fail_check(
            f"metric {metric.name!r}",
            wanted="weighted() names only figures that compute() returns",
            got=f"also {sorted(unknown)}",
            fix="make both agree",
        )
    count = len(context.scores)
    twice = np.random.default_rng(0).integers(1, 3, count)
    repeated = np.repeat(np.arange(count), twice)
    weights = np.stack([np.ones(count), twice], axis=1).astype(np.float64)
    answers = np.asarray(metric.answers(context))
    for name, function in weighted.items():
        values = np.asarray(function(answers, context.targets, weights))
        if values.shape != (2,):
            fail_check(
                f"metric {metric.name!r}, figure {name!r}",
                wanted="one value for each column of weights (n, 2): shape (2,)",
                got=f"shape {values.shape}",
                fix="sum over the examples, axis 0 of the weights",
            )
        whole = function(answers[repeated], context.targets[repeated], np.ones((len(repeated), 1)))[0]
        for expected, value, rule in (
            (computed[name], values[0], "weights of 1 give the value of compute()"),
            (whole, values[1], "an example of weight 2 counts as two"),
        ):
            if _is_number(expected) and not math.isclose(expected, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                fail_check(
                    f"metric {metric.name!r}, figure {name!r}",
                    wanted=rule,
                    got=f"{expected} and {value}",
                    fix="let compute() and weighted() share their code",
                )


def test_metric_does_not_mind_the_order(metric: Metric, case: Case) -> None:
    """The order of the test examples changes no figure."""
    context, split = case(), examples(40, 5)
    order = np.random.default_rng(1).permutation(len(split))
    shuffled = case(
        Split(split.inputs[order], split.targets[order], split.units()[0][order]), np.array(context.scores)[order]
    )
    first, second = _computed(metric, context), _computed(metric, shuffled)
    differing = [
        f"{name}: {value} and {second[name]}" for name, value in first.items() if not _close(value, second.get(name))
    ]
    if differing:
        fail_check(
            f"metric {metric.name!r}",
            wanted="the same figures for the same examples in another order",
            got=listing(differing),
            fix="break ties consistently, and pair scores with targets by row",
        )


def test_metric_leaves_the_evidence(metric: Metric, case: Case) -> None:
    """compute() leaves scores, targets and samples unchanged, and returns the same values again."""
    context = case()
    before = {name: np.array(getattr(context, name)) for name in ("scores", "targets", "patients", "samples")}
    first, second = _computed(metric, context), _computed(metric, context)
    changed = [name for name, array in before.items() if not np.array_equal(array, getattr(context, name))]
    if changed:
        fail_check(
            f"metric {metric.name!r}",
            wanted="compute() leaves the context unchanged, because other metrics read it too",
            got=f"changed: {listing(changed)}",
            fix="work on copies",
        )
    if any(not _close(value, second.get(name)) for name, value in first.items()):
        fail_check(
            f"metric {metric.name!r}",
            wanted="the same figures again",
            got=f"{first}, {second}",
            fix="seed random draws",
        )


def _computed(metric: Metric, context: Any) -> Mapping[str, float | Absent | None]:
    try:
        return metric.compute(context)
    except Exception as error:
        fail_check(
            f"metric {metric.name!r}",
            wanted="figures",
            got=f"compute() raised {type(error).__name__}: {error}",
            fix="return None for an undefined figure, such as without timings or with a label of one class",
        )


def _is_number(value: object) -> TypeGuard[float]:
    return not isinstance(value, bool) and isinstance(value, int | float | np.integer | np.floating)


def _close(one: Any, other: Any) -> bool:
    if not (_is_number(one) and _is_number(other)):
        return bool(one == other)
    if math.isnan(one) and math.isnan(other):
        return True
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


#: What an author imports: the checks and their fixtures.
__all__ = ["case", *(name for name in dir() if name.startswith("test_"))]
