"""Steps: given by name, with wrong names answered, and described with their parameters."""

from __future__ import annotations

from types import ModuleType

import pytest
from toy import Halve

from harness import UsageError, step, train
from harness.plan import describe


def test_a_step_by_name_is_the_imported_one(toy_installed: ModuleType) -> None:
    assert step("halve", factor=0.25) == Halve(0.25)
    assert step("train", epochs=3) == train(epochs=3)


def test_wrong_names_are_answered_with_the_nearest(toy_installed: ModuleType) -> None:
    with pytest.raises(UsageError, match="no step is called 'halv'; did you mean 'halve'"):
        step("halv")
    with pytest.raises(UsageError, match="step 'halve' has no parameter 'facter'; did you mean 'factor'"):
        step("halve", facter=1)
    with pytest.raises(UsageError, match="step 'broken' has no parameter 'x'"):
        step("broken", x=1)


def test_a_parameter_that_is_missing_is_named(toy_installed: ModuleType) -> None:
    with pytest.raises(UsageError, match=r"step 'shift': .*missing.*'by'"):
        step("shift")


def test_training_passes_on_only_what_it_was_given() -> None:
    assert train().fits() == [("train", {})]
    assert train(epochs=3, precision="bfloat16").fits() == [("train", {"epochs": 3, "precision": "bfloat16"})]


def test_a_step_is_described_by_its_parameters() -> None:
    assert describe(train()) == "train()"
    assert describe(train(epochs=2)) == "train(epochs=2)"
    assert describe(Halve(0.25)) == "halve(factor=0.25)"
