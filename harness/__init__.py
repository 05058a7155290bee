"""A benchmarking harness for compressed neural networks. Importing it loads no torch.

What a suite imports: ``Matrix``, ``Profile``, ``Skip``, ``train``, ``step``.
What a plugin imports: ``hookimpl``, ``compressor`` and the contracts.
"""

from typing import Any

from harness import former_names
from harness.api import (
    Architecture,
    Data,
    Dataset,
    EvalContext,
    Loss,
    Metric,
    MetricSpec,
    Predictor,
    Profile,
    Progress,
    Runtime,
    Split,
    Step,
    StepContext,
    Study,
    Task,
    Training,
    WeightedMetric,
)
from harness.api.compressor import compressor
from harness.api.hookspecs import hookimpl
from harness.api.train import Train as train
from harness.api.train import step
from harness.errors import (
    CellError,
    DataError,
    HarnessError,
    MeasureError,
    StoreError,
    Unsupported,
    UsageError,
)
from harness.suite.matrix import Matrix, Skip

former_names.install()


def __getattr__(name: str) -> Any:
    return former_names.former_class(__name__, name)


__all__ = [
    "Architecture",
    "CellError",
    "Data",
    "DataError",
    "Dataset",
    "EvalContext",
    "HarnessError",
    "Loss",
    "Matrix",
    "MeasureError",
    "Metric",
    "MetricSpec",
    "Predictor",
    "Profile",
    "Progress",
    "Runtime",
    "Skip",
    "Split",
    "Step",
    "StepContext",
    "StoreError",
    "Study",
    "Task",
    "Training",
    "Unsupported",
    "UsageError",
    "WeightedMetric",
    "compressor",
    "hookimpl",
    "step",
    "train",
]
