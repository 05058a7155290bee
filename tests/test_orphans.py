"""What a crash or a kill leaves: the error of its own cell, and no process, no temporary file, no lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock
from hanging import hangs, soon, start, suite_of

from harness.api import Profile
from harness.errors import CellError
from harness.measure import process
from harness.measure.pool import Workers

PROFILE = Profile(affinity=None)

#: A worker without torch, whose process that does the work behaves as the file that it is given says.
WORKER = """
import os, signal, sys, time
from pathlib import Path

import numpy as np

from harness.measure.worker import Worker, serve


def behave(file):
    path = Path(file["path"])
    match path.read_text():
        case "hang":
            path.with_name("hangs").touch()
            time.sleep(200)
        case "exit":
            print("out of ideas", file=sys.stderr, flush=True)
            os._exit(3)
        case "silence":
            os.closerange(3, 64)
            time.sleep(200)
        case signal_name if signal_name.startswith("SIG"):
            print("about to die", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.Signals[signal_name])


class Odd(Worker):
    def hello(self, **_):
        return {}

    def time_single(self, file, **_):
        behave(file)
        return [1, 2, 3]

    def predict(self, file, output, **_):
        behave(file)
        np.save(output, np.ones((1, 1)))

    def _memory(self, runtime, file, inputs):
        behave(file)
        return {"baseline": 1, "loaded": 2, "peak": 3}


serve(Odd())
"""

#: A run: a store, its scratch folder, and workers that do one thing with one file.
RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_orphans import ask
from harness.measure.pool import Workers
from harness.store.local import Store

with Store(Path(sys.argv[2])).scratch() as folder, Workers((sys.executable, sys.argv[3])) as workers:
    ask(workers, sys.argv[4], folder, "hang")
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
#: Seconds within which a run has started, or has ended, on a machine with a lot to do; what hangs does so for longer.
STARTED, ENDED = 60.0, 60.0
ACTIONS = ["time", "memory", "predict"]


def ask(workers: Workers, action: str, folder: Path, how: str) -> None:
    """One request about a file that makes the process that runs it behave so."""
    (file, inputs) = (folder / name for name in (f"{how}.file", "inputs.npy"))
    file.write_text(how)
    match action:
        case "time":
            workers.time_single(PROFILE, "torch", file, inputs, calls=3, warmup=0)
        case "memory":
            workers.memory(PROFILE, "torch", file, inputs)
        case "predict":
            workers.predict(PROFILE, "torch", file, inputs, folder / "output.npy", batch=1)


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    file = tmp_path / "worker.py"
    file.write_text(WORKER)
    return file


@pytest.fixture
def workers(worker: Path) -> Iterator[Workers]:
    with Workers((sys.executable, str(worker))) as workers:
        yield workers


def processes() -> dict[int, tuple[int, str]]:
    """Parent and state of every process by its number."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, *_ = file.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        found[int(file.parent.name)] = (int(parent), state)
    return found


def descendants(ancestor: int) -> set[int]:
    table = processes()
    found: set[int] = set()
    while more := {pid for pid, (parent, _) in table.items() if parent in found | {ancestor}} - found:
        found |= more
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that live; a killed process whose status nobody has asked for does not."""
    table = processes()
    return {pid for pid in pids if pid in table and table[pid][1] != "Z"}


# ------------------------------------------------------------------------------------------------ a worker crashes


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("how", "known"),
    [
        ("SIGSEGV", r"SIGSEGV|status 11\b"),
        ("SIGKILL", r"SIGKILL|status 9\b"),
        ("SIGTERM", r"SIGTERM|status 15\b"),
        ("exit", r"status (3|768)\b"),
    ],
)
def test_a_crash_is_the_error_of_its_cell_and_the_next_one_is_measured(
    workers: Workers, tmp_path: Path, action: str, how: str, known: str
) -> None:
    ask(workers, action, tmp_path, "well")
    with pytest.raises(CellError, match=known):
        ask(workers, action, tmp_path, how)
    ask(workers, action, tmp_path, "well")


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    assert process.how_it_ended(-40) == "was killed by signal 40"


def test_a_worker_that_closes_its_output_and_lives_on_is_killed(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE", 0.2)
    with pytest.raises(CellError, match="closed its output without ending and was killed"):
        ask(workers, "predict", tmp_path, "silence")
    ask(workers, "predict", tmp_path, "well")


@linux
def test_the_fork_that_measures_memory_goes_with_its_worker(workers: Workers, tmp_path: Path) -> None:
    before = descendants(os.getpid())
    ask(workers, "memory", tmp_path, "well")
    (worker,) = descendants(os.getpid()) - before
    with ThreadPoolExecutor() as threads:
        request = threads.submit(ask, workers, "memory", tmp_path, "hang")
        assert soon((tmp_path / "hangs").exists)
        (fork,) = descendants(worker)
        os.kill(worker, signal.SIGKILL)
        assert isinstance(request.exception(STARTED), CellError)
    assert soon(lambda: not alive({worker, fork}), ENDED)


# ----------------------------------------------------------------------------------------------- the run is killed


def kill(run: subprocess.Popen[str], number: signal.Signals, count: int) -> None:
    """Send the signal as a terminal does, to the whole group; ``count`` processes must go with it."""
    own = descendants(run.pid)
    assert len(own) == count, "otherwise this test looks at something else than it says"
    os.killpg(run.pid, number)
    run.wait(STARTED)
    assert soon(lambda: not alive(own), ENDED), f"{alive(own)} of {own} live on"


@linux
@pytest.mark.parametrize(
    ("action", "count", "number"),
    [
        pytest.param(
            action,
            count,
            number,
            id=f"{action}-{number.name}",
            marks=() if action == "time" or number == signal.SIGKILL else pytest.mark.slow,
        )
        for action, count in (("time", 2), ("memory", 3), ("predict", 2))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    ],
)
def test_nothing_is_left_of_a_run_that_is_killed_in_a_request(
    worker: Path, tmp_path: Path, action: str, count: int, number: signal.Signals
) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-c", RUN, str(Path(__file__).parent), str(store), str(worker), action]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert soon(lambda: bool(list(store.glob("tmp/*/hangs"))))
        kill(run, number, count)
    assert soon(lambda: not list((store / "tmp").iterdir()), ENDED)


@linux
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL], ids=lambda number: number.name
)
def test_nothing_is_left_of_a_benchmark_that_is_killed(
    nowhere: None, toy_distribution: Path, tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    variables = {"TMPDIR": str(temporary)}
    with start(tmp_path, toy_distribution, suite_of("hanging"), variables, stdout=subprocess.PIPE) as run:
        assert soon(lambda: hangs(tmp_path))
        kill(run, number, 2)
    assert run.returncode == (pytest.ExitCode.INTERRUPTED if number == signal.SIGINT else -number)
    assert soon(lambda: not list(Path(".harness/tmp").iterdir()), ENDED)
    assert not [entry for entry in temporary.iterdir() if not entry.name.startswith("torchinductor")]  # torch's cache
    names = {entry.name for entry in tmp_path.iterdir()}
    journals = {name for name in names if name.endswith(".journal")}
    assert len(journals) == (number == signal.SIGKILL), "by it the next run knows of the killed one"
    assert names - journals <= {"suite.py", "__pycache__", "site", "temporary", ".harness", ".benchmarks"}
    locks = list(Path(".harness/locks").iterdir())
    assert locks
    for lock in locks:
        FileLock(lock).acquire(timeout=0)
