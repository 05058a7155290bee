"""Define the contracts between plugins and the harness: base classes, and the frozen values that pass between them.

The names below are public. Plugins import most of them from ``harness``. Importing this package loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.api.architectures import Architecture, Phase, Training
from harness.api.data import Data, Dataset, KindName, Loss, Progress, Split, Task, silent
from harness.api.kinds import Kind
from harness.api.metrics import Absent, Better, Counter, EvalContext, Metric, MetricSpec, Role, WeightedMetric
from harness.api.runtimes import (
    ALLOCATORS,
    INSTRUCTION_SETS,
    Audit,
    Deployment,
    ExecutedOperator,
    Predictor,
    Profile,
    Quantization,
    Runtime,
)
from harness.api.sections import Chart, ReportContext, Section, Table
from harness.api.steps import FitHook, Step, StepContext
from harness.former_names import former_export

if TYPE_CHECKING:
    from harness.api.data import FloatArray as FloatArray


def __getattr__(name: str) -> Any:
    return former_export(__name__, name)


__all__ = [
    "ALLOCATORS",
    "INSTRUCTION_SETS",
    "Absent",
    "Architecture",
    "Audit",
    "Better",
    "Chart",
    "Counter",
    "Data",
    "Dataset",
    "Deployment",
    "EvalContext",
    "ExecutedOperator",
    "FitHook",
    "Kind",
    "KindName",
    "Loss",
    "Metric",
    "MetricSpec",
    "Phase",
    "Predictor",
    "Profile",
    "Progress",
    "Quantization",
    "ReportContext",
    "Role",
    "Runtime",
    "Section",
    "Split",
    "Step",
    "StepContext",
    "Table",
    "Task",
    "Training",
    "WeightedMetric",
    "silent",
]
