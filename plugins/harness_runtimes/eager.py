"""PyTorch eager: the artefact's own file is what ships, and torch runs it module by module."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from harness import Predictor, Runtime, load_artefact

if TYPE_CHECKING:
    import torch

FILE = "model.safetensors"


class TorchEager(Runtime):
    """Eager PyTorch. It runs whatever the harness can build, which makes it the reference among runtimes."""

    name = "torch"
    summary = "PyTorch, eager mode; deploys the .safetensors file that holds the tensors and how to rebuild the network"

    def deploy(self, artefact: Path, folder: Path) -> Path:
        """Copy the artefact: it is already one file that needs nothing else."""
        return Path(shutil.copyfile(artefact, folder / FILE))

    def load(self, file: Path) -> Predictor:
        """The network in evaluation mode, ended by a sigmoid unless it has its own (``gives_probabilities``)."""
        import torch

        model = load_artefact(file)
        if not getattr(model, "gives_probabilities", False):
            model = torch.nn.Sequential(model, torch.nn.Sigmoid()).eval()

        def predict(inputs: torch.Tensor) -> torch.Tensor:
            if torch.is_inference_mode_enabled():  # as in the timed loop; entering it again would cost a microsecond
                answer: torch.Tensor = model(inputs)
            else:
                with torch.inference_mode():
                    answer = model(inputs)
            return answer

        return predict
