"""Run the artefact's own file with eager PyTorch, module by module."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from harness import Predictor, Runtime, load_artefact

if TYPE_CHECKING:
    import torch

FILE = "model.safetensors"


class TorchEager(Runtime):
    """Eager PyTorch. It runs every network that the harness can build, so it is the reference among runtimes."""

    name = "torch"
    summary = "PyTorch, eager mode; deploys the .safetensors file that holds the tensors and how to rebuild the network"

    def deploy(self, artefact: Path, folder: Path) -> Path:
        """Copy the artefact, which is one self-contained file already."""
        return Path(shutil.copyfile(artefact, folder / FILE))

    def load(self, file: Path) -> Predictor:
        """Return the network in evaluation mode, with the task's activation unless it sets ``gives_probabilities``."""
        import torch

        from harness.api.tasks import MULTILABEL

        model = load_artefact(file)
        if not getattr(model, "gives_probabilities", False):
            model = torch.nn.Sequential(model, MULTILABEL.activation()).eval()

        def predict(inputs: torch.Tensor) -> torch.Tensor:
            # The timed loop is in inference mode already; entering it again would add a microsecond to each call.
            if torch.is_inference_mode_enabled():
                probabilities: torch.Tensor = model(inputs)
            else:
                with torch.inference_mode():
                    probabilities = model(inputs)
            return probabilities

        return predict
