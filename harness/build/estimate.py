"""Estimate a recipe's size from shapes alone, the time to build from steps built before, and the time to measure."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from harness.api import Architecture, Step, Task, Training
from harness.build.artefact import build
from harness.build.plan import Node
from harness.build.trainings import with_changes
from harness.errors import HarnessError, UsageError
from harness.keys import key_of
from harness.measure.timing import LEAST_PAIRS, PACED_WARMUP, WINDOW
from harness.nn.operations import count, parameters
from harness.plugin.manager import Plugins
from harness.store.local import Store
from harness.suite.presets import Preset
from harness.text import format_duration, pluralize

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
            with torch.random.fork_rng(devices=[]), _one_thread():
                torch.manual_seed(0)
                if before is None or steps[-1].is_teacher:  # the student is a fresh network
                    network: torch.nn.Module | None = build(architecture, task, self._plugins).eval()
                    author: Architecture | Step = self._plugins.architectures.get(architecture)
                else:
                    author = steps[-1]
                    network = self._plugins.call(author, "preview", copy.deepcopy(before), example)
            if network is None:
                return None, Shape(None, None)
            with _one_thread():
                macs = self._plugins.call(author, count, network, example).macs
            return network, Shape(parameters(network), macs)
        except HarnessError as error:
            return None, Shape(None, None, str(error))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: a preview computes on one example, and many threads mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclasses.dataclass(frozen=True)
class Duration:
    """The sum of several estimates: the seconds of the ``known`` ones; ``unknown`` is the number of the others."""

    seconds: float
    known: int
    unknown: int

    @classmethod
    def of(cls, estimates: Iterable[float | None]) -> Duration:
        """Add up estimates in seconds, of which None is an unknown one."""
        every = list(estimates)
        known = [seconds for seconds in every if seconds is not None]
        return cls(sum(known), len(known), len(every) - len(known))

    def text(self, thing: str, reason: str) -> str:
        """The duration in words; ``thing`` is what takes it, and ``reason`` why some are unknown."""
        if not self.unknown:
            return f"about {format_duration(self.seconds)}"
        if not self.known:
            return f"unknown, because {reason}"
        about = f"about {format_duration(self.seconds)} for {pluralize(self.known, thing)}"
        return f"{about}, unknown for {self.unknown}, because {reason}"


#: Why the time of a step is unknown.
NONE_BUILT = "the store has no such step yet"


@dataclasses.dataclass(frozen=True)
class _BuiltStep:
    """An artefact of the store: what made it, the examples that its trainings visited, and the seconds it took.

    Device, data set and network are None if the store lacks an ancestor, as when the artefact was fetched.
    """

    step: str | None
    device: str | None
    dataset: str | None
    architecture: str | None
    visits: int
    seconds: float


class DurationEstimate:
    """Estimates seconds: of building, from like steps in the store; of timing, from the size of the network."""

    def __init__(self, plugins: Plugins, store: Store) -> None:
        self._plugins = plugins
        self._built = _built_steps(store)

    def build(self, node: Node) -> float | None:
        """Seconds to make one artefact, None if unknown.

        They are those of the same step, on the same data set and network if the store has such ones, in proportion to
        the examples that the trainings visit.
        """
        name = None if node.step is None else node.step.name
        root = node.root
        same_step = [built for built in self._built if built.step == name and built.device in (root.device, None)]
        same_root = [
            built for built in same_step if (built.dataset, built.architecture) == (root.dataset, root.architecture)
        ]
        like = same_root or same_step
        if not like:
            return None
        visits = self._visits(node)
        rates = [built.seconds / built.visits for built in like if built.visits]
        if visits and rates:
            return visits * statistics.median(rates)
        return statistics.median(built.seconds for built in like)

    def total(self, nodes: Iterable[Node]) -> Duration:
        """The time to make several artefacts."""
        return Duration.of(map(self.build, nodes))

    def time(self, macs: int | None, preset: Preset, pause: float = 0.0, is_reference: bool = False) -> float | None:
        """Seconds to time and evaluate one cell, with a ``pause`` in seconds before each timed call.

        A reference takes its A/A runs. That they are renewed in long matrices, and that undecided cells get more
        processes, is not counted. None if the cell's size is unknown.
        """
        if macs is None:
            return None
        pairs = preset.paced_pairs if pause else preset.pairs
        warmup = min(preset.warmup, 2 * WINDOW)  # the least, when it is steady from the start
        calls = 2 * (2 * pairs + warmup)  # an untimed call precedes each timed one
        seconds = calls * macs / INFERENCE_RATE
        bounded = seconds if preset.seconds is None else min(seconds, 2 * preset.seconds)
        if pause:
            affordable = pairs if preset.seconds is None else min(pairs, int(preset.seconds / (2 * pause)))
            bounded += 2 * pause * (PACED_WARMUP + max(LEAST_PAIRS, affordable))
        return CELL_OVERHEAD + (preset.aa_runs if is_reference else 1) * preset.processes * bounded

    def start(self, preset: Preset) -> float:
        """Seconds to start the workers of one profile."""
        return WORKER_START * preset.processes

    def _visits(self, node: Node) -> int:
        """The examples that the declared trainings visit, each as often as it is visited; 0 if none is declared."""
        available = self._plugins.datasets.get(node.root.dataset).examples
        visits = 0
        for phase, changes in node.trainings or ():
            plan: Training = node.root.train if phase == "train" else node.root.finetune
            with contextlib.suppress(UsageError):  # building the step reports a wrong change
                plan = with_changes(plan, changes)
            visits += plan.epochs * min(plan.examples or available, available)
        return visits


def _built_steps(store: Store) -> list[_BuiltStep]:
    """What the local store says of the steps that it holds."""
    artefacts = store.metadata()

    def root_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
        while (parent := document.get("parent")) is not None:
            if parent not in artefacts:
                return {}
            document = artefacts[parent].document
        root = document.get("root")
        return root if isinstance(root, dict) else {}

    built = []
    for metadata in artefacts.values():
        root = root_of(metadata.document)
        built.append(
            _BuiltStep(
                step=metadata.document.get("step"),
                device=root.get("device"),
                dataset=root.get("dataset"),
                architecture=root.get("architecture"),
                visits=_visited(metadata.facts.get("trainings")),
                seconds=metadata.seconds,
            )
        )
    return built


def _visited(trainings: Any) -> int:
    """The examples that trainings visited, from the facts of a step, in which a plugin may write anything; else 0."""
    try:
        return sum(int(row["epochs"]) * int(row["examples"]) for row in trainings or ())
    except (TypeError, KeyError, ValueError):
        return 0
