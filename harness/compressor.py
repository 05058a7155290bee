"""A step made of a function: the shortest form of a compressor."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, cast

from harness.contracts import Step, StepContext
from harness.errors import UsageError
from harness.parameters import resolved

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")


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
    ``halve(factor=0.25)``. A method that tells its ``fits``, has a ``preview``, teaches or has a form of its own on
    disk is a subclass of Step.

    Raises UsageError for a function that has no docstring, or whose parameters do not say of what type they are.
    """
    name = function.__name__
    if not inspect.getdoc(function):
        raise UsageError(f"compressor {name!r} has no docstring: say what it does; `harness list` shows the first line")
    parameters = _parameters(function)
    types = resolved(
        {parameter.name: parameter.annotation for parameter in parameters},
        function.__globals__,
        f"compressor {name!r}",
    )

    def apply(self: Step, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return function(model, context, **self.parameters())  # type: ignore[call-arg]

    try:
        kind = dataclasses.make_dataclass(
            "".join(part.capitalize() for part in name.split("_")),
            [(parameter.name, types[parameter.name], _field(parameter)) for parameter in parameters],
            bases=(Step,),
            namespace={"name": name, "apply": apply, "__doc__": function.__doc__, "__module__": function.__module__},
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
            given.append(parameter)
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UsageError(
                f"compressor {name!r} takes *{parameter.name}: name each parameter, for they enter the key"
            )
        elif parameter.annotation is parameter.empty:
            raise UsageError(f"compressor {name!r}: say of what type {parameter.name!r} is ({parameter.name}: float)")
        else:
            parameters.append(parameter)
    if len(given) < 2:
        raise UsageError(f"compressor {name!r} takes a model and a context, and then its parameters")
    return parameters


def _field(parameter: inspect.Parameter) -> Any:
    default = dataclasses.MISSING if parameter.default is parameter.empty else parameter.default
    return dataclasses.field(default=default, kw_only=parameter.kind is parameter.KEYWORD_ONLY)
