"""Checks of steps: the result has the right shape, survives saving, and goes together with other steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.api import Step
from harness.build.plan import describe
from harness.errors import HarnessError, Unsupported, UsageError
from harness.testing.bench import REASON, Bench, unsound
from harness.testing.blame import fail_check
from harness.testing.world import LABELS

if TYPE_CHECKING:
    pass

#: The built-in steps that a step must go together with: it works beside them, or refuses with a reason.
OTHERS = ("train", "prune", "quantize", "distill")
#: What a loaded model may answer otherwise than the one that was saved: relative, and absolute.
TOLERANCE = 1e-5, 1e-6


def test_step_keeps_shapes(step: Step, network: str, bench: Bench) -> None:
    """The result maps float32 (batch, *input_shape) to finite float32 (batch, labels), for a batch of 1 and of 5."""
    found = bench.see(step, network)
    wrong = unsound(found.applied().answers)
    if wrong:
        fail_check(
            found.thing,
            wanted=f"finite float32 answers (batch, {len(LABELS)}) to float32 inputs, for a batch of 1 and of 5",
            got=wrong,
            fix="call the new network on a batch of one and of several before apply returns it",
        )


def test_step_survives_saving(step: Step, network: str, bench: Bench) -> None:
    """The model that was saved and loaded answers as the one that apply returned."""
    import torch

    found = bench.see(step, network)
    seen = found.applied()
    if unsound(seen.answers):
        pytest.skip(f"{found.thing}: its answers are unsound; test_step_keeps_shapes tells how")
    if found.artefact is None and found.undeclared:
        pytest.skip(
            f"{found.thing}: not kept for a training that is not declared; see test_step_declares_its_trainings"
        )
    if found.artefact is None:
        fail_check(
            found.thing,
            wanted="a result that can be saved and loaded",
            got=str(found.problem),
            fix="make it of stock torch.nn layers (whose sizes may differ), let a module of your own say what it is "
            "made of (harness.nn.structure.PrunableLayer), or define dump() and restore()",
        )
    relative, absolute = TOLERANCE
    for size, answer in seen.answers.items():
        loaded = found.loaded[size]
        if isinstance(loaded, str) or isinstance(answer, str):
            difference = str(loaded)
        elif torch.allclose(answer, loaded, rtol=relative, atol=absolute):
            continue
        else:
            difference = f"answers differ by up to {float((answer - loaded).abs().max()):.3g}"
        fail_check(
            found.thing,
            wanted=f"the loaded model answers as the one that apply returned, within {relative:g} and {absolute:g}",
            got=f"on a batch of {size}: {difference}",
            fix="keep all that forward() needs in parameters and persistent buffers (register_buffer), or define "
            "dump() and restore()",
        )


@pytest.mark.parametrize("other", OTHERS)
def test_step_composes_after(step: Step, network: str, other: str, bench: Bench) -> None:
    """After a built-in step it works, or refuses with a reason."""
    _composes(step, network, bench, [_built_in(other), step])


@pytest.mark.parametrize("other", OTHERS)
def test_step_composes_before(step: Step, network: str, other: str, bench: Bench) -> None:
    """Before a built-in step it works, or one of them refuses with a reason."""
    _composes(step, network, bench, [step, _built_in(other)])


def _composes(step: Step, network: str, bench: Bench, steps: list[Step]) -> None:
    from harness.api.train import Train
    from harness.testing.watch import answers

    found = bench.see(step, network)
    found.kept()
    if unsound(found.sighting.answers):
        pytest.skip(f"{found.thing}: its answers are unsound; test_step_keeps_shapes tells how")
    recipe = [Train(), *steps]
    thing = f"{' > '.join(map(describe, recipe))} on {network}"
    try:
        wrong = unsound(answers(bench.together.load(bench.together.build(network, recipe), step)))
    except Unsupported as error:
        if len(str(error)) >= REASON:
            return
        wrong = f"Unsupported with the reason {str(error)!r}"
    except HarnessError as error:
        wrong = str(error)
    if wrong:
        fail_check(
            thing,
            wanted="a network that answers, or Unsupported with a reason",
            got=wrong,
            fix="give networks of stock layers with sizes that agree, take what such a network may be (also an int8 "
            "one), and raise harness.Unsupported for what is not handled",
        )


def _built_in(name: str) -> Step:
    from harness.plugin.manager import step as step_by_name

    try:
        return step_by_name(name)
    except UsageError as error:
        pytest.skip(f"the built-in step {name} is not installed here: {error}")


__all__ = [name for name in dir() if name.startswith("test_")]
