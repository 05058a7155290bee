"""Run the artefact's own file with eager PyTorch, module by module."""

from __future__ import annotations

import collections
import copy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from harness import (
    Audit,
    Deployment,
    ExecutedOperator,
    Predictor,
    Runtime,
    StepContext,
    Unsupported,
    load_artefact,
    load_network,
    save_artefact,
    step,
)

if TYPE_CHECKING:
    import torch

FILE = "model.safetensors"


class _Context:
    """What the step ``quantize`` uses of a harness.StepContext, from a deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self.task = deployment.task
        self.example = deployment.example
        self._deployment = deployment

    def calibration(self, examples: int) -> torch.Tensor:
        return self._deployment.calibration()

    def report(self, **facts: Any) -> None:
        """Forget the facts, because the audit of the file reports them."""


class TorchEager(Runtime):
    """Eager PyTorch. It runs every network that the harness can build, so it is the reference among runtimes."""

    name = "torch"
    summary = "PyTorch, eager mode; deploys the .safetensors file that holds the tensors and how to rebuild the network"

    packages: ClassVar[tuple[str, ...]] = ("torch",)
    profile_fields: ClassVar[frozenset[str]] = frozenset({"isa", "onednn"})

    def deploy(self, deployment: Deployment, folder: Path) -> Path:
        """Copy the artefact, which is one self-contained file already; or quantize it, if it requests that.

        A request is carried out by the step ``quantize`` with the scheme ``ptq-int8``: PyTorch's FBGEMM kernels.
        """
        file = folder / FILE
        request = deployment.quantization
        if request is None:
            return Path(shutil.copyfile(deployment.artefact, file))
        if request.dtype != "int8":
            raise Unsupported(f"the runtime torch quantizes to int8, not to {request.dtype}")
        # The harness checks the requested coverage itself, by the audit of the file.
        quantize = step("quantize", scheme="ptq-int8", calibration=len(request.rows), coverage=0.0)
        network = copy.deepcopy(deployment.model)
        vars(network).pop("quantization", None)
        save_artefact(file, quantize.apply(network, cast("StepContext", _Context(deployment))), quantize, deployment)
        return file

    def load(self, file: Path) -> Predictor:
        """Return the network in evaluation mode, with the task's activation unless it sets ``gives_probabilities``."""
        import torch

        model = load_network(file)

        def predict(inputs: torch.Tensor) -> torch.Tensor:
            # The timed loop is in inference mode already; entering it again would add a microsecond to each call.
            if torch.is_inference_mode_enabled():
                probabilities: torch.Tensor = model(inputs)
            else:
                with torch.inference_mode():
                    probabilities = model(inputs)
            return probabilities

        return predict

    def audit(self, file: Path, example: torch.Tensor) -> Audit:
        """Count the operators that PyTorch dispatches for the example."""
        from harness.nn.operations import count

        operations = count(self.network(file), example)
        rows = collections.Counter((layer.kind, layer.dtype) for layer in operations.layers)
        operators = tuple(ExecutedOperator(kind, dtype, number) for (kind, dtype), number in rows.items())
        shares = operations.share("int8")
        if shares is None:
            return Audit(operators, reason=operations.reason)
        return Audit(operators, *shares)

    def network(self, file: Path) -> torch.nn.Module:
        """Return the network that the file holds, in evaluation mode."""
        return load_artefact(file)
