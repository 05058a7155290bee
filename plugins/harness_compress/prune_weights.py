"""Prune single weights by magnitude (unstructured pruning).

After Han, Pool, Tran and Dally, "Learning both weights and connections for efficient neural networks" (NeurIPS 2015,
arXiv:1506.02626): the weights of least magnitude go, and the others are trained on.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.api import Phase, Step, StepContext
from harness.errors import Unsupported, UsageError

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class PruneWeights(Step):
    """Keep the fraction ``keep`` of the weights, those of largest magnitude; fine-tune while the others stay zero.

    ``scope="global"`` ranks the weights of all layers together, so layers keep different shares; ``"layer"`` keeps the
    same share of each. Weights are those by which linear, convolutional, recurrent and attention layers multiply, the
    output layer's too. Biases and normalization stay. In ``rounds`` rounds, each followed by a fine-tuning, the same
    share of the remaining weights goes, keep^(1/rounds). ``precision`` is the arithmetic of the fine-tuning.

    The network keeps its shapes, bytes and multiply-accumulates: dense kernels multiply by zeros. The figure
    ``nonzero`` counts what is left. Later steps that train do not know the masks and change the zeros.

    Raises Unsupported for a network without float weights, and when a layer would lose all of its weights.
    """

    name: ClassVar[str] = "prune_weights"
    keep: float = 0.5
    scope: Literal["global", "layer"] = "global"
    rounds: int = 1
    precision: Literal["float32", "bfloat16"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.keep, bool) or not isinstance(self.keep, int | float) or not 0 < self.keep <= 1:
            raise UsageError(
                f"prune_weights(keep={self.keep!r}): give the fraction of weights to keep, above 0 and at most 1"
            )
        if self.scope not in ("global", "layer"):
            raise UsageError(f"prune_weights(scope={self.scope!r}): choose 'global' or 'layer'")
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or not 1 <= self.rounds <= 100:
            raise UsageError(f"prune_weights(rounds={self.rounds!r}): give a whole number of rounds, 1 to 100")
        if self.precision not in (None, "float32", "bfloat16"):
            raise UsageError(f"prune_weights(precision={self.precision!r}): choose 'float32' or 'bfloat16'")

    @classmethod
    def examples(cls) -> Sequence[PruneWeights]:
        return [cls(), cls(0.3, "layer", rounds=2)]

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        changes = {} if self.precision is None else {"precision": self.precision}
        return [("finetune", changes)] * self.rounds

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        from harness_compress.weight_masks import fit_masked, weights_of

        weights_of(model, self.name)  # before the copy, which fails for some networks that are refused
        model = copy.deepcopy(model)
        for index, (phase, changes) in enumerate(self.trainings(), start=1):
            masks = self.masks(model, index)
            model = fit_masked(model, context, masks, phase, changes, name=f"round-{index}")
        context.report(kept={name: [int(mask.sum()), mask.numel()] for name, mask in masks.items()})
        return model

    def masks(self, model: torch.nn.Module, index: int = 1) -> dict[str, torch.Tensor]:
        """Return the masks of round ``index``, by the weights' names: True keeps. Zeros of earlier rounds go first."""
        import torch

        from harness_compress.prune import kept_count
        from harness_compress.weight_masks import largest, weights_of

        weights = weights_of(model, self.name)
        sizes = [weight.numel() for weight in weights.values()]
        if self.scope == "layer":
            masks = [
                largest(weight, kept_count(size, self.keep, index, self.rounds))
                for weight, size in zip(weights.values(), sizes, strict=True)
            ]
        else:
            every = torch.cat([weight.detach().flatten() for weight in weights.values()])
            mask = largest(every, kept_count(sum(sizes), self.keep, index, self.rounds))
            masks = [
                part.view(weight.shape) for part, weight in zip(torch.split(mask, sizes), weights.values(), strict=True)
            ]
        empty = [name for name, mask in zip(weights, masks, strict=True) if not mask.any()]
        if empty:
            raise Unsupported(
                f"prune_weights(keep={self.keep}, scope='global') leaves no weight of {', '.join(empty)}, so the "
                "network would not depend on its input; use scope='layer' or a larger keep"
            )
        return dict(zip(weights, masks, strict=True))

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        """Return the model: no shape changes."""
        from harness_compress.weight_masks import weights_of

        weights_of(model, self.name)
        return model
