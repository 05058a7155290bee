"""Register scikit-learn's digits and diabetes, a multi-class task and a regression, with a small network for each."""

from __future__ import annotations

from collections.abc import Callable

from harness import Architecture, Dataset, hookimpl
from harness_sklearn.datasets import Diabetes, Digits
from harness_sklearn.networks import SmallCNN, SmallMLP

__all__ = ["Diabetes", "Digits", "SmallCNN", "SmallMLP"]


@hookimpl
def harness_datasets(register: Callable[[Dataset], None]) -> None:
    register(Digits())
    register(Diabetes())


@hookimpl
def harness_architectures(register: Callable[[Architecture], None]) -> None:
    register(SmallCNN())
    register(SmallMLP())
