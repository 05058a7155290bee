"""The pool with workers that misbehave: each failure is one clear error, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.api import Profile
from harness.errors import CellError, StoreError
from harness.measure import pool
from harness.measure.pool import PairedSamples, Workers
from harness.measure.timing import Amount

FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
PROFILE = Profile(affinity=None)


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(FAKE) as workers:
        yield workers


def time_pair(
    workers: Workers, folder: Path, how: str = "well", profile: Profile = PROFILE, processes: int = 2
) -> PairedSamples:
    reference, candidate = folder / "reference", folder / how
    reference.write_text("reference")
    candidate.write_text(how)
    return workers.time_pair(
        profile, "torch", reference, candidate, folder / "inputs.npy", processes, Amount(pairs=6, warmup=4), seed=1
    )


def pids(samples: PairedSamples) -> list[int]:
    return [environment["pid"] for environment in samples.environment]


def gone(pid: int, within: float = 60.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":  # killed, but its new parent has not asked for its status
            return True
        time.sleep(0.02)
    return False


def test_samples_are_kept_by_process_with_what_each_verified(workers: Workers, tmp_path: Path) -> None:
    samples = time_pair(workers, tmp_path)
    assert samples.reference.shape == samples.candidate.shape == (2, 5)
    assert (samples.candidate - samples.reference == 100).all()
    assert samples.reference[0, 0] != samples.reference[1, 0], "the processes were given the same seed"
    assert samples.canary.shape == (2, 5, 5)
    assert [entry.involuntary_switches for entry in samples.disturbances] == [3, 3]
    assert samples.reference_sha256 != samples.candidate_sha256
    assert len(set(pids(samples))) == 2
    assert samples.load.keys() == {"load_1min", "runnable"}


def test_processes_are_added_to_a_measurement(workers: Workers, tmp_path: Path) -> None:
    some = time_pair(workers, tmp_path)
    more = workers.time_pair(
        PROFILE,
        "torch",
        tmp_path / "reference",
        tmp_path / "well",
        tmp_path / "inputs.npy",
        3,
        Amount(some.reference.shape[1], some.warmup, until_steady=False),
        seed=1,
        first=2,
    )
    whole = some.joined(more)
    assert len(set(pids(whole))) == 5
    assert pids(whole)[:2] == pids(some)
    assert whole.reference.shape == whole.candidate.shape == whole.inputs.shape == (5, 5)
    assert (whole.reference[2:] == more.reference).all()
    assert len(whole.collections) == len(whole.disturbances) == len(whole.canary) == 5
    assert whole.wall == some.wall + more.wall
    assert (whole.warmup, whole.steady, whole.load) == (some.warmup, some.steady, some.load)
    assert pids(time_pair(workers, tmp_path, processes=5)) == pids(whole), "later cells use the same processes"


def test_the_first_process_decides_how_much_all_do(workers: Workers, tmp_path: Path) -> None:
    samples = time_pair(workers, tmp_path, processes=3)
    assert (samples.reference.shape, samples.warmup, samples.steady) == ((3, 5), 3, True)


def test_a_file_is_timed_alone_in_one_process(workers: Workers, tmp_path: Path) -> None:
    before = pids(time_pair(workers, tmp_path))
    alone = workers.time_single(PROFILE, "torch", tmp_path / "well", tmp_path / "inputs.npy", calls=7, warmup=100)
    assert alone.times.tolist() == [150] * 7
    assert alone.environment["pid"] == before[0]
    assert alone.sha256 == time_pair(workers, tmp_path).candidate_sha256


def test_renewed_workers_get_the_environment_of_the_first(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = time_pair(workers, tmp_path)
    monkeypatch.setenv("TZ", "Antarctica/Troll")
    workers.renew()
    assert time_pair(workers, tmp_path).environment[0]["variables"] == first.environment[0]["variables"]


def test_renewed_workers_are_other_processes(workers: Workers, tmp_path: Path) -> None:
    before = pids(time_pair(workers, tmp_path))
    memory = workers.memory(PROFILE, "torch", tmp_path / "well", tmp_path / "inputs.npy")
    assert memory is not None
    workers.renew()
    assert all(gone(pid) for pid in before)
    assert not set(before) & set(pids(time_pair(workers, tmp_path)))
    kept = workers.memory(PROFILE, "torch", tmp_path / "well", tmp_path / "inputs.npy")
    assert kept == memory, "what times no model need not be new"


def test_the_environment_is_the_list_and_nothing_else(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    variables = time_pair(workers, tmp_path, profile=Profile(threads=3, affinity=None)).environment[0]["variables"]
    assert "MALLOC_ARENA_MAX" not in variables
    assert variables["OMP_NUM_THREADS"] == "3"
    assert "LD_PRELOAD" not in variables


def test_workers_are_kept_for_the_next_cell_whatever_the_profile_is_called(workers: Workers, tmp_path: Path) -> None:
    first = time_pair(workers, tmp_path)
    again = time_pair(workers, tmp_path, profile=Profile(affinity=None, name="another name"))
    more = time_pair(workers, tmp_path, processes=3)
    assert pids(first) == pids(again) == pids(more)[:2]


def test_only_the_latest_profiles_keep_their_workers(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "KEPT_PROFILES", 1)
    first = time_pair(workers, tmp_path, processes=1)
    time_pair(workers, tmp_path, profile=Profile(threads=2, affinity=None), processes=1)
    assert gone(pids(first)[0])


def test_what_a_plugin_prints_or_reads_is_no_part_of_the_protocol(workers: Workers, tmp_path: Path) -> None:
    assert time_pair(workers, tmp_path, "noisy").candidate.shape == (2, 5)
    assert time_pair(workers, tmp_path, "greedy").candidate.shape == (2, 5)


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ("crash", CellError, "killed by SIGSEGV.*last output: about to crash"),
        ("exit", CellError, "exited with status 3 .*it printed nothing"),
        ("leave", CellError, "SystemExit: 3"),
        ("refuse", StoreError, "the file is damaged; build it again"),
        ("bug", CellError, r"ZeroDivisionError: of the plugin \(.*fake_worker.py, line \d+\)"),
    ],
)
def test_a_failure_is_told_and_the_next_cell_is_measured(
    workers: Workers, tmp_path: Path, how: str, error: type[Exception], text: str
) -> None:
    before = pids(time_pair(workers, tmp_path))
    with pytest.raises(error, match=text):
        time_pair(workers, tmp_path, how)
    after = pids(time_pair(workers, tmp_path))
    assert before[1] in after, "the other worker had done nothing wrong"
    assert (before[0] in after) == (how in ("refuse", "bug", "leave")), "only a dead worker is replaced"


def test_a_worker_that_hangs_is_killed(tmp_path: Path) -> None:
    with Workers(FAKE, timeout=0.5) as workers, pytest.raises(CellError, match=r"no answer for 0.5 s and was killed"):
        time_pair(workers, tmp_path, "hang", processes=1)


def test_a_worker_that_cannot_start_is_told() -> None:
    command = (sys.executable, "-c", "raise SystemExit('no torch here')")
    words = "status 1 while starting; its last output: no torch"
    with Workers(command) as workers, pytest.raises(CellError, match=words):
        workers.memory(PROFILE, "torch", Path(__file__), Path(__file__))


def test_memory_is_measured_in_a_process_of_its_own(workers: Workers, tmp_path: Path) -> None:
    timed = pids(time_pair(workers, tmp_path, processes=1))
    memory = workers.memory(PROFILE, "torch", tmp_path / "well", tmp_path / "inputs.npy")
    assert memory is not None
    assert memory.peak not in timed  # the fake's peak is its process number
    again = workers.memory(PROFILE, "torch", tmp_path / "well", tmp_path / "inputs.npy")
    assert again == memory, "the process that forks is kept"


def test_predictions_come_back(workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    np.save(tmp_path / "inputs.npy", np.ones((3, 2, 4), dtype=np.float32))
    scores = workers.predict(PROFILE, "torch", tmp_path / "file", tmp_path / "inputs.npy", tmp_path / "out.npy", 2)
    np.testing.assert_array_equal(scores, np.full((3, 1), 8, dtype=np.float32))


def test_closing_ends_every_worker(tmp_path: Path) -> None:
    with Workers(FAKE) as workers:
        alive = pids(time_pair(workers, tmp_path))
        assert not any(gone(pid, within=0.05) for pid in alive)
    assert all(gone(pid) for pid in alive)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_pool import FAKE, Workers, pids, time_pair
with Workers(FAKE) as workers:
    print(*pids(time_pair(workers, Path(sys.argv[2]))), flush=True)
    time_pair(workers, Path(sys.argv[2]), "hang")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_no_worker_outlives_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        alive = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(alive) == 2
        time.sleep(0.2)  # so that the first of them hangs in its request
        os.killpg(parent.pid, number)
        _, errors = parent.communicate(timeout=60)
    assert all(gone(pid) for pid in alive)
    assert errors.count("Traceback") == (1 if number == signal.SIGINT else 0), "a worker printed a traceback"


def test_the_controller_s_side_loads_no_torch() -> None:
    code = "import sys, harness.measure.pool; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
