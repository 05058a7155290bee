"""Prune whole channels and hidden units by the norm of their weights (structured pruning).

After Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017, arXiv:1608.08710), in the greedy, sequential form
and with the rounds of Holda et al. (Informatica 37(1), 2026, doi:10.15388/26-INFOR620).
"""

from __future__ import annotations

import bisect
import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.api import Phase, Step, StepContext
from harness.errors import Unsupported, UsageError

if TYPE_CHECKING:
    import torch

    from harness_compress.units import UnitGroup


@dataclasses.dataclass(frozen=True)
class Prune(Step):
    """Keep the fraction ``keep`` of the units of every layer, in ``rounds`` rounds with fine-tuning after each.

    Units are the output channels of convolutions and linear layers and the hidden units of recurrent layers; the
    layer of the network's output keeps its units. Every round keeps the same share of the remaining units,
    keep^(1/rounds). ``norm`` ranks a layer's units. Layers are pruned from input to output, each ranked over its
    remaining inputs (``structured.shrink`` has the rules). ``precision`` is the arithmetic of the fine-tuning, as in
    ``train``.
    """

    name: ClassVar[str] = "prune"
    norm: Literal["l1", "l2"] = "l1"
    keep: float = 0.5
    rounds: int = 1
    precision: Literal["float32", "bfloat16"] | None = None

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l2"):
            raise UsageError(f"prune(norm={self.norm!r}): choose 'l1' or 'l2'")
        if isinstance(self.keep, bool) or not isinstance(self.keep, int | float) or not 0 < self.keep <= 1:
            raise UsageError(f"prune(keep={self.keep!r}): give the fraction of units to keep, above 0 and at most 1")
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or not 1 <= self.rounds <= 100:
            raise UsageError(f"prune(rounds={self.rounds!r}): give a whole number of rounds, 1 to 100")

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        changes = {} if self.precision is None else {"precision": self.precision}
        return [("finetune", changes)] * self.rounds

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        from harness_compress.structured import shrink

        def cut(
            model: torch.nn.Module, example: torch.Tensor, unit_groups: list[UnitGroup], index: int
        ) -> dict[str, list[int]]:
            return shrink(model, example, self.norm, self._targets(unit_groups, index))

        return prune_and_fit(model, context, self.trainings(), cut)

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        from harness_compress.structured import shrink

        model = copy.deepcopy(model)
        shrink(model, example, self.norm, self._targets(prunable(model, example), self.rounds))
        return model

    def _targets(self, unit_groups: list[UnitGroup], index: int) -> dict[str, int]:
        return {group.name: kept_count(len(group.classes), self.keep, index, self.rounds) for group in unit_groups}


def kept_count(units: int, keep: float, index: int = 1, rounds: int = 1) -> int:
    """Compute how many units remain after round ``index`` of ``rounds``: units * keep^(index/rounds), rounded.

    Halves round up, at least one unit remains, and ``keep`` is the decimal as written (0.1, not the nearest binary
    fraction). Each round starts from the original number, so the final number does not depend on ``rounds``. The
    comparison is exact, in integers: k units remain if (2k - 1)^rounds <= (2 units)^rounds keep^index.
    """
    bound = (2 * units) ** rounds * Fraction(str(keep)) ** index
    return max(1, bisect.bisect_right(range(1, units + 1), bound, key=lambda k: (2 * k - 1) ** rounds))


def prune_and_fit(
    model: torch.nn.Module,
    context: StepContext,
    fits: Sequence[tuple[Phase, Mapping[str, Any]]],
    cut: Callable[[torch.nn.Module, torch.Tensor, list[UnitGroup], int], dict[str, list[int]]],
) -> torch.nn.Module:
    """Remove units from a copy of the model before each fit; report the remaining units at the end.

    ``cut`` removes them in place. It gets an example, the groups of the original network and the number of the round
    (from 1), and returns the indices kept, by layer.
    """
    model = copy.deepcopy(model)
    example = context.example.to(next((p.device for p in model.parameters()), None))
    unit_groups = prunable(model, example)
    sizes = {cell.name: len(cell.outputs) for group in unit_groups for cell in group.members}
    units = {name: list(range(size)) for name, size in sizes.items()}
    before = _parameters(model)
    for index, (phase, changes) in enumerate(fits, start=1):
        kept = cut(model, example, unit_groups, index)
        units = {name: [numbers[i] for i in kept[name]] for name, numbers in units.items()}
        after = _parameters(model)
        model = context.fit(model, phase, name=f"round-{index}", **changes)
    context.report(
        kept={name: [len(numbers), sizes[name]] for name, numbers in units.items()},
        units=units,
        untouched={cell.name: group.stays for group in unit_groups if group.stays for cell in group.members},
        parameters={"before": before, "after": after},
    )
    return model


def prunable(model: torch.nn.Module, example: torch.Tensor) -> list[UnitGroup]:
    """Return the groups of the network's units. Raises Unsupported when all units must stay."""
    from harness_compress.structured import groups
    from harness_compress.tracing import trace

    unit_groups = groups(trace(model, example))
    if all(group.stays for group in unit_groups):
        raise Unsupported(
            f"prune: no layer of {type(model).__name__} has removable units; the output layer keeps its own"
        )
    return unit_groups


def _parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
