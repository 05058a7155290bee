"""Make a step from a function: the shortest form of a compressor."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, Union, cast, get_args, get_origin

from harness.api import Step, StepContext
from harness.api.parameters import resolve_types
from harness.errors import UsageError

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")

#: Types of parameters; models and contexts have none of them.
VALUES = (bool, int, float, str, list, tuple, dict, Sequence, Mapping, Literal, types.NoneType)
#: Hint for a function with a parameter that has no default, since a function cannot define examples().
FIX_EXAMPLES = "give it a default, or write a class with examples()"


class Compressor(Protocol[P]):
    """A step class as type checkers see it: a call with parameters makes a step for a recipe."""

    name: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Step: ...

    def examples(self) -> Sequence[Step]: ...


def compressor(function: Callable[Concatenate[torch.nn.Module, StepContext, P], torch.nn.Module]) -> Compressor[P]:
    """Make the step class whose ``apply`` is this function of a model, a context and typed parameters.

    ::

        @compressor
        def halve(model, context, factor: float = 0.5):
            "Halve every weight."
            ...

    The step takes its name, docstring, module and parameters from the function: suites write ``halve(factor=0.25)``.
    Subclass Step instead for a method that declares its ``trainings``, has a ``preview``, is a teacher or has its own
    format on disk.

    Raises UsageError for a function without model and context, without a docstring, or with a parameter that has no
    type.
    """
    name = function.__name__
    if not inspect.getdoc(function):
        raise UsageError(f"compressor {name!r} has no docstring: describe it in one line, which `harness list` shows")
    parameters = _parameters(function)
    hints = resolve_types(
        {parameter.name: parameter.annotation for parameter in parameters},
        function.__globals__,
        f"compressor {name!r}",
    )

    def apply(self: Step, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return function(model, context, **self.parameters())  # type: ignore[call-arg]

    try:
        kind = dataclasses.make_dataclass(
            "".join(word.capitalize() for word in name.split("_")),
            [(parameter.name, hints[parameter.name], _field(parameter)) for parameter in parameters],
            bases=(Step,),
            namespace={
                "name": name,
                "apply": apply,
                "_fix_examples": FIX_EXAMPLES,
                "__doc__": function.__doc__,
                "__module__": function.__module__,
            },
            frozen=True,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"compressor {name!r}: {error}") from error
    return cast("Compressor[P]", kind)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of the step: all after the first two, which are the model and the context."""
    name = function.__name__
    model_and_context: list[inspect.Parameter] = []
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if len(model_and_context) < 2 and positional:
            if _is_parameter(parameter, function):
                break
            model_and_context.append(parameter)
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UsageError(
                f"compressor {name!r} takes *{parameter.name}: name each parameter, because all are part of the key"
            )
        elif parameter.annotation is parameter.empty:
            raise UsageError(
                f"compressor {name!r}: parameter {parameter.name!r} has no type: write one ({parameter.name}: float)"
            )
        elif type(parameter.default).__hash__ is None:
            raise UsageError(
                f"compressor {name!r}: mutable default {parameter.name}={parameter.default!r}: use a tuple, with the "
                f"type {parameter.name}: tuple[...]"
            )
        else:
            parameters.append(parameter)
    if len(model_and_context) < 2:
        raise UsageError(
            f"compressor {name!r} needs a model and a context before its parameters: write {_with_context(function)}"
        )
    return parameters


def _is_parameter(parameter: inspect.Parameter, function: Callable[..., Any]) -> bool:
    """Whether the argument in the place of the model or the context has a default or type that only parameters have."""
    if parameter.default is not parameter.empty:
        return True
    try:
        return _is_value(resolve_types({"it": parameter.annotation}, function.__globals__, "")["it"])
    except UsageError:  # the context's type is often imported only under TYPE_CHECKING
        return False


def _is_value(type_: Any) -> bool:
    if get_origin(type_) in (Union, types.UnionType):
        return all(map(_is_value, get_args(type_)))
    return (get_origin(type_) or type_) in VALUES


def _with_context(function: Callable[..., Any]) -> str:
    """The signature that the function should have: a model, the context, then all its parameters."""
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
