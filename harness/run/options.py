"""Define the options of a run, and the gate policy that follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from harness.policy.baseline import Baseline
from harness.policy.rules import Policy, policy
from harness.suite.matrix import Cell
from harness.suite.presets import Preset
from harness.text import DEFAULT_MARGIN


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a run."""

    preset: Preset
    store: Path
    data: str | None = None
    device: str = "cpu"
    #: False evaluates cells without timing them.
    timed: bool = True
    #: The relative difference in latency that matters; verdicts are decided at this margin.
    margin: float = DEFAULT_MARGIN
    #: The profile of all cells, instead of those of their matrices.
    protocol: str | None = None
    #: The URL of a store that machines share.
    shared: str | None = None
    #: A run file: of the shared store, only the models that it names are used.
    trusted: Path | None = None
    #: The run to compare with, whose models are measured again; the gate's rules of project and command line.
    baseline: Baseline | None = None
    project_rules: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rules: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: Optional metrics to compute, beside those that the matrices name.
    metrics: tuple[str, ...] = ()

    def policy(self, declared: Mapping[str, str], defaults: Mapping[str, str] = MappingProxyType({})) -> Policy:
        """The policy for a cell whose matrix declares these rules, over the defaults that metrics declare."""
        return policy(defaults, self.project_rules, declared, self.rules)

    def protocol_of(self, cell: Cell) -> str:
        """How this run times a cell: "paired" or "single"."""
        return self.protocol or cell.protocol
