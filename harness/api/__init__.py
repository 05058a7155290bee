"""The contracts: what a plugin brings, and the frozen values that pass between it and the harness.

Importing them loads no torch. Plugins import what they need from ``harness``, or the smaller things from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api.architectures import Architecture, Phase, Training
from harness.api.data import Data, Dataset, Part, Progress, Task, silent
from harness.api.metrics import Better, Evidence, Figure, Metric, WeightedMetric
from harness.api.runtimes import ALLOCATORS, INSTRUCTION_SETS, Predictor, Profile, Runtime
from harness.api.steps import Loss, Step, StepContext
from harness.api.studies import Study

if TYPE_CHECKING:
    from harness.api.data import FloatArray as FloatArray

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
