"""Run the artefact's own file with eager PyTorch, module by module."""

from __future__ import annotations

import collections
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from harness import (
    Audit,
    Deployment,
    ExecutedOperator,
    Predictor,
    Runtime,
    Unsupported,
    load_artefact,
    load_network,
)

if TYPE_CHECKING:
    import torch

FILE = "model.safetensors"


class TorchEager(Runtime):
    """Eager PyTorch. It runs every network that the harness can build, so it is the reference among runtimes."""

    name = "torch"
    summary = "PyTorch, eager mode; deploys the .safetensors file that holds the tensors and how to rebuild the network"

    packages: ClassVar[tuple[str, ...]] = ("torch",)
    profile_fields: ClassVar[frozenset[str]] = frozenset({"isa", "onednn"})

    def deploy(self, deployment: Deployment, folder: Path) -> Path:
        """Copy the artefact, which is one self-contained file already."""
        if deployment.quantization is not None:
            raise Unsupported("the runtime torch carries out no quantization yet")
        return Path(shutil.copyfile(deployment.artefact, folder / FILE))

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
