"""Running the graph: builds what the store lacks, in order; nothing here is timed."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import random
import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch

from harness import artefact as artefacts
from harness import training
from harness.contracts import Data, Loss, Part, Phase, Progress, Task, Training
from harness.datasets import Library
from harness.description import Artefact
from harness.errors import CellError, HarnessError, Unsupported, UsageError, describe_error
from harness.keys import plain
from harness.plan import Node, Plan, describe
from harness.plugins import Plugins
from harness.progress import Display
from harness.store import Store


def derive(*parts: Any) -> int:
    """A seed of 63 bits from anything that has a text: the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


class Context:
    """What a step may use (contracts.StepContext). Nothing that it holds leads to the test part."""

    def __init__(
        self,
        node: Node,
        data: Data,
        teacher: torch.nn.Module | None,
        plugins: Plugins,
        store: Store,
        display: Display,
        progress: Progress,
    ) -> None:
        self.task: Task = data.task
        self._train: Part = data.train
        self._validation: Part = data.validation
        self.example = torch.from_numpy(np.array(data.validation.inputs[:1]))
        self.facts: dict[str, Any] = {}
        self._node = node
        self._plugins = plugins
        self._store = store
        self._say = display.say
        self.progress: Progress = progress
        self.teacher = teacher
        self._loss: Loss = training.task_loss
        if node.objective is not None and teacher is not None:
            self._loss = node.objective.loss(training.task_loss)

    def seed(self, purpose: str) -> int:
        return derive(self._node.root.seed, self._node.step.name if self._node.step else "", purpose)

    def generator(self, purpose: str = "") -> torch.Generator:
        return torch.Generator().manual_seed(self.seed(purpose))

    def fresh(self) -> torch.nn.Module:
        return _fresh(self._plugins, self._node, self.task, self.seed("fresh"))

    def teach(self, teacher: torch.nn.Module) -> None:
        if self._node.step is None or not self._node.step.teaches:
            raise CellError(f"step {self._node.label} calls teach() but does not declare teaches = True")
        self.teacher = teacher
        self._loss = self._node.step.loss(training.task_loss)

    def calibration(self, examples: int, part: Literal["validation", "train"] = "validation") -> torch.Tensor:
        parts = {"validation": ("calibration", self._validation), "train": ("calibration/train", self._train)}
        if part not in parts:
            raise CellError(f"{self._node.label} asks for calibration from {part!r}; it is 'validation' or 'train'")
        purpose, source = parts[part]
        examples = min(examples, len(source))
        chosen = np.random.default_rng(self.seed(purpose)).choice(len(source), examples, replace=False)
        return torch.from_numpy(np.ascontiguousarray(source.inputs[np.sort(chosen)]))

    def report(self, **facts: Any) -> None:
        for name, value in facts.items():
            try:
                self.facts[name] = plain(value)
            except UsageError as error:
                raise CellError(f"{self._node.label} reports {name}, which cannot be kept: {error}") from error

    def fit(
        self, model: torch.nn.Module, phase: Phase = "finetune", name: str = "fit", **changes: Any
    ) -> torch.nn.Module:
        root = self._node.root
        plan: Training = dataclasses.replace(root.train if phase == "train" else root.finetune, **changes)
        model = copy.deepcopy(model)
        history = training.fit(
            model,
            self._train,
            self._validation,
            plan,
            seed=self.seed(f"fit/{name}"),
            loss=self._loss,
            teacher=self.teacher,
            device=root.device,
            checkpoint=self._store.progress(self._node.key) / f"{name}.safetensors",
            progress=self.progress,
            say=self._say,
        )
        examples = min(len(self._train), plan.examples or len(self._train))
        row = {"name": name, "phase": phase, "epochs": plan.epochs, "examples": examples, "history": history}
        self.facts.setdefault("fits", []).append(row)
        return model


class Executor:
    """Builds nodes and remembers what became of each."""

    def __init__(self, plan: Plan, plugins: Plugins, library: Library, store: Store, display: Display) -> None:
        self.plan = plan
        self.plugins = plugins
        self.library = library
        self.store = store
        self.display = display
        self._built: dict[str, Artefact | HarnessError] = {}

    def build(self, key: str) -> Artefact:
        """The artefact, from the store or built now with all it needs. Raises what kept it from being built."""
        built = self._built.get(key)
        if built is None or (isinstance(built, Artefact) and not built.file.exists()):  # it was collected as garbage
            try:
                self._built[key] = self.store.get(key) or self._make(self.plan.nodes[key])
            except HarnessError as error:
                self._built[key] = error
            except (Exception, SystemExit) as error:  # a plugin's code may raise anything
                step = self.plan.nodes[key].step
                what = "building the fresh network" if step is None else describe(step)
                failed = CellError(f"{what} raised {describe_error(error)}")
                failed.__cause__ = error
                self._built[key] = failed
        found = self._built[key]
        if isinstance(found, HarnessError):
            raise found
        return found

    def build_all(self) -> None:
        """Build or fetch every artefact of the plan's cells; what fails is kept for its cells, and the rest goes on."""
        missing = self.plan.needed(self.store.has)
        said: set[HarnessError] = set()
        for index, node in enumerate(missing, start=1):
            self.display.overall(index, len(missing))
            self._try(node, said)
        for key in self.plan.artefacts.values():  # fetched now, for nothing else may go on while cells are timed
            if key not in self._built:
                self._try(self.plan.nodes[key], said)

    def _try(self, node: Node, said: set[HarnessError]) -> None:
        try:
            self.build(node.key)
        except Unsupported as error:
            self.display.say(f"skipped: {node.label}: {error}")
        except HarnessError as error:
            if error not in said:  # what else needs it fails for the same reason
                self.display.say(f"failed: {node.label}: {error}")
            said.add(error)

    def model(self, key: str) -> torch.nn.Module:
        """The model of an artefact, in evaluation mode."""
        return artefacts.load(self.build(key).file, self.plugins)

    def _make(self, node: Node) -> Artefact:
        for needed in (node.parent, node.teacher):
            if needed is not None:
                self.build(needed)
        with self.store.lock(node.key):
            return self.store.get(node.key) or self._apply(node)

    def _apply(self, node: Node) -> Artefact:
        began = time.perf_counter()
        data = self.library.load(node.root.dataset, node.root.evaluation, node.root.view)
        facts: dict[str, Any] = {}
        with _global_seeds(derive(node.key)):
            if node.step is None or node.parent is None:
                model = _fresh(self.plugins, node, data.task, derive(node.root.seed, "fresh"))
            else:
                teacher = None
                if node.teacher is not None and node.objective is not node.step:
                    teacher = self.model(node.teacher)
                with self.display.step(node.label) as progress:
                    context = Context(node, data, teacher, self.plugins, self.store, self.display, progress)
                    model = node.step.apply(self.model(node.parent), context)
                facts = context.facts
        if not isinstance(model, torch.nn.Module):
            raise CellError(f"{node.label} gave {type(model).__name__}, not a network")
        return self.store.put(
            node.document,
            lambda file: artefacts.save(file, model, node.steps, node.root.architecture, data.task),
            facts,
            time.perf_counter() - began,
        )


def _fresh(plugins: Plugins, node: Node, task: Task, seed: int) -> torch.nn.Module:
    """A newly initialised network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return plugins.architectures.get(node.root.architecture).build(task)


@contextlib.contextmanager
def _global_seeds(seed: int) -> Iterator[None]:
    """Seed what a plugin may draw from without asking, and put it back as it was."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
