"""The contracts: what a plugin brings, and the frozen values that pass between it and the harness.

Importing them loads no torch. Plugins import what they need from ``harness``, or the smaller things from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.contracts.architectures import Architecture, Phase, Training
from harness.contracts.data import Data, Dataset, Part, Progress, Task, silent
from harness.contracts.metrics import Better, Evidence, Figure, Metric, WeightedMetric
from harness.contracts.runtimes import ALLOCATORS, INSTRUCTION_SETS, Predictor, Profile, Runtime
from harness.contracts.steps import Loss, Step, StepContext
from harness.contracts.studies import Study

if TYPE_CHECKING:
    from harness.contracts.data import FloatArray as FloatArray

__all__ = [
    "ALLOCATORS",
    "INSTRUCTION_SETS",
    "Architecture",
    "Better",
    "Data",
    "Dataset",
    "Evidence",
    "Figure",
    "Loss",
    "Metric",
    "Part",
    "Phase",
    "Predictor",
    "Profile",
    "Progress",
    "Runtime",
    "Step",
    "StepContext",
    "Study",
    "Task",
    "Training",
    "WeightedMetric",
    "silent",
]
