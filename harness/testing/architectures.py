"""What every architecture must hold to. An author's module imports all of it and defines the fixture ``architecture``.

An architecture is tried on the tasks of the installed data sets that it fits, one for each shape of input, or else on
the kit's own: (3, 32), two labels. No data are read: inputs and targets are made up.
"""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, Any

import pytest

from harness.api import Architecture, Phase, Split, Task
from harness.errors import HarnessError, UsageError
from harness.testing.blame import fail_check, some
from harness.testing.imports import imports_cleanly
from harness.testing.world import LABELS, SHAPE

if TYPE_CHECKING:
    import torch

#: How far the answers to an example may lie from those that it gets in a batch.
TOLERANCE = 1e-4
#: Tasks that an architecture is tried on, at most.
MOST_TASKS = 2


@pytest.fixture
def network_tasks(architecture: Architecture) -> list[Task]:
    """The tasks to try it on."""
    from harness.plugin.manager import installed

    datasets, found = installed().datasets, list[Task]()
    for name in datasets:
        try:
            task = datasets.get(name).task_in(architecture.layout)
        except UsageError:
            continue
        if task not in found and _fits(architecture, task):
            found.append(task)
    return found[:MOST_TASKS] or [Task(SHAPE, LABELS)]


def test_architecture_describes_itself(architecture: Architecture) -> None:
    """It is registered under its name, and says in a line what it is."""
    from harness.plugin.manager import installed

    thing, networks = f"architecture {architecture.name!r}", installed().architectures
    if architecture.name not in networks or type(networks.get(architecture.name)) is not type(architecture):
        fail_check(
            thing,
            wanted="it among the installed architectures, by whose names artefacts are loaded",
            got="nothing of that name, or another one",
            fix="register it in the hook harness_architectures, and install the package",
        )
    if not architecture.summary:
        fail_check(thing, wanted="a line in `about` for harness list", got="none", fix="say what it is and who made it")


def test_architecture_module_loads_no_torch(architecture: Architecture) -> None:
    """Its module can be imported, prints nothing and loads no torch."""
    imports_cleanly(f"architecture {architecture.name!r}", type(architecture))


def test_architecture_is_built_from_the_seed_alone(architecture: Architecture, network_tasks: list[Task]) -> None:
    """With one seed of torch it is the same bits, whatever the other random states are; two builds share nothing."""
    from harness.testing.watch import differences, snapshot

    for task in network_tasks:
        first, second = _built(architecture, task), _built(architecture, task)
        found = differences(snapshot(first), snapshot(second))
        if found:
            fail_check(
                _named(architecture, task),
                wanted="two builds with one seed of torch give the same network",
                got=f"different: {some(found)}",
                fix="draw weights by torch.nn.init or torch.rand alone, which the harness seeds",
            )
        if {id(weight) for weight in first.parameters()} & {id(weight) for weight in second.parameters()}:
            fail_check(
                _named(architecture, task),
                wanted="each build is a network of its own",
                got="two builds share parameters",
                fix="make the modules anew in each build()",
            )


def test_architecture_answers(architecture: Architecture, network_tasks: list[Task]) -> None:
    """It maps float32 (batch, *input_shape) to finite float32 (batch, labels), for a batch of 1 and of 5."""
    import torch

    for task in network_tasks:
        network = _built(architecture, task).eval()
        for size in (1, 5):
            answer = _answer(network, _inputs(task, size))
            if isinstance(answer, str):
                got = answer
            elif tuple(answer.shape) != (size, len(task.labels)) or answer.dtype != torch.float32:
                got = f"{answer.dtype} of shape {tuple(answer.shape)}"
            elif not torch.isfinite(answer).all():
                got = "NaN or infinity"
            else:
                continue
            fail_check(
                _named(architecture, task),
                wanted=f"finite float32 ({size}, {len(task.labels)}) for inputs ({size}, {_shape(task)})",
                got=got,
                fix="size the last layer by len(task.labels) and the first by task.input_shape",
            )


def test_architecture_examples_do_not_mix(architecture: Architecture, network_tasks: list[Task]) -> None:
    """In evaluation mode an example gets the same answer alone as in a batch."""
    import torch

    for task in network_tasks:
        network, inputs = _built(architecture, task).eval(), _inputs(task, 5)
        together, alone = _answer(network, inputs), [_answer(network, inputs[i : i + 1]) for i in range(5)]
        if isinstance(together, str) or any(isinstance(answer, str) for answer in alone):
            pytest.skip("it does not answer; test_architecture_answers tells how")
        one_by_one = torch.cat([answer for answer in alone if isinstance(answer, torch.Tensor)])
        if together.shape != one_by_one.shape:
            pytest.skip("its answers have no row an example; test_architecture_answers tells")
        apart = float((together - one_by_one).abs().max())
        if apart > TOLERANCE:
            fail_check(
                _named(architecture, task),
                wanted=f"an example's answer does not depend on the others of its batch (within {TOLERANCE:g})",
                got=f"alone it is up to {apart:.3g} away",
                fix="look for statistics over the batch in evaluation mode, and reshapes that move the batch axis",
            )


@pytest.mark.parametrize("phase", ["train", "finetune"])
def test_architecture_trains(architecture: Architecture, phase: Phase, network_tasks: list[Task]) -> None:
    """Its training names an optimizer and a scheduler that take their arguments, and an epoch changes the weights."""
    from harness.api.tasks import kind_of
    from harness.build.training import fit
    from harness.suite.presets import preset
    from harness.testing.watch import differences, snapshot

    for task in network_tasks:
        network, part = _built(architecture, task), _part(task, 12)
        answer = _answer(network.eval(), _inputs(task, 2))
        if isinstance(answer, str) or tuple(answer.shape) != (2, len(task.labels)):
            pytest.skip("its answers are not of the right shape; test_architecture_answers tells how")
        before = snapshot(network)
        try:
            training = preset("smoke").training(architecture, phase)
            training = dataclasses.replace(training, batch=min(training.batch, 6))
            fit(network, part, part, training, seed=0, kind=kind_of(task))
        except Exception as error:
            fail_check(
                _named(architecture, task),
                wanted=f"an epoch of training({phase!r}) on 12 examples",
                got=f"{type(error).__name__}: {error}",
                fix="name classes of torch.optim and torch.optim.lr_scheduler, and their own arguments",
            )
        if not any(name.startswith("the values") for name in differences(before, snapshot(network))):
            fail_check(
                _named(architecture, task),
                wanted=f"training({phase!r}) changes weights",
                got="all are as they were",
                fix="set a learning rate above 0, and requires_grad on the weights",
            )


def test_architecture_survives_saving(architecture: Architecture, network_tasks: list[Task]) -> None:
    """Dumped, and restored into a network with other weights, it answers as before."""
    import torch

    from harness.nn.structure import dump, restore

    for task in network_tasks:
        network, inputs = _built(architecture, task).eval(), _inputs(task, 5)
        answer = _answer(network, inputs)
        if isinstance(answer, str):
            pytest.skip("it does not answer; test_architecture_answers tells how")
        try:
            again = _answer(restore(_built(architecture, task, seed=1), *dump(network)), inputs)
        except HarnessError as error:
            again = str(error)
        if isinstance(again, str) or not torch.equal(answer, again):
            got = (
                again
                if isinstance(again, str)
                else f"answers differ by up to {float((answer - again).abs().max()):.3g}"
            )
            fail_check(
                _named(architecture, task),
                wanted="the network restored from its tensors and structure answers as it did",
                got=got,
                fix="keep all that forward() needs in parameters and persistent buffers, and draw nothing at random "
                "that is neither",
            )


def _fits(architecture: Architecture, task: Task) -> bool:
    """Whether a network for the task can be built and reads its input; what is wrong with its answers is for others."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of layers without inputs
            answer = _answer(_built(architecture, task).eval(), _inputs(task, 2))
    except Exception:
        return False
    return not isinstance(answer, str) and len(answer) == 2 and not bool((answer[0] == answer[1]).all())


def _built(architecture: Architecture, task: Task, seed: int = 0) -> torch.nn.Module:
    """A network, with torch's generator seeded and the others as they come."""
    import torch

    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architecture.build(task)
    random.setstate(state)
    random.random()  # so that the next build finds another state
    return network


def _inputs(task: Task, count: int) -> torch.Tensor:
    import torch

    return torch.randn(count, *task.input_shape, generator=torch.Generator().manual_seed(0))


def _part(task: Task, count: int) -> Split:
    import numpy as np

    targets = np.stack([(np.arange(count) + label) % 2 for label in range(len(task.labels))], axis=1)
    return Split(_inputs(task, count).numpy(), targets.astype(np.float32), np.arange(count))


def _answer(network: Any, inputs: torch.Tensor) -> torch.Tensor | str:
    import torch

    try:
        with torch.inference_mode():
            answer = network(inputs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return answer.clone() if isinstance(answer, torch.Tensor) else f"a {type(answer).__name__}"


def _shape(task: Task) -> str:
    return ", ".join(map(str, task.input_shape))


def _named(architecture: Architecture, task: Task) -> str:
    return f"architecture {architecture.name!r} on inputs ({_shape(task)}) with {len(task.labels)} labels"


#: What an author imports: the checks and their fixtures.
__all__ = ["network_tasks", *(name for name in dir() if name.startswith("test_"))]
