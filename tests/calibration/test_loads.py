"""The loads beside a timing: they run on the right CPUs, disturb what they should, and end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import loads
from harness.api import Profile
from harness.errors import MeasureError, UsageError
from loads import BURN, LOADS, helping, other_cpus, stopping

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux pins processes to CPUs")


def children() -> list[int]:
    return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]


def gone(pid: int, within: float = 60.0) -> bool:
    """Whether the process ends within some seconds; a zombie has ended."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def ticks(pid: int) -> int:
    """CPU time of a process in clock ticks, mostly hundredths of a second."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11])


def test_the_other_cpus_are_those_without_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8})
    assert other_cpus(Profile(affinity=[5])) == (3, 8)


def test_without_another_cpu_there_is_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2})
    with pytest.raises(UsageError, match=r"CPUs \[2\], and this process may use no other.*pass --loads quiet"):
        other_cpus(Profile())
    with pytest.raises(UsageError, match="must be pinned"):
        other_cpus(Profile(affinity=None))


def test_a_cpu_is_kept_busy_and_then_left() -> None:
    cpu = min(os.sched_getaffinity(0))
    before = set(children())
    with helping(BURN, [cpu]):
        (burner,) = set(children()) - before
        deadline = time.monotonic() + 20
        while ticks(burner) < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ticks(burner) >= 20
        assert os.sched_getaffinity(burner) == {cpu}
    assert gone(burner)


def test_a_load_that_ended_early_is_an_error() -> None:
    work = "os._exit(3)"
    with pytest.raises(MeasureError, match="loads CPU 0 ended early with status 3"), helping(work, [0]):
        time.sleep(1)


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"])


def states(pid: int, seconds: float = 2.0) -> set[str]:
    """The states of a process that were seen: R runs, T is stopped."""
    deadline, seen = time.monotonic() + seconds, set()
    while time.monotonic() < deadline:
        seen.add(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0])
        time.sleep(0.003)
    return seen


@pytest.mark.slow
def test_stopped_children_run_in_turn_and_at_the_end() -> None:
    with sleeper() as worker:
        try:
            with stopping(min(os.sched_getaffinity(0))):
                assert {"R", "T"} <= states(worker.pid)
            assert "T" not in states(worker.pid, 0.5)
        finally:
            worker.kill()


def test_a_quota_throttles_the_workers_and_is_lifted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group = tmp_path / "cpu"
    group.mkdir()
    monkeypatch.setattr(loads, "CPU_CGROUP", group)
    with LOADS["quota"](Profile()) as words:
        (made,) = [path for path in group.iterdir() if path.is_dir()]
        assert {file.name: file.read_text() for file in made.iterdir()} == {
            "cpu.cfs_period_us": "100000",
            "cpu.cfs_quota_us": "80000",
            "cgroup.procs": str(os.getpid()),
        }
    assert "80 % of the time" in words
    assert (group / "cgroup.procs").read_text() == str(os.getpid()), "the controller is back in the root group"


@pytest.mark.slow
def test_where_no_group_can_be_made_signals_stop_the_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loads, "CPU_CGROUP", tmp_path / "missing")
    monkeypatch.setattr(loads, "other_cpus", lambda profile: (min(os.sched_getaffinity(0)),))
    with sleeper() as worker:
        try:
            with LOADS["quota"](Profile()) as words:
                assert "T" in states(worker.pid)
        finally:
            worker.kill()
    assert words.endswith("stopped and continued by signals")


@pytest.mark.parametrize("name", ["other", "both", "bandwidth", "bursts"])
def test_each_load_runs_on_its_cpus(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    monkeypatch.setattr(loads, "pinned_cpus", lambda profile: (cpus[-1],))
    monkeypatch.setattr(loads, "other_cpus", lambda profile: (cpus[0],))
    before = set(children())
    with LOADS[name](Profile()) as words:
        helpers = set(children()) - before
        time.sleep(0.5)
        assert {frozenset(os.sched_getaffinity(pid)) for pid in helpers} <= {frozenset([cpu]) for cpu in cpus}
        assert len(helpers) == (2 if name in ("both", "bursts") else 1)
    assert str(cpus[0]) in words
    assert all(gone(pid) for pid in helpers)


SCRIPT = """
import os, time
from pathlib import Path
from loads import BURN, helping
cpu, other = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
with helping(BURN, [cpu, other]):
    print(Path("/proc/thread-self/children").read_text(), flush=True)
    time.sleep(200)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_no_burner_outlives_its_parent(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=Path(loads.__file__).parent,
    ) as parent:
        assert parent.stdout is not None
        burners = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(burners) == 2
        os.killpg(parent.pid, number)
    assert all(gone(pid) for pid in burners)
