"""Plan the graph of steps that cells need: each artefact once, under a key that hashes its dependencies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any, Generic, TypeVar

from harness.api import Step, Training
from harness.build.trainings import PHASES, DeclaredTrainings, declared_trainings
from harness.errors import CellError, HarnessError, StoreError, UsageError
from harness.keys import SCHEMA, code_digest, key_of, non_default_fields, to_jsonable
from harness.plugin.manager import KERNEL, Origin, Plugins
from harness.suite.matrix import Cell
from harness.suite.presets import Preset

V = TypeVar("V")


@dataclasses.dataclass(frozen=True)
class Root:
    """The common properties of the artefacts of one dataset, architecture and seed."""

    dataset: str
    architecture: str
    seed: int
    train: Training
    finetune: Training
    device: str
    evaluation: int | None
    #: The layout of the data that the architecture reads.
    layout: str = ""


@dataclasses.dataclass(frozen=True)
class Node:
    """One artefact of the plan: ``step`` applied to the artefact ``parent``; a root is a fresh network and has no step.

    ``objective`` is the step whose loss is in force, ``teacher`` the key of the teacher model.
    """

    key: str
    document: Mapping[str, Any]
    root: Root
    steps: tuple[Step, ...]
    parent: str | None
    objective: Step | None = None
    teacher: str | None = None
    #: The trainings that the step declares; None when it declares nothing.
    trainings: DeclaredTrainings | None = None

    @property
    def step(self) -> Step | None:
        return self.steps[-1] if self.steps else None

    @property
    def label(self) -> str:
        """The node's name in progress lines and errors."""
        recipe = " > ".join(describe(step) for step in self.steps) or "fresh network"
        return f"{self.root.dataset} {self.root.architecture} seed {self.root.seed}: {recipe}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The nodes by key, parents before children, and for each cell's name the key of its artefact.

    ``problems`` holds the error of each cell whose plugin failed while it was planned.
    """

    nodes: Mapping[str, Node]
    artefacts: Mapping[str, str]
    problems: Mapping[str, HarnessError] = dataclasses.field(default_factory=dict)

    def lineage(self, key: str) -> list[Node]:
        """The nodes from the fresh network to ``key``."""
        node = self.nodes[key]
        return ([] if node.parent is None else self.lineage(node.parent)) + [node]

    def untrained(self) -> list[str]:
        """The names of cells whose recipe trains nothing. A step that declares no trainings may train."""
        return [
            cell
            for cell, key in self.artefacts.items()
            if all(node.step is None or node.trainings == () for node in self.lineage(key))
        ]

    def needed(self, has: Callable[[str], bool]) -> list[Node]:
        """The nodes to build, in order: the artefacts that the store lacks, and their missing parents and teachers."""
        needed_keys: set[str] = set()

        def visit(key: str | None) -> None:
            if key is None or key in needed_keys or has(key):
                return
            needed_keys.add(key)
            visit(self.nodes[key].parent)
            visit(self.nodes[key].teacher)

        for key in self.artefacts.values():
            visit(key)
        return [node for key, node in self.nodes.items() if key in needed_keys]


def describe(step: Step) -> str:
    """Write a step as in a suite: its name and its parameters, without those that are None."""
    parameters = {name: value for name, value in step.parameters().items() if value is not None}
    return f"{step.name}({', '.join(f'{name}={value}' for name, value in parameters.items())})"


def make(
    cells: Iterable[Cell],
    plugins: Plugins,
    fingerprint: Callable[[str], str],
    preset: Preset,
    device: str,
) -> Plan:
    """Plan ``cells``. ``fingerprint`` returns the fingerprint of a data set by name and is called once for each."""
    nodes: dict[str, Node] = {}
    artefacts: dict[str, str] = {}
    problems: dict[str, HarnessError] = {}
    fingerprints, roots, declarations = _Once(fingerprint), _Once(_root), _Once(_declaration)
    for cell in cells:
        identity = (cell.dataset, cell.architecture, cell.seed)
        try:
            data = fingerprints(cell.dataset, cell.dataset)
            chain: list[Node] = [roots(identity, *identity, plugins, data, preset, device)]
            for step in cell.steps:
                chain.append(_child(chain[-1], step, plugins, *declarations(id(step), step, plugins)))
        except StoreError:
            raise
        except HarnessError as error:
            problems[cell.name] = error
            continue
        for node in chain:
            nodes.setdefault(node.key, node)
        artefacts[cell.name] = chain[-1].key
    return Plan(nodes, artefacts, problems)


class _Once(Generic[V]):
    """Call a function once for each identity; later calls repeat its result or error.

    It holds the arguments, so that no other object gets an ``id`` that serves as identity.
    """

    def __init__(self, function: Callable[..., V]) -> None:
        self._function = function
        self._results: dict[Any, tuple[V | HarnessError, Any]] = {}

    def __call__(self, identity: Any, *arguments: Any) -> V:
        if identity not in self._results:
            try:
                self._results[identity] = self._function(*arguments), arguments
            except HarnessError as error:
                self._results[identity] = error, arguments
        result = self._results[identity][0]
        if isinstance(result, HarnessError):
            raise result
        return result


def _root(
    dataset: str,
    architecture: str,
    seed: int,
    plugins: Plugins,
    fingerprint: str,
    preset: Preset,
    device: str,
) -> Node:
    network = plugins.architectures.get(architecture)
    trainings = {phase: plugins.call(network, preset.training, network, phase) for phase in PHASES}
    root = Root(
        dataset=dataset,
        architecture=architecture,
        seed=seed,
        train=trainings["train"],
        finetune=trainings["finetune"],
        device=device,
        evaluation=preset.evaluation,
        layout=network.layout,
    )
    data = plugins.datasets.get(dataset)
    document = {
        "schema": SCHEMA,
        "torch": ".".join(version("torch").split(".")[:2]),
        "architecture": {
            "version": network.version,
            **code_identity(plugins.architectures.origin(architecture), type(network)),
        },
        "data": {
            "version": data.version,
            "fingerprint": fingerprint,
            **code_identity(plugins.datasets.origin(dataset), type(data)),
        },
        "task": non_default_fields(data.task_in(network.layout)),
        # The trainings belong to the steps that run them.
        "root": {name: value for name, value in non_default_fields(root).items() if name not in ("train", "finetune")},
    }
    return Node(key_of(document), document, root, (), None)


def _child(
    parent: Node, step: Step, plugins: Plugins, trainings: DeclaredTrainings | None, parameters: Mapping[str, Any]
) -> Node:
    if parent.step is not None and parent.step.is_final:
        raise UsageError(
            f"step {step.name!r} follows {describe(parent.step)}, which must be the last of a recipe; change the order "
            "of the steps, or of the axes"
        )
    # A step that declares no trainings depends on both phases.
    phases = sorted(PHASES if trainings is None else {phase for phase, _ in trainings})
    document = {
        "schema": SCHEMA,
        "parent": parent.key,
        "step": step.name,
        "version": step.version,
        **code_identity(plugins.steps.origin(step.name), type(step)),
        "parameters": parameters,
        "training": {phase: non_default_fields(getattr(parent.root, phase)) for phase in phases},
    }
    objective, teacher = (step, parent.key) if step.is_teacher else (parent.objective, parent.teacher)
    steps = (*parent.steps, step)
    return Node(key_of(document), document, parent.root, steps, parent.key, objective, teacher, trainings)


def _declaration(step: Step, plugins: Plugins) -> tuple[DeclaredTrainings | None, Mapping[str, Any]]:
    """The trainings that a step declares, and its parameters as its key holds them."""
    origin = plugins.steps.origin(step.name)
    if plugins.steps.get(step.name) is not type(step):
        raise UsageError(
            f"step {step.name!r} of {type(step).__module__} is not the one that plugin {origin} registers under this "
            "name; rename one"
        )

    def trainings() -> DeclaredTrainings | None:
        return declared_trainings(step)

    declared = plugins.call(step, trainings)
    try:
        return declared, _parameters(step, plugins.call(step, "parameters"))
    except UsageError as error:
        raise CellError(f"plugin {origin}: parameters() of step {step.name!r}: {error}") from error


def _parameters(step: Step, parameters: Any) -> Any:
    """The result of ``parameters`` for the key: without defaults, unless the step overrides the method."""
    if dataclasses.is_dataclass(step) and type(step).parameters is Step.parameters:
        return non_default_fields(step)
    return to_jsonable(parameters)


def code_identity(origin: Origin, kind: type) -> dict[str, str]:
    """The part of a key for the code of a step, an architecture, a data set or a runtime, besides its ``version``.

    It is the id of its distribution and the digest of its code. A new release of a plugin that changes only other code
    keeps the key. Without readable source the version of the distribution stands for the code. The kernel's own
    classes have neither: they raise their ``version``, or ``keys.SCHEMA`` when the training loop changes.
    """
    digest = code_digest(kind)
    if digest is not None:
        return {"plugin": origin.id, "code": digest}
    return {"plugin": origin.id} if origin is KERNEL else {"plugin": origin.id, "plugin_version": origin.version}
