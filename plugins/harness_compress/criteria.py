"""Select the units of a layer to keep: the largest by norm, or those whose mean weight reaches a quantile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from harness_compress.units import UnitGroup

Norm = Literal["l1", "l2"]
Gates = Literal["mean", "max", "min"]


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """The weights (units, n), float64, by which one gate of a group's deciding layer reads one source.

    ``recurrent`` marks weights that read the previous time step's output of this layer or of a later one.
    """

    values: Tensor
    gate: int = 0
    recurrent: bool = False


#: Values per unit (units, ...) -> their sums per class of tied units (classes, ...), in the order of the group.
Add = Callable[[Tensor], Tensor]
#: Returns the classes of the group to keep, as indices into its order.
Choice = Callable[[UnitGroup, Sequence[Weights], Add], list[int]]


def largest(norm: Norm, targets: Mapping[str, int]) -> Choice:
    """Keep ``targets`` units per group (by the group's name; default all), those of largest norm; ties keep the first.

    L1 is the sum of magnitudes, L2 the root of the sum of squares, over all gates and sources together.
    """

    def choose(group: UnitGroup, weights: Sequence[Weights], add: Add) -> list[int]:
        count = targets.get(group.name, len(group.classes))
        gates = sorted({part.gate for part in weights})
        rows = torch.cat([part.values for gate in gates for part in weights if part.gate == gate], dim=1)
        scores = add(rows.abs().sum(1)) if norm == "l1" else add(rows.square().sum(1)).sqrt()
        kept: list[int] = torch.argsort(scores, descending=True, stable=True)[:count].tolist()
        return kept

    return choose


def above(quantile: float, absolute: bool, recurrent: bool, gates: Gates, inclusive: bool) -> Choice:
    """Drop units whose mean weight is below the quantile (linear, like NumPy's) of their group; keep at least one.

    ``absolute`` averages magnitudes, ``recurrent`` includes recurrent weights, ``gates`` combines the gates' means,
    and ``inclusive`` also drops units at the quantile.
    """

    def choose(group: UnitGroup, weights: Sequence[Weights], add: Add) -> list[int]:
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
        selected = scores > bound if inclusive else scores >= bound
        selected[scores.argmax()] = True
        kept: list[int] = selected.nonzero().flatten().tolist()
        return kept

    return choose
