"""The step ``train``, with which every recipe begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.api import Phase, Step, StepContext
from harness.errors import UsageError

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Train(Step):
    """Train the network from scratch as its architecture declares; arguments here replace that.

    ``precision`` is the arithmetic of the forward and backward pass: bfloat16 is autocast, with float32 weights.
    """

    name: ClassVar[str] = "train"
    epochs: int | None = None
    precision: Literal["float32", "bfloat16"] | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None and (not isinstance(self.epochs, int) or self.epochs < 1):
            raise UsageError(f"train(epochs={self.epochs!r}): give a whole number of epochs, at least 1")
        if self.precision not in (None, "float32", "bfloat16"):
            raise UsageError(f"train(precision={self.precision!r}): choose 'float32' or 'bfloat16'")

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        ((phase, changes),) = self.trainings()
        return context.fit(model, phase, **changes)

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        return [("train", {name: value for name, value in self.parameters().items() if value is not None})]

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        return model
