"""A benchmarking harness for compressed neural networks. Importing it loads no torch.

What a suite imports: ``Matrix``, ``Profile``, ``Skip``, ``train``, ``step``.
What a plugin imports: ``hookimpl``, ``compressor``, ``load_artefact`` and the contracts.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import former_names
from harness.api import (
    Absent,
    Architecture,
    Audit,
    Chart,
    Data,
    Dataset,
    Deployment,
    EvalContext,
    ExecutedOperator,
    FitHook,
    Kind,
    Loss,
    Metric,
    MetricSpec,
    Predictor,
    Profile,
    Progress,
    Quantization,
    ReportContext,
    Runtime,
    Section,
    Split,
    Step,
    StepContext,
    Table,
    Task,
    Training,
    WeightedMetric,
)
from harness.api.compressor import compressor
from harness.api.hookspecs import hookimpl
from harness.api.train import Train as train
from harness.errors import (
    CellError,
    DataError,
    HarnessError,
    MeasureError,
    StoreError,
    Unsupported,
    UsageError,
)
from harness.plugin.manager import step
from harness.suite.matrix import Matrix, Skip

if TYPE_CHECKING:
    import torch

# A library prints nothing by itself: ``harness.progress.log_to`` adds the handler that prints.
logging.getLogger("harness").addHandler(logging.NullHandler())
former_names.install()


def load_artefact(file: Path) -> "torch.nn.Module":
    """The network that an artefact file holds, in evaluation mode; ``Deployment.artefact`` is such a file.

    Raises StoreError for any other file, and CellError when the plugin that rebuilds the network fails. Imports torch.
    """
    from harness.build import artefact

    return artefact.load(file)


def load_network(file: Path) -> "torch.nn.Module":
    """The network that an artefact file holds, with the activation of its kind of task: it gives what metrics get.

    These are probabilities, or the outputs of a regression. A network that sets ``gives_probabilities`` comes as it is.
    Raises as ``load_artefact`` does.
    """
    from harness.api.tasks import kind_of, task_of
    from harness.build import artefact

    return kind_of(task_of(artefact.header(file))).activated(artefact.load(file))


def save_artefact(file: Path, model: "torch.nn.Module", made_by: Step, deployment: Deployment) -> None:
    """Write a network, which the step ``made_by`` made of ``deployment.model``, to a file that `load_artefact` reads.

    Raises CellError when the step cannot write it, OSError when the file cannot be written.
    """
    from harness.build import artefact

    architecture = artefact.header(deployment.artefact)["architecture"]
    artefact.save(file, model, [made_by], architecture, deployment.task)


def __getattr__(name: str) -> Any:
    return former_names.former_export(__name__, name)


__all__ = [
    "Absent",
    "Architecture",
    "Audit",
    "CellError",
    "Chart",
    "Data",
    "DataError",
    "Dataset",
    "Deployment",
    "EvalContext",
    "ExecutedOperator",
    "FitHook",
    "HarnessError",
    "Kind",
    "Loss",
    "Matrix",
    "MeasureError",
    "Metric",
    "MetricSpec",
    "Predictor",
    "Profile",
    "Progress",
    "Quantization",
    "ReportContext",
    "Runtime",
    "Section",
    "Skip",
    "Split",
    "Step",
    "StepContext",
    "StoreError",
    "Table",
    "Task",
    "Training",
    "Unsupported",
    "UsageError",
    "WeightedMetric",
    "compressor",
    "hookimpl",
    "load_artefact",
    "load_network",
    "save_artefact",
    "step",
    "train",
]
