"""Rules for architectures. An author's module imports everything from here and defines the fixture ``architecture``.

An architecture is tried on the tasks of installed data sets that it fits, at most two, or else on the kit's own task:
inputs (3, 32) and two labels. No data is read: inputs and targets are synthetic.
"""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, Any

import pytest

from harness.api import Architecture, Phase, Split, Task
from harness.errors import HarnessError, UsageError
from harness.testing._failing import fail_check, imports_cleanly, listing
from harness.testing._world import LABELS, SHAPE

if TYPE_CHECKING:
    import torch

#: Absolute tolerance between an example's outputs alone and in a batch.
TOLERANCE = 1e-4
#: The largest number of tasks that an architecture is tried on.
MAX_TASKS = 2


@pytest.fixture
def network_tasks(architecture: Architecture) -> list[Task]:
    """The tasks that the architecture is tried on."""
    from harness.plugin.manager import installed

    datasets, tasks = installed().datasets, list[Task]()
    for name in datasets:
        try:
            task = datasets.get(name).task_in(architecture.layout)
        except UsageError:
            continue
        if task not in tasks and _fits(architecture, task):
            tasks.append(task)
    return tasks[:MAX_TASKS] or [Task(SHAPE, LABELS)]


def test_architecture_describes_itself(architecture: Architecture) -> None:
    """It is registered under its name, and has a one-line summary."""
    from harness.plugin.manager import installed

    subject, networks = f"architecture {architecture.name!r}", installed().architectures
    if architecture.name not in networks or type(networks.get(architecture.name)) is not type(architecture):
        fail_check(
            subject,
            wanted="it among the installed architectures, because artefacts are loaded by their names",
            got="nothing of that name, or another one",
            fix="register it in the hook harness_architectures, and install the package",
        )
    if not architecture.summary:
        fail_check(
            subject, wanted="a `summary` for harness list", got="none", fix="describe it in one line, with its source"
        )


def test_architecture_module_loads_no_torch(architecture: Architecture) -> None:
    """Its module imports, prints nothing and does not load torch."""
    imports_cleanly(f"architecture {architecture.name!r}", type(architecture))


def test_architecture_is_built_from_the_seed_alone(architecture: Architecture, network_tasks: list[Task]) -> None:
    """With one seed of torch it has the same weights, whatever the other random states are; builds share nothing."""
    from harness.testing._watch import differences, snapshot

    for task in network_tasks:
        first, second = _built(architecture, task), _built(architecture, task)
        changes = differences(snapshot(first), snapshot(second))
        if changes:
            fail_check(
                _named(architecture, task),
                wanted="two builds with one seed of torch give the same network",
                got=f"different: {listing(changes)}",
                fix="draw weights from torch's global generator alone (torch.nn.init, torch.rand), which is seeded",
            )
        if {id(weight) for weight in first.parameters()} & {id(weight) for weight in second.parameters()}:
            fail_check(
                _named(architecture, task),
                wanted="each build is an independent network",
                got="two builds share parameters",
                fix="create the modules in each call of build()",
            )


def test_architecture_answers(architecture: Architecture, network_tasks: list[Task]) -> None:
    """It maps float32 (batch, *input_shape) to finite float32 (batch, labels), for a batch of 1 and of 5."""
    import torch

    for task in network_tasks:
        network = _built(architecture, task).eval()
        for size in (1, 5):
            output = _output(network, _inputs(task, size))
            if isinstance(output, str):
                got = output
            elif tuple(output.shape) != (size, len(task.labels)) or output.dtype != torch.float32:
                got = f"{output.dtype} of shape {tuple(output.shape)}"
            elif not torch.isfinite(output).all():
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
    """In evaluation mode an example has the same outputs alone and in a batch."""
    import torch

    for task in network_tasks:
        network, inputs = _built(architecture, task).eval(), _inputs(task, 5)
        batched, alone = _output(network, inputs), [_output(network, inputs[i : i + 1]) for i in range(5)]
        if isinstance(batched, str) or any(isinstance(output, str) for output in alone):
            pytest.skip("it gives no outputs; see test_architecture_answers")
        one_by_one = torch.cat([output for output in alone if isinstance(output, torch.Tensor)])
        if batched.shape != one_by_one.shape:
            pytest.skip("its outputs do not have one row per example; see test_architecture_answers")
        difference = float((batched - one_by_one).abs().max())
        if difference > TOLERANCE:
            fail_check(
                _named(architecture, task),
                wanted=f"an example's outputs do not depend on the rest of its batch (within {TOLERANCE:g})",
                got=f"alone they differ by up to {difference:.3g}",
                fix="look for batch statistics in evaluation mode, and reshapes that move the batch axis",
            )


@pytest.mark.parametrize("phase", ["train", "finetune"])
def test_architecture_trains(architecture: Architecture, phase: Phase, network_tasks: list[Task]) -> None:
    """training() names an optimizer and a scheduler that accept their arguments; an epoch changes the weights."""
    from harness.api.tasks import kind_of
    from harness.build.training import fit
    from harness.suite.presets import preset
    from harness.testing._watch import differences, snapshot

    for task in network_tasks:
        network, split = _built(architecture, task), _split(task, 12)
        output = _output(network.eval(), _inputs(task, 2))
        if isinstance(output, str) or tuple(output.shape) != (2, len(task.labels)):
            pytest.skip("its outputs have a wrong shape; see test_architecture_answers")
        before = snapshot(network)
        try:
            training = preset("smoke").training(architecture, phase)
            training = dataclasses.replace(training, batch=min(training.batch, 6))
            fit(network, split, split, training, seed=0, kind=kind_of(task))
        except Exception as error:
            fail_check(
                _named(architecture, task),
                wanted=f"an epoch of training({phase!r}) on 12 examples",
                got=f"{type(error).__name__}: {error}",
                fix="name classes of torch.optim and torch.optim.lr_scheduler, with arguments that they accept",
            )
        if not any(name.startswith("the values") for name in differences(before, snapshot(network))):
            fail_check(
                _named(architecture, task),
                wanted=f"training({phase!r}) changes weights",
                got="all weights are unchanged",
                fix="set a learning rate above 0, and requires_grad on the weights",
            )


def test_architecture_survives_saving(architecture: Architecture, network_tasks: list[Task]) -> None:
    """Dumped, and restored into a network with other weights, it gives the same outputs."""
    import torch

    from harness.nn.structure import dump, restore

    for task in network_tasks:
        network, inputs = _built(architecture, task).eval(), _inputs(task, 5)
        output = _output(network, inputs)
        if isinstance(output, str):
            pytest.skip("it gives no outputs; see test_architecture_answers")
        try:
            again = _output(restore(_built(architecture, task, seed=1), *dump(network)), inputs)
        except HarnessError as error:
            again = str(error)
        if isinstance(again, str) or not torch.equal(output, again):
            got = (
                again
                if isinstance(again, str)
                else f"outputs differ by up to {float((output - again).abs().max()):.3g}"
            )
            fail_check(
                _named(architecture, task),
                wanted="the network restored from its tensors and structure gives the same outputs",
                got=got,
                fix="store everything that forward() needs, random values too, in parameters and persistent buffers",
            )


def _fits(architecture: Architecture, task: Task) -> bool:
    """Whether a network for the task can be built and called; other checks judge its outputs."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of layers without inputs
            output = _output(_built(architecture, task).eval(), _inputs(task, 2))
    except Exception:
        return False
    return not isinstance(output, str) and len(output) == 2 and not bool((output[0] == output[1]).all())


def _built(architecture: Architecture, task: Task, seed: int = 0) -> torch.nn.Module:
    """Build a network with torch's generator seeded and the other generators in an arbitrary state."""
    import torch

    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architecture.build(task)
    random.setstate(state)
    random.random()  # changes the state for the next build
    return network


def _inputs(task: Task, count: int) -> torch.Tensor:
    import torch

    return torch.randn(count, *task.input_shape, generator=torch.Generator().manual_seed(0))


def _split(task: Task, count: int) -> Split:
    import numpy as np

    labels = np.arange(len(task.labels))
    targets = ((np.arange(count)[:, None] + labels) % 2).astype(np.float32)
    if task.kind == "multiclass":
        targets = np.resize(labels, count)
    return Split(_inputs(task, count).numpy(), targets, np.arange(count))


def _output(network: Any, inputs: torch.Tensor) -> torch.Tensor | str:
    import torch

    try:
        with torch.inference_mode():
            output = network(inputs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return output.clone() if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"


def _shape(task: Task) -> str:
    return ", ".join(map(str, task.input_shape))


def _named(architecture: Architecture, task: Task) -> str:
    return f"architecture {architecture.name!r} on inputs ({_shape(task)}) with {len(task.labels)} labels"


#: What an author imports: the checks and their fixtures.
__all__ = ["network_tasks", *(name for name in dir() if name.startswith("test_"))]
