"""Represent the units of a network: the layers that compute and read them, and the units that are tied together."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from harness.nn.structure import WeightBlock

#: Labels of values that no unit computes: FIXED for the input and constants, FOREIGN for parameters outside layers.
FIXED, FOREIGN = 0, -1


@dataclasses.dataclass(eq=False)
class TracedLayer:
    """A layer with a weight matrix or with channel-wise weights; of a recurrent module, one layer and direction.

    ``inputs`` and ``outputs`` (1-D) are the labels along the two axes of the weights. ``makes`` is True for a layer
    that computes new units, and False for one that keeps those of its input (normalisation, depthwise convolution).
    ``upstream`` names all layers that compute units on paths from the network's input to this layer; ``depth`` is
    their number on the longest path.
    """

    name: str
    path: str
    module: nn.Module
    inputs: Tensor
    outputs: Tensor
    makes: bool
    upstream: frozenset[str]
    depth: int

    def reads(self) -> list[tuple[WeightBlock, Tensor]]:
        """Return the weight blocks of a layer of a PrunableLayer, each with the labels of its inputs."""
        module: Any = self.module
        blocks = module.incoming()[self.name.removeprefix(f"{self.path}.")]
        return list(zip(blocks, torch.split(self.inputs, [block.weight.shape[1] for block in blocks]), strict=True))


@dataclasses.dataclass(eq=False)
class UnitGroup:
    """Layers whose units can only be removed together.

    ``classes`` are the sets of tied units, each represented by its root label, in the order of the deciding layer's
    units. ``stays`` is the reason why none may be removed, or None.
    """

    decider: TracedLayer
    members: list[TracedLayer]
    classes: list[int]
    stays: str | None

    @property
    def name(self) -> str:
        return self.decider.name


class Trace:
    """The layers of a network, the ties between their units (union-find), and the units that must stay."""

    def __init__(self) -> None:
        self.cells: dict[str, TracedLayer] = {}
        #: By label, the reason why a unit must stay, and why its layers must not change at all.
        self.pinned: dict[int, str] = {}
        self.foreign: dict[int, str] = {}
        self._parent: dict[int, int] = {}

    def root(self, label: int) -> int:
        """The label that represents all units tied to this one."""
        while (parent := self._parent.get(label, label)) != label:
            self._parent[label] = label = self._parent.get(parent, parent)
        return label

    def roots(self, labels: Tensor) -> list[int]:
        return [self.root(label) for label in labels.tolist()]

    def agrees(self, other: Trace) -> bool:
        """Whether every tie and every unit that must stay here is so in ``other`` too; both use the same labels.

        A single remaining unit of a layer may have to stay: its axis is now broadcast.
        """
        staying = {other.root(label) for label in (*other.pinned, *other.foreign)}
        alone = {int(cell.outputs) for cell in self.cells.values() if len(cell.outputs) == 1}
        return all(other.root(label) == other.root(to) for label, to in self._parent.items()) and all(
            label in alone or other.root(label) in staying for label in (*self.pinned, *self.foreign)
        )

    def tie(self, a: Tensor, b: Tensor, where: str) -> None:
        """Tie the labels of two tensors of the same shape, element by element."""
        differ = a != b
        # Both labels in one integer, because torch.unique is much faster on a vector than on rows.
        for pair in torch.unique(((a[differ] + 1) << 32) + b[differ] + 1).tolist():
            low, high = sorted(((pair >> 32) - 1, (pair & 0xFFFFFFFF) - 1))
            if low > 0:
                self._parent[self.root(high)] = self.root(low)
            elif high > 0 and low == FIXED:
                self.pinned.setdefault(high, f"{where} joins it to values that no layer's units make")
            elif high > 0:
                self.foreign.setdefault(high, where)
