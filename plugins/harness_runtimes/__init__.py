"""Register the built-in runtime, PyTorch eager."""

from __future__ import annotations

from collections.abc import Callable

from harness import Runtime, hookimpl
from harness_runtimes.eager import TorchEager

__all__ = ["TorchEager"]


@hookimpl
def harness_runtimes(register: Callable[[Runtime], None]) -> None:
    register(TorchEager())
