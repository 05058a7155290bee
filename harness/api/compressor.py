"""A step made of a function: the shortest form of a compressor."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, Union, cast, get_args, get_origin

from harness.api import Step, StepContext
from harness.api.parameters import resolved
from harness.errors import UsageError

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")

#: What parameters are, and models and contexts are not.
VALUES = (bool, int, float, str, list, tuple, dict, Sequence, Mapping, Literal, types.NoneType)
#: What a step that cannot be checked for want of a default needs; a function cannot define examples().
MEND_EXAMPLES = "give it a default, or write a class with examples()"


class Compressor(Protocol[P]):
    """A step class as type checkers see it: called with parameters it gives a step for a recipe."""

    name: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Step: ...

    def examples(self) -> Sequence[Step]: ...


def compressor(function: Callable[Concatenate[torch.nn.Module, StepContext, P], torch.nn.Module]) -> Compressor[P]:
    """The step class whose ``apply`` is this function of a model, a context and typed parameters.

    ::

        @compressor
        def halve(model, context, factor: float = 0.5):
            "Halve every weight."
            ...

    Name, docstring and module of the step are the function's, and so are the parameters: suites write
    ``halve(factor=0.25)``. A method that declares its ``trainings``, has a ``preview``, is a teacher or has its own
    form on disk, is a subclass of Step.

    Raises UsageError for a function that takes no model and context, that has no docstring, or whose parameters do not
    say of what type they are.
    """
    name = function.__name__
    if not inspect.getdoc(function):
        raise UsageError(f"compressor {name!r} has no docstring: say what it does; `harness list` shows the first line")
    parameters = _parameters(function)
    hints = resolved(
        {parameter.name: parameter.annotation for parameter in parameters},
        function.__globals__,
        f"compressor {name!r}",
    )

    def apply(self: Step, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return function(model, context, **self.parameters())  # type: ignore[call-arg]

    try:
        kind = dataclasses.make_dataclass(
            "".join(part.capitalize() for part in name.split("_")),
            [(parameter.name, hints[parameter.name], _field(parameter)) for parameter in parameters],
            bases=(Step,),
            namespace={
                "name": name,
                "apply": apply,
                "_mend_examples": MEND_EXAMPLES,
                "__doc__": function.__doc__,
                "__module__": function.__module__,
            },
            frozen=True,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"compressor {name!r}: {error}") from error
    return cast("Compressor[P]", kind)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of the step: all but the first two, which are the model and the context."""
    name = function.__name__
    given: list[inspect.Parameter] = []
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if len(given) < 2 and positional:
            if _is_parameter(parameter, function):
                break
            given.append(parameter)
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UsageError(
                f"compressor {name!r} takes *{parameter.name}: name each parameter, for they enter the key"
            )
        elif parameter.annotation is parameter.empty:
            raise UsageError(f"compressor {name!r}: say of what type {parameter.name!r} is ({parameter.name}: float)")
        elif type(parameter.default).__hash__ is None:
            raise UsageError(
                f"compressor {name!r}: mutable default {parameter.name}={parameter.default!r}: use a tuple, and say so "
                f"in its type ({parameter.name}: tuple[...])"
            )
        else:
            parameters.append(parameter)
    if len(given) < 2:
        raise UsageError(
            f"compressor {name!r} takes a model and a context, and then its parameters: write {_with_context(function)}"
        )
    return parameters


def _is_parameter(parameter: inspect.Parameter, function: Callable[..., Any]) -> bool:
    """Whether what stands where the model or the context should has a default, or a type, as only parameters have."""
    if parameter.default is not parameter.empty:
        return True
    try:
        return _is_value(resolved({"it": parameter.annotation}, function.__globals__, "")["it"])
    except UsageError:  # the context's type is often there for type checkers alone
        return False


def _is_value(type_: Any) -> bool:
    if get_origin(type_) in (Union, types.UnionType):
        return all(map(_is_value, get_args(type_)))
    return (get_origin(type_) or type_) in VALUES


def _with_context(function: Callable[..., Any]) -> str:
    """How the function is to begin: with a model, the context, and all its parameters after them."""
    first, others = "model", list(inspect.signature(function).parameters.values())
    if others and others[0].kind is not inspect.Parameter.KEYWORD_ONLY and not _is_parameter(others[0], function):
        first = others.pop(0).name
    shown = [_shown(parameter) for parameter in others if parameter.name not in ("model", "context")]
    return f"{function.__name__}({', '.join([first, 'context', *shown])})"


def _shown(parameter: inspect.Parameter) -> str:
    note = parameter.annotation
    type_ = "" if note is parameter.empty else f": {note if isinstance(note, str) else inspect.formatannotation(note)}"
    return parameter.name + type_ + ("" if parameter.default is parameter.empty else f" = {parameter.default!r}")


def _field(parameter: inspect.Parameter) -> Any:
    default = dataclasses.MISSING if parameter.default is parameter.empty else parameter.default
    return dataclasses.field(default=default, kw_only=parameter.kind is parameter.KEYWORD_ONLY)
