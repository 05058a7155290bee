"""The CPU load beside a timing: it runs on the right CPUs and ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cpu_load
from cpu_load import burning, other_cpus
from harness.api import Profile
from harness.errors import MeasureError, UsageError

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
    with pytest.raises(UsageError, match=r"CPUs \[2\], and this process may use no other.*pass --quiet-only"):
        other_cpus(Profile())
    with pytest.raises(UsageError, match="must be pinned"):
        other_cpus(Profile(affinity=None))


def test_a_cpu_is_kept_busy_and_then_left() -> None:
    cpu = min(os.sched_getaffinity(0))
    before = set(children())
    with burning([cpu]):
        (burner,) = set(children()) - before
        deadline = time.monotonic() + 20
        while ticks(burner) < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ticks(burner) >= 20
        assert os.sched_getaffinity(burner) == {cpu}
    assert gone(burner)


def test_a_load_that_ended_early_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_load, "BURNER", "raise SystemExit(3)")
    with pytest.raises(MeasureError, match="loads CPU 0 ended early with status 3"), burning([0]):
        time.sleep(1)


SCRIPT = """
import os, time
from pathlib import Path
from cpu_load import burning
cpu = min(os.sched_getaffinity(0))
with burning([cpu, cpu]):
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
        cwd=Path(cpu_load.__file__).parent,
    ) as parent:
        assert parent.stdout is not None
        burners = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(burners) == 2
        os.killpg(parent.pid, number)
    assert all(gone(pid) for pid in burners)
