"""Running the graph: builds what the store lacks, in order; nothing here is timed."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import random
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch

from harness import former_names
from harness.build import artefact as artefacts
from harness.build import training
from harness.build.answers import wrong_answer
from harness.plugin.containment import FOREIGN
from harness.api import Data, Loss, Split, Phase, Progress, Task, Training
from harness.data.library import Library
from harness.store.entry import Artefact
from harness.errors import CellError, HarnessError, Unsupported, UsageError, describe_error, nearest
from harness.keys import to_jsonable
from harness.build.plan import Node, Plan, describe
from harness.plugin.manager import KERNEL, Origin, Plugins
from harness.run.progress import Display
from harness.store.local import Store
from harness.build.fits import PHASES, broken_promise, changed

#: A fit's name is that of its checkpoint.
FIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")


def derive(*parts: Any) -> int:
    """A seed of 63 bits from anything that has a text: the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


class Context:
    """What a step may use (contracts.StepContext). Nothing that it holds leads to the test split."""

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
        self._train: Split = data.train
        self._validation: Split = data.validation
        self.example = torch.from_numpy(np.array(data.validation.inputs[:1]))
        self.facts: dict[str, Any] = {}
        #: The trainings that were run.
        self.ran: list[tuple[Phase, Training]] = []
        self._names: list[str] = []
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
        if self._node.step is None or not self._node.step.is_teacher:
            raise CellError(f"step {self._node.label} calls teach() but does not declare is_teacher = True")
        self.teacher = teacher
        self._loss = self._node.step.loss(training.task_loss)

    def calibration(
        self, examples: int, split: Literal["validation", "train"] = "validation", *, part: str | None = None
    ) -> torch.Tensor:
        if part is not None:
            former_names.warn("calibration(part=)", "calibration(split=)")
        splits = {"validation": ("calibration", self._validation), "train": ("calibration/train", self._train)}
        if (chosen_split := part or split) not in splits:
            raise CellError(
                f"{self._node.label} asks for calibration from {chosen_split!r}; it is 'validation' or 'train'"
            )
        purpose, source = splits[chosen_split]
        examples = min(examples, len(source))
        chosen = np.random.default_rng(self.seed(purpose)).choice(len(source), examples, replace=False)
        return torch.from_numpy(np.ascontiguousarray(source.inputs[np.sort(chosen)]))

    def report(self, **facts: Any) -> None:
        for name, value in facts.items():
            try:
                self.facts[name] = to_jsonable(value)
            except UsageError as error:
                raise CellError(f"{self._node.label} reports {name}, which cannot be kept: {error}") from error

    def fit(
        self, model: torch.nn.Module, phase: Phase = "finetune", name: str = "fit", **changes: Any
    ) -> torch.nn.Module:
        root = self._node.root
        plan = self._training(model, phase, name, changes)
        self.ran.append((phase, plan))
        # Else the second of two would go on from the checkpoint of the first.
        self._names.append(name)
        name = name if self._names.count(name) == 1 else f"{name}-{self._names.count(name)}"
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
        self.facts.setdefault("trainings", []).append(row)
        return model

    def _training(self, model: torch.nn.Module, phase: Phase, name: str, changes: Mapping[str, Any]) -> Training:
        """The training that a step asks for. Raises CellError for one that cannot be, or that would train nothing."""
        where = f"{self._node.label} calls fit()"
        if not isinstance(model, torch.nn.Module):
            raise CellError(f"{where} with {type(model).__name__}, not with a network")
        if phase not in PHASES:
            raise CellError(f"{where} with the phase {phase!r}{nearest(str(phase), PHASES)}")
        if not isinstance(name, str) or not FIT_NAME.fullmatch(name):
            raise CellError(f"{where} with the name {name!r}; use letters, digits and . _ + -")
        try:
            plan = changed(getattr(self._node.root, phase), changes)
        except UsageError as error:
            raise CellError(f"{where}: {error}") from error
        if not all(isinstance(value, torch.Tensor) and not value.is_quantized for value in model.state_dict().values()):
            raise Unsupported(
                f"{type(model).__name__} holds int8 weights, which training cannot change: train before that"
            )
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        if len(frozen) == len(list(model.parameters())):
            has = (
                f"its {len(frozen)} parameters are all frozen: set requires_grad" if frozen else "it has no parameters"
            )
            raise CellError(f"{where} with a network in which nothing can be trained: {has}")
        return plan


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
            except FOREIGN as error:  # a plugin's code may raise anything
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
        data = self.library.load(node.root.dataset, node.root.evaluation, node.root.layout)
        facts: dict[str, Any] = {}
        with _global_seeds(derive(node.key)):
            if node.step is None or node.parent is None:
                model = _fresh(self.plugins, node, data.task, derive(node.root.seed, "fresh"))
                with self._contained(node):
                    self._check(node, model, data)
            else:
                teacher = None
                if node.teacher is not None and node.objective is not node.step:
                    teacher = self.model(node.teacher)
                parent = self.model(node.parent)
                with self.display.step(node.label) as progress, self._contained(node):
                    context = Context(node, data, teacher, self.plugins, self.store, self.display, progress)
                    model = node.step.apply(parent, context)
                    self._check(node, model, data)
                self._check_fits(node, context)
                facts = context.facts
        with self._contained(node):
            return self.store.put(
                node.document,
                lambda file: artefacts.save(file, model, node.steps, node.root.architecture, data.task),
                facts,
                time.perf_counter() - began,
            )

    def _author(self, node: Node) -> tuple[Origin, str, type]:
        """Whose code makes this node, what it is called, and where it is: the kernel trains what is another's."""
        name = node.root.architecture
        architecture, origin = type(self.plugins.architectures.get(name)), self.plugins.architectures.origin(name)
        if node.step is None:
            return origin, f"build() of architecture {name!r}", architecture
        if (owner := self.plugins.steps.origin(node.step.name)) is KERNEL:
            return origin, f"{describe(node.step)} of architecture {name!r}", architecture
        return owner, describe(node.step), type(node.step)

    def _contained(self, node: Node) -> contextlib.AbstractContextManager[None]:
        origin, what, thing = self._author(node)
        return self.plugins.contain(origin, what, self.display.say, thing=thing)

    def _check(self, node: Node, model: object, data: Data) -> None:
        """Raise CellError for a model that does not answer, before it is stored."""
        if not isinstance(model, torch.nn.Module):
            raise CellError(f"{node.label} gave {type(model).__name__}, not a network")
        example = torch.from_numpy(np.array(data.validation.inputs[:1]))
        reason = wrong_answer(model, example, len(data.task.labels))
        if reason is not None:
            origin, what, _ = self._author(node)
            raise CellError(f"plugin {origin}: the network that {what} gives {reason}")

    def _check_fits(self, node: Node, context: Context) -> None:
        """Raise CellError unless the trainings that were run are those that the step tells."""
        if node.step is not None:
            trainings: Mapping[Phase, Training] = {"train": node.root.train, "finetune": node.root.finetune}
            reason = broken_promise(node.fits, context.ran, trainings)
            if reason is not None:
                origin, what, _ = self._author(node)
                raise CellError(f"plugin {origin}: {what} {reason}")


def _fresh(plugins: Plugins, node: Node, task: Task, seed: int) -> torch.nn.Module:
    """A newly initialised network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return artefacts.build(node.root.architecture, task, plugins)


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
