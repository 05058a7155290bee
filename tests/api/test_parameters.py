"""Parameters of steps are checked against their types."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NewType

import pytest
from toy import Broken, Halve, Shift

from harness import Step, UsageError, hookimpl, train
from harness.api.parameters import check_defaults, check_parameters, parameter_types
from harness.plugin.manager import Origin, Plugins


@dataclasses.dataclass(frozen=True)
class Base(Step):
    """A step with a parameter."""

    name: ClassVar[str] = "base"
    norm: Literal["l1", "l2"] = "l1"


@dataclasses.dataclass(frozen=True)
class Derived(Base):
    """A step with a further parameter."""

    name: ClassVar[str] = "derived"
    layers: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Unreadable(Step):
    """A step with a type that only type checkers can resolve."""

    name: ClassVar[str] = "unreadable"
    rank: Rank = 3  # type: ignore[name-defined]  # noqa: F821


def test_the_types_are_those_of_all_fields_also_inherited_ones() -> None:
    assert parameter_types(Derived) == {"norm": Literal["l1", "l2"], "layers": Sequence[int]}
    assert parameter_types(type(train())) == {"epochs": int | None, "precision": Literal["float32", "bfloat16"] | None}
    assert parameter_types(Broken) == {}


@pytest.mark.parametrize("step", [Derived(), Derived("l2", [1, 2]), Halve(1), Shift(2.5), train(epochs=2), Broken()])
def test_values_of_the_types_pass(step: Step) -> None:
    check_parameters(step)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Derived("l3"), "step 'derived': parameter norm='l3': str is not any of ('l1', 'l2')"),  # type: ignore[arg-type]
        (Derived(layers=[1, "a"]), "parameter layers=[1, 'a']"),  # type: ignore[list-item]
        (Halve("0.5"), "step 'halve': parameter factor='0.5': str is"),  # type: ignore[arg-type]
        (Halve(None), "step 'halve': parameter factor=None"),  # type: ignore[arg-type]
    ],
)
def test_other_values_are_refused(step: Step, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_parameters(step)
    assert words in str(caught.value)
    assert caught.value.__cause__ is None


Bits = NewType("Bits", int)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (int, True), (float, False), (int | None, True), (Literal[0, 1], True), (Bits, True),
        (Sequence[int], [1, True]), (tuple[int, ...], (True,)), (Mapping[str, float], {"a": True}),
    ],
)  # fmt: skip
def test_a_bool_is_not_a_number(type_: Any, value: Any) -> None:
    with pytest.raises(UsageError, match=r"parameter it=.*"):
        check_parameters(holding(type_)(value))


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (bool, True), (bool | int, True), (Any, True), (object, True), (Literal["x", True], True),
        (list[bool], [True]), (list, [True]), (Sequence[Any], (True, 1)), (dict[str, int | bool], {"a": True}),
        (float, 1), (Bits, 1),
    ],
)  # fmt: skip
def test_a_bool_passes_if_the_type_admits_it(type_: Any, value: Any) -> None:
    check_parameters(holding(type_)(value))


def holding(type_: Any, *default: Any) -> Any:
    """A step class with one parameter, of this type."""
    field = ("it", type_, dataclasses.field(default=default[0])) if default else ("it", type_)
    namespace = {"name": "holding", "__module__": __name__}
    return dataclasses.make_dataclass("Holding", [field], bases=(Step,), namespace=namespace, frozen=True)


def test_defaults_are_checked_like_values() -> None:
    check_defaults(holding(int, 6))
    check_defaults(holding(int))
    for wrong in ("6", True):
        with pytest.raises(UsageError, match=f"step 'holding': the default it={wrong!r}: "):
            check_defaults(holding(int, wrong))


def test_a_step_with_an_unresolvable_type_is_left_out() -> None:
    class Module:
        @staticmethod
        @hookimpl
        def harness_steps(register: Any) -> None:
            register(Unreadable)

    plugins = Plugins()
    plugins.add(Module, Origin("zoo", "zoo", "1"))
    (problem,) = plugins.problems
    assert "step 'unreadable': the type of parameter 'rank', 'Rank', cannot be resolved" in str(problem)
    assert "unreadable" not in plugins.steps
