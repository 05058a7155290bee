"""From cells to a graph of steps, each once: what must be built, what the store has, and how long it may take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any, Generic, TypeVar

from harness.api import Step, Training
from harness.errors import CellError, HarnessError, StoreError, UsageError
from harness.keys import SCHEMA, key_of, to_jsonable
from harness.suite.matrix import Cell
from harness.plugin.manager import Plugins
from harness.suite.presets import Preset
from harness.keys import code_digest
from harness.build.fits import PHASES, Fits, told

V = TypeVar("V")


@dataclasses.dataclass(frozen=True)
class Root:
    """What the artefacts of one dataset, architecture and seed have in common."""

    dataset: str
    architecture: str
    seed: int
    train: Training
    finetune: Training
    device: str
    evaluation: int | None
    #: The form of the data that the architecture reads.
    layout: str = ""


@dataclasses.dataclass(frozen=True)
class Node:
    """One artefact to be: ``step`` applied to the artefact ``parent``. A root's step is None: a fresh network.

    ``objective`` and ``teacher`` are the step whose loss is in force and the key of the model that teaches.
    """

    key: str
    document: Mapping[str, Any]
    root: Root
    steps: tuple[Step, ...]
    parent: str | None
    objective: Step | None = None
    teacher: str | None = None
    #: The trainings that the step tells; None when it tells nothing.
    fits: Fits | None = None

    @property
    def step(self) -> Step | None:
        return self.steps[-1] if self.steps else None

    @property
    def label(self) -> str:
        """How the node is called in progress and errors."""
        recipe = " > ".join(describe(step) for step in self.steps) or "fresh network"
        return f"{self.root.dataset} {self.root.architecture} seed {self.root.seed}: {recipe}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The nodes by key, parents before children, and for each cell's name the key of its artefact.

    ``problems`` has the cells for which a plugin could not say what is needed, with the reason.
    """

    nodes: Mapping[str, Node]
    artefacts: Mapping[str, str]
    problems: Mapping[str, HarnessError] = dataclasses.field(default_factory=dict)

    def lineage(self, key: str) -> list[Node]:
        """The nodes from the fresh network to ``key``."""
        node = self.nodes[key]
        return ([] if node.parent is None else self.lineage(node.parent)) + [node]

    def untrained(self) -> list[str]:
        """The cells whose recipe has no step that trains; one whose steps do not tell is none of them."""
        return [
            cell
            for cell, key in self.artefacts.items()
            if all(node.step is None or node.fits == () for node in self.lineage(key))
        ]

    def needed(self, has: Callable[[str], bool]) -> list[Node]:
        """The nodes to build, in order: those that lead to an artefact which the store lacks, and are lacking too."""
        wanted: set[str] = set()

        def want(key: str | None) -> None:
            if key is None or key in wanted or has(key):
                return
            wanted.add(key)
            want(self.nodes[key].parent)
            want(self.nodes[key].teacher)

        for key in self.artefacts.values():
            want(key)
        return [node for key, node in self.nodes.items() if key in wanted]


def describe(step: Step) -> str:
    """A step as a suite writes it, for people: its name and its parameters, without those left open (None)."""
    given = {name: value for name, value in step.parameters().items() if value is not None}
    return f"{step.name}({', '.join(f'{name}={value}' for name, value in given.items())})"


def make(
    cells: Iterable[Cell],
    plugins: Plugins,
    fingerprint: Callable[[str], str],
    preset: Preset,
    device: str,
) -> Plan:
    """The graph of ``cells``. ``fingerprint`` gives the fingerprint of a data set by name; each is asked for once."""
    nodes: dict[str, Node] = {}
    artefacts: dict[str, str] = {}
    problems: dict[str, HarnessError] = {}
    prints, roots, tell = _Once(fingerprint), _Once(_root), _Once(_told)
    for cell in cells:
        where = (cell.dataset, cell.architecture, cell.seed)
        try:
            printed = prints(cell.dataset, cell.dataset)
            chain: list[Node] = [roots(where, *where, plugins, printed, preset, device)]
            for step in cell.steps:
                chain.append(_child(chain[-1], step, plugins, *tell(id(step), step, plugins)))
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
    """Gives what a function gave, or raised, when it was first called for an identity; its arguments are kept."""

    def __init__(self, function: Callable[..., V]) -> None:
        self._function = function
        self._found: dict[Any, tuple[V | HarnessError, Any]] = {}

    def __call__(self, identity: Any, *arguments: Any) -> V:
        if identity not in self._found:
            try:
                self._found[identity] = self._function(*arguments), arguments
            except HarnessError as error:
                self._found[identity] = error, arguments
        found = self._found[identity][0]
        if isinstance(found, HarnessError):
            raise found
        return found


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
    left_out = ("train", "finetune", *(() if network.layout else ("layout",)))
    document = {
        "schema": SCHEMA,
        "torch": ".".join(version("torch").split(".")[:2]),
        "architecture": {
            "version": network.version,
            "plugin": _origin(plugins.architectures.origin(architecture)),
            **_code(type(network)),
        },
        "data": {
            "version": plugins.datasets.get(dataset).version,
            "fingerprint": fingerprint,
            **_code(type(plugins.datasets.get(dataset))),
        },
        "task": to_jsonable(plugins.datasets.get(dataset).task_in(network.layout)),
        "root": {name: value for name, value in to_jsonable(root).items() if name not in left_out},
    }
    return Node(key_of(document), document, root, (), None)


def _child(parent: Node, step: Step, plugins: Plugins, fits: Fits | None, parameters: Any) -> Node:
    # Both phases, unless the step tells what it trains.
    phases = sorted(PHASES if fits is None else {phase for phase, _ in fits})
    document = {
        "schema": SCHEMA,
        "parent": parent.key,
        "step": step.name,
        "version": step.version,
        "plugin": _origin(plugins.steps.origin(step.name)),
        **_code(type(step)),
        "parameters": parameters,
        "training": {phase: to_jsonable(getattr(parent.root, phase)) for phase in phases},
    }
    objective, teacher = (step, parent.key) if step.is_teacher else (parent.objective, parent.teacher)
    return Node(key_of(document), document, parent.root, (*parent.steps, step), parent.key, objective, teacher, fits)


def _told(step: Step, plugins: Plugins) -> tuple[Fits | None, Any]:
    """The trainings and the parameters that a step tells."""
    if plugins.steps.get(step.name) is not type(step):
        raise UsageError(
            f"step {step.name!r} of {type(step).__module__} is not the one that plugin "
            f"{plugins.steps.origin(step.name)} registers under this name; rename one"
        )
    origin = plugins.steps.origin(step.name)

    def trainings() -> Fits | None:
        return told(step)

    fits = plugins.call(step, trainings)
    try:
        parameters = to_jsonable(plugins.call(step, "parameters"))
    except UsageError as error:
        raise CellError(f"plugin {origin}: parameters() of step {step.name!r}: {error}") from error
    return fits, parameters


def _code(kind: type) -> dict[str, str]:
    digest = code_digest(kind)
    return {} if digest is None else {"code": digest}


def _origin(origin: Any) -> dict[str, str]:
    return {"distribution": origin.distribution, "version": origin.version}
