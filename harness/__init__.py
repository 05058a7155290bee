"""A benchmarking harness for compressed neural networks. Importing it loads no torch.

What a suite imports: ``Matrix``, ``Profile``, ``Skip``, ``train``, ``step``.
What a plugin imports: ``hookimpl``, ``compressor`` and the contracts.
"""

from harness.compressor import compressor
from harness.contracts import (
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
from harness.errors import (
    CellError,
    DataError,
    HarnessError,
    MeasureError,
    StoreError,
    Unsupported,
    UsageError,
)
from harness.hookspecs import hookimpl
from harness.matrix import Matrix, Skip
from harness.steps import Train as train
from harness.steps import step

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
