"""Which of a layer's units are left: a number of them by their norm, or those whose mean weight reaches a quantile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from harness_compress.units import Group

Norm = Literal["l1", "l2"]
Gates = Literal["mean", "max", "min"]


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """The weights (units, n), float64, by which one gate of a group's deciding layer reads one source.

    ``recurrent`` tells those that read what the layer, or one behind it, made a step before.
    """

    values: Tensor
    gate: int = 0
    recurrent: bool = False


#: Numbers by unit (units, ...) -> their sums by class of tied units (classes, ...), in the order of the group.
Add = Callable[[Tensor], Tensor]
#: Which classes of the group are left, by their numbers in its order.
Choice = Callable[[Group, Sequence[Weights], Add], list[int]]


def largest(norm: Norm, targets: Mapping[str, int]) -> Choice:
    """As many as ``targets`` says (by the group's name; default all), of the largest norm; of equals the first.

    L1 is the sum of magnitudes, L2 the root of the sum of squares, over all gates and sources together.
    """

    def choose(group: Group, weights: Sequence[Weights], add: Add) -> list[int]:
        count = targets.get(group.name, len(group.classes))
        gates = sorted({part.gate for part in weights})
        rows = torch.cat([part.values for gate in gates for part in weights if part.gate == gate], dim=1)
        scores = add(rows.abs().sum(1)) if norm == "l1" else add(rows.square().sum(1)).sqrt()
        kept: list[int] = torch.argsort(scores, descending=True, stable=True)[:count].tolist()
        return kept

    return choose


def above(quantile: float, absolute: bool, recurrent: bool, gates: Gates, inclusive: bool) -> Choice:
    """All but those whose mean weight lies below the quantile (linear, as NumPy's) of their group's; at least the top.

    ``absolute`` takes magnitudes, ``recurrent`` counts recurrent weights too, ``gates`` makes one number of those of
    the gates, and with ``inclusive`` those at the quantile go as well.
    """

    def choose(group: Group, weights: Sequence[Weights], add: Add) -> list[int]:
        means = []
        for gate in sorted({part.gate for part in weights}):
            rows = torch.cat(
                [part.values for part in weights if part.gate == gate and (recurrent or not part.recurrent)], dim=1
            )
            sums = add((rows.abs() if absolute else rows).sum(1))
            means.append(sums / add(torch.full_like(rows[:, 0], rows.shape[1])))
        by_gate = torch.stack(means)
        scores = {"mean": by_gate.mean(0), "max": by_gate.amax(0), "min": by_gate.amin(0)}[gates]
        bound = torch.quantile(scores, quantile)
        left = scores > bound if inclusive else scores >= bound
        left[scores.argmax()] = True
        kept: list[int] = left.nonzero().flatten().tolist()
        return kept

    return choose
