"""Keep a pool of timing workers for each profile, and ask them one at a time. Imports no torch."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.api import Audit, ExecutedOperator, Profile
from harness.api.metrics import Counter
from harness.api.runtimes import BACK_TO_BACK
from harness.errors import CellError, MeasureError
from harness.measure.counters import valgrind_command, valgrind_instructions
from harness.measure.machine import Disturbance, Load, load
from harness.measure.memory import Memory
from harness.measure.process import WorkerProcess
from harness.measure.profile import WorkerEnvironment, worker_environment
from harness.measure.timing import Amount

COMMAND = (sys.executable, "-m", "harness.measure.worker")
#: Profiles whose workers are kept; those unused for longest end first, because a worker takes some 200 MB.
KEPT_PROFILES = 3
#: Calls whose instructions are counted in valgrind, where each takes some fifty times as long.
VALGRIND_CALLS = 20
Crews = collections.OrderedDict[Profile, list[WorkerProcess]]


@dataclasses.dataclass(frozen=True, eq=False)
class PairedSamples:
    """The paired times of two deployed files: nanoseconds, int64, (processes, pairs) each.

    ``reference_first`` (processes, pairs) is the order within each pair, ``inputs`` the index of the input that both
    arms got. ``warmup`` counts the untimed calls of each arm in each process; ``steady`` says whether they ended steady
    in the first process, which determines their number. ``canary`` holds nanoseconds, (processes, groups, calls).

    One entry per process: ``environment``, which the worker verified, the number of garbage ``collections``, and
    ``disturbances``. ``load`` is the machine's load before the first process. ``wall`` is the duration of the whole
    measurement in seconds. Every process verified the hashes.
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

    @classmethod
    def of(
        cls,
        replies: Sequence[Mapping[str, Any]],
        environments: Iterable[Mapping[str, Any]],
        load_before: Load,
        wall: float,
        files: Mapping[str, Mapping[str, str]],
    ) -> PairedSamples:
        """The samples in the answers of workers to the request ``time``, one a process."""
        return cls(
            reference=np.array([reply["reference"] for reply in replies], dtype=np.int64),
            candidate=np.array([reply["candidate"] for reply in replies], dtype=np.int64),
            reference_first=np.array([reply["reference_first"] for reply in replies], dtype=np.bool_),
            inputs=np.array([reply["inputs"] for reply in replies], dtype=np.int64),
            environment=tuple(environments),
            warmup=replies[0]["warmup"],
            steady=replies[0]["steady"],
            canary=np.array([reply["canary"] for reply in replies], dtype=np.int64),
            collections=tuple(reply["collections"] for reply in replies),
            disturbances=tuple(Disturbance(**reply["disturbance"]) for reply in replies),
            load=load_before,
            wall=wall,
            reference_sha256=files["reference"]["sha256"],
            candidate_sha256=files["candidate"]["sha256"],
        )

    def joined(self, more: PairedSamples) -> PairedSamples:
        """Add the samples of further processes, timed by the same number of calls."""
        arrays = ("reference", "candidate", "reference_first", "inputs", "canary")
        entries = ("environment", "collections", "disturbances")
        together: dict[str, Any] = {name: np.concatenate([getattr(self, name), getattr(more, name)]) for name in arrays}
        together |= {name: getattr(self, name) + getattr(more, name) for name in entries}
        return dataclasses.replace(self, **together, wall=self.wall + more.wall)


@dataclasses.dataclass(frozen=True, eq=False)
class SingleSamples:
    """The times of one file in one process, nanoseconds, int64, (calls,); its verified environment; the file's hash."""

    times: NDArray[np.int64]
    environment: Mapping[str, Any]
    sha256: str


class Workers:
    """A context of timing workers: started when first needed, reused for later cells, ended with the context.

    Every method raises MeasureError if the profile's environment is not available, and CellError if a worker dies,
    does not answer for ``timeout`` seconds, or cannot run the file; the next request then gets a fresh worker.
    """

    def __init__(
        self, command: Sequence[str] = COMMAND, timeout: float = 900.0, python_path: Sequence[Path] = ()
    ) -> None:
        """``python_path`` are folders in which the workers look for modules first."""
        self._command = command
        self._timeout = timeout
        self._python_path = tuple(map(str, python_path))
        self._environments: dict[Profile, WorkerEnvironment] = {}
        self._crews: Crews = collections.OrderedDict()
        #: Workers that never run a model themselves; a fork of theirs does.
        self._forkers: Crews = collections.OrderedDict()
        #: Workers in valgrind, and the folder of its logs.
        self._in_valgrind: tuple[Workers, tempfile.TemporaryDirectory[str]] | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every worker."""
        for crews in (self._crews, self._forkers):
            while crews:
                _end(crews.popitem()[1])
        if self._in_valgrind is not None:
            workers, logs = self._in_valgrind
            workers.close()
            logs.cleanup()

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
        first: int = 0,
        reference_runtime: str | None = None,
    ) -> PairedSamples:
        """Time two deployed files in pairs, in ``processes`` workers one after the other.

        Each worker loads both files: the candidate with ``runtime``, the reference with its own if it has another.
        The first process times ``amount``; the others make as many calls as it did. ``inputs`` is a .npy of examples
        (n, *input_shape). Reference and candidate may be the same file (A/A): each process then loads it twice. The
        order in each process is drawn from ``seed``. To add processes to an earlier measurement, ``first`` skips the
        workers that made it.
        """
        began = time.perf_counter()
        files = {
            "reference": with_hash(reference) | {"runtime": reference_runtime or runtime},
            "candidate": with_hash(candidate) | {"runtime": runtime},
        }
        crew = self.crew(profile, first + processes)[first:]
        load_before = load()
        replies: list[Any] = []
        for index, worker in enumerate(crew, first):
            if replies:
                amount = Amount(pairs=len(replies[0]["reference"]), warmup=replies[0]["warmup"], until_steady=False)
            reply = worker.ask(
                "time",
                inputs=str(inputs),
                amount=dataclasses.asdict(amount),
                seed=random.Random(f"{seed}/{index}").getrandbits(32),
                reference_first=(seed + index) % 2 == 0,
                pause=profile.pause,
                **files,
            )
            replies.append(reply)
        wall = time.perf_counter() - began
        return PairedSamples.of(replies, [worker.environment for worker in crew], load_before, wall, files)

    def time_single(
        self, profile: Profile, runtime: str, file: Path, inputs: Path, calls: int, warmup: int
    ) -> SingleSamples:
        """Time ``calls`` calls of one deployed file in one process, after ``warmup`` untimed calls."""
        (worker,) = self._crew(self._crews, profile, 1)
        hashed = with_hash(file)
        times = worker.ask(
            "time_single",
            runtime=runtime,
            file=hashed,
            inputs=str(inputs),
            calls=calls,
            warmup=warmup,
            pause=profile.pause,
        )
        return SingleSamples(np.array(times, dtype=np.int64), worker.environment, hashed["sha256"])

    def renew(self) -> None:
        """End all timing workers, so that the next timing uses fresh processes."""
        while self._crews:
            _end(self._crews.popitem()[1])

    def memory(self, profile: Profile, runtime: str, file: Path, inputs: Path) -> Memory | None:
        """Measure what a deployed file needs in memory, when it runs each of ``inputs`` once; None if that is unknown.

        The allocator is the C library's whatever the profile names: how much free memory an allocator retains, and
        for how long, says nothing about the file.
        """
        (worker,) = self._crew(self._forkers, dataclasses.replace(profile, allocator="system"), 1)
        sizes = worker.ask("memory", runtime=runtime, file=with_hash(file), inputs=str(inputs))
        return None if sizes is None else Memory(**sizes)

    def predict(
        self, profile: Profile, runtime: str, file: Path, inputs: Path, output: Path, batch: int
    ) -> NDArray[np.float32]:
        """Compute a deployed file's outputs for ``inputs``, ``batch`` examples a call, in the profile's environment.

        ``inputs`` is a .npy of (n, *input_shape), ``output`` a .npy of probabilities (n, labels), which are also
        returned.
        """
        (worker,) = self._crew(self._crews, profile, 1)
        files = {"inputs": str(inputs), "output": str(output)}
        worker.ask("predict", runtime=runtime, file=with_hash(file), batch=batch, **files)
        scores: NDArray[np.float32] = np.load(output, allow_pickle=False)
        return scores

    def audit(self, profile: Profile, runtime: str, file: Path, inputs: Path) -> Audit:
        """Let the runtime report what a deployed file executes for the first of ``inputs``."""
        (worker,) = self._crew(self._crews, profile, 1)
        audit = worker.ask("audit", runtime=runtime, file=with_hash(file), inputs=str(inputs))
        return Audit(**audit | {"operators": tuple(ExecutedOperator(**row) for row in audit["operators"])})

    def count(self, profile: Profile, runtime: str, file: Path, inputs: Path, counter: Counter) -> float:
        """Measure what one call of a deployed file costs; harness.EvalContext describes the counters.

        Also raises MeasureError if this machine cannot count it.
        """
        if counter == "instructions_valgrind":
            return self._count_in_valgrind(profile, runtime, file, inputs)
        (worker,) = self._crew(self._crews, profile, 1)
        return float(worker.ask("count", counter=counter, runtime=runtime, file=with_hash(file), inputs=str(inputs)))

    def _count_in_valgrind(self, profile: Profile, runtime: str, file: Path, inputs: Path) -> float:
        """Count instructions as the difference of two processes, of which one runs VALGRIND_CALLS calls more."""
        if self._in_valgrind is None:
            logs = tempfile.TemporaryDirectory()
            command = valgrind_command(self._command, Path(logs.name))
            self._in_valgrind = Workers(command, self._timeout), logs
        workers, logs = self._in_valgrind
        try:
            (worker,) = workers._crew(workers._forkers, profile, 1)
            few, many = worker.ask(
                "run_in_forks",
                runtime=runtime,
                file=with_hash(file),
                inputs=str(inputs),
                calls=[1, 1 + VALGRIND_CALLS],
            )
        except CellError as error:
            raise MeasureError(f"valgrind cannot run the model: {error}") from error
        few, many = (valgrind_instructions(Path(logs.name), process) for process in (few, many))
        return float(many - few) / VALGRIND_CALLS

    def crew(self, profile: Profile, processes: int) -> list[WorkerProcess]:
        """Return verified, idle timing workers for ``profile``."""
        return self._crew(self._crews, profile, processes)

    def code(self, profile: Profile, names: Iterable[str]) -> dict[str, str]:
        """Digest the code of these names, such as "architecture cnn", that the workers import."""
        (worker,) = self.crew(profile, 1)
        digests: dict[str, str] = worker.ask("code", names=list(names))
        return digests

    def _crew(self, crews: Crews, profile: Profile, processes: int) -> list[WorkerProcess]:
        """Return verified, idle workers of ``crews`` for ``profile``; replace dead ones."""
        key = dataclasses.replace(profile, name="", pace=BACK_TO_BACK)  # neither is part of a worker's environment
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
        """Start workers. They import torch in parallel, because nothing is timed until all are ready."""
        started: list[WorkerProcess] = []
        if count > 0:
            # Resolved once, so that later workers get the same allocator.
            if profile not in self._environments:
                self._environments[profile] = worker_environment(profile, python_path=self._python_path)
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


def with_hash(file: Path) -> dict[str, str]:
    """A file with its hash, which the worker checks before it loads it."""
    return {"path": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def _end(workers: Iterable[WorkerProcess]) -> None:
    for worker in workers:
        worker.end()
