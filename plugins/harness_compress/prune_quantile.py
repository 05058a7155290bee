"""Prune the units whose mean incoming weight is below a quantile of their layer.

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

    from harness_compress.units import UnitGroup


@dataclasses.dataclass(frozen=True)
class PruneQuantile(Step):
    """Remove from every layer the units whose mean incoming weight is below the layer's ``quantile``; then fine-tune.

    Units are those of ``prune``. All layers are judged before any unit is removed, over all inputs from the previous
    layer and without biases. The study leaves these choices open; the defaults follow its wording:

    - ``absolute``: average magnitudes; by default, the weights with their signs.
    - ``recurrent``: include the weights between the states of a recurrent layer; by default, only those from the
      previous layer.
    - ``gates``: how the gates of a recurrent unit combine: the mean over all of its weights, or the largest or smallest
      of the gates' means.
    - ``inclusive``: remove units at the quantile too; by default, only those below it. At least one unit stays.

    The quantile is interpolated linearly between two units' means (NumPy's default): half of 16 distinct means are
    below the median. The fine-tuning uses a new optimizer, because the old moments belong to other weights.
    ``epochs`` and ``precision`` replace the architecture's for the fine-tuning. The study trains one epoch, prunes and
    trains 19 more: ``[train(epochs=1), prune_quantile(0.5, epochs=19)]``.
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
            raise UsageError(f"prune_quantile(quantile={self.quantile!r}): give a number from 0 to below 1")
        if self.gates not in ("mean", "max", "min"):
            raise UsageError(f"prune_quantile(gates={self.gates!r}): choose 'mean', 'max' or 'min'")
        for field in ("absolute", "recurrent", "inclusive"):
            if not isinstance(value := getattr(self, field), bool):
                raise UsageError(f"prune_quantile({field}={value!r}): choose True or False")
        if self.epochs is not None and (type(self.epochs) is not int or self.epochs < 1):
            raise UsageError(f"prune_quantile(epochs={self.epochs!r}): give a whole number of epochs, at least 1")
        if self.precision not in (None, "float32", "bfloat16"):
            raise UsageError(f"prune_quantile(precision={self.precision!r}): choose 'float32' or 'bfloat16'")

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        changes = {"epochs": self.epochs, "precision": self.precision}
        return [("finetune", {name: value for name, value in changes.items() if value is not None})]

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        def cut(
            model: torch.nn.Module, example: torch.Tensor, unit_groups: list[UnitGroup], index: int
        ) -> dict[str, list[int]]:
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
