"""The evidence about one cell: its deployed file, what that file answered on the test part, and its timing."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness import artefact
from harness.contracts import Data, Task
from harness.plugins import Plugins


class CellEvidence:
    """contracts.Evidence, each part made when first asked for."""

    def __init__(
        self, file: Path, sha256: str, artefact_file: Path, data: Data, plugins: Plugins, scores: NDArray[Any]
    ) -> None:
        self.task: Task = data.task
        self.file = file
        self.sha256 = sha256
        self.scores = scores
        self.targets = data.test.targets
        self.patients = data.test.patients
        self.samples: NDArray[Any] | None = None
        self.peak_memory: int | None = None
        self.base_memory: int | None = None
        self._artefact_file = artefact_file
        self._data = data
        self._plugins = plugins

    @functools.cached_property
    def model(self) -> torch.nn.Module:
        return artefact.load(self._artefact_file, self._plugins)

    @functools.cached_property
    def example(self) -> torch.Tensor:
        return torch.from_numpy(np.array(self._data.validation.inputs[:1]))
