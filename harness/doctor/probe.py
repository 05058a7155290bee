"""Run a worker whose only model is a small network with a planted slowdown, to test the measuring.

``python -m harness.doctor.probe`` speaks the worker's protocol. A model file is JSON: ``{"slowdown": 0.02}`` is the
network followed by a busy loop of 2 % of its time.
"""

from __future__ import annotations

import functools
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from harness.api import Deployment, Predictor, Runtime
from harness.measure.worker import Worker, serve

if TYPE_CHECKING:
    import torch

COMMAND = (sys.executable, "-m", "harness.doctor.probe")
#: A signal of 12 leads and 1,000 samples; a call of the network takes some tenths of a millisecond.
INPUT_SHAPE, INPUTS = (12, 1000), 64
#: The busy loop is calibrated in STEPS steps of ROUNDS calls; the first step is the warm-up too.
STEPS, ROUNDS = 3, 50


class Probe(Runtime):
    """Three convolutions with seeded weights, then a busy loop that is calibrated when the file is loaded."""

    name: ClassVar[str] = "probe"

    def deploy(self, deployment: Deployment, folder: Path) -> Path:
        """Return the file, which is deployed as it is."""
        return deployment.artefact

    def load(self, file: Path) -> Predictor:
        """Load the network that ``file`` describes."""
        import torch
        from torch import nn

        slowdown = float(json.loads(file.read_text())["slowdown"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = nn.Sequential(
                nn.Conv1d(INPUT_SHAPE[0], 32, 7, stride=2),
                nn.ReLU(),
                nn.Conv1d(32, 64, 5, stride=2),
                nn.ReLU(),
                nn.Conv1d(64, 64, 3, stride=2),
                nn.ReLU(),
                nn.AdaptiveAvgPool1d(1),
                nn.Flatten(),
                nn.Linear(64, 5),
                nn.Sigmoid(),
            ).eval()
        if not slowdown:
            return network
        loops = _calibrated(functools.partial(network, torch.zeros(1, *INPUT_SHAPE)), slowdown)

        def slowed(inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = network(inputs)
            _spin(loops)
            return outputs

        return slowed


def write_inputs(file: Path) -> None:
    """Write seeded inputs of the network, (64, 12, 1000) float32, as .npy."""
    np.save(file, np.random.default_rng(0).standard_normal((INPUTS, *INPUT_SHAPE), dtype=np.float32))


def write_model(file: Path, slowdown: float = 0.0) -> None:
    """Write the file of a network that is slower by ``slowdown`` (0.02 is 2 %)."""
    file.write_text(json.dumps({"slowdown": slowdown}))


def _calibrated(call: Callable[[], object], slowdown: float) -> int:
    """Return how many loops take the share ``slowdown`` of a call's time, when they follow the call."""
    loops = 100
    for _ in range(STEPS):
        calls, spins = [], []
        for _ in range(ROUNDS):
            start = time.perf_counter_ns()
            call()
            middle = time.perf_counter_ns()
            _spin(loops)
            spins.append(time.perf_counter_ns() - middle)
            calls.append(middle - start)
        loops = max(1, round(loops * slowdown * statistics.median(calls) / statistics.median(spins)))
    return loops


def _spin(loops: int) -> None:
    for _ in itertools.repeat(None, loops):  # not range(), which allocates integers above 256
        pass


if __name__ == "__main__":
    serve(Worker(lambda name: Probe()))
