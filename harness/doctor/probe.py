"""A worker with a model of its own, one small network that can be slowed down at will: it tests the measuring itself.

``python -m harness.doctor.probe`` speaks the worker's protocol. A file is JSON: ``{"slowdown": 0.02}`` is the
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

from harness.api import Predictor, Runtime
from harness.measure.worker import Worker, serve

if TYPE_CHECKING:
    import torch

COMMAND = (sys.executable, "-m", "harness.doctor.probe")
#: A signal of 12 leads and 1,000 samples; a call of the network takes some tenths of a millisecond.
INPUT_SHAPE, INPUTS = (12, 1000), 64
#: The busy loop is calibrated in so many steps of so many calls; the first step warms up too.
STEPS, ROUNDS = 3, 50


class Probe(Runtime):
    """Three convolutions with seeded weights, and after them a busy loop, calibrated when the file is loaded."""

    name: ClassVar[str] = "probe"

    def deploy(self, artefact: Path, folder: Path) -> Path:
        """The file is what ships."""
        return artefact

    def load(self, file: Path) -> Predictor:
        """The network that ``file`` describes."""
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
    """Write the inputs of the network, (64, 12, 1000) float32, seeded."""
    np.save(file, np.random.default_rng(0).standard_normal((INPUTS, *INPUT_SHAPE), dtype=np.float32))


def write_model(file: Path, slowdown: float = 0.0) -> None:
    """Write the file of a network that is slower by that share."""
    file.write_text(json.dumps({"slowdown": slowdown}))


def _calibrated(call: Callable[[], object], slowdown: float) -> int:
    """How many loops take that share of a call's time, when they follow it."""
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
    for _ in itertools.repeat(None, loops):  # not range(): its integers beyond 256 are made anew, so they cost more
        pass


if __name__ == "__main__":
    serve(Worker(lambda name: Probe()))
