"""Register data sets and networks for death in the ICU: MIMIC-III, PhysioNet 2012, and Liu et al. 2021."""

from __future__ import annotations

from collections.abc import Callable

from harness import Architecture, Dataset, hookimpl
from harness_icu.mimic3 import Mimic3
from harness_icu.mimic3_synthetic import SyntheticMimic3
from harness_icu.networks import DNN, HLSTM, LSTM
from harness_icu.physionet2012 import PhysioNet2012
from harness_icu.physionet2012_synthetic import SyntheticPhysioNet2012

__all__ = ["DNN", "HLSTM", "LSTM", "Mimic3", "PhysioNet2012", "SyntheticMimic3", "SyntheticPhysioNet2012"]


@hookimpl
def harness_datasets(register: Callable[[Dataset], None]) -> None:
    register(Mimic3())
    register(SyntheticMimic3())
    register(PhysioNet2012())
    register(SyntheticPhysioNet2012())


@hookimpl
def harness_architectures(register: Callable[[Architecture], None]) -> None:
    register(LSTM())
    register(HLSTM())
    register(DNN())
