"""Estimate a recipe's parameters and multiply-accumulates from shapes alone, and from these the time of a run."""

from __future__ import annotations

import contextlib
import copy
import dataclasses

import torch

from harness.api import Architecture, Step, Task, Training
from harness.build.artefact import build
from harness.build.plan import Node, Plan
from harness.build.trainings import with_changes
from harness.errors import HarnessError, UsageError
from harness.keys import key_of
from harness.measure.timing import WINDOW
from harness.nn.operations import count, parameters
from harness.plugin.manager import Plugins
from harness.store.local import Store
from harness.suite.presets import Preset

#: Multiply-accumulates per second of training on two common cores, unless the store has build times of this machine.
NOMINAL_RATE = 2e10
#: A training step costs about three forward passes: the pass itself, and the gradients of inputs and weights.
TRAINING_FACTOR = 3
#: Seconds to evaluate and record a cell; multiply-accumulates per second of inference on one core.
CELL_OVERHEAD, INFERENCE_RATE = 2.0, 1e10
#: Seconds until a worker has imported torch.
WORKER_START = 2.0


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes known without data: None where a step cannot preview; ``problem`` when a step refuses the network."""

    parameters: int | None
    macs: int | None
    problem: str | None = None


class Previews:
    """Shapes of recipes, each network built once, with random weights."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._shapes: dict[str, tuple[torch.nn.Module | None, Shape]] = {}

    def shape(self, architecture: str, task: Task, steps: tuple[Step, ...]) -> Shape:
        """The shape of the network that ``steps`` make from ``architecture``."""
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
                    author: Architecture | Step = self._plugins.architectures.get(architecture)
                else:
                    author = steps[-1]
                    network = self._plugins.call(author, "preview", copy.deepcopy(before), example)
            if network is None:
                return None, Shape(None, None)
            macs = self._plugins.call(author, count, network, example).macs
            return network, Shape(parameters(network), macs)
        except HarnessError as error:
            return None, Shape(None, None, str(error))


class DurationEstimate:
    """Estimates seconds, from the build times of the artefacts in the store, or else from a nominal rate."""

    def __init__(self, plan: Plan, plugins: Plugins, store: Store) -> None:
        self._plugins = plugins
        self._previews = Previews(plugins)
        self._rates = self._measured_rates(plan, store)

    def build(self, node: Node) -> float:
        """Seconds to make one artefact."""
        rate = self._rates.get(node.root.architecture, NOMINAL_RATE)
        return self._work(node) / rate

    def time(self, macs: int | None, preset: Preset) -> float:
        """Seconds to time and evaluate one cell."""
        calls = preset.pairs + min(preset.warmup, 2 * WINDOW)  # the least warm-up, when it is steady from the start
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
        for phase, changes in node.trainings or ():
            plan: Training = node.root.train if phase == "train" else node.root.finetune
            with contextlib.suppress(UsageError):  # building the step reports a wrong change
                plan = with_changes(plan, changes)
            available = dataset.examples
            visits = plan.epochs * min(plan.examples or available, available)
            work += TRAINING_FACTOR * visits * (shape.macs or 0)
        return work

    def _measured_rates(self, plan: Plan, store: Store) -> dict[str, float]:
        work: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for node in plan.nodes.values():
            if not node.trainings:
                continue
            artefact = store.local(node.key)
            if artefact is not None:
                name = node.root.architecture
                work[name] = work.get(name, 0.0) + self._work(node)
                seconds[name] = seconds.get(name, 0.0) + artefact.seconds
        return {name: work[name] / seconds[name] for name in work if work[name] > 0 and seconds[name] > 0}
