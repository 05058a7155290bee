"""What tests of the bridge to pytest share: a toy suite, workers that time nothing, and a look into the JSON file."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from harness import Audit, Profile
from harness.measure.machine import Disturbance
from harness.measure.memory import Memory
from harness.measure.pool import PairedSamples, SingleSamples
from harness.measure.timing import Amount
from harness.plugin.manager import installed
from harness.store.entry import sha256_of

#: Runs pytest on a suite's source, with options.
Suite = Callable[..., pytest.RunResult]

HEAD = "from harness import *\n"
TOYS = """
toys = Matrix(
    dataset="toy", architecture=["conv", "lstm"], runtime="eager", seed=range(2),
    pruning={"full": [train(epochs=1)], "half": [train(epochs=1), step("halve")]},
)
"""


ENVIRONMENT = {"allocator": "system", "threads": 1}


class Workers:
    """Stand in for timing workers on a quiet machine: the candidate takes ``speed`` times the reference's time."""

    speed: ClassVar[float] = 0.5
    disturbance: ClassVar[Disturbance] = Disturbance(0, 0.0, 0)

    #: Nanoseconds: the reference takes between them.
    between: ClassVar[tuple[int, int]] = (90_000, 110_000)

    def __init__(self) -> None:
        self.renewed = 0

    def time_pair(
        self, reference: Path, candidate: Path, processes: int, amount: Amount, first: int = 0, **_: Any
    ) -> PairedSamples:
        assert reference.is_file()
        assert candidate.is_file()
        base = np.random.default_rng(0).integers(*self.between, (first + processes, amount.pairs))[first:]
        return PairedSamples(
            reference=base,
            candidate=base if reference == candidate else (base * self.speed).astype(int),
            reference_first=base % 2 == 0,
            inputs=base % 64,
            environment=tuple(ENVIRONMENT | {"pid": first + index} for index in range(processes)),
            warmup=20,
            steady=True,
            canary=np.full((processes, 5, 5), 200_000),
            collections=(0,) * processes,
            disturbances=(self.disturbance,) * processes,
            load={"load_1min": 0.5, "runnable": 1},
            wall=0.5,
            reference_sha256=sha256_of(reference),
            candidate_sha256=sha256_of(candidate),
        )

    def time_single(
        self, profile: Profile, runtime: str, file: Path, inputs: Path, calls: int, warmup: int
    ) -> SingleSamples:
        return SingleSamples(np.arange(calls) + 100_000, ENVIRONMENT, sha256_of(file))

    def renew(self) -> None:
        self.renewed += 1

    def memory(self, *_: Any) -> Memory:
        return Memory(baseline=10**8, loaded=10**8 + 4096, peak=10**8 + 8192)

    def predict(self, profile: Profile, runtime: str, file: Path, inputs: Path, output: Path, batch: int) -> Any:
        import torch

        predictor = installed().runtimes.get(runtime).load(file)
        return torch.cat([predictor(rows) for rows in torch.from_numpy(np.load(inputs)).split(batch)]).numpy()

    def audit(self, profile: Profile, runtime: str, file: Path, inputs: Path) -> Audit:
        import torch

        return installed().runtimes.get(runtime).audit(file, torch.from_numpy(np.load(inputs)[:1]))

    def close(self) -> None:
        pass


@contextlib.contextmanager
def logged(name: str = "harness") -> Iterator[list[str]]:
    """Collects the messages of a logger and of those below it, of the level INFO and above."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def benchmarks(file: str = "run.json") -> dict[str, dict[str, Any]]:
    """The entries of a benchmark JSON by name."""
    return {entry["name"]: entry for entry in json.loads(Path(file).read_text())["benchmarks"]}
