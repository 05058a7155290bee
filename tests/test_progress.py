"""Progress: what is logged appears on the stream, once, with the right prefix."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest
from fakes import TOYS, Suite, logged

from harness.progress import Display, log_to


def test_lines_appear_on_the_stream_and_only_those_of_the_whole_run_have_the_prefix() -> None:
    stream = io.StringIO()
    with log_to(stream):
        logging.getLogger("harness.run.session").warning("2 cells cannot run: no data")
        logging.getLogger("harness.build.executor").info("skipped: a step: 100% of it")
        logging.getLogger("harness.build.executor").debug("a detail")
        logging.getLogger("another").warning("not ours")
    logging.getLogger("harness.run.session").warning("after the run")
    assert stream.getvalue() == "harness: 2 cells cannot run: no data\nskipped: a step: 100% of it\n"


def test_the_logger_is_afterwards_as_before(caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger("harness")
    before = root.level, root.propagate, list(root.handlers)

    def fail() -> None:
        logging.getLogger("harness.run").warning("once")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), log_to(io.StringIO()):
        fail()
    assert (root.level, root.propagate, root.handlers) == before
    assert caplog.messages == [], "pytest would print the line twice"
    with log_to(None):
        logging.getLogger("harness.run").warning("to whoever listens")
    assert caplog.messages == ["to whoever listens"]


def test_a_step_is_logged_with_its_seconds() -> None:
    display = Display(None)
    with logged() as lines:
        with display.step("reading toy") as progress:
            progress(1, 2)
        with display.step("train()"):
            pass
    assert lines == ["reading toy: 0.0 s", "train(): 0.0 s"]


def test_without_a_bar_a_long_step_logs_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.progress.PERIOD", 0.0)
    with logged() as lines, Display(io.StringIO()).step("train()") as progress:
        progress(1, 30)
        progress(2, 30, "loss 0.1")
    assert lines == ["train(): 1 of 30", "train(): 2 of 30, loss 0.1", "train(): 0.0 s"]


def test_without_a_handler_nothing_is_printed() -> None:
    code = "import harness, logging; logging.getLogger('harness.run').warning('a line')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_pytest_prints_each_line_once_and_captures_none(suite: Suite) -> None:
    result = suite(TOYS + "broken = Matrix(dataset='toy', architecture='conv', runtime='eager', "
                   "steps={'b': [step('broken')]})", "-o", "log_cli=true", "-o", "log_cli_level=INFO")  # fmt: skip
    for part in ("steps to build; time: unknown", "failed: "):
        (line,) = (line for line in result.outlines if part in line)
        assert line.startswith(("harness: ", "failed: ")), "without the format of pytest's live log"
    assert "Captured log call" not in "\n".join(result.outlines)
