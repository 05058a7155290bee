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

from harness.api import Profile
from harness.measure.machine import Disturbance, Load, load
from harness.measure.process import WorkerProcess
from harness.measure.profile import WorkerEnvironment, worker_environment
from harness.measure.timing import Amount

COMMAND = (sys.executable, "-m", "harness.measure.worker")
#: Profiles whose workers are kept; beyond that the longest unused end, for each worker takes some 200 MB.
KEPT_PROFILES = 3
Crews = collections.OrderedDict[Profile, list[WorkerProcess]]


@dataclasses.dataclass(frozen=True, eq=False)
class PairedSamples:
    """The times of two deployed files: nanoseconds, int64, (processes, pairs) each.

    ``reference_first`` has the order within each pair, ``inputs`` the index of the input that both arms got.
    ``warmup`` counts the untimed calls of each arm in each process; ``steady`` says whether they ended steady in the
    first, which decides on their number. ``canary`` has the canary's nanoseconds, (processes, groups, calls).
    These have one entry a process: ``environment`` is what the worker verified, ``collections`` (of garbage) and
    ``disturbances`` say what disturbed it.
    ``load`` is the machine's before the first process. ``wall`` is how long the whole measurement took, in seconds.
    The hashes are those that every process verified.
    """

    reference: NDArray[np.int64]
    candidate: NDArray[np.int64]
    reference_first: NDArray[np.bool_]
    inputs: NDArray[np.int64]
    environment: tuple[Mapping[str, Any], ...]
    warmup: int
    steady: bool | None
    canary: NDArray[np.int64]
    collections: tuple[int, ...]
    disturbances: tuple[Disturbance, ...]
    load: Load
    wall: float
    reference_sha256: str
    candidate_sha256: str


@dataclasses.dataclass(frozen=True, eq=False)
class SingleSamples:
    """The times of one file in one process, nanoseconds, int64, (calls,); what that verified; the file's hash."""

    times: NDArray[np.int64]
    environment: Mapping[str, Any]
    sha256: str


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
        self._environments: dict[Profile, WorkerEnvironment] = {}
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
        amount: Amount,
        seed: int,
    ) -> PairedSamples:
        """Time two deployed files in pairs, in ``processes`` workers one after the other.

        ``amount`` is what the first process does; the others do as many calls as it did.

        ``inputs`` is a .npy of the examples (n, *input_shape) that the calls take in turn. Reference and candidate
        may be one file: each process then loads it twice. The order in each process is drawn from ``seed``.
        """
        began = time.perf_counter()
        files = {"reference": _identified(reference), "candidate": _identified(candidate)}
        crew = self._crew(self._crews, profile, processes)
        before = load()
        replies: list[Any] = []
        for index, worker in enumerate(crew):
            if replies:
                amount = Amount(pairs=len(replies[0]["reference"]), warmup=replies[0]["warmup"], until_steady=False)
            reply = worker.ask(
                "time",
                runtime=runtime,
                inputs=str(inputs),
                amount=dataclasses.asdict(amount),
                seed=random.Random(f"{seed}/{index}").getrandbits(32),
                reference_first=(seed + index) % 2 == 0,
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
            steady=replies[0]["steady"],
            canary=np.array([reply["canary"] for reply in replies], dtype=np.int64),
            collections=tuple(reply["collections"] for reply in replies),
            disturbances=tuple(Disturbance(**reply["disturbance"]) for reply in replies),
            load=before,
            wall=time.perf_counter() - began,
            reference_sha256=files["reference"]["sha256"],
            candidate_sha256=files["candidate"]["sha256"],
        )

    def time_single(
        self, profile: Profile, runtime: str, file: Path, inputs: Path, calls: int, warmup: int
    ) -> SingleSamples:
        """Time one deployed file in one process: ``calls`` after ``warmup`` untimed ones."""
        (worker,) = self._crew(self._crews, profile, 1)
        identified = _identified(file)
        taken = worker.ask(
            "time_single", runtime=runtime, file=identified, inputs=str(inputs), calls=calls, warmup=warmup
        )
        return SingleSamples(np.array(taken, dtype=np.int64), worker.environment, identified["sha256"])

    def renew(self) -> None:
        """End all workers that time, so that the next timing is done by fresh processes."""
        while self._crews:
            _end(self._crews.popitem()[1])

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
            # Resolved once: workers that come later must get the same allocator, or none.
            if profile not in self._environments:
                self._environments[profile] = worker_environment(profile)
            environment = self._environments[profile]
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
