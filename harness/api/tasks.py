"""Define what a kind of task means for training: its loss, its activation, and the figure that selects an epoch.

Every task is multi-label today. A further kind is a further ``TaskKind`` here; nothing else in the harness names a
loss or the figure of a metric. Importing this module loads no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.api.data import Task
from harness.api.steps import Loss

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class TaskKind:
    """How networks for one kind of task are trained and read."""

    #: (logits, targets, teacher logits or None), each (batch, labels) -> scalar loss.
    loss: Loss
    #: Makes the module that turns logits into the probabilities that metrics get.
    activation: Callable[[], torch.nn.Module]
    #: The name of ``score`` in the training curve.
    selector: str
    #: (logits, targets), each (n, labels) -> the figure by which the best epoch is chosen; higher is better.
    score: Callable[[NDArray[Any], NDArray[Any]], float]


def kind_of(task: Task) -> TaskKind:
    """Return what the kind of a task means."""
    return MULTILABEL


def _binary_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross-entropy summed over the labels, averaged over the batch (studies A and B)."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)


def _sigmoid() -> torch.nn.Module:
    from torch.nn import Sigmoid

    return Sigmoid()


def _macro_auroc(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    from harness.stats.quality import macro_auroc

    return macro_auroc(logits, targets)


#: One logit a label, targets 0 or 1.
MULTILABEL = TaskKind(loss=_binary_cross_entropy, activation=_sigmoid, selector="auroc", score=_macro_auroc)
