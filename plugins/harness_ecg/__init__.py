"""Register data sets and networks for the ECG: PTB-XL, its synthetic fallback, and those of Hołda et al. 2026."""

from __future__ import annotations

from collections.abc import Callable

from harness import Architecture, Dataset, hookimpl
from harness_ecg.networks import CNN, RNN, ResNet
from harness_ecg.ptbxl import PTBXL
from harness_ecg.synthetic import SyntheticPTBXL

__all__ = ["CNN", "PTBXL", "RNN", "ResNet", "SyntheticPTBXL"]


@hookimpl
def harness_datasets(register: Callable[[Dataset], None]) -> None:
    register(PTBXL())
    register(SyntheticPTBXL())


@hookimpl
def harness_architectures(register: Callable[[Architecture], None]) -> None:
    register(RNN())
    register(CNN())
    register(ResNet())
