"""Count what calls cost beside time: instructions, with perf or valgrind, and energy, with RAPL."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import MeasureError

#: Where Linux shows the energy counters of x86 processors (Running Average Power Limit).
RAPL = Path("/sys/class/powercap")
Work = Callable[[], object]


def count_instructions(work: Work) -> int:
    """Count the instructions that this process executes in user mode during ``work``, on all of its present threads.

    Raises MeasureError if perf is not installed, or cannot count here.
    """
    if shutil.which("perf") is None:
        raise MeasureError("perf is not installed")
    with tempfile.NamedTemporaryFile("r") as output:
        command = ["perf", "stat", "-x", ",", "-e", "instructions:u", "-o", output.name, "-p", str(os.getpid())]
        # perf counts this process as long as its own child runs: a cat, whose first echo says that it began.
        perf = subprocess.Popen(
            [*command, "--", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert perf.stdin is not None
        assert perf.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                perf.stdin.write("\n")
                perf.stdin.flush()
            began = perf.stdout.readline() == "\n"
            if began:
                work()
        finally:
            _, errors = perf.communicate()
        if not began:
            raise MeasureError(f"perf cannot count: {' '.join(errors.split()) or 'it printed nothing'}")
        return _perf_total(output.read())


def _perf_total(table: str) -> int:
    """Add up the counts of ``perf stat -x,``; a processor with two kinds of cores has a line for each."""
    rows = [line.split(",") for line in table.splitlines() if "instructions" in line and not line.startswith("#")]
    counts = [int(row[0]) for row in rows if row[0].isdigit()]
    if not counts:
        shown = ", ".join(row[0] for row in rows) or "nothing"
        raise MeasureError(f"perf cannot count instructions on this machine: it reports {shown}")
    return sum(counts)


def count_energy(work: Work, folder: Path = RAPL) -> float:
    """Measure the joules that the processor's packages use during ``work``, for everything that runs on them.

    Raises MeasureError where the kernel shows no counter, or only to others.
    """
    # intel-rapl:0 is a package; intel-rapl:0:0 is a part of it. AMD processors have the same names.
    packages = [path for path in sorted(folder.glob("intel-rapl:*")) if path.name.count(":") == 1]
    packages = [path for path in packages if _name(path).startswith("package")]
    if not packages:
        raise MeasureError(f"there is no energy counter (RAPL) in {folder}")
    before = [_microjoules(path) for path in packages]
    work()
    total = 0
    for path, first in zip(packages, before, strict=True):
        used = _microjoules(path) - first
        if used < 0:  # the counter wrapped around
            used += int((path / "max_energy_range_uj").read_text())
        total += used
    return total / 1e6


def _name(package: Path) -> str:
    try:
        return (package / "name").read_text().strip()
    except OSError:
        return ""


def _microjoules(package: Path) -> int:
    file = package / "energy_uj"
    try:
        return int(file.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MeasureError(f"the energy counter {file} cannot be read: {reason}") from None


# -------------------------------------------------------------------------------------------------------- valgrind


def valgrind_command(command: Sequence[str], logs: Path) -> list[str]:
    """Return a command that runs ``command`` in valgrind, with a log in ``logs`` for each process and each fork.

    Raises MeasureError if valgrind is not installed.
    """
    if shutil.which("valgrind") is None:
        raise MeasureError("valgrind is not installed")
    options = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", f"--log-file={logs}/%p.log"]
    return ["valgrind", *options, *command]


def valgrind_instructions(logs: Path, process: int) -> int:
    """Read the instructions of an ended process; those of a fork include its parent's until the fork."""
    try:
        log = (logs / f"{process}.log").read_text()
    except FileNotFoundError:
        log = ""
    count = re.search(r"I +refs: +([\d,]+)", log)
    if count is None:
        raise MeasureError(f"valgrind counted no instructions: {log.strip().splitlines()[-1:]}")
    return int(count[1].replace(",", ""))
