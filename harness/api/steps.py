"""What makes or changes a model, and what it may use for that."""

from __future__ import annotations

import abc
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from harness.api.architectures import Phase
from harness.api.data import Progress, Task
from harness.errors import UsageError, nearest
from harness.former_names import FormerNames

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

#: (logits, targets, teacher logits or None), each (batch, labels) -> scalar loss.
Loss = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor | None"], "torch.Tensor"]


class StepContext(Protocol):
    """What a step may use. There is no way from here to the test split."""

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
        """From here on the objective is this step's ``loss`` with this teacher (a step with ``is_teacher = True``)."""
        ...

    def calibration(self, examples: int, split: Literal["validation", "train"] = "validation") -> torch.Tensor:
        """That many random examples of a split, (examples, *input_shape); all where there are fewer."""
        ...

    def report(self, **facts: Any) -> None:
        """Facts about what was done (JSON values), kept with the artefact and shown in the record."""
        ...


class StepType(abc.ABCMeta):
    """The type of step classes: a call that names a wrong parameter, or leaves one out, is answered in a user's words.

    It derives from ABCMeta so that a step may be an abstract base class, too.
    """

    @property
    def __signature__(cls) -> inspect.Signature:
        # That of a class is otherwise the one of __call__, below.
        maker = cls.__new__ if cls.__init__ is object.__init__ else cls.__init__  # type: ignore[misc]
        if maker is object.__new__:
            return inspect.Signature()
        signature = inspect.signature(maker)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def __call__(cls: type[T], *given: Any, **named: Any) -> T:
        """The step. Raises UsageError, with the nearest right names, for parameters that it does not take."""
        signature = inspect.signature(cls)
        try:
            signature.bind(*given, **named)
        except TypeError as error:
            reason = _wrong_call(signature, len(given), named) or str(error)
            raise UsageError(f"step {getattr(cls, 'name', cls.__name__)!r}{reason}") from None
        return super().__call__(*given, **named)  # type: ignore[misc, no-any-return]


def _wrong_call(signature: inspect.Signature, given: int, named: Mapping[str, Any]) -> str:
    """What is wrong with a call that a signature does not allow, as the end of a message."""
    known = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    names = [parameter.name for parameter in known]
    placed = [parameter.name for parameter in known if parameter.kind is not parameter.KEYWORD_ONLY]
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    for name in named:
        if name not in names and not open_ended:
            return f" has no parameter {name!r}{nearest(name, names) if names else ': it takes none'}"
    for name in placed[:given]:
        if name in named:
            return f" is given its parameter {name!r} twice, by its place and by its name"
    if given > len(placed):
        return f" takes {len(placed)} by place and is given {given} (known: {', '.join(names)})"
    missing = [p.name for p in known if p.default is p.empty and p.name not in {*placed[:given], *named}]
    return f": missing {', '.join(map(repr, missing))} (known: {', '.join(names)})"


class Step(FormerNames, metaclass=StepType):
    """What makes or changes a model. Subclass as a frozen dataclass: its fields are its parameters.

    A compressor needs a ``name``, fields with types, a docstring and ``apply``. Importing it must load no torch:
    import torch inside the methods.
    """

    _former_names: ClassVar = {"fits": "trainings", "teaches": "is_teacher"}
    name: ClassVar[str]
    #: Raise it whenever the same parameters would give another model.
    version: ClassVar[str] = "1"
    #: True for a step whose incoming model teaches a fresh network, and all training from here on; it defines ``loss``.
    is_teacher: ClassVar[bool] = False
    #: How its author makes a step that cannot be checked as it is one that can.
    _mend_examples: ClassVar[str] = "define examples(), or give every parameter a default"

    def parameters(self) -> dict[str, Any]:
        """The parameters by name; they enter the artefact's key."""
        if not dataclasses.is_dataclass(self):
            return {}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def examples(cls) -> Sequence[Step]:
        """Values of the step that the conformance kit checks; a step with a parameter to be given defines it."""
        try:
            inspect.signature(cls).bind()
        except TypeError as error:
            raise UsageError(
                f"step {cls.name!r} does not say with which parameters to check it ({error}): {cls._mend_examples}"
            ) from None
        return [cls()]

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        """The changed model; ``model`` stays as it was. Raise Unsupported for a network that the step cannot handle.

        A model that ends in its own sigmoid sets ``gives_probabilities = True``; all others give logits.
        """
        raise NotImplementedError(f"step {self.name!r} does not define apply()")

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]] | None:
        """The trainings that ``apply`` runs, each as it is passed to ``context.fit``; None when that is not told.

        From them come the guess at how long it takes, and which of the architecture's trainings enter the key (both,
        when it is not told). A step that trains nothing returns ``()``.
        """
        return None

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module | None:
        """A model of the shape that ``apply`` would give, without data or training; None when it cannot be told."""
        return None

    def loss(self, task_loss: Loss) -> Loss:
        """The objective that this step puts in force (only with ``is_teacher = True``)."""
        raise NotImplementedError(f"step {self.name!r} has is_teacher = True but does not define loss()")

    def dump(self, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The model as plain tensors and JSON notes; the default handles any network of stock torch modules.

        A form of one's own is used for what later steps make of the model too. It packs what
        ``super().dump(model)`` gives, and ``restore`` unpacks that for ``super().restore(...)``.
        """
        from harness.nn.structure import dump

        return dump(model)

    def restore(
        self, fresh: torch.nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]
    ) -> torch.nn.Module:
        """The inverse of ``dump``, given a network as the architecture builds it, whatever earlier steps made of that.

        ``super().restore(...)`` gives it the shape that the model had.
        """
        from harness.nn.structure import restore

        return restore(fresh, tensors, notes)
