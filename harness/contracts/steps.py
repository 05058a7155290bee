"""What makes or changes a model, and what it may use for that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from harness.contracts.architectures import Phase
from harness.contracts.data import Progress, Task
from harness.errors import UsageError

if TYPE_CHECKING:
    import torch


#: (logits, targets, teacher logits or None), each (batch, labels) -> scalar loss.
Loss = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor | None"], "torch.Tensor"]


class StepContext(Protocol):
    """What a step may use. There is no way from here to the test part."""

    #: The task, and one validation example as a batch of one.
    task: Task
    example: torch.Tensor
    #: The model that teaches under the objective in force, in evaluation mode; None where none does.
    teacher: torch.nn.Module | None
    #: Shows how far the step is, for what takes longer than a moment and is not ``fit``.
    progress: Progress

    def seed(self, purpose: str) -> int:
        """A seed for one purpose, derived from the cell's seed: the same whenever the step is run again."""
        ...

    def generator(self, purpose: str = "") -> torch.Generator:
        """A generator of random numbers on the CPU with ``seed(purpose)``, for whatever a step draws."""
        ...

    def fit(
        self, model: torch.nn.Module, phase: Phase = "finetune", name: str = "fit", **changes: Any
    ) -> torch.nn.Module:
        """A copy of ``model``, trained under the objective in force, with its best epoch's weights.

        All weights that require a gradient change, those that a step set to zero too: set them again afterwards.

        ``name`` tells apart several fits of one step (an interrupted one resumes; of two with one name the second is
        called ``name-2``); ``changes`` replace fields of the architecture's Training for this phase, as ``epochs=3``.
        """
        ...

    def fresh(self) -> torch.nn.Module:
        """A newly initialised network of the cell's architecture."""
        ...

    def teach(self, teacher: torch.nn.Module) -> None:
        """From here on the objective is this step's ``loss`` with this teacher (a step with ``teaches = True``)."""
        ...

    def calibration(self, examples: int, part: Literal["validation", "train"] = "validation") -> torch.Tensor:
        """That many random examples of a part, (examples, *input_shape); all where there are fewer."""
        ...

    def report(self, **facts: Any) -> None:
        """Facts about what was done (JSON values), kept with the artefact and shown in the record."""
        ...


class Step:
    """What makes or changes a model. Subclass as a frozen dataclass: its fields are its parameters.

    A compressor needs a ``name``, fields with types, a docstring and ``apply``. Importing it must load no torch:
    import torch inside the methods.
    """

    name: ClassVar[str]
    #: Raise it whenever the same parameters would give another model.
    version: ClassVar[str] = "1"
    #: True for a step whose incoming model teaches a fresh network, and all training from here on; it defines ``loss``.
    teaches: ClassVar[bool] = False

    def parameters(self) -> dict[str, Any]:
        """The parameters by name; they enter the artefact's key."""
        if not dataclasses.is_dataclass(self):
            return {}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def examples(cls) -> Sequence[Step]:
        """Values of the step that the conformance kit checks; a step with a parameter to be given defines it."""
        try:
            return [cls()]
        except TypeError as error:
            raise UsageError(
                f"step {cls.name!r} does not say with which parameters to check it ({error}): define examples(), or "
                "give every parameter a default"
            ) from error

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        """The changed model; ``model`` stays as it was. Raise Unsupported for a network that the step cannot handle.

        A model that ends in its own sigmoid sets ``gives_probabilities = True``; all others give logits.
        """
        raise NotImplementedError(f"step {self.name!r} does not define apply()")

    def fits(self) -> Sequence[tuple[Phase, Mapping[str, Any]]] | None:
        """The trainings that ``apply`` runs, each as it is passed to ``context.fit``; None when that is not told.

        From them come the guess at how long it takes, and which of the architecture's trainings enter the key (both,
        when it is not told). A step that trains nothing returns ``()``.
        """
        return None

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module | None:
        """A model of the shape that ``apply`` would give, without data or training; None when it cannot be told."""
        return None

    def loss(self, task_loss: Loss) -> Loss:
        """The objective that this step puts in force (only with ``teaches = True``)."""
        raise NotImplementedError(f"step {self.name!r} has teaches = True but does not define loss()")

    def dump(self, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The model as plain tensors and JSON notes; the default handles any network of stock torch modules.

        A form of one's own is used for what later steps make of the model too. It packs what
        ``super().dump(model)`` gives, and ``restore`` unpacks that for ``super().restore(...)``.
        """
        from harness.structure import dump

        return dump(model)

    def restore(
        self, fresh: torch.nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]
    ) -> torch.nn.Module:
        """The inverse of ``dump``, given a network as the architecture builds it, whatever earlier steps made of that.

        ``super().restore(...)`` gives it the shape that the model had.
        """
        from harness.structure import restore

        return restore(fresh, tensors, notes)
