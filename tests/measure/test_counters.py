"""Counters of instructions and energy, with commands and files that stand in for perf, valgrind and RAPL."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.api import Profile
from harness.errors import MeasureError
from harness.measure import counters
from harness.measure.counters import count_energy, count_instructions, valgrind_instructions
from harness.measure.pool import Workers

FAKE_WORKER = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
#: Runs the command behind "--" as perf does, and then writes its table.
PERF = """#!/bin/sh
{before}
while [ "$1" != "-o" ]; do shift; done
output=$2
while [ "$1" != "--" ]; do shift; done
shift
"$@"
printf '{table}' > "$output"
"""
#: Writes the logs of two forks, and runs the command behind its options.
VALGRIND = """#!/bin/sh
{before}
for option; do case "$option" in --log-file=*) log=${{option#--log-file=}};; esac; done
while [ "${{1#--}}" != "$1" ]; do shift; done
printf '==1== I   refs:      1,000,500\\n' > "${{log%/*}}/1.log"
printf '==2== I   refs:      1,002,500\\n' > "${{log%/*}}/2.log"
exec "$@"
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a command on the PATH."""

    def install(name: str, script: str, **values: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(script.format(**({"before": ""} | values)))
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return install


@pytest.mark.parametrize(
    ("table", "count"),
    [
        ("# started\\n\\n1234567,,instructions:u,80,100.00,,\\n", 1234567),
        ("1000,,cpu_core/instructions/u,9,50.00,,\\n<not counted>,,cpu_atom/instructions/u,0,0.00,,\\n", 1000),
        ("1000,,cpu_core/instructions/u,9,50.00,,\\n234,,cpu_atom/instructions/u,9,50.00,,\\n", 1234),
    ],
)
def test_perf_counts_while_the_work_runs(install: Install, table: str, count: int) -> None:
    install("perf", PERF, table=table)
    done: list[int] = []
    assert count_instructions(lambda: done.append(1)) == count
    assert done == [1]


def test_what_perf_cannot_count_is_an_error(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("perf", PERF, table="<not supported>,,instructions:u,0,100.00,,")
    with pytest.raises(MeasureError, match="cannot count instructions on this machine: it reports <not supported>"):
        count_instructions(lambda: None)
    install("perf", PERF, table="")
    with pytest.raises(MeasureError, match="it reports nothing"):
        count_instructions(lambda: None)
    install("perf", PERF, before="echo No permission >&2; exit 255", table="")
    with pytest.raises(MeasureError, match="perf cannot count: No permission"):
        count_instructions(lambda: pytest.fail("the work is not run where nothing is counted"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MeasureError, match="perf is not installed"):
        count_instructions(lambda: None)


def test_a_failure_of_the_work_ends_perf(install: Install) -> None:
    install("perf", PERF, table="1,,instructions:u,0,100.00,,")
    with pytest.raises(ZeroDivisionError):
        count_instructions(lambda: 1 // 0)


# ----------------------------------------------------------------------------------------------------------- energy


def package(folder: Path, number: str, name: str, microjoules: int, limit: int = 1000) -> Path:
    path = folder / f"intel-rapl:{number}"
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{limit}\n")
    return path


def test_energy_is_the_difference_of_all_packages(tmp_path: Path) -> None:
    first, second = package(tmp_path, "0", "package-0", 100), package(tmp_path, "1", "package-1", 900)
    part, platform = package(tmp_path, "0:0", "core", 1), package(tmp_path, "2", "psys", 1)

    def work() -> None:
        (first / "energy_uj").write_text("350")
        (second / "energy_uj").write_text("50")  # it wrapped around at 1000
        for other in (part, platform):
            (other / "energy_uj").write_text("999")

    assert count_energy(work, tmp_path) == pytest.approx((250 + 150) / 1e6)


def test_without_a_counter_the_reason_is_stated(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"no energy counter \(RAPL\) in"):
        count_energy(lambda: None, tmp_path)
    counter = package(tmp_path, "0", "package-0", 1) / "energy_uj"
    counter.unlink()
    counter.mkdir()  # as root, even a file without permissions could be read
    with pytest.raises(MeasureError, match="energy_uj cannot be read: Is a directory"):
        count_energy(lambda: None, tmp_path)


# --------------------------------------------------------------------------------------------------------- valgrind


def test_valgrind_counts_as_the_difference_of_two_forks(install: Install, tmp_path: Path) -> None:
    install("valgrind", VALGRIND)
    (tmp_path / "model").write_text("well")
    with Workers(FAKE_WORKER) as workers:
        arguments = Profile(affinity=None), "torch", tmp_path / "model", tmp_path / "inputs.npy"
        assert workers.count(*arguments, "instructions_valgrind") == (1_002_500 - 1_000_500) / 20
        assert workers.count(*arguments, "instructions") == 7


@pytest.mark.parametrize(("model", "reason"), [("crash", "valgrind cannot run the model: .*SIGSEGV"), ("well", "no")])
def test_what_valgrind_cannot_run_is_an_error(install: Install, tmp_path: Path, model: str, reason: str) -> None:
    if model == "well":
        install("valgrind", '#!/bin/sh\nwhile [ "${{1#--}}" != "$1" ]; do shift; done\nexec "$@"\n')
        reason = "valgrind counted no instructions"
    else:
        install("valgrind", VALGRIND)
    (tmp_path / model).write_text(model)
    with Workers(FAKE_WORKER) as workers, pytest.raises(MeasureError, match=reason):
        workers.count(
            Profile(affinity=None), "torch", tmp_path / model, tmp_path / "inputs.npy", "instructions_valgrind"
        )


def test_a_machine_without_valgrind_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters.shutil, "which", lambda name: None)
    with Workers(FAKE_WORKER) as workers, pytest.raises(MeasureError, match="valgrind is not installed"):
        workers.count(Profile(), "torch", tmp_path / "model", tmp_path / "inputs.npy", "instructions_valgrind")


def test_the_log_of_a_fork_is_read(tmp_path: Path) -> None:
    (tmp_path / "7.log").write_text("==7== Cachegrind\n==7== \n==7== I   refs:      72,606,435\n")
    assert valgrind_instructions(tmp_path, 7) == 72_606_435
    with pytest.raises(MeasureError, match="valgrind counted no instructions"):
        valgrind_instructions(tmp_path, 8)
