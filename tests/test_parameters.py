"""The types of steps' parameters, and values that are not of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pytest
from toy import Broken, Halve, Shift

from harness import Step, UsageError, hookimpl, train
from harness.parameters import check_parameters, parameter_types
from harness.plugins import Origin, Plugins


@dataclasses.dataclass(frozen=True)
class Base(Step):
    """A step with a parameter."""

    name: ClassVar[str] = "base"
    norm: Literal["l1", "l2"] = "l1"


@dataclasses.dataclass(frozen=True)
class Derived(Base):
    """A step with more of them."""

    name: ClassVar[str] = "derived"
    layers: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Unreadable(Step):
    """A step with a type that only type checkers can see."""

    name: ClassVar[str] = "unreadable"
    rank: Rank = 3  # type: ignore[name-defined]  # noqa: F821


def test_the_types_are_those_of_the_fields_inherited_ones_too() -> None:
    assert parameter_types(Derived) == {"norm": Literal["l1", "l2"], "layers": Sequence[int]}
    assert parameter_types(type(train())) == {"epochs": int | None, "precision": Literal["float32", "bfloat16"] | None}
    assert parameter_types(Broken) == {}


@pytest.mark.parametrize("step", [Derived(), Derived("l2", [1, 2]), Halve(1), Shift(2.5), train(epochs=2), Broken()])
def test_values_of_the_types_pass(step: Step) -> None:
    check_parameters(step)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Derived("l3"), "step 'derived': its parameter norm='l3': str is not any of ('l1', 'l2')"),  # type: ignore[arg-type]
        (Derived(layers=[1, "a"]), "its parameter layers=[1, 'a']"),  # type: ignore[list-item]
        (Halve("0.5"), "step 'halve': its parameter factor='0.5': str is"),  # type: ignore[arg-type]
        (Halve(None), "step 'halve': its parameter factor=None"),  # type: ignore[arg-type]
    ],
)
def test_other_values_are_refused(step: Step, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_parameters(step)
    assert words in str(caught.value)


def test_a_step_with_a_type_that_cannot_be_read_is_left_out() -> None:
    class Module:
        @staticmethod
        @hookimpl
        def harness_steps(register: Any) -> None:
            register(Unreadable)

    plugins = Plugins()
    plugins.add(Module, Origin("zoo", "zoo", "1"))
    (problem,) = plugins.problems
    assert "step 'unreadable': the type of parameter 'rank', 'Rank', cannot be read" in str(problem)
    assert "unreadable" not in plugins.steps
