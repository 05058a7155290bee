"""A run that is ended while it measures keeps its finished cells, whatever ends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import careless
import pytest
from fakes import TOYS, Suite, Workers, benchmarks
from hanging import hangs, soon, start, suite_of

from harness.cli.main import main
from harness.pytest_plugin import NOTHING_MEASURED
from harness.records.runs import read

SUITE = suite_of("eager", "hanging")
EAGER, HANGS = (f"toy-synthetic-conv-plain-{runtime}-seed0" for runtime in ("eager", "hanging"))


def names(file: Path) -> list[str]:
    return [record.cell for record in read(file).records]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name
)
def test_a_signal_in_the_second_cell_keeps_the_first(
    nowhere: None, toy_distribution: Path, tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with start(tmp_path, toy_distribution, SUITE, stdout=subprocess.PIPE) as run:
        assert soon(lambda: hangs(tmp_path))
        os.killpg(run.pid, number)
        output = run.communicate()[0]
    if number == signal.SIGKILL:
        assert run.returncode == -signal.SIGKILL
        assert not (tmp_path / "run.json").exists()
        (journal,) = tmp_path.glob("run.json.*.journal")
        assert names(journal) == [EAGER]
        assert main(["recover", str(journal), "-o", str(tmp_path / "run.json")]) == 0
        capsys.readouterr()
    else:
        assert run.returncode == pytest.ExitCode.INTERRUPTED
        assert f"KeyboardInterrupt: {number.name}" in output or number == signal.SIGINT
        assert "= harness =" in output, "the tables are printed"
    assert names(tmp_path / "run.json") == [EAGER]
    assert [entry.cell for entry in read(tmp_path / "run.json").unmeasured] == [HANGS]
    assert json.loads((tmp_path / "run.json").read_text())["harness"]["interrupted"] is True
    assert list(tmp_path.glob("*.journal")) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
def test_a_terminal_that_goes_away_leaves_the_run_file(nowhere: None, toy_distribution: Path, tmp_path: Path) -> None:
    """As when a connection breaks: SIGHUP comes, and writing to the terminal fails from then on."""
    import pty

    ours, theirs = pty.openpty()
    with start(tmp_path, toy_distribution, SUITE, stdin=theirs, stdout=theirs, stderr=theirs) as run:
        os.close(theirs)
        os.set_blocking(ours, False)

        def read_until_it_hangs() -> bool:
            with contextlib.suppress(BlockingIOError):
                os.read(ours, 2**16)
            return hangs(tmp_path)

        assert soon(read_until_it_hangs)
        os.close(ours)
        os.killpg(run.pid, signal.SIGHUP)
    assert run.returncode != 0
    assert names(tmp_path / "run.json") == [EAGER]
    assert list(tmp_path.glob("*.journal")) == []


@pytest.mark.slow
def test_a_plugin_that_ends_the_process_from_c_leaves_a_journal(
    nowhere: None, toy_distribution: Path, tmp_path: Path
) -> None:
    """Pytest then ends with 0, as after a complete run, and nothing in this process can prevent it."""
    plain = suite_of("eager")
    source = plain.replace('steps={"plain": [', 'steps={"plain": [step("vanishes", how="libc"), ')
    with (toy_distribution / "toy.py").open("a") as plugin:
        plugin.write(
            "\nfrom careless import vanishes\n@hookimpl\ndef harness_steps(register):\n    register(vanishes)\n"
        )
    (toy_distribution / "careless.py").write_text(Path(careless.__file__).read_text())
    command = [sys.executable, "-m", "pytest", "suite.py", "-p", "no:cacheprovider", "--harness-preset=smoke"]
    environment = {"PYTHONPATH": str(toy_distribution), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    outputs = []
    for text in (source, plain):
        (tmp_path / "suite.py").write_text(text)
        run = subprocess.run(
            [*command, "--benchmark-json=run.json"], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert run.returncode == 0
        outputs.append(run.stdout)
        assert len(list(tmp_path.glob("run.json.*.journal"))) == (text is source)
    assert " passed" not in outputs[0]
    assert "ended with no measured cell on the disk, and wrote no run file" in outputs[1]


# ------------------------------------------------------------------------------------------ a run in this process


@pytest.fixture
def journals(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The measured cells in the journal, whenever a cell is timed."""
    seen: list[list[str]] = []
    original = Workers.time_pair

    def look(self: Workers, **arguments: Any) -> Any:
        (file,) = [*Path().glob("*.journal"), *Path(".harness/runs").glob("*.journal")]
        lines = [json.loads(line) for line in file.read_text().splitlines()[1:]]
        seen.append([line["benchmark"]["name"] for line in lines if "benchmark" in line])
        return original(self, **arguments)

    monkeypatch.setattr(Workers, "time_pair", look)
    return seen


@pytest.mark.parametrize("options", [["--benchmark-json=run.json"], []], ids=["file", "store"])
def test_each_cell_is_in_the_journal_when_the_next_one_is_timed(
    suite: Suite, journals: list[list[str]], options: list[str]
) -> None:
    suite(TOYS, *options).assert_outcomes(passed=4)
    assert [len(cells) for cells in sorted(journals, key=len)][-1] == 3
    assert not list(Path().rglob("*.journal")), "it is removed at the end"


def test_the_journal_has_the_entries_of_the_run_file(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, str] = {}
    unlink = Path.unlink

    def keep(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".journal":
            kept[path.name] = path.read_text()
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", keep)
    source = TOYS.replace('"half": [', '"broken": [step("broken")], "picky": [step("picky")], "half": [')
    suite(source, "-k", "conv", "--benchmark-json=run.json")
    ((name, text),) = kept.items()
    Path(name).write_text(text)
    document, complete = read(Path(name)), read(Path("run.json"))
    assert document.unmeasured == complete.unmeasured
    assert {entry.outcome for entry in document.unmeasured} == {"failed", "skipped"}
    assert document.documents == complete.documents
    assert main(["recover", name, "-o", "recovered.json"]) == 0
    assert benchmarks("recovered.json") == benchmarks()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_the_run_and_its_file_says_so(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    suite(TOYS, "-k", "conv", "--benchmark-json=run.json")
    assert "interrupted" not in json.loads(Path("run.json").read_text())["harness"]
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    original, timed = Workers.time_pair, []

    def interrupt(self: Workers, candidate: Path, **arguments: Any) -> Any:
        timed.append(candidate)
        if len(timed) == 4:
            os.kill(os.getpid(), number)
        return original(self, candidate=candidate, **arguments)

    monkeypatch.setattr(Workers, "time_pair", interrupt)
    with pytest.raises(KeyboardInterrupt):  # pytester takes it for its own
        suite(TOYS, "--benchmark-json=run.json")
    assert len(names(Path("run.json"))) == 3
    assert len(read(Path("run.json")).unmeasured) == 1
    assert json.loads(Path("run.json").read_text())["harness"]["interrupted"] is True
    assert not list(Path().glob("*.journal"))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == handlers


def test_the_next_run_announces_the_interrupted_one(suite: Suite) -> None:
    suite(TOYS, "-k", "conv and full", "--benchmark-json=run.json")
    entry = benchmarks()["toys[toy-synthetic-conv-full-seed0]"]
    journal = Path("run.json.20260301-120000-1.journal")
    header = {"datetime": "2026-03-01T12:00:00+00:00", "benchmarks": [], "harness": {"left": []}}
    journal.write_text(json.dumps(header) + "\n" + json.dumps({"benchmark": entry, "documents": {}}) + "\n")
    output = str(suite(TOYS, "-k", "conv and full", "--benchmark-json=run.json").stdout)
    assert (
        f"harness: the run that began at 2026-03-01 12:00 UTC was interrupted; 1 of 1 cell are in {journal}" in output
    )
    assert journal.exists(), "only its owner removes it"


def test_a_run_goes_on_from_an_interrupted_one_without_mixing_sessions(suite: Suite) -> None:
    suite(TOYS, "-k", "conv", "--benchmark-json=first.json")
    result = suite(TOYS, "-rs", "--benchmark-json=rest.json", "--harness-continue=first.json")
    result.assert_outcomes(passed=2, skipped=2)
    output = str(result.stdout)
    assert "harness: 2 of 4 cells are in first.json; the others follow" in output
    assert "measured in first.json" in output
    assert all("lstm" in name for name in names(Path("rest.json")))
    reasons = {(entry.cell, entry.outcome, entry.reason) for entry in read(Path("rest.json")).unmeasured}
    assert reasons == {(name, "skipped", "measured in first.json") for name in names(Path("first.json"))}
    assert main(["report", "first.json", "rest.json"]) == 0


@pytest.mark.parametrize(
    ("change", "option"),
    [("epochs=1", None), ("", "--harness-margin=5%"), ("", "--benchmark-disable"), ("", "--harness-preset=quick")],
)
def test_what_another_model_or_option_measured_is_measured_again(suite: Suite, change: str, option: str | None) -> None:
    suite(TOYS, "-k", "conv and full", "--benchmark-json=first.json")
    source = TOYS.replace("epochs=1", "epochs=2") if change else TOYS
    options = [option] if option else []
    result = suite(source, "-k", "conv and full", "--harness-continue=first.json", *options)
    result.assert_outcomes(passed=1, deselected=3)


def test_continuing_needs_a_run_and_excludes_a_comparison(suite: Suite) -> None:
    result = suite(TOYS, "--harness-continue=absent.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "there is no file absent.json" in str(result.stderr)
    result = suite(TOYS, "--harness-continue=a.json", "--harness-against=b.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--harness-continue leaves out cells, which --harness-against would call lost" in str(result.stderr)


def test_continuing_where_nothing_is_left_measures_nothing(suite: Suite) -> None:
    suite(TOYS, "-k", "conv", "--benchmark-json=first.json")
    assert suite(TOYS, "-k", "conv", "--harness-continue=first.json").ret == NOTHING_MEASURED


def test_a_device_gets_no_journal_beside_it(suite: Suite, journals: list[list[str]]) -> None:
    os.mkfifo("pipe")
    with ThreadPoolExecutor() as threads:
        content = threads.submit(Path("pipe").read_text)
        suite(TOYS, "-k", "conv and full", "--benchmark-json=pipe").assert_outcomes(passed=1, deselected=3)
        assert len(json.loads(content.result())["benchmarks"]) == 1
    assert journals
    assert not list(Path().rglob("*.journal"))
