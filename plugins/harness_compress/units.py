"""The units of a network: the layers that make and read them, and which of them are tied together."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

#: The labels of what no unit makes: the network's input and constants; and a parameter outside the stock layers.
FIXED, FOREIGN = 0, -1


@dataclasses.dataclass(eq=False)
class Cell:
    """A weight matrix, or what follows one channel by channel: a layer, or one layer and direction of a recurrent one.

    ``inputs`` and ``outputs`` (1-D) are the labels along the two axes of the weights. ``makes`` tells a layer that
    makes units from one that follows its input's (normalisation, depthwise convolution). ``upstream`` names all that
    make units on the way from the network's input to here, and ``depth`` counts them on the longest such way.
    """

    name: str
    path: str
    module: nn.Module
    inputs: Tensor
    outputs: Tensor
    makes: bool
    upstream: frozenset[str]
    depth: int


@dataclasses.dataclass(eq=False)
class Group:
    """Layers whose units can only be removed together.

    ``classes`` are the sets of tied units, each by its root, in the order of the deciding layer's units. ``stays`` is
    why none of them may go, or None.
    """

    decider: Cell
    members: list[Cell]
    classes: list[int]
    stays: str | None

    @property
    def name(self) -> str:
        return self.decider.name


class Trace:
    """What a network's units are and how they hang together."""

    def __init__(self) -> None:
        self.cells: dict[str, Cell] = {}
        #: Why a unit must stay, and why it must not be touched, by label.
        self.pinned: dict[int, str] = {}
        self.foreign: dict[int, str] = {}
        self._parent: dict[int, int] = {}

    def root(self, label: int) -> int:
        """The label that stands for all units tied to this one."""
        while (parent := self._parent.get(label, label)) != label:
            self._parent[label] = label = self._parent.get(parent, parent)
        return label

    def roots(self, labels: Tensor) -> list[int]:
        return [self.root(label) for label in labels.tolist()]

    def agrees(self, other: Trace) -> bool:
        """Whether nothing is tied or held here that is not so in ``other``, whose labels are the same.

        A unit that is left alone in its layer may be held: its axis has become one that is broadcast.
        """
        held = {other.root(label) for label in (*other.pinned, *other.foreign)}
        alone = {int(cell.outputs) for cell in self.cells.values() if len(cell.outputs) == 1}
        return all(other.root(label) == other.root(to) for label, to in self._parent.items()) and all(
            label in alone or other.root(label) in held for label in (*self.pinned, *self.foreign)
        )

    def tie(self, a: Tensor, b: Tensor, where: str) -> None:
        """Tie the labels of two tensors of one shape, element by element."""
        differ = a != b
        # Two labels in one integer: torch.unique is many times faster on a vector than on rows.
        for pair in torch.unique(((a[differ] + 1) << 32) + b[differ] + 1).tolist():
            low, high = sorted(((pair >> 32) - 1, (pair & 0xFFFFFFFF) - 1))
            if low > 0:
                self._parent[self.root(high)] = self.root(low)
            elif high > 0 and low == FIXED:
                self.pinned.setdefault(high, f"{where} joins it to values that no layer's units make")
            elif high > 0:
                self.foreign.setdefault(high, where)
