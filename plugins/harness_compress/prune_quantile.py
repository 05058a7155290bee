"""Structured pruning by the mean of a unit's incoming weights against a quantile of its layer.

After Liu, Sepulveda and Zheng (JMIR Form Res 2021;5(12):e20767, doi:10.2196/20767).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.api import Phase, Step, StepContext
from harness.errors import UsageError
from harness_compress.prune import prunable, prune_and_fit

if TYPE_CHECKING:
    import torch

    from harness_compress.units import Group


@dataclasses.dataclass(frozen=True)
class PruneQuantile(Step):
    """Remove from every layer the units whose mean incoming weight lies below the layer's ``quantile``; train on.

    Units are those that ``prune`` takes. All layers are judged as they are before any unit goes, over all inputs from
    the previous layer; biases have no part in it. What the study leaves open, and what it is here unless asked for
    otherwise:

    - ``absolute``: the mean of magnitudes; else of the weights with their signs, as the study's words have it.
    - ``recurrent``: the weights between the states of a recurrent layer count too; else only those from the previous
      layer, as the study's words have it.
    - ``gates``: how the gates of a recurrent unit combine: the mean over all of its weights, or the largest or the
      smallest of the gates' means.
    - ``inclusive``: units at the quantile go too; else only those below it. At least one unit stays.

    The quantile is interpolated linearly between two units' means (NumPy's default), so that half of 16 different ones
    lie below the median. The fine-tuning has a new optimizer: the old one's moments are those of other weights.
    ``epochs`` and ``precision`` are the fine-tuning's, by default the architecture's: the study trains one epoch,
    prunes and trains 19 more, ``[train(epochs=1), prune_quantile(0.5, epochs=19)]``.
    """

    name: ClassVar[str] = "prune_quantile"
    quantile: float = 0.5
    absolute: bool = False
    recurrent: bool = False
    gates: Literal["mean", "max", "min"] = "mean"
    inclusive: bool = False
    epochs: int | None = None
    precision: Literal["float32", "bfloat16"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.quantile, bool) or not isinstance(self.quantile, int | float) or not 0 <= self.quantile < 1:
            raise UsageError(f"prune_quantile(quantile={self.quantile!r}): a number from 0 to below 1")
        if self.gates not in ("mean", "max", "min"):
            raise UsageError(f"prune_quantile(gates={self.gates!r}): one of 'mean', 'max', 'min'")
        for field in ("absolute", "recurrent", "inclusive"):
            if not isinstance(value := getattr(self, field), bool):
                raise UsageError(f"prune_quantile({field}={value!r}): True or False")
        if self.epochs is not None and (type(self.epochs) is not int or self.epochs < 1):
            raise UsageError(f"prune_quantile(epochs={self.epochs!r}): a whole number of epochs, at least one")
        if self.precision not in (None, "float32", "bfloat16"):
            raise UsageError(f"prune_quantile(precision={self.precision!r}): one of 'float32', 'bfloat16'")

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        changes = {"epochs": self.epochs, "precision": self.precision}
        return [("finetune", {name: value for name, value in changes.items() if value is not None})]

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        def cut(model: torch.nn.Module, example: torch.Tensor, found: list[Group], index: int) -> dict[str, list[int]]:
            return self._cut(model, example)

        return prune_and_fit(model, context, self.trainings(), cut)

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        prunable(model, example)
        model = copy.deepcopy(model)
        self._cut(model, example)
        return model

    def _cut(self, model: torch.nn.Module, example: torch.Tensor) -> dict[str, list[int]]:
        from harness_compress.criteria import above
        from harness_compress.structured import remove

        choose = above(self.quantile, self.absolute, self.recurrent, self.gates, self.inclusive)
        return remove(model, example, choose, sequential=False)
