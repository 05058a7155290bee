"""A benchmarking harness for compressed neural networks. Importing it loads no torch.

What a suite imports: ``Matrix``, ``Profile``, ``Skip``, ``train``, ``step``.
What a plugin imports: ``hookimpl``, ``compressor`` and the contracts.
"""

from harness.api import (
    Architecture,
    Data,
    Dataset,
    Evidence,
    Figure,
    Loss,
    Metric,
    Part,
    Predictor,
    Profile,
    Progress,
    Runtime,
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

__all__ = [
    "Architecture",
    "CellError",
    "Data",
    "DataError",
    "Dataset",
    "Evidence",
    "Figure",
    "HarnessError",
    "Loss",
    "Matrix",
    "MeasureError",
    "Metric",
    "Part",
    "Predictor",
    "Profile",
    "Progress",
    "Runtime",
    "Skip",
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
