"""Structured pruning: whole channels and hidden units leave the network, by the norm of their weights.

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

    from harness_compress.units import Group


@dataclasses.dataclass(frozen=True)
class Prune(Step):
    """Keep the fraction ``keep`` of the units of every layer, reached in ``rounds`` rounds with fine-tuning after each.

    Units are the output channels of convolutions and linear layers and the hidden units of recurrent ones; those of
    the layer that gives the network's output stay. Every round keeps the same share of what the last one left:
    1 - keep^(1/rounds) goes. ``norm`` ranks a layer's units; layers are taken from input to output, each ranked over
    the inputs that are still there (``structured.shrink`` has the rules). ``precision`` is the arithmetic of the
    fine-tuning, as in ``train``.
    """

    name: ClassVar[str] = "prune"
    norm: Literal["l1", "l2"] = "l1"
    keep: float = 0.5
    rounds: int = 1
    precision: Literal["float32", "bfloat16"] | None = None

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l2"):
            raise UsageError(f"prune(norm={self.norm!r}): the norm is 'l1' or 'l2'")
        if isinstance(self.keep, bool) or not isinstance(self.keep, int | float) or not 0 < self.keep <= 1:
            raise UsageError(f"prune(keep={self.keep!r}): the fraction of units left is above 0 and at most 1")
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or not 1 <= self.rounds <= 100:
            raise UsageError(f"prune(rounds={self.rounds!r}): a whole number of rounds, 1 to 100")

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        changes = {} if self.precision is None else {"precision": self.precision}
        return [("finetune", changes)] * self.rounds

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        from harness_compress.structured import shrink

        def cut(model: torch.nn.Module, example: torch.Tensor, found: list[Group], index: int) -> dict[str, list[int]]:
            return shrink(model, example, self.norm, self._targets(found, index))

        return prune_and_fit(model, context, self.trainings(), cut)

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        from harness_compress.structured import shrink

        model = copy.deepcopy(model)
        shrink(model, example, self.norm, self._targets(prunable(model, example), self.rounds))
        return model

    def _targets(self, found: list[Group], index: int) -> dict[str, int]:
        return {group.name: kept_count(len(group.classes), self.keep, index, self.rounds) for group in found}


def kept_count(units: int, keep: float, index: int = 1, rounds: int = 1) -> int:
    """How many of ``units`` are left after round ``index`` of ``rounds``: units * keep^(index/rounds), rounded.

    Halves round up, at least one stays, and ``keep`` is the decimal that was written (0.1, not its nearest binary
    fraction). Each round counts from the original number, so that the last one does not depend on ``rounds``. The
    comparison is exact, in integers: k is in when (2k - 1)^rounds <= (2 units)^rounds keep^index.
    """
    bound = (2 * units) ** rounds * Fraction(str(keep)) ** index
    return max(1, bisect.bisect_right(range(1, units + 1), bound, key=lambda k: (2 * k - 1) ** rounds))


def prune_and_fit(
    model: torch.nn.Module,
    context: StepContext,
    fits: Sequence[tuple[Phase, Mapping[str, Any]]],
    cut: Callable[[torch.nn.Module, torch.Tensor, list[Group], int], dict[str, list[int]]],
) -> torch.nn.Module:
    """Before every fit take units out of a copy of the model, and report in the end which are left.

    ``cut`` does it in place, given an example, the network's groups as they were at first and the number of the round
    from 1, and returns the indices that it kept by layer.
    """
    model = copy.deepcopy(model)
    example = context.example.to(next((p.device for p in model.parameters()), None))
    found = prunable(model, example)
    sizes = {cell.name: len(cell.outputs) for group in found for cell in group.members}
    units = {name: list(range(size)) for name, size in sizes.items()}
    before = _parameters(model)
    for index, (phase, changes) in enumerate(fits, start=1):
        kept = cut(model, example, found, index)
        units = {name: [numbers[i] for i in kept[name]] for name, numbers in units.items()}
        after = _parameters(model)
        model = context.fit(model, phase, name=f"round-{index}", **changes)
    context.report(
        kept={name: [len(numbers), sizes[name]] for name, numbers in units.items()},
        units=units,
        untouched={cell.name: group.stays for group in found if group.stays for cell in group.members},
        parameters={"before": before, "after": after},
    )
    return model


def prunable(model: torch.nn.Module, example: torch.Tensor) -> list[Group]:
    """The groups of the network's units; Unsupported when all have to stay."""
    from harness_compress.structured import groups
    from harness_compress.tracing import trace

    found = groups(trace(model, example))
    if all(group.stays for group in found):
        raise Unsupported(
            f"prune: no layer of {type(model).__name__} has units that can go; the output's layer keeps its own"
        )
    return found


def _parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
