"""Parameters and multiply-accumulates of a recipe's network, from shapes alone, and from them a guess at durations."""

from __future__ import annotations

import contextlib
import copy
import dataclasses

import torch

from harness.build.artefact import build
from harness.plugin.containment import Tell
from harness.api import Step, Task, Training
from harness.errors import HarnessError, UsageError
from harness.keys import key_of
from harness.measure.warmup import WINDOW
from harness.nn.operations import count, parameters
from harness.build.plan import Node, Plan, describe
from harness.plugin.manager import Plugins
from harness.suite.presets import Preset
from harness.store.local import Store
from harness.build.fits import changed

#: Multiply-accumulates a second in training on two common cores, used until the store holds something trained here.
NOMINAL_RATE = 2e10
#: A training step costs about three forward passes: one, and the gradients of the inputs and of the weights.
TRAINING_FACTOR = 3
#: Seconds to evaluate and record a cell, and multiply-accumulates a second of one inference on one core.
CELL_OVERHEAD, INFERENCE_RATE = 2.0, 1e10
#: Seconds until a worker has imported torch.
WORKER_START = 2.0


@dataclasses.dataclass(frozen=True)
class Shape:
    """What can be told without data: None where a step cannot tell, ``problem`` when a step refuses the network."""

    parameters: int | None
    macs: int | None
    problem: str | None = None


class Previews:
    """Shapes of recipes, each network built once, with random weights."""

    def __init__(self, plugins: Plugins, say: Tell | None = None) -> None:
        self._plugins = plugins
        self._say = say
        self._shapes: dict[str, tuple[torch.nn.Module | None, Shape]] = {}

    def shape(self, architecture: str, task: Task, steps: tuple[Step, ...]) -> Shape:
        """The shape of the network that ``steps`` make of ``architecture``."""
        return self._follow(architecture, task, steps)[1]

    def _follow(self, architecture: str, task: Task, steps: tuple[Step, ...]) -> tuple[torch.nn.Module | None, Shape]:
        identity = key_of([architecture, task, [[step.name, step.parameters()] for step in steps]])
        if identity not in self._shapes:
            self._shapes[identity] = self._make(architecture, task, steps)
        return self._shapes[identity]

    def _make(self, architecture: str, task: Task, steps: tuple[Step, ...]) -> tuple[torch.nn.Module | None, Shape]:
        before = None
        if steps:
            before, shape = self._follow(architecture, task, steps[:-1])
            if before is None:
                return None, shape
        example = torch.zeros(1, *task.input_shape)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                if before is None or steps[-1].is_teacher:  # the student is a fresh network
                    network: torch.nn.Module | None = build(architecture, task, self._plugins).eval()
                    author, what = self._plugins.architectures.origin(architecture), f"architecture {architecture!r}"
                else:
                    author, what = self._plugins.steps.origin(steps[-1].name), f"preview() of {describe(steps[-1])}"
                    with self._plugins.contain(author, what, self._say, thing=type(steps[-1])):
                        network = steps[-1].preview(copy.deepcopy(before), example)
            if network is None:
                return None, Shape(None, None)
            with self._plugins.contain(author, what, self._say):
                return network, Shape(parameters(network), count(network, example).macs)
        except HarnessError as error:
            return None, Shape(None, None, str(error))


class Estimate:
    """Guesses at seconds, from what the store's artefacts took where it has some, else from a nominal rate."""

    def __init__(self, plan: Plan, plugins: Plugins, store: Store, say: Tell | None = None) -> None:
        self._plugins = plugins
        self._previews = Previews(plugins, say)
        self._rates = self._measured_rates(plan, store)

    def build(self, node: Node) -> float:
        """Seconds to make one artefact."""
        rate = self._rates.get(node.root.architecture, NOMINAL_RATE)
        return self._work(node) / rate

    def time(self, macs: int | None, preset: Preset) -> float:
        """Seconds to time and evaluate one cell."""
        calls = preset.pairs + min(preset.warmup, 2 * WINDOW)  # that many when they are steady from the start
        pairs = calls * 2 * (macs or 0) / INFERENCE_RATE
        bounded = pairs if preset.seconds is None else min(pairs, 2 * preset.seconds)
        return CELL_OVERHEAD + preset.processes * bounded

    def start(self, preset: Preset) -> float:
        """Seconds to start the workers of one profile."""
        return WORKER_START * preset.processes

    def _work(self, node: Node) -> float:
        if node.step is None:
            return 0.0
        dataset = self._plugins.datasets.get(node.root.dataset)
        shape = self._previews.shape(node.root.architecture, dataset.task_in(node.root.layout), node.steps)
        work = 0.0
        for phase, changes in node.fits or ():
            plan: Training = node.root.train if phase == "train" else node.root.finetune
            with contextlib.suppress(UsageError):  # a wrong change is told when the step is built
                plan = changed(plan, changes)
            available = dataset.examples
            visits = plan.epochs * min(plan.examples or available, available)
            work += TRAINING_FACTOR * visits * (shape.macs or 0)
        return work

    def _measured_rates(self, plan: Plan, store: Store) -> dict[str, float]:
        work: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for node in plan.nodes.values():
            if not node.fits:
                continue
            artefact = store.local(node.key)
            if artefact is not None:
                name = node.root.architecture
                work[name] = work.get(name, 0.0) + self._work(node)
                seconds[name] = seconds.get(name, 0.0) + artefact.seconds
        return {name: work[name] / seconds[name] for name in work if work[name] > 0 and seconds[name] > 0}
