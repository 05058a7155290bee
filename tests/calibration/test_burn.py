"""The load beside a timing: on the CPUs that it should be on, and gone when its parent is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.api import Profile
from harness.calibration import burn
from harness.calibration.burn import burning, other_cpus
from harness.errors import MeasureError, UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux pins processes to CPUs")


def children() -> list[int]:
    return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]


def gone(pid: int, within: float = 10.0) -> bool:
    """Whether the process has ended, or does so soon; one that waits for its new parent to ask for its status has."""
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
    """What a process used of a CPU, in hundredths of a second mostly."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11])


def test_the_other_cpus_are_those_without_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8})
    assert other_cpus(Profile(affinity=[5])) == (3, 8)


def test_without_another_cpu_there_is_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2})
    with pytest.raises(UsageError, match=r"CPUs \[2\], and this process may use no other.*leave the busy condition"):
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
    monkeypatch.setattr(burn, "BURNER", "raise SystemExit(3)")
    with pytest.raises(MeasureError, match="load CPU 0 ended with status 3"), burning([0]):
        time.sleep(1)


SCRIPT = """
import os, time
from pathlib import Path
from harness.calibration.burn import burning
cpu = min(os.sched_getaffinity(0))
with burning([cpu, cpu]):
    print(Path("/proc/thread-self/children").read_text(), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_no_burner_outlives_its_parent(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        burners = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(burners) == 2
        os.killpg(parent.pid, number)
    assert all(gone(pid) for pid in burners)
