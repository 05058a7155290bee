"""Define steps, which make or change a model, and the context that a step works with."""

from __future__ import annotations

import abc
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from harness.api.architectures import Phase
from harness.api.data import KindName, Loss, Progress, Task
from harness.errors import UsageError, nearest
from harness.former_names import FormerNames

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

#: (model that is trained) -> None; changes gradients or weights in place.
FitHook = Callable[["torch.nn.Module"], None]


class StepContext(Protocol):
    """Give a step what it may use. Test data cannot be reached from here."""

    task: Task
    #: One validation example as a batch of one.
    example: torch.Tensor
    #: The teacher of the current objective, in evaluation mode; None without one.
    teacher: torch.nn.Module | None
    #: Reports the progress of slow work other than ``fit``.
    progress: Progress

    def seed(self, purpose: str) -> int:
        """Return a seed for one purpose, derived from the cell's seed: the same in every run of the step."""
        ...

    def generator(self, purpose: str = "") -> torch.Generator:
        """Return a random number generator on the CPU, seeded with ``seed(purpose)``."""
        ...

    def fit(
        self,
        model: torch.nn.Module,
        phase: Phase = "finetune",
        name: str = "fit",
        *,
        before_step: FitHook | None = None,
        after_step: FitHook | None = None,
        **changes: Any,
    ) -> torch.nn.Module:
        """Train a copy of ``model`` under the current objective; return it with the weights of its best epoch.

        All weights that require a gradient change, including those that a step set to zero: mask them in
        ``after_step``.

        ``before_step`` is called with the copy after each backward pass, before gradients are clipped: change its
        gradients there. ``after_step`` is called after each step of the optimizer. Both run without gradient tracking,
        and torch's global random generator is seeded for them by the epoch. An interrupted training resumes with the
        same weights, bit for bit, if they keep no state but in the model's parameters and buffers. Neither is part of
        the key by itself: what they do must follow from the step's code and parameters, the incoming model, and
        ``seed``.

        ``name`` distinguishes the fits of one step, so that an interrupted one resumes; a second fit of the same name
        becomes ``name-2``. ``changes`` replace fields of the architecture's Training for this phase (``epochs=3``).
        """
        ...

    def score(self, model: torch.nn.Module) -> float:
        """Return the figure by which ``fit`` selects the best epoch, of ``model`` on the validation split.

        Higher is better; the kind of task defines it. ``model`` gives logits, and stays as it is. Raises CellError when
        the figure is not finite.
        """
        ...

    def fresh(self) -> torch.nn.Module:
        """Return a newly initialised network of the cell's architecture."""
        ...

    def teach(self, teacher: torch.nn.Module) -> None:
        """Make this step's ``loss`` with this teacher the objective from now on; requires ``is_teacher = True``."""
        ...

    def calibration(self, examples: int, split: Literal["validation", "train"] = "validation") -> torch.Tensor:
        """Return that many random examples of a split, (examples, *input_shape), or all if there are fewer."""
        ...

    def calibration_rows(self, examples: int, split: Literal["validation", "train"] = "validation") -> tuple[int, ...]:
        """Return the row numbers, ascending, of the examples that ``calibration`` returns."""
        ...

    def report(self, **facts: Any) -> None:
        """Store facts about the step (JSON values) with the artefact; they appear in the record."""
        ...


class StepType(abc.ABCMeta):
    """Metaclass of steps: a call with wrong or missing parameters raises a UsageError that users understand.

    It derives from ABCMeta so that a step may be an abstract base class.
    """

    @property
    def __signature__(cls) -> inspect.Signature:
        # Without this, inspect would report the signature of __call__ below.
        maker = cls.__new__ if cls.__init__ is object.__init__ else cls.__init__  # type: ignore[misc]
        if maker is object.__new__:
            return inspect.Signature()
        signature = inspect.signature(maker)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def __call__(cls: type[T], *positional: Any, **named: Any) -> T:
        """Make the step. Raises UsageError, with the nearest known names, for parameters that it does not take."""
        signature = inspect.signature(cls)
        try:
            signature.bind(*positional, **named)
        except TypeError as error:
            reason = _wrong_call(signature, len(positional), named) or str(error)
            raise UsageError(f"step {getattr(cls, 'name', cls.__name__)!r}{reason}") from None
        return super().__call__(*positional, **named)  # type: ignore[misc, no-any-return]


def _wrong_call(signature: inspect.Signature, positional: int, named: Mapping[str, Any]) -> str:
    """Describe why a signature does not allow a call, as the end of a message."""
    known = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    names = [parameter.name for parameter in known]
    placed = [parameter.name for parameter in known if parameter.kind is not parameter.KEYWORD_ONLY]
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    for name in named:
        if name not in names and not open_ended:
            return f" has no parameter {name!r}{nearest(name, names) if names else ': it takes none'}"
    for name in placed[:positional]:
        if name in named:
            return f" gets its parameter {name!r} twice, by position and by name"
    if positional > len(placed):
        return f" takes {len(placed)} by position and got {positional} (known: {', '.join(names)})"
    missing = [p.name for p in known if p.default is p.empty and p.name not in {*placed[:positional], *named}]
    return f": missing {', '.join(map(repr, missing))} (known: {', '.join(names)})"


class Step(FormerNames, metaclass=StepType):
    """Make or change a model. Subclass as a frozen dataclass, whose fields are the step's parameters.

    A compressor needs a ``name``, fields with types, a docstring and ``apply``. Importing its module must not load
    torch: import torch inside the methods.
    """

    _former_names: ClassVar = {"fits": "trainings", "teaches": "is_teacher"}
    name: ClassVar[str]
    #: Increase it whenever the same parameters would give a different model.
    version: ClassVar[str] = "1"
    #: True when the incoming model becomes the teacher of all later training; the step then defines ``loss``.
    is_teacher: ClassVar[bool] = False
    #: The kinds of tasks that it is made for; empty for all. Its cells of other kinds are skipped, with the reason.
    kinds: ClassVar[tuple[KindName, ...]] = ()
    #: True when no step may follow, because the model only requests what its runtime does.
    is_final: ClassVar[bool] = False
    #: Hint for authors whose step the conformance kit cannot instantiate.
    _fix_examples: ClassVar[str] = "define examples(), or give every parameter a default"

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by name; they are part of the artefact's key."""
        if not dataclasses.is_dataclass(self):
            return {}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def examples(cls) -> Sequence[Step]:
        """Return the instances that the conformance kit checks. Define it when a parameter has no default."""
        try:
            inspect.signature(cls).bind()
        except TypeError as error:
            raise UsageError(
                f"step {cls.name!r} gives the conformance kit no instance to check ({error}): {cls._fix_examples}"
            ) from None
        return [cls()]

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        """Return the changed model, and leave ``model`` unchanged.

        Raise Unsupported for a network that the step cannot handle. A returned model gives logits, unless it sets
        ``gives_probabilities = True`` because it ends in its task's activation (sigmoid or softmax).
        """
        raise NotImplementedError(f"step {self.name!r} does not define apply()")

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]] | None:
        """Declare the trainings that ``apply`` runs, each as passed to ``context.fit``; None when unknown.

        They give the estimated duration, and decide which of the architecture's trainings are part of the key (both,
        when unknown). A step that trains nothing returns ``()``.
        """
        return None

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module | None:
        """Return a model of the shape that ``apply`` would give, without data or training; None when unknown."""
        return None

    def loss(self, task_loss: Loss) -> Loss:
        """Return the objective of all later training (only with ``is_teacher = True``)."""
        raise NotImplementedError(f"step {self.name!r} has is_teacher = True but does not define loss()")

    def dump(self, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the model as plain tensors and JSON notes; the default handles networks of stock torch modules.

        A step that overrides this also stores the results of later steps. It packs what ``super().dump(model)``
        returns, and its ``restore`` unpacks that for ``super().restore(...)``.
        """
        from harness.nn.structure import dump

        return dump(model)

    def restore(
        self, fresh: torch.nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]
    ) -> torch.nn.Module:
        """Invert ``dump``, given a network as the architecture builds it, without the changes of earlier steps.

        ``super().restore(...)`` gives it the dumped model's shape.
        """
        from harness.nn.structure import restore

        return restore(fresh, tensors, notes)
