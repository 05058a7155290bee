"""Prune single weights to N:M sparsity, the pattern that sparse tensor cores read.

After Mishra et al., "Accelerating sparse deep neural networks" (2021, arXiv:2104.08378): of each m consecutive weights
along the input channels the n of largest magnitude stay, and the network is trained again with that pattern.
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
class PruneNM(Step):
    """Keep ``n`` of each ``m`` consecutive weights along a layer's inputs, those of largest magnitude; fine-tune.

    Masks are applied after each step of the fine-tuning. They cover linear, convolutional and recurrent layers whose
    number of inputs (of input channels per group, for a convolution) is a multiple of ``m``. Other layers stay dense;
    the fact ``dense`` names each with the reason. ``precision`` is the arithmetic of the fine-tuning.

    The network keeps its shapes, bytes and multiply-accumulates here: only GPUs with sparse tensor cores skip the
    zeros, and no runtime of this harness uses them. The figure ``nonzero`` counts what is left.

    Raises Unsupported for a network in which no layer has such a number of inputs.
    """

    name: ClassVar[str] = "prune_nm"
    n: int = 2
    m: int = 4
    precision: Literal["float32", "bfloat16"] | None = None

    def __post_init__(self) -> None:
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (self.n, self.m))
        if not whole or not 1 <= self.n < self.m:
            raise UsageError(
                f"prune_nm(n={self.n!r}, m={self.m!r}): give whole numbers with 1 <= n < m, such as 2 and 4"
            )
        if self.precision not in (None, "float32", "bfloat16"):
            raise UsageError(f"prune_nm(precision={self.precision!r}): choose 'float32' or 'bfloat16'")

    @classmethod
    def examples(cls) -> Sequence[PruneNM]:
        return [cls(), cls(1, 3)]

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        return [("finetune", {} if self.precision is None else {"precision": self.precision})]

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        from harness_compress.weight_masks import fit_masked

        masks, dense = self.masks(model)
        model = copy.deepcopy(model)
        context.report(kept={name: [int(mask.sum()), mask.numel()] for name, mask in masks.items()}, dense=dense)
        ((phase, changes),) = self.trainings()
        return fit_masked(model, context, masks, phase, changes)

    def masks(self, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Return the masks by the weights' names (True keeps), and why other weights stay dense."""
        import torch

        from harness.nn.structure import PrunableLayer
        from harness_compress.weight_masks import weights_of

        masks: dict[str, torch.Tensor] = {}
        dense: dict[str, str] = {}
        for name, weight in weights_of(model, self.name).items():
            layer = model.get_submodule(name.rpartition(".")[0])
            if isinstance(layer, (PrunableLayer, torch.nn.modules.conv._ConvTransposeNd)):
                dense[name] = f"its inputs do not lie along axis 1 of a {type(layer).__name__}'s weights"
            elif weight.shape[1] % self.m:
                dense[name] = f"it has {weight.shape[1]} inputs, not a multiple of {self.m}"
            else:
                masks[name] = nm_mask(weight, self.n, self.m)
        if not masks:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in dense.items())
            raise Unsupported(
                f"prune_nm: no layer of {type(model).__name__} can have {self.n}:{self.m} zeros: {reasons}"
            )
        return masks, dense

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        """Return the model: no shape changes."""
        self.masks(model)
        return model


def nm_mask(weight: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Return the mask of the ``n`` largest magnitudes of each ``m`` weights along axis 1; ties keep the first.

    ``weight`` is (outputs, inputs, *kernel), inputs a multiple of m.
    """
    import torch

    last = weight.detach().abs().movedim(1, -1)
    groups = last.reshape(-1, m)
    order = torch.argsort(groups, dim=1, descending=True, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, :n], True)
    return mask.view(last.shape).movedim(-1, 1)
