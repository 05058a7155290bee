"""Steps are made by name, refuse wrong calls with a clear message, and are described by their parameters."""

from __future__ import annotations

import abc
import copy
import dataclasses
import inspect
import pickle
from types import ModuleType
from typing import Any, ClassVar

import pytest
from toy import Broken, Halve, Shift

from harness import Step, UsageError, step, train
from harness.build.plan import describe


def test_a_step_by_name_is_the_imported_one(toy_installed: ModuleType) -> None:
    assert step("halve", factor=0.25) == Halve(0.25)
    assert step("train", epochs=3) == train(epochs=3)


def test_unknown_names_suggest_the_nearest(toy_installed: ModuleType) -> None:
    with pytest.raises(UsageError, match="no step is called 'halv'; did you mean 'halve'"):
        step("halv")
    with pytest.raises(UsageError, match="step 'halve' has no parameter 'facter'; did you mean 'factor'"):
        step("halve", facter=1)
    with pytest.raises(UsageError, match="step 'broken' has no parameter 'x'"):
        step("broken", x=1)


def test_a_missing_parameter_is_named(toy_installed: ModuleType) -> None:
    with pytest.raises(UsageError, match=r"step 'shift': .*missing.*'by'"):
        step("shift")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Halve(facter=1), "step 'halve' has no parameter 'facter'; did you mean 'factor'? (known: factor)"),  # type: ignore[call-arg]
        (lambda: Broken(x=1), "step 'broken' has no parameter 'x': it takes none"),  # type: ignore[call-arg]
        (lambda: Halve(1, 2), "step 'halve' takes 1 by position and got 2 (known: factor)"),  # type: ignore[call-arg]
        (lambda: Halve(1, factor=2), "step 'halve' gets its parameter 'factor' twice"),  # type: ignore[misc]
        (lambda: Shift(), "step 'shift': missing 'by' (known: by)"),  # type: ignore[call-arg]
        (lambda: dataclasses.replace(Halve(1), x=1), "step 'halve' has no parameter 'x'"),  # type: ignore[call-arg]
        (lambda: Own("a", 2), "step 'own' takes 1 by position and got 2"),  # type: ignore[call-arg, misc]
    ],
)
def test_a_wrong_call_raises_a_usage_error(call: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert words in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


class Own(Step):
    """A step with its own constructor."""

    name: ClassVar[str] = "own"

    def __init__(self, text: str, **more: int) -> None:
        self.text, self.more = text, more


def test_a_step_s_own_constructor_takes_its_parameters() -> None:
    assert (Own("a", b=2).text, Own(text="a", b=2).more) == ("a", {"b": 2})
    assert str(inspect.signature(Own)) == "(text: 'str', **more: 'int') -> 'None'"
    assert list(inspect.signature(Halve).parameters) == ["factor"]
    assert not inspect.signature(Broken).parameters


def test_a_step_may_be_an_abstract_base_class() -> None:
    class Base(Step, abc.ABC):
        name: ClassVar[str] = "base"

        @abc.abstractmethod
        def amount(self) -> int: ...

    with pytest.raises(TypeError, match="abstract"):
        Base()  # type: ignore[abstract]


def test_steps_can_be_copied_and_pickled() -> None:
    for one in (Shift(2), Halve(0.25)):
        assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one


def test_a_type_error_raised_by_the_step_itself_is_not_converted() -> None:
    class Failing(Step):
        name: ClassVar[str] = "failing"

        def __init__(self) -> None:
            raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        Failing()


def test_training_passes_only_the_arguments_that_are_set() -> None:
    assert train().trainings() == [("train", {})]
    assert train(epochs=3, precision="bfloat16").trainings() == [("train", {"epochs": 3, "precision": "bfloat16"})]


def test_a_step_is_described_by_its_parameters() -> None:
    assert describe(train()) == "train()"
    assert describe(train(epochs=2)) == "train(epochs=2)"
    assert describe(Halve(0.25)) == "halve(factor=0.25)"
