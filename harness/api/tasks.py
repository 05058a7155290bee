"""Define what a kind of task means: its loss, its activation, and the figure that selects an epoch.

Nothing else in the harness names a loss or the figure of a metric. Importing this module loads no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.api.data import KindName, Loss, Task

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class TaskKind:
    """How networks for one kind of task are trained and read."""

    #: (logits (batch, labels), targets, teacher logits or None) -> scalar loss.
    loss: Loss
    #: Makes the module that turns logits into the scores that metrics get.
    activation: Callable[[], torch.nn.Module]
    #: The name of ``score`` in the training curve.
    selector: str
    #: (logits (n, labels), targets) -> the figure by which the best epoch is chosen; higher is better.
    score: Callable[[NDArray[Any], NDArray[Any]], float]
    #: Scores (n, labels) -> why this activation cannot have given them, as the end of a sentence; "" if it can.
    impossible: Callable[[NDArray[Any]], str] = lambda scores: ""

    def activated(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return the network that gives scores, in evaluation mode: ``model``, with the activation where it lacks it.

        A model that sets ``gives_probabilities`` ends in its own activation.
        """
        from torch.nn import Identity, Sequential

        activation = self.activation()
        if getattr(model, "gives_probabilities", False) or isinstance(activation, Identity):
            return model.eval()
        return Sequential(model, activation).eval()


def kind_of(task: Task) -> TaskKind:
    """Return what the kind of a task means."""
    return _KINDS[task.kind](task)


def task_of(artefact: Any) -> Task:
    """Return the task of an artefact from the JSON of its header. Raises UsageError for an invalid one."""
    fields: dict[str, Any] = artefact["task"]
    weights = tuple(fields.get("class_weights", ()))
    return Task(tuple(fields["input_shape"]), tuple(fields["labels"]), fields.get("kind", "multilabel"), weights)


# ------------------------------------------------------------------------------------- multi-label and binary tasks


def _multilabel(task: Task) -> TaskKind:
    """One logit a label. The loss sums over labels and averages over the batch, as studies A and B do."""

    def binary_cross_entropy(
        logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None = None
    ) -> torch.Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        weights = logits.new_tensor(task.class_weights) if task.class_weights else None
        return binary_cross_entropy_with_logits(logits, targets, reduction="sum", pos_weight=weights) / len(logits)

    return TaskKind(binary_cross_entropy, _sigmoid, "auroc", _macro_auroc)


def _sigmoid() -> torch.nn.Module:
    from torch.nn import Sigmoid

    return Sigmoid()


def _macro_auroc(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    from harness.stats.quality import macro_auroc

    return macro_auroc(logits, targets)


# ----------------------------------------------------------------------------------------------- multi-class tasks


def _multiclass(task: Task) -> TaskKind:
    """One logit a class. The loss averages over the batch; class weights count as in torch's cross_entropy."""

    def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None = None) -> torch.Tensor:
        from torch.nn import functional

        weights = logits.new_tensor(task.class_weights) if task.class_weights else None
        return functional.cross_entropy(logits, targets, weights)

    return TaskKind(cross_entropy, _softmax, "accuracy", _accuracy, _no_distribution)


def _softmax() -> torch.nn.Module:
    from torch.nn import Softmax

    return Softmax(dim=1)


def _accuracy(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    import numpy as np

    finite = bool(np.isfinite(logits).all())
    return float((logits.argmax(axis=1) == targets).mean()) if finite else float("nan")


def _no_distribution(scores: NDArray[Any]) -> str:
    """Scores in int8 are rounded to 1/256, so the sum of many is inexact."""
    import numpy as np

    tolerance = max(0.02, scores.shape[1] / 256)
    sound = (scores >= 0).all() and (np.abs(scores.sum(axis=1) - 1) <= tolerance).all()
    return "" if sound else "are not probabilities that sum to 1 over the classes"


# ------------------------------------------------------------------------------------------------ regression tasks


def _regression(task: Task) -> TaskKind:
    """One number a label. The loss averages over labels and batch."""

    def mean_squared_error(
        outputs: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None = None
    ) -> torch.Tensor:
        from torch.nn.functional import mse_loss

        return mse_loss(outputs, targets)

    return TaskKind(mean_squared_error, _identity, "r2", _r2)


def _identity() -> torch.nn.Module:
    from torch.nn import Identity

    return Identity()


def _r2(outputs: NDArray[Any], targets: NDArray[Any]) -> float:
    import numpy as np

    from harness.stats.quality import macro_r2

    return float(macro_r2(outputs, targets, np.ones((len(targets), 1)))[0])


_KINDS: dict[KindName, Callable[[Task], TaskKind]] = {
    "multilabel": _multilabel,
    "binary": _multilabel,
    "multiclass": _multiclass,
    "regression": _regression,
}
#: Of a task without class weights.
MULTILABEL = _multilabel(Task((1,), ("label",)))
