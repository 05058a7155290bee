"""Disturb the machine in six known ways while something is timed: each is a context manager."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.api import Profile
from harness.errors import MeasureError, UsageError
from harness.measure.profile import resolve_affinity

#: Each helper process works until its standard input closes, which happens however the parent ends. Arguments: the CPU
#: to run on, then those of its kind.
HELPER = """
import os, sys, threading

def wait():
    sys.stdin.read()
    os._exit(0)

os.sched_setaffinity(0, [int(sys.argv[1])])
threading.Thread(target=wait).start()
"""
BURN = "while True:\n    pass\n"
#: Copies blocks that no cache holds.
COPY = """
source, target = memoryview(bytearray(128 << 20)), memoryview(bytearray(128 << 20))
while True:
    target[:] = source
"""
#: Busy for 0.2 to 1 s, then idle for 1 to 4 s.
BURST = """
import random, time
draw = random.Random(int(sys.argv[1]))
while True:
    end = time.monotonic() + draw.uniform(0.2, 1.0)
    while time.monotonic() < end:
        pass
    time.sleep(draw.uniform(1.0, 4.0))
"""
#: The quota in microseconds of each period; without cgroups, the children are stopped for the rest of each period.
PERIOD, QUOTA = 100_000, 80_000
#: Stops and continues the children of the process in the last argument, except its own.
STOP = f"""
import signal, time
from pathlib import Path
parent, own = sys.argv[2], str(os.getpid())

def children():
    tasks = Path("/proc", parent, "task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split() if pid != own]

def send(number):
    for pid in children():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

while True:
    time.sleep({QUOTA} / 1e6)
    send(signal.SIGSTOP)
    time.sleep(({PERIOD} - {QUOTA}) / 1e6)
    send(signal.SIGCONT)
"""
CPU_CGROUP = Path("/sys/fs/cgroup/cpu")


def pinned_cpus(profile: Profile) -> tuple[int, ...]:
    """Return the CPUs that workers of ``profile`` are pinned to. Raises UsageError if they are not pinned."""
    pinned = resolve_affinity(profile)
    if pinned is None:
        raise UsageError(
            "the workers must be pinned to their CPUs before CPUs can be loaded: use Linux and a profile with an "
            "affinity (such as 'auto'), or pass --loads quiet"
        )
    return tuple(pinned)


def other_cpus(profile: Profile) -> tuple[int, ...]:
    """Return the CPUs that this process may use and that workers of ``profile`` are not pinned to.

    Raises UsageError if there is no such CPU, or if the workers are not pinned.
    """
    pinned = pinned_cpus(profile)
    others = tuple(sorted(os.sched_getaffinity(0) - set(pinned)))
    if not others:
        raise UsageError(
            f"no CPU is left to load: the workers are pinned to the CPUs {list(pinned)}, and this process may use no "
            "other; allow it more CPUs (taskset, the container's CPU set), or pass --loads quiet"
        )
    return others


@contextlib.contextmanager
def quiet(profile: Profile) -> Iterator[str]:
    """Leave the machine as it is."""
    yield "nothing is loaded"


@contextlib.contextmanager
def other(profile: Profile) -> Iterator[str]:
    """Load every CPU that no worker is pinned to."""
    cpus = other_cpus(profile)
    with helping(BURN, cpus):
        yield f"a busy process on each of the CPUs {list(cpus)}, where no worker runs"


@contextlib.contextmanager
def both(profile: Profile) -> Iterator[str]:
    """Load every CPU, also those of the workers."""
    cpus = (*pinned_cpus(profile), *other_cpus(profile))
    with helping(BURN, cpus):
        yield f"a busy process on each of the CPUs {list(cpus)}, those of the workers too"


@contextlib.contextmanager
def bandwidth(profile: Profile) -> Iterator[str]:
    """Take memory bandwidth from the CPUs that no worker is pinned to."""
    cpus = other_cpus(profile)
    with helping(COPY, cpus):
        yield f"a process that copies memory on each of the CPUs {list(cpus)}, where no worker runs"


@contextlib.contextmanager
def quota(profile: Profile) -> Iterator[str]:
    """Limit the CPU time of the workers to a quota: by cgroup v1, or by stopping them in turn with running."""
    share = f"{100 * QUOTA // PERIOD} % of the time, in periods of {PERIOD // 1000} ms"
    own = _own_group()
    group = own / f"calibration-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        with stopping(other_cpus(profile)[0]):
            yield f"the workers may run {share}: stopped and continued by signals"
        return
    try:
        (group / "cpu.cfs_period_us").write_text(f"{PERIOD}")
        (group / "cpu.cfs_quota_us").write_text(f"{QUOTA}")
        (group / "cgroup.procs").write_text(f"{os.getpid()}")  # workers inherit it
        yield f"the workers may run {share}: a quota by cgroup v1"
    finally:
        (own / "cgroup.procs").write_text(f"{os.getpid()}")
        with contextlib.suppress(OSError):  # workers that still end keep it for a moment
            group.rmdir()


def _own_group() -> Path:
    """The folder of this process's group in the hierarchy of the CPU controller."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            return CPU_CGROUP / path.lstrip("/")
    return CPU_CGROUP


@contextlib.contextmanager
def bursts(profile: Profile) -> Iterator[str]:
    """Load every CPU for parts of a second, at random."""
    cpus = (*pinned_cpus(profile), *other_cpus(profile))
    with helping(BURST, cpus):
        yield f"bursts of 0.2 to 1 s, every 1 to 4 s, on each of the CPUs {list(cpus)}"


Load = Callable[[Profile], contextlib.AbstractContextManager[str]]
#: By name, in the order of the tables. The context's value describes what was done.
LOADS: Mapping[str, Load] = {
    "quiet": quiet,
    "other": other,
    "both": both,
    "bandwidth": bandwidth,
    "quota": quota,
    "bursts": bursts,
}


@contextlib.contextmanager
def helping(work: str, cpus: Sequence[int]) -> Iterator[None]:
    """Run one helper process on each of ``cpus``. Raises MeasureError at the end if one of them ended early."""
    with contextlib.ExitStack() as stack:
        helpers = {cpu: stack.enter_context(_helper(work, str(cpu))) for cpu in cpus}
        yield
        for cpu, helper in helpers.items():
            _check_running(helper, f"loads CPU {cpu}")


@contextlib.contextmanager
def stopping(cpu: int) -> Iterator[None]:
    """Stop and continue the children of this process in turn, by a helper on ``cpu``; continue them at the end."""
    with _helper(STOP, str(cpu), str(os.getpid())) as helper:
        try:
            yield
            _check_running(helper, "stops the workers")
        finally:
            helper.kill()
            helper.wait()
            for pid in Path("/proc/thread-self/children").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGCONT)


def _check_running(helper: subprocess.Popen[bytes], work: str) -> None:
    if helper.poll() is not None:
        raise MeasureError(
            f"the process that {work} ended early with status {helper.returncode}, so the timings beside it are "
            "invalid: find out what killed it, and run again"
        )


@contextlib.contextmanager
def _helper(work: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    # A new session keeps Ctrl-C away from the process; -I and -S keep the user's Python settings away.
    command = [sys.executable, "-I", "-S", "-c", HELPER + work, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as helper:
        try:
            yield helper
        finally:
            helper.kill()
