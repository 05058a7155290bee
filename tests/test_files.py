"""The scratch folder: gone with its process, whatever ends it, and never before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.files import Scratch, prefix

#: A process with a scratch folder, a file in it, and what it is told to do then.
OWNER = """
import os, signal, sys, time
from pathlib import Path
from harness.files import Scratch, prefix

scratch = Scratch(Path(sys.argv[1]))
(scratch.folder / "deep").mkdir()
(scratch.folder / "deep" / "file").write_text("x")
print(scratch.folder, flush=True)
"""
WAIT = "time.sleep(60)"


def owner(home: Path, then: str = WAIT) -> subprocess.Popen[str]:
    """Such a process, leader of a group of its own, that has made its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER + then, str(home)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert Path(process.stdout.readline().strip(), "deep", "file").is_file()
    return process


def soon(condition: Callable[[], bool], within: float = 20.0) -> bool:
    deadline = time.monotonic() + within
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_the_folder_is_gone_when_it_is_closed(tmp_path: Path) -> None:
    with Scratch(tmp_path) as folder:
        assert folder.parent == tmp_path
        (folder / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_closing_leaves_no_process_and_may_be_repeated(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    scratch.close()
    scratch.close()
    assert scratch._reaper.returncode == 0


def test_a_relative_home_gives_an_absolute_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Scratch(Path()) as folder:
        assert folder.is_absolute()
        monkeypatch.chdir("/")
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_nothing_in_the_environment_hinders_the_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shutil.py").write_text("raise SystemExit('not the real one')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    scratch = Scratch(tmp_path)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # here; the other process has its own
    scratch.close()
    assert not scratch.folder.exists()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name
)
def test_the_folder_goes_when_the_whole_group_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    with owner(tmp_path) as process:
        os.killpg(process.pid, number)
    assert soon(lambda: not list(tmp_path.iterdir()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows which signals a process ignores")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_what_is_sent_to_every_process_does_not_end_the_one_that_removes(
    tmp_path: Path, number: signal.Signals
) -> None:
    with Scratch(tmp_path):
        (reaper,) = (child for child in children() if "sys.stdin.read()" in child.joinpath("cmdline").read_text())
        assert soon(lambda: ignores(reaper, number))
        os.kill(int(reaper.name), number)
        time.sleep(0.1)
        assert reaper.joinpath("cmdline").read_text(), "it has ended"


def children() -> list[Path]:
    """The folders in /proc of this process' children."""
    stats = [(stat.parent, stat.read_text().rpartition(")")[2].split()) for stat in Path("/proc").glob("[0-9]*/stat")]
    return [folder for folder, (_, parent, *_) in stats if int(parent) == os.getpid()]


def ignores(process: Path, number: signal.Signals) -> bool:
    (mask,) = [line.split()[1] for line in (process / "status").read_text().splitlines() if line.startswith("SigIgn")]
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "os._exit(3)"], ids=["end", "exit", "_exit"])
def test_the_folder_goes_when_nobody_closes_it(tmp_path: Path, end: str) -> None:
    with owner(tmp_path, end):
        pass
    assert soon(lambda: not list(tmp_path.iterdir()))


def test_the_folder_goes_when_it_is_still_written_to(tmp_path: Path) -> None:
    writing = """
owner = os.getpid()
if os.fork() == 0:
    os.closerange(0, 64)  # among them the end of the pipe that shows whether the owner lives
    number, end = 0, None
    while end is None or time.monotonic() < end:
        number += 1
        (scratch.folder / "deep" / str(number % 1000)).write_text("x")  # raises when the folder is gone
        if end is None and os.getppid() != owner:
            end = time.monotonic() + 0.5
time.sleep(60)
"""
    with owner(tmp_path, writing) as process:
        assert soon(lambda: bool(list(tmp_path.glob("*/deep/999"))))  # to remove so many takes more than a moment
        process.kill()
    assert soon(lambda: not list(tmp_path.iterdir()))


def test_the_folder_stays_as_long_as_its_process(tmp_path: Path) -> None:
    with owner(tmp_path) as process:
        with Scratch(tmp_path):
            pass
        time.sleep(0.2)
        assert list(tmp_path.glob("*/deep/file"))
        process.kill()


def test_what_a_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = prefix().removesuffix(f"{os.getpid()}-").removesuffix("-")
    left = tmp_path / f"{here}-{gone.pid}-a1b2c3d4"
    others = [tmp_path / f"not{here}-{gone.pid}-a1b2c3d4", tmp_path / f"{here}-{os.getpid()}-x", tmp_path / "data"]
    for folder in [left, *others]:
        folder.mkdir()
    with Scratch(tmp_path):
        assert not left.exists()
        assert all(folder.is_dir() for folder in others)
