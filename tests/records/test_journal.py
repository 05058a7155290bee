"""The journal of a run: its cells survive any end of the process, and become a run file that says it is incomplete."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import logged
from records import decoded
from run_files import cell, write

from harness import UsageError
from harness.cli.main import main
from harness.errors import StoreError
from harness.records.journal import Journal, announce_interrupted, interrupted_journals, is_running, read_journal
from harness.records.record import checksum, to_json
from harness.records.runs import read, read_records

#: A process that writes a journal of as many cells as it is told, begins one more line, and hangs.
RUN = """
import json, sys, time
from pathlib import Path
from harness.records.journal import Journal

header, *lines = json.load(sys.stdin)
journal = Journal(Path(sys.argv[1]), header)
for line in lines:
    journal.add(line)
journal._stream.write(b'{"benchmark": {"na')
print(journal.file, flush=True)
time.sleep(200)
"""


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks and signals")


def name_of(record: Any) -> dict[str, str]:
    return {name: record[name] for name in ("suite", "matrix", "cell")}


def left(name: str, outcome: str = "not run") -> dict[str, str]:
    return {**name_of(cell(cell=name)), "outcome": outcome, "reason": f"{outcome} for a reason"}


def header(*cells: str) -> dict[str, Any]:
    """The first line of the journal of a run that selected these cells."""
    return {
        "datetime": "2026-03-01T12:00:00+00:00",
        "commit_info": {},
        "machine_info": {},
        "benchmarks": [],
        "harness": {"left": [left(name) for name in cells]},
    }


def measured(name: str) -> dict[str, Any]:
    """The line of a measured cell."""
    entry = {"name": name, "extra_info": {"harness": cell(cell=name), "harness_sha256": checksum(cell(cell=name))}}
    return {"benchmark": entry, "documents": {f"key of {name}": {"step": name}}}


def journal_of(folder: Path, *names: str, selected: str = "abc") -> Path:
    """The journal of a run that was interrupted after these cells."""
    journal = Journal(folder / "run.json", header(*selected))
    for name in names:
        journal.add(measured(name))
    journal.close()
    return journal.file


# --------------------------------------------------------------------------------------------------------- the file


def test_a_journal_is_read_as_a_run_that_lacks_cells(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run.json", header(*"abcd"))
    journal.add(measured("b"))
    journal.add({"left": left("c", "failed")})
    journal.add(measured("a"))
    assert journal.cells == 2
    document = read_journal(journal.file)
    assert document["harness"]["interrupted"] is True
    run = read(journal.file)
    assert run.records == tuple(decoded(cell(cell=name)) for name in "ba")
    assert [(entry.cell, entry.outcome) for entry in run.unmeasured] == [("c", "failed"), ("d", "not run")]
    assert run.documents == {"key of a": {"step": "a"}, "key of b": {"step": "b"}}


def test_a_removed_journal_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run.json", header("a"))
    assert journal.file.exists()
    journal.remove()
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_kill_loses_the_line_that_it_cuts_off_and_no_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path / "run.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        json.dump([header(*"abc"), measured("a"), measured("b")], process.stdin)
        process.stdin.close()
        file = Path(process.stdout.readline().strip())
        assert is_running(file)
        assert interrupted_journals(tmp_path / "run.json") == []
        process.send_signal(signal.SIGKILL)
    assert interrupted_journals(tmp_path / "run.json") == [file]
    assert [record.cell for record in read_records(file)] == ["a", "b"]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = journal_of(tmp_path, "a", "b")
    file.write_bytes(file.read_bytes().replace(b'\n{"benchmark"', b"\n{benchmark", 1))
    with pytest.raises(UsageError, match=r"line 2 of .*\.journal is damaged .*; delete that line to use the others"):
        read_journal(file)


def test_an_edited_cell_of_a_journal_is_named_and_not_recovered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = journal_of(tmp_path, "a", "b")
    file.write_bytes(file.read_bytes().replace(b'"preset": "quick"', b'"preset": "study"', 1))
    assert main(["recover", str(file), "-o", str(tmp_path / "out.json")]) != 0
    assert "is damaged: record 1 (cell a), it does not match its SHA-256" in capsys.readouterr().err
    assert file.exists()


def test_a_journal_without_a_complete_cell_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.journal holds no record of a cell: its run ended, or still is"):
        read_records(journal_of(tmp_path))


@pytest.mark.parametrize("content", ["", "3\n", "{}\n", '{"harness": {"left": [3]}}\n'])
def test_what_is_no_journal_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "run.json.x.journal"
    file.write_text(content)
    with pytest.raises(UsageError, match="is no journal of a run, or is damaged"):
        read_journal(file)


# ------------------------------------------------------------------------------------------------------ a full disk


class FullDisk:
    """A stream of a journal whose disk has room for so many bytes."""

    def __init__(self, stream: Any, room: int) -> None:
        self._stream, self.room = stream, room

    def write(self, content: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written: int = self._stream.write(content[: self.room])
        self.room -= written
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def test_a_full_disk_is_logged_once_and_spoils_no_other_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run.json", header(*"abcd"))
    journal.add(measured("a"))
    disk: Any = FullDisk(journal._stream, 10)
    journal._stream = disk
    with logged() as lines:
        journal.add(measured("b"))
        journal.add(measured("c"))
        disk.room = 10**6
        journal.add(measured("d"))
    (line,) = lines
    assert line.startswith(f"cannot write {journal.file}: the disk is full: free some space, ")
    assert journal.cells == 2
    assert [record.cell for record in read_records(journal.file)] == ["a", "d"]


def test_a_journal_that_cannot_be_begun_ends_the_run_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write .*journal: .*, or choose another folder"):
        Journal(tmp_path / "file" / "run.json", header())


# ------------------------------------------------------------------------------------------------ the next commands


def test_the_next_run_says_where_the_cells_are(tmp_path: Path) -> None:
    file = journal_of(tmp_path, "a")
    other = Journal(tmp_path / "other.json", header("a"))
    with logged() as lines:
        announce_interrupted(tmp_path / "run.json")
    assert lines == [
        f"the run that began at 2026-03-01 12:00 UTC was interrupted; 1 of 3 cells are in {file}: "
        f"harness recover {file} -o recovered.json"
    ]
    assert file.exists()
    other.remove()


@posix
def test_a_journal_without_a_cell_is_announced_once(tmp_path: Path) -> None:
    file = journal_of(tmp_path)
    with logged() as lines:
        announce_interrupted(tmp_path / "run.json")
        announce_interrupted(tmp_path / "run.json")
    assert lines == [
        "the run that began at 2026-03-01 12:00 UTC ended with no measured cell on the disk, and wrote no run file"
    ]
    assert not file.exists()


@posix
def test_without_locks_no_journal_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be that of a run that goes on."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    journal = Journal(tmp_path / "run.json", header("a"))
    assert is_running(journal.file) is None
    announce_interrupted(tmp_path / "run.json")
    journal.add(measured("a"))
    assert len(read_records(journal.file)) == 1
    journal.remove()


def test_a_damaged_journal_is_announced_and_stays(tmp_path: Path) -> None:
    file = journal_of(tmp_path)
    file.write_text("{")
    with logged() as lines:
        announce_interrupted(tmp_path / "run.json")
    (line,) = lines
    assert "is no journal of a run, or is damaged" in line
    assert file.exists()


def test_a_run_file_that_is_missing_is_told_with_the_journal(tmp_path: Path) -> None:
    file = journal_of(tmp_path, "a")
    with pytest.raises(
        UsageError, match=f"was interrupted; make one of its cells: harness recover {re.escape(str(file))} -o"
    ):
        read_records(tmp_path / "run.json")


def test_a_run_file_that_an_interrupted_run_was_to_replace_is_named(tmp_path: Path) -> None:
    run_file = tmp_path / "run.json"
    run_file.write_text(json.dumps({"benchmarks": [measured("a")["benchmark"]]}))
    os.utime(run_file, (1000, 1000))
    file = journal_of(tmp_path, "a")
    with logged() as lines:
        read_records(run_file)
        os.utime(file, (0, 0))
        read_records(run_file)
    assert lines == [f"{run_file} is of an earlier run: a later one was interrupted and left {file}"]


def test_compare_refuses_a_run_file_that_an_interrupted_run_was_to_replace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a process that ended with 0 and wrote nothing: the earlier file must not pass for its run."""
    base, later = (write(tmp_path / name, [cell(cell="a")]) for name in ("base.json", "run.json"))
    assert main(["compare", str(base), str(later)]) == 0
    os.utime(later, (1000, 1000))
    journal = journal_of(tmp_path)
    assert main(["compare", str(base), str(later)]) == 4
    assert f"{later} is of an earlier run, because" in capsys.readouterr().err
    journal.unlink()
    assert main(["compare", str(base), str(later)]) == 0


def test_recover_makes_a_run_file_that_says_it_is_incomplete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = journal_of(tmp_path, "a", "b"), tmp_path / "recovered.json"
    assert main(["recover", str(file), "-o", str(output)]) == 0
    assert f"{output} has 2 of 3 cells; the others are listed as not measured" in capsys.readouterr().out
    assert not file.exists()
    run = read(output)
    assert [record.cell for record in run.records] == ["a", "b"]
    assert [to_json(entry) for entry in run.unmeasured] == [left("c")]
    assert main(["report", str(output)]) == 0
    assert f"{output} has 2 of 3 cells: its run was interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "recover"])
def test_a_journal_without_a_cell_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    file = journal_of(tmp_path)
    options = ["-o", str(tmp_path / "x.json")] if command == "recover" else []
    assert main([command, str(file), *options]) == 4
    assert f"{file} holds no record" in capsys.readouterr().err
    assert file.exists()


@posix
def test_recover_leaves_the_journal_of_a_run_that_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(tmp_path / "run.json", header("a", "b"))
    journal.add(measured("a"))
    assert main(["recover", str(journal.file), "-o", str(tmp_path / "x.json")]) == 4
    assert "goes on; wait for its end" in capsys.readouterr().err
    assert main(["report", str(journal.file)]) == 0
    assert f"{journal.file} has 1 of 2 cells: its run goes on" in capsys.readouterr().err
    journal.remove()


def test_recover_replaces_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, output = journal_of(tmp_path, "a"), tmp_path / "run.json"
    output.write_text("precious")
    assert main(["recover", str(file), "-o", str(output)]) == 4
    assert f"{output} exists; name another file with -o" in capsys.readouterr().err
    assert output.read_text() == "precious"
    assert main(["recover", str(output), "-o", str(tmp_path / "x.json")]) == 4
    assert "is no journal: the name of one ends with .journal" in capsys.readouterr().err
