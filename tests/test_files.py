"""Atomic writes, and scratch folders that disappear with their process, whatever ends it, and never earlier."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import harness
from harness.errors import StoreError, explain_disk_errors
from harness.files import TEMPORARY, Scratch, atomic_write, process_prefix

#: A process with a scratch folder, a file in it, and what it is told to do then.
OWNER = """
import os, signal, sys, time
from pathlib import Path
from harness.files import Scratch, process_prefix

scratch = Scratch(Path(sys.argv[1]))
(scratch.folder / "deep").mkdir()
(scratch.folder / "deep" / "file").write_text("x")
print(scratch.folder, flush=True)
"""
WAIT = "time.sleep(200)"


def owner(home: Path, then: str = WAIT) -> subprocess.Popen[str]:
    """Such a process, leader of a group of its own, that has made its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER + then, str(home)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert Path(process.stdout.readline().strip(), "deep", "file").is_file()
    return process


def soon(condition: Callable[[], bool], within: float = 60.0) -> bool:
    deadline = time.monotonic() + within
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


# ------------------------------------------------------------------------------------------------- atomic writing


def test_a_complete_file_replaces_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "er" / "file.json"
    for text in ("old", "new"):
        with atomic_write(file, "or choose another") as temporary:
            assert temporary.parent == file.parent
            temporary.write_text(text)
            assert not file.exists() or file.read_text() == "old", "a reader sees the old file until the end"
        assert file.read_text() == text
    assert list(file.parent.iterdir()) == [file]


def _write(file: Path, meanwhile: Callable[[], None]) -> None:
    """Write a text, and do something before the file is complete."""
    with atomic_write(file, "or choose another") as temporary:
        temporary.write_text("half")
        meanwhile()


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(type(error)):
        _write(file, mock.Mock(side_effect=error))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_full_disk_is_explained_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "file"
    file.write_text("old")
    if failing != "write":
        monkeypatch.setattr(os, failing, full)
    message = r"cannot write .*/file: the disk is full: free some space, or choose another$"
    with pytest.raises(StoreError, match=message):
        _write(file, full if failing == "write" else lambda: None)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_content_reaches_the_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _name=name, _do=function: calls.append(_name) or _do(*a))
    for sync in (True, False):
        with atomic_write(tmp_path / "file", "", sync=sync) as temporary:
            temporary.write_text("x")
    assert calls == ["fsync", "replace", "replace"]


def test_a_kill_between_write_and_rename_keeps_the_old_file_and_the_next_write_cleans_up(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom harness.files import atomic_write\n"
        "os.replace = lambda *_: print('written', flush=True) or time.sleep(200)\n"
        "with atomic_write(Path(sys.argv[1]), '') as temporary:\n    temporary.write_text('new')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        with atomic_write(tmp_path / "other", "") as temporary:
            temporary.write_text("x")
        assert len(list(tmp_path.iterdir())) == 3, "a living process keeps its file"
        process.kill()
    assert file.read_text() == "old"
    assert len(list(tmp_path.glob(f"*{TEMPORARY}"))) == 1
    with atomic_write(file, "") as temporary:
        temporary.write_text("newer")
    assert file.read_text() == "newer"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "other"}


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "file")
    for text in ("one", "two"):
        with atomic_write(link, "") as temporary:
            temporary.write_text(text)
        assert link.is_symlink()
        assert (tmp_path / "there" / "file").read_text() == text


def test_a_device_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as threads:
        content = threads.submit(pipe.read_text)
        with atomic_write(pipe, "") as target:
            target.write_text("x")
        assert content.result() == "x"
    assert pipe.is_fifo()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=rf"cannot write {tmp_path}: .* Is a directory"):
        _write(tmp_path, lambda: None)


def test_files_are_replaced_in_one_place() -> None:
    root = Path(harness.__file__).parents[1]
    sources = [file for name in ("harness", "plugins") for file in (root / name).rglob("*.py")]
    replacing = {file.name for file in sources if re.search(r"os\.(replace|rename)\(", file.read_text())}
    assert replacing == {"files.py"}


# ------------------------------------------------------------------------------------------------ scratch folders


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
time.sleep(200)
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
    here = process_prefix().removesuffix(f"{os.getpid()}-").removesuffix("-")
    left = tmp_path / f"{here}-{gone.pid}-a1b2c3d4"
    others = [tmp_path / f"not{here}-{gone.pid}-a1b2c3d4", tmp_path / f"{here}-{os.getpid()}-x", tmp_path / "data"]
    for folder in [left, *others]:
        folder.mkdir()
    with Scratch(tmp_path):
        assert not left.exists()
        assert all(folder.is_dir() for folder in others)


def test_a_short_write_of_numpy_is_a_full_disk() -> None:
    match = "cannot write x: the disk is full: free some space, or name another"
    with pytest.raises(StoreError, match=match), explain_disk_errors("cannot write x", "or name another"):
        raise OSError("6144 requested and 3040 written")
