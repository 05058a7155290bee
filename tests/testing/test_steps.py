"""Each check of steps finds the step with its fault, no other check does, and a step without faults passes all."""

from __future__ import annotations

import re
from collections.abc import Iterator

import bad_heavy
import bad_loud
import bad_steps as bad
import pytest
from failures import Failures

from harness import Step
from harness.testing import _watch, steps
from harness.testing._bench import Bench
from harness.testing._world import MLP, temporarily_registered
from harness.testing.steps import bench  # noqa: F401 (a fixture)

#: A step, the check that must fail, and a pattern of its message.
WRONG = [
    (bad.Undocumented(), "describes_itself", "wanted: a docstring"),
    (bad.Unkeyed(), "parameters_make_the_key", "has no JSON form"),
    (bad.Forgetful(), "parameters_make_the_key", "another value of bits"),
    (bad.Renamed(), "parameters_make_the_key", "no parameter 'times'"),
    (bad_loud.Loud(), "module_loads_no_torch", "'hello"),
    (bad_heavy.Heavy(), "module_loads_no_torch", "torch is loaded"),
    (bad.Falling(), "works_or_refuses", "AttributeError.*there_is_no_such_layer"),
    (bad.Nothing(), "works_or_refuses", "NoneType"),
    (bad.Terse(), "works_or_refuses", "got: +'no'"),
    (bad.Layered(), "works_on_an_odd_network_or_refuses", "StopIteration"),
    (bad.Refusing(), "works_on_some_network", "needs a Transformer"),
    (bad.Lucky(), "works_with_another_seed", "bad luck"),
    (bad.Careless(), "is_deterministic", r"1 of 6 tensors differ, the first, 1\.weight, by up to"),
    (bad.Counting(), "is_deterministic", r"1\.weight"),
    (bad.Peeking(), "does_not_touch_test_data", r"opened .*test\.npz"),
    (bad.Cheating(), "does_not_touch_test_data", r"another test split.*1\.weight"),
    (bad.InPlace(), "leaves_its_input", r"the values of 1\.weight"),
    (bad.Training(), "leaves_its_input", "the training flag of the network"),
    (bad.Undeclared(), "declares_its_trainings", r"declared: none; run: .*finetune"),
    (bad.Otherwise(), "declares_its_trainings", r"declared: .*epochs=1.*run: .*epochs=2"),
    (bad.Teaching(), "declares_its_trainings", "is_teacher = False"),
    (bad.NotTeaching(), "declares_its_trainings", "remove is_teacher"),
    (bad.Optimistic(), "previews_its_result", r"1\.weight \(4, 96\) in the preview"),
    (bad.Previewing(), "previews_its_result", r"changed: the values of 1\.weight"),
    (bad.Widening(), "keeps_shapes", r"shape \(1, 3\)"),
    (bad.Diverging(), "keeps_shapes", "NaN"),
    (bad.Unsaved(), "survives_saving", "cannot be restored from its file: .* has hooks, which no file holds"),
    (bad.Wrapping(), "survives_saving", "Wrapper"),
    (bad.Threading(), "leaks_nothing", "the thread 'left-behind' still runs"),
    (bad.Opening(), "leaks_nothing", r"the file .*bad_steps\.py is still open"),
    (bad.Seeding(), "leaks_nothing", "the seed of torch's global generator"),
    (bad.Setting(), "leaks_nothing", "the environment changed"),
    (bad.Printing(), "prints_nothing", "epoch 1 of 1"),
    (bad.Writing(), "prints_nothing", "solver: converged"),
    (bad.Rigid(), "composes_after", r"KeyError: 8"),
    (bad.Frozen(), "composes_before", "it cannot be trained"),
]
#: The first step of each check; the others are slow.
FIRST = {check: step.name for step, check, _ in reversed(WRONG)}


@pytest.fixture(autouse=True)
def clean_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clean up what bad steps leave behind, and do not wait long for threads that never end."""
    monkeypatch.setenv("BAD_STEP", "")
    monkeypatch.setattr(_watch, "GRACE", 0.01)
    bad.ENOUGH.clear()
    yield
    bad.ENOUGH.set()
    while bad.OPEN:
        bad.OPEN.pop().close()


def failures_of(step: Step, bench: Bench, failures: Failures, other: str = "train") -> dict[str, str]:  # noqa: F811
    with temporarily_registered(step):
        return failures(steps, step=step, network=MLP.name, bench=bench, other=other)


def test_a_step_without_faults_passes(bench: Bench, failures: Failures) -> None:  # noqa: F811
    assert failures_of(bad.Good(), bench, failures) == {}


@pytest.mark.parametrize(
    ("step", "check", "text"),
    [
        pytest.param(*wrong, id=wrong[0].name, marks=() if wrong[0].name in FIRST.values() else pytest.mark.slow)
        for wrong in WRONG
    ],
)
def test_the_fault_of_a_step_is_found_and_nothing_else(
    bench: Bench,  # noqa: F811
    failures: Failures,
    step: Step,
    check: str,
    text: str,
) -> None:
    messages = failures_of(step, bench, failures, other="prune" if step.name == "rigid" else "train")
    assert list(messages) == [f"test_step_{check}"], messages
    message = messages[f"test_step_{check}"]
    assert re.search(text, message, re.DOTALL), message
    assert step.name in message
    for field in ("wanted: ", "got: ", "fix: "):
        assert field in message


def test_a_step_that_no_plugin_registers_is_reported(bench: Bench) -> None:  # noqa: F811
    with pytest.raises(pytest.fail.Exception, match="harness_steps"):
        steps.test_step_describes_itself(bad.Good())


def test_every_check_has_a_step_that_it_finds() -> None:
    checks = {name.removeprefix("test_step_") for name in steps.__all__ if name.startswith("test_")}
    assert checks == {check for _, check, _ in WRONG}
