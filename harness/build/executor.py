"""Build the artefacts that the store lacks, in the order of the plan. Nothing here is timed."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import logging
import math
import random
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from harness import former_names
from harness.api import Architecture, Data, FitHook, Loss, Phase, Progress, Split, Step, Task, Training
from harness.api.tasks import TaskKind, kind_of
from harness.build import artefact as artefacts
from harness.build import training
from harness.build.plan import Node, Plan, describe
from harness.build.trainings import PHASES, undeclared_difference, with_changes
from harness.data.library import Library
from harness.errors import CellError, HarnessError, Unsupported, UsageError, describe_error, nearest
from harness.keys import canonical, to_jsonable
from harness.plugin.manager import KERNEL, Plugins
from harness.progress import Display
from harness.store.entry import Artefact
from harness.store.local import Store

logger = logging.getLogger(__name__)
#: The name of a fit is also the name of its checkpoint file.
FIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
#: Types of weights that are not trained: small gradients vanish in them.
REDUCED = frozenset({"int8", "float16", "bfloat16"})
#: The facts that a step reports have at most so many characters of JSON; every record of its cells repeats them.
FACTS_LIMIT = 2**20
#: What the default format stores.
RESULT = (
    "A step's result is a network of the architecture's own modules, stock layers of torch.nn and plain tensors; for "
    "any other result the step defines dump() and restore()"
)
#: So many validation examples, spread over the split, must be answered alike before and after storing, by batches:
#: within RESTORED, or within this share of the largest answer if that is above 1.
COMPARED, BATCH, RESTORED = 128, 32, 1e-6
#: The attributes of a module that hold its hooks on forward.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
#: Values of attributes that are compared.
_PLAIN = (bool, int, float, str, type(None))
#: Modules that hold a network in another form.
_WRAPPERS = {
    "OptimizedModule": "compiled module (torch.compile)",
    "DataParallel": "wrapper (DataParallel)",
    "DistributedDataParallel": "wrapper (DistributedDataParallel)",
}


def derive(*parts: Any) -> int:
    """Hash ``parts`` to a seed of 63 bits; the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


class Context:
    """Implements harness.StepContext. Nothing in it leads to the test split."""

    def __init__(
        self,
        node: Node,
        data: Data,
        teacher: torch.nn.Module | None,
        plugins: Plugins,
        store: Store,
        progress: Progress,
    ) -> None:
        self.task: Task = data.task
        self._train: Split = data.train
        self._validation: Split = data.validation
        self.example = data.validation.tensor(slice(0, 1))
        self.facts: dict[str, Any] = {}
        #: The trainings that the step ran.
        self.ran: list[tuple[Phase, Training]] = []
        self._names: list[str] = []
        self._node = node
        self._plugins = plugins
        self._store = store
        self.progress: Progress = progress
        self.teacher = teacher
        self._kind: TaskKind = kind_of(data.task)
        if data.train.loss is not None:
            self._kind = dataclasses.replace(self._kind, loss=data.train.loss(self._kind.loss))
        self._loss: Loss = self._kind.loss
        if node.objective is not None and teacher is not None:
            self._loss = node.objective.loss(self._kind.loss)

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
        self._loss = self._node.step.loss(self._kind.loss)

    def calibration(
        self, examples: int, split: Literal["validation", "train"] = "validation", *, part: str | None = None
    ) -> torch.Tensor:
        if part is not None:
            former_names.warn("calibration(part=)", "calibration(split=)")
        source = self._train if (part or split) == "train" else self._validation
        rows = self.calibration_rows(examples, part or split)  # type: ignore[arg-type]
        return source.tensor(list(rows))

    def calibration_rows(self, examples: int, split: Literal["validation", "train"] = "validation") -> tuple[int, ...]:
        splits = {"validation": ("calibration", self._validation), "train": ("calibration/train", self._train)}
        if split not in splits:
            raise CellError(f"{self._node.label} asks for calibration from {split!r}; it is 'validation' or 'train'")
        purpose, source = splits[split]
        examples = min(examples, len(source))
        rows = np.random.default_rng(self.seed(purpose)).choice(len(source), examples, replace=False)
        return tuple(map(int, np.sort(rows)))

    def report(self, **facts: Any) -> None:
        for name, value in facts.items():
            try:
                self.facts[name] = to_jsonable(value)
            except UsageError as error:
                raise CellError(f"{self._node.label} reports {name}, which cannot be stored: {error}") from error
            size = len(canonical(self.facts))
            if size > FACTS_LIMIT:
                raise CellError(
                    f"{self._node.label} reports {name}, and its facts have {size:,} characters with it, more than "
                    f"{FACTS_LIMIT:,}: facts are for the report; write data to a file of your own"
                )

    def fit(
        self,
        model: torch.nn.Module,
        phase: Phase = "finetune",
        name: str = "fit",
        *,
        before_step: FitHook | None = None,
        after_step: FitHook | None = None,
        **changes: Any,
    ) -> torch.nn.Module:
        root = self._node.root
        plan = self._training(model, phase, name, changes)
        for hook_name, hook in (("before_step", before_step), ("after_step", after_step)):
            if hook is not None and not callable(hook):
                raise CellError(f"{self._node.label} calls fit({hook_name}={hook!r}); give a function of the model")
        self.ran.append((phase, plan))
        # Otherwise the second fit of one name would resume from the checkpoint of the first.
        self._names.append(name)
        name = name if self._names.count(name) == 1 else f"{name}-{self._names.count(name)}"
        model = copy.deepcopy(model)
        history = training.fit(
            model,
            self._train,
            self._validation,
            plan,
            seed=self.seed(f"fit/{name}"),
            kind=self._kind,
            loss=self._loss,
            teacher=self.teacher,
            before_step=before_step,
            after_step=after_step,
            device=root.device,
            checkpoint=self._store.progress(self._node.key) / f"{name}.safetensors",
            progress=self.progress,
        )
        examples = min(len(self._train), plan.examples or len(self._train))
        row = {"name": name, "phase": phase, "epochs": plan.epochs, "examples": examples, "history": history}
        self.facts.setdefault("trainings", []).append(row)
        return model

    def score(self, model: torch.nn.Module) -> float:
        modes = {module: module.training for module in model.modules()}
        tensors = (*model.parameters(), *model.buffers())
        device = str(tensors[0].device) if tensors else "cpu"
        try:
            logits = training.predict_split(model, self._validation, self._node.root.train.batch, device)
        finally:
            for module, mode in modes.items():
                module.training = mode
        score = float(self._kind.score(logits, self._validation.targets))
        if not math.isfinite(score):
            raise CellError(
                f"{self._node.label} calls score() with a network whose {self._kind.selector} on the validation split "
                f"is {score}: its logits are NaN or infinite"
            )
        return score

    def _training(self, model: torch.nn.Module, phase: Phase, name: str, changes: Mapping[str, Any]) -> Training:
        """The training that a step requests. Raises CellError if it is invalid, or would train nothing."""
        caller = f"{self._node.label} calls fit()"
        if not isinstance(model, torch.nn.Module):
            raise CellError(f"{caller} with {type(model).__name__}, not with a network")
        if phase not in PHASES:
            raise CellError(f"{caller} with the phase {phase!r}{nearest(str(phase), PHASES)}")
        if not isinstance(name, str) or not FIT_NAME.fullmatch(name):
            raise CellError(f"{caller} with the name {name!r}; use letters, digits and . _ + -")
        try:
            plan = with_changes(getattr(self._node.root, phase), changes)
        except UsageError as error:
            raise CellError(f"{caller}: {error}") from error
        if not all(isinstance(value, torch.Tensor) and not value.is_quantized for value in model.state_dict().values()):
            raise Unsupported(
                f"{type(model).__name__} holds int8 weights, which training cannot change: train before that"
            )
        reduced = {str(weight.dtype).removeprefix("torch.") for weight in model.parameters()} & REDUCED
        if reduced:
            raise Unsupported(
                f"{type(model).__name__} holds {' and '.join(sorted(reduced))} weights, which small gradients do not "
                "change: train before that"
            )
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        if len(frozen) == len(list(model.parameters())):
            has = (
                f"its {len(frozen)} parameters are all frozen: set requires_grad" if frozen else "it has no parameters"
            )
            raise CellError(f"{caller} with a network in which nothing can be trained: {has}")
        return plan


class Executor:
    """Builds nodes; remembers the artefact or the error of each."""

    def __init__(self, plan: Plan, plugins: Plugins, library: Library, store: Store, display: Display) -> None:
        self.plan = plan
        self.plugins = plugins
        self.library = library
        self.store = store
        self.display = display
        self._built: dict[str, Artefact | HarnessError] = {}
        #: The number of the step under way among those to build, such as "[1/3] "; "" once its line is printed.
        self._number = ""

    def build(self, key: str) -> Artefact:
        """The artefact, from the store or built now with its ancestors. Raises the error that prevented it."""
        built = self._built.get(key)
        if built is None or (isinstance(built, Artefact) and not built.file.exists()):  # garbage collection removed it
            try:
                self._built[key] = self.store.get(key) or self._make(self.plan.nodes[key])
            except HarnessError as error:
                self._built[key] = error
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # plugin code outside of Plugins.call, as a module's state_dict
                step = self.plan.nodes[key].step
                what = "the fresh network" if step is None else f"the network that {describe(step)} gives"
                failed = CellError(f"{what} cannot be checked and stored: {describe_error(error)}")
                failed.__cause__ = error
                self._built[key] = failed
        result = self._built[key]
        if isinstance(result, HarnessError):
            raise result
        return result

    def build_all(self) -> None:
        """Build or fetch the artefacts of all cells. A failure is stored for its cells; the other builds go on."""
        missing = self.plan.needed(self.store.has)
        logged: set[HarnessError] = set()
        for index, node in enumerate(missing, start=1):
            self._try(node, logged, f"[{index}/{len(missing)}] ")
        for key in self.plan.artefacts.values():  # fetch now, because a download would disturb timings
            if key not in self._built:
                self._try(self.plan.nodes[key], logged)

    def _try(self, node: Node, logged: set[HarnessError], number: str = "") -> None:
        """Build a node, and log what became of it: exactly one line has its ``number``."""
        self._number = number
        try:
            self.build(node.key)
            if self._number:
                logger.info(f"{number}{node.label}: another run built it")
        except Unsupported as error:
            logger.info(f"skipped: {number}{node.label}: {error}")
        except HarnessError as error:
            if error in logged:  # its descendants fail with the same error
                logger.info(f"{number}{node.label}: not built, because a step before it failed")
            else:
                logger.warning(f"failed: {number}{node.label}: {error}")
            logged.add(error)
        self._number = ""

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
        data = self.library.load(node.root.dataset, node.root.evaluation, node.root.layout)
        began = time.perf_counter()  # the first step of a data set does not count reading it
        facts: dict[str, Any] = {}
        with _global_seeds(derive(node.key)), self.display.step(f"{self._number}{node.label}") as progress:
            if node.step is None or node.parent is None:
                model = _fresh(self.plugins, node, data.task, derive(node.root.seed, "fresh"))
                self._check(node, model, data)
            else:
                teacher = None
                if node.teacher is not None and node.objective is not node.step:
                    teacher = self.model(node.teacher)
                parent = self.model(node.parent)
                if node.step.kinds and data.task.kind not in node.step.kinds:
                    raise Unsupported(
                        f"{describe(node.step)} is for tasks of kind {' or '.join(node.step.kinds)}, and "
                        f"{node.root.dataset} is {data.task.kind}"
                    )
                context = Context(node, data, teacher, self.plugins, self.store, progress)
                model = self._run(node, node.step, parent, context)
                self._check(node, model, data)
                self._check_trainings(node, context)
                facts = context.facts
            artefact = self.store.put(
                node.document,
                lambda file: self._save(file, node, model, data, facts),
                facts,
                time.perf_counter() - began,
            )
        self._number = ""
        return artefact

    def _run(self, node: Node, step: Step, parent: torch.nn.Module, context: Context) -> torch.nn.Module:
        def train(model: torch.nn.Module, context: Context) -> torch.nn.Module:
            return step.apply(model, context)

        author = self._author(node)
        return self.plugins.call(author, "apply" if author is step else train, parent, context)  # type: ignore[no-any-return]

    def _author(self, node: Node) -> Architecture | Step:
        """The object whose code makes this node. The harness's own step ``train`` runs the architecture's code."""
        if node.step is None or self.plugins.origin(node.step) == KERNEL:
            return self.plugins.architectures.get(node.root.architecture)
        return node.step

    def _plugin(self, node: Node) -> str:
        return f"plugin {self.plugins.origin(self._author(node))}"

    def _check(self, node: Node, model: object, data: Data) -> None:
        """Raise CellError for a model with invalid answers, before it is stored."""
        if not isinstance(model, torch.nn.Module):
            raise CellError(f"{node.label} gave {type(model).__name__}, not a network")
        example = data.validation.tensor(slice(0, 1))
        author = self._author(node)
        what = self.plugins.name_of(author, "build") if node.step is None else describe(node.step)
        if isinstance(model, torch.jit.ScriptModule) or type(model).__name__ == "OptimizedModule":
            raise CellError(
                f"{self._plugin(node)}: the network that {what} gives cannot be stored: {foreign_part(model)}. {RESULT}"
            )
        reason = self.plugins.call(author, wrong_answer, model, example, len(data.task.labels))
        if reason is not None:
            raise CellError(f"{self._plugin(node)}: the network that {what} gives {reason}")
        if getattr(model, "gives_probabilities", False):
            scores = self.plugins.call(author, _answer, model, example).detach().float().numpy()
            fault = kind_of(data.task).impossible(scores)
            if fault or data.task.kind == "regression":
                raise Unsupported(
                    f"{what} gives a network that ends in an activation of its own, which is not that of a "
                    f"{data.task.kind} task" + (f": its answers {fault}" if fault else "")
                )

    def _save(self, file: Path, node: Node, model: torch.nn.Module, data: Data, facts: dict[str, Any]) -> None:
        """Write the model to ``file``. Raises CellError unless the file gives back a network that answers alike.

        The largest difference of the answers becomes the fact ``restored_difference``.
        """
        artefacts.save(file, model, node.steps, node.root.architecture, data.task, self.plugins)
        name = "build()" if node.step is None else describe(node.step)
        where = f"{self._plugin(node)}: the network that {name} gives"
        try:
            restored = artefacts.load(file, self.plugins)
        except CellError as error:
            reason = foreign_part(model) or str(error)
            raise CellError(f"{where} cannot be restored from its file: {reason}. {RESULT}") from error
        if (hooked := lost_hooks(model, restored)) is not None:
            reason = f"{hooked} has hooks, which no file holds"
            raise CellError(f"{where} cannot be restored from its file: {reason}. {RESULT}")
        count = len(data.validation)
        compared = np.linspace(0, count - 1, min(count, COMPARED)).astype(int)
        examples = data.validation.tensor(compared)
        difference = changed_answer(model, restored, examples)
        attributes = lost_attributes(model, restored)
        if isinstance(difference, float):
            facts["restored_difference"] = difference
        else:
            reason = foreign_part(model) or "what it computes with is not all in its modules and state_dict()"
            named = f" ({attributes})" if attributes else ""
            raise CellError(f"{where} {difference} after it was restored from its file: {reason}{named}. {RESULT}")
        if attributes:
            logger.warning(
                f"{where} loses attributes in its file: {attributes}. It answers {len(compared)} validation examples "
                "as before; if it computes with them, make them buffers, or let the step define dump() and restore()"
            )

    def _check_trainings(self, node: Node, context: Context) -> None:
        """Raise CellError unless the step ran exactly the trainings that it declared."""
        if node.step is not None:
            trainings: Mapping[Phase, Training] = {"train": node.root.train, "finetune": node.root.finetune}
            reason = undeclared_difference(node.trainings, context.ran, trainings)
            if reason is not None:
                raise CellError(f"{self._plugin(node)}: {describe(node.step)} {reason}")


def _fresh(plugins: Plugins, node: Node, task: Task, seed: int) -> torch.nn.Module:
    """A freshly initialised network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return artefacts.build(node.root.architecture, task, plugins)


@contextlib.contextmanager
def _global_seeds(seed: int) -> Iterator[None]:
    """Seed the global random generators, which plugins may use, and restore their states afterwards."""
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


def wrong_answer(model: torch.nn.Module, example: torch.Tensor, labels: int) -> str | None:
    """Describe the fault in the answer of ``model`` to ``example`` (1, *input_shape); None for a finite (1, labels).

    Sets the model to evaluation mode. An exception of the model is a reason, too.
    """
    try:
        answer = _answer(model, example)
    except HarnessError:
        raise
    except Exception as error:
        return f"fails on one example of shape {tuple(example.shape)}: {describe_error(error)}"
    if not isinstance(answer, torch.Tensor):
        return f"answers with {type(answer).__name__}, not with a tensor of shape (1, {labels})"
    if tuple(answer.shape) != (1, labels):
        return (
            f"answers one example with the shape {tuple(answer.shape)}, not (1, {labels}): "
            "a step keeps the shapes of inputs and answers, one number for each label"
        )
    wrong = labels - int(answer.isfinite().sum())
    if wrong:
        return f"answers NaN or infinity for {wrong} of {labels} labels of one example"
    return None


def changed_answer(model: torch.nn.Module, restored: torch.nn.Module, examples: torch.Tensor) -> str | float:
    """Return the largest difference of the networks' answers to ``examples`` (n, *input_shape); a text if it matters.

    They are answered in batches, or one at a time if ``model`` cannot answer a batch.
    """
    largest = 0.0
    if getattr(model, "gives_probabilities", False) != getattr(restored, "gives_probabilities", False):
        return "has another attribute gives_probabilities"
    for batch in torch.split(examples, _batch(model, examples)):
        before, after = _answer(model, batch), _answer(restored, batch)
        tolerance = RESTORED * max(1.0, float(before.nan_to_num(0, 0, 0).abs().max()))
        difference = float((before.double() - after.double()).abs().nan_to_num(0).max())
        if before.dtype != after.dtype or not torch.allclose(before, after, 0, tolerance, equal_nan=True):
            return f"answers validation examples with a difference of {difference:.3g}"
        largest = max(largest, difference)
    return largest


def _batch(model: torch.nn.Module, examples: torch.Tensor) -> int:
    """How many examples the model can answer at once: BATCH or 1."""
    try:
        return BATCH if len(_answer(model, examples[:2])) == len(examples[:2]) else 1
    except Exception:
        return 1


def lost_hooks(model: torch.nn.Module, restored: torch.nn.Module) -> str | None:
    """The path of a module whose hooks on forward the restored network lacks, or None."""
    for path, module, other in _pairs(model, restored):
        if any(len(getattr(module, kind)) > len(getattr(other, kind)) for kind in _HOOKS):
            return path or "the network"
    return None


def lost_attributes(model: torch.nn.Module, restored: torch.nn.Module) -> str:
    """Plain attributes of modules whose values the restored network lacks, such as "1.limit is 3, 9 in the file"."""
    lost = []
    for path, module, other in _pairs(model, restored):
        for name, value in vars(module).items():
            stored = vars(other).get(name, value)
            if name.startswith("_") or not isinstance(value, _PLAIN) or not isinstance(stored, _PLAIN):
                continue
            if value != stored and not (value != value and stored != stored):  # two NaN are no difference
                lost.append(f"{path + '.' if path else ''}{name} is {value!r}, {stored!r} in the file")
    return "; ".join(lost[:5]) + (f"; and {len(lost) - 5} more" if len(lost) > 5 else "")


def _pairs(model: torch.nn.Module, restored: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, torch.nn.Module]]:
    """The modules that both networks have at a path, if their classes have one name."""
    others = dict(restored.named_modules())
    for path, module in model.named_modules():
        if path in others and type(others[path]).__qualname__ == type(module).__qualname__:  # as structure compares
            yield path, module, others[path]


def _answer(model: torch.nn.Module, example: torch.Tensor) -> Any:
    """The answer in evaluation mode, with the same random numbers each time."""
    model.eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return model(example.clone())


def foreign_part(model: torch.nn.Module) -> str | None:
    """What in ``model`` the default format cannot store, as a clause without subject, or None if nothing is known."""
    from torch.fx import GraphModule

    for path, module in model.named_modules():
        where = path or "the network"
        kind = type(module).__name__
        if isinstance(module, GraphModule):
            return f"{where} is a GraphModule of torch.fx"
        if isinstance(module, torch.jit.ScriptModule) or kind in _WRAPPERS:
            return f"{where} is a {_WRAPPERS.get(kind, 'compiled ScriptModule')}"
        if torch.nn.utils.parametrize.is_parametrized(module):
            return f"{where} has parametrizations: call torch.nn.utils.parametrize.remove_parametrizations()"
        masks = [name for name in dict(module.named_buffers(recurse=False)) if name.endswith("_mask")]
        for name in masks:
            weight = name.removesuffix("_mask")
            if f"{weight}_orig" in module._parameters:
                return f"{where} has a mask ({weight}_orig): call torch.nn.utils.prune.remove(module, {weight!r})"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{where} has hooks, which no file holds"
    return None
