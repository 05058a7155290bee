"""What works without Linux: the package is imported, lists, plans and collects where the system has no POSIX calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forks import Forks

from harness import MeasureError, Profile
from harness.files import atomic_write, process_prefix, remove_leftovers
from harness.measure.profile import worker_environment

#: Makes a Python on Linux look like one on Windows, after the imports of others, which chose their system already.
WINDOWS = """
import os, signal, sys
import asyncio, ctypes, http.server, multiprocessing, tempfile, xml.sax
import filelock, fsspec, jinja2, msgspec, numpy, pandas, pluggy, pytest, pytest_benchmark, safetensors.torch
import scipy.signal, scipy.stats, tabulate, torch, tqdm, typeguard

for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("fork", "killpg", "setsid", "sched_getaffinity", "sched_setaffinity", "readv", "pread"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL"):
    delattr(signal, name)
sys.platform = "win32"
"""
SUITE = """
from harness import Matrix, step, train

quick = Matrix(dataset="ptbxl", architecture="cnn",
               steps={"full": [train()], "half": [train(), step("prune", keep=0.5)]})
"""


Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def on_windows() -> Iterator[Script]:
    """Runs a script, in a folder, as on Windows."""
    with Forks(WINDOWS) as forks:
        yield forks.run


def test_every_module_is_imported(on_windows: Script, tmp_path: Path) -> None:
    code = """
import importlib, pkgutil
import harness
packages = [harness, *map(importlib.import_module, ("harness_compress", "harness_ecg", "harness_icu", "harness_metrics",
    "harness_runtimes", "harness_studies"))]
names = [found.name for package in packages
         for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime", "openvino", "nncf"):  # the packages of extras
            raise
print(len(names))
"""
    done = on_windows(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list"], "quantize"),
        (["plan", "suite.py", "--preset", "smoke"], "half"),
        (["data", "status"], "ptbxl"),
    ],
)
def test_commands_that_time_nothing_work(
    on_windows: Script, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "suite.py").write_text(SUITE)
    done = on_windows("from harness.cli.main import main\nsys.exit(main(sys.argv[1:]))", tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_a_suite_is_collected_and_its_cells_fail_with_the_reason(on_windows: Script, tmp_path: Path) -> None:
    (tmp_path / "suite.py").write_text(SUITE)
    options = ["suite.py", "-p", "no:cacheprovider", "--capture=sys", "--harness-preset=smoke"]
    code = f"sys.exit(pytest.main([*{options!r}, *sys.argv[1:]]))"
    collected = on_windows(code, tmp_path, "--collect-only", "-q")
    assert "suite.py::quick[ptbxl-synthetic-cnn-half-seed0]" in collected.stdout, collected.stderr
    ran = on_windows(code, tmp_path, "-k", "full")
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED
    assert "this is Windows, where models are built but neither timed nor evaluated" in ran.stdout


def test_no_profile_has_a_worker_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(MeasureError, match="Windows Subsystem for Linux"):
        worker_environment(Profile())


def test_no_process_is_signalled_on_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There os.kill(process, 0) is Ctrl-C: the file of another process, which may have ended, stays."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))
    left = tmp_path / process_prefix().replace(f"-{os.getpid()}-", "-999999999-x.tmp")
    left.write_text("")
    remove_leftovers(tmp_path)
    assert left.exists()


def test_a_file_is_flushed_by_a_stream_that_may_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Windows refuses to flush a file that is open for reading alone."""
    modes: list[int] = []
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(os, "fsync", lambda number: modes.append(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE))
    with atomic_write(tmp_path / "file", "free space") as temporary:
        temporary.write_text("x")
    assert modes == [os.O_RDWR]


# -------------------------------------------------------------------------------------------------- as on macOS


@pytest.fixture
def _macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)


@pytest.mark.usefixtures("_macos")
def test_macos_times_unpinned_with_the_system_s_allocator() -> None:
    found = worker_environment(Profile(allocator="system", affinity="auto"))
    assert (found.allocator, found.library, found.cpus) == ("system", None, None)


@pytest.mark.usefixtures("_macos")
@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (Profile(allocator="jemalloc"), "only Linux can replace the allocator .*use allocator='system'"),
        (Profile(allocator="system", affinity=(0,)), "darwin cannot pin a process to CPUs; use affinity=None"),
    ],
)
def test_macos_says_what_it_cannot_do(profile: Profile, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        worker_environment(profile)


def test_these_tests_hide_what_linux_has() -> None:
    assert sys.platform != "linux" or (hasattr(os, "readv") and hasattr(signal, "SIGHUP"))
