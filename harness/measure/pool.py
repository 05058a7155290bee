"""The controller's side of timing: keeps workers for each profile and asks them one at a time. It loads no torch."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import random
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.contracts import Profile
from harness.measure.process import WorkerProcess
from harness.measure.profile import worker_environment

COMMAND = (sys.executable, "-m", "harness.measure.worker")
#: Profiles whose workers are kept; beyond that the longest unused end, for each worker takes some 200 MB.
KEPT_PROFILES = 3
Crews = collections.OrderedDict[Profile, list[WorkerProcess]]


@dataclasses.dataclass(frozen=True, eq=False)
class PairedSamples:
    """The times of two deployed files: nanoseconds, int64, (processes, pairs) each.

    ``reference_first`` has the order within each pair, ``inputs`` the index of the input that both arms got.
    ``warmup`` counts the untimed calls of each arm in each process.
    These have one entry a process: ``environment`` is what the worker verified, ``collections`` (of garbage) and
    ``involuntary_switches`` count what disturbed it, ``elapsed`` has the seconds of its loop with the warm-up.
    ``wall`` is how long the whole measurement took, in seconds. The hashes are those that every process verified.
    """

    reference: NDArray[np.int64]
    candidate: NDArray[np.int64]
    reference_first: NDArray[np.bool_]
    inputs: NDArray[np.int64]
    environment: tuple[Mapping[str, Any], ...]
    warmup: int
    collections: tuple[int, ...]
    involuntary_switches: tuple[int, ...]
    elapsed: tuple[float, ...]
    wall: float
    reference_sha256: str
    candidate_sha256: str


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes resident before a deployed file is loaded (torch is, by then), and at the peak of running it."""

    baseline: int
    peak: int


class Workers:
    """Timing workers: started when first needed, kept for the cells to come, gone when the context ends.

    Every method raises MeasureError when the profile's environment cannot be had, and CellError when a worker dies,
    gives no answer for ``timeout`` seconds, or cannot run the file; the next request then finds a fresh worker.
    """

    def __init__(self, command: Sequence[str] = COMMAND, timeout: float = 900.0) -> None:
        self._command = command
        self._timeout = timeout
        self._crews: Crews = collections.OrderedDict()
        #: Those that never run a model themselves, but let a fork of theirs do it.
        self._forkers: Crews = collections.OrderedDict()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every worker."""
        for crews in (self._crews, self._forkers):
            while crews:
                _end(crews.popitem()[1])

    def time_pair(
        self,
        profile: Profile,
        runtime: str,
        reference: Path,
        candidate: Path,
        inputs: Path,
        processes: int,
        pairs: int,
        warmup: int,
        seed: int,
        seconds: float | None = None,
    ) -> PairedSamples:
        """Time two deployed files in pairs, in ``processes`` workers one after the other.

        ``pairs`` and ``warmup`` count calls in each process. With ``seconds`` the first process does fewer of them when
        they are slow, so that neither takes much longer than that, and the others do as many as the first.

        ``inputs`` is a .npy of the examples (n, *input_shape) that the calls take in turn. Reference and candidate
        may be one file: each process then loads it twice. The order in each process is drawn from ``seed``.
        """
        began = time.perf_counter()
        files = {"reference": _identified(reference), "candidate": _identified(candidate)}
        crew = self._crew(self._crews, profile, processes)
        replies: list[Any] = []
        for index, worker in enumerate(crew):
            if replies:
                pairs, warmup, seconds = len(replies[0]["reference"]), replies[0]["warmup"], None
            reply = worker.ask(
                "time",
                runtime=runtime,
                inputs=str(inputs),
                pairs=pairs,
                warmup=warmup,
                seed=random.Random(f"{seed}/{index}").getrandbits(32),
                seconds=seconds,
                **files,
            )
            replies.append(reply)
        return PairedSamples(
            reference=np.array([reply["reference"] for reply in replies], dtype=np.int64),
            candidate=np.array([reply["candidate"] for reply in replies], dtype=np.int64),
            reference_first=np.array([reply["reference_first"] for reply in replies], dtype=np.bool_),
            inputs=np.array([reply["inputs"] for reply in replies], dtype=np.int64),
            environment=tuple(worker.environment for worker in crew),
            warmup=replies[0]["warmup"],
            collections=tuple(reply["collections"] for reply in replies),
            involuntary_switches=tuple(reply["involuntary_switches"] for reply in replies),
            elapsed=tuple(reply["elapsed_ns"] / 1e9 for reply in replies),
            wall=time.perf_counter() - began,
            reference_sha256=files["reference"]["sha256"],
            candidate_sha256=files["candidate"]["sha256"],
        )

    def memory(self, profile: Profile, runtime: str, file: Path, inputs: Path) -> Memory:
        """Peak memory of running each of ``inputs`` once through a deployed file, in a process of its own."""
        (worker,) = self._crew(self._forkers, profile, 1)
        return Memory(**worker.ask("memory", runtime=runtime, file=_identified(file), inputs=str(inputs)))

    def predict(self, profile: Profile, runtime: str, file: Path, inputs: Path, output: Path) -> NDArray[np.float32]:
        """What a deployed file answers for ``inputs``, in the very environment of its timing; kept in ``output``.

        Both are .npy files: (n, *input_shape), and probabilities (n, labels), which are also returned.
        """
        (worker,) = self._crew(self._crews, profile, 1)
        worker.ask("predict", runtime=runtime, file=_identified(file), inputs=str(inputs), output=str(output))
        scores: NDArray[np.float32] = np.load(output, allow_pickle=False)
        return scores

    def _crew(self, crews: Crews, profile: Profile, processes: int) -> list[WorkerProcess]:
        """Workers of ``crews`` for ``profile``, all verified and idle; the dead are replaced."""
        key = dataclasses.replace(profile, name="")
        crew = []
        for worker in crews.pop(key, []):
            if worker.alive:
                crew.append(worker)
            else:
                worker.end()
        crews[key] = crew
        while len(crews) > KEPT_PROFILES:
            _end(crews.popitem(last=False)[1])
        crew += self._start(key, processes - len(crew))
        return crew[:processes]

    def _start(self, profile: Profile, count: int) -> list[WorkerProcess]:
        """New workers. They import torch side by side, for nothing is timed until all of them are ready."""
        started: list[WorkerProcess] = []
        if count > 0:
            environment = worker_environment(profile)
            try:
                for _ in range(count):
                    started.append(WorkerProcess(self._command, environment, self._timeout))
                for worker in started:
                    worker.greet()
            except BaseException:
                _end(started)
                raise
        return started


def _identified(file: Path) -> dict[str, str]:
    return {"path": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def _end(workers: Iterable[WorkerProcess]) -> None:
    for worker in workers:
        worker.end()
