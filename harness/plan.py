"""From cells to a graph of steps, each once: what must be built, what the store has, and how long it may take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

from harness.contracts import Phase, Step, Training
from harness.keys import SCHEMA, key_of, plain
from harness.matrix import Cell
from harness.plugins import Plugins
from harness.presets import Preset
from harness.source import code_digest


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
    view: str = ""


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
    """The nodes by key, parents before children, and for each cell's name the key of its artefact."""

    nodes: Mapping[str, Node]
    artefacts: Mapping[str, str]

    def lineage(self, key: str) -> list[Node]:
        """The nodes from the fresh network to ``key``."""
        node = self.nodes[key]
        return ([] if node.parent is None else self.lineage(node.parent)) + [node]

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
    cells: Iterable[Cell], plugins: Plugins, fingerprint: Callable[[str], str], preset: Preset, device: str
) -> Plan:
    """The graph of ``cells``. ``fingerprint`` gives the fingerprint of a data set by name; each is asked for once."""
    nodes: dict[str, Node] = {}
    artefacts: dict[str, str] = {}
    roots: dict[tuple[str, str, int], Node] = {}
    prints: dict[str, str] = {}
    for cell in cells:
        where = (cell.dataset, cell.architecture, cell.seed)
        if where not in roots:
            if cell.dataset not in prints:
                prints[cell.dataset] = fingerprint(cell.dataset)
            roots[where] = _root(*where, plugins, prints[cell.dataset], preset, device)
            nodes[roots[where].key] = roots[where]
        node = roots[where]
        for step in cell.steps:
            child = _child(node, step, plugins)
            node = nodes.setdefault(child.key, child)
        artefacts[cell.name] = node.key
    return Plan(nodes, artefacts)


def _root(
    dataset: str, architecture: str, seed: int, plugins: Plugins, fingerprint: str, preset: Preset, device: str
) -> Node:
    network = plugins.architectures.get(architecture)
    root = Root(
        dataset=dataset,
        architecture=architecture,
        seed=seed,
        train=preset.training(network, "train"),
        finetune=preset.training(network, "finetune"),
        device=device,
        evaluation=preset.evaluation,
        view=network.view,
    )
    left_out = ("train", "finetune", *(() if network.view else ("view",)))
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
        "task": plain(plugins.datasets.get(dataset).task_in(network.view)),
        "root": {name: value for name, value in plain(root).items() if name not in left_out},
    }
    return Node(key_of(document), document, root, (), None)


def _child(parent: Node, step: Step, plugins: Plugins) -> Node:
    document = {
        "schema": SCHEMA,
        "parent": parent.key,
        "step": step.name,
        "version": step.version,
        "plugin": _origin(plugins.steps.origin(step.name)),
        **_code(type(step)),
        "parameters": plain(step.parameters()),
        "training": {phase: plain(getattr(parent.root, phase)) for phase in _phases(step)},
    }
    objective, teacher = (step, parent.key) if step.teaches else (parent.objective, parent.teacher)
    return Node(key_of(document), document, parent.root, (*parent.steps, step), parent.key, objective, teacher)


def _phases(step: Step) -> list[Phase]:
    """The phases whose training a step's result depends on: both, unless the step tells what it trains."""
    fits = step.fits()
    return ["finetune", "train"] if fits is None else sorted({phase for phase, _ in fits})


def _code(kind: type) -> dict[str, str]:
    digest = code_digest(kind)
    return {} if digest is None else {"code": digest}


def _origin(origin: Any) -> dict[str, str]:
    return {"distribution": origin.distribution, "version": origin.version}
