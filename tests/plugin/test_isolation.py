"""Isolation of careless and hostile plugins: each is named and reported, and everything else runs."""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import careless
import pytest
import torch
import toy
from fakes import Suite, benchmarks, logged

from harness import CellError, DataError, Matrix, Step, UsageError, train
from harness.api import Training
from harness.build.executor import Executor
from harness.build.trainings import undeclared_difference, with_changes
from harness.cli.main import main
from harness.plugin import isolation
from harness.plugin.isolation import LINES, WIDTH, isolated
from harness.plugin.manager import Origin, Plugins, installed
from harness.suite.matrix import Cell
from harness.testing._watch import open_handles

CARELESS = Origin("careless", "careless-dist", "0.1")
WHO = "plugin careless (careless-dist 0.1)"
Build = Callable[..., Executor]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    careless.clean()


@pytest.fixture
def plugins(plugins: Plugins) -> Plugins:
    plugins.add(careless, CARELESS)
    assert not plugins.problems
    return plugins


def cells(*steps: Step) -> list[Cell]:
    return list(Matrix(dataset="toy-synthetic", architecture="conv", steps={"only": steps}).cells("m"))


def failure(executor: Build, step: Step) -> str:
    """The words for which a step fails; nothing of it is stored."""
    run = executor(cells(step))
    run.build_all()
    key = list(run.plan.nodes)[-1]
    with pytest.raises(CellError) as caught:
        run.build(key)
    assert not run.store.has(key)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------- output


def test_each_printed_line_is_logged_with_its_plugin(capsys: pytest.CaptureFixture[str]) -> None:
    remarks: list[str] = []
    with logged() as lines, isolated("plugin p", remarks.append):
        print("one\ntwo")
        print("and \x1b[31mred", end="")
    assert lines == ["plugin p: one", "plugin p: two", "plugin p: and \\x1b[31mred"]
    assert remarks == ["prints to the standard output (3 lines)"]
    assert capsys.readouterr().out == ""


def test_only_the_first_lines_are_logged_and_they_are_cut() -> None:
    with logged() as lines, isolated("p"):
        for _ in range(LINES + 7):
            print("x" * 1000)
    assert len(lines) == LINES + 1
    assert lines[0] == "p: " + "x" * WIDTH
    assert lines[-1] == "p: and 7 more lines, which are not shown"


def test_bytes_and_a_closed_output_are_captured() -> None:
    import sys

    with logged() as lines, isolated("p"):
        sys.stdout.buffer.write(b"bytes \xff\n")
        sys.stdout.close()
    assert lines == ["p: bytes \ufffd"]


def test_silent_code_gets_no_remark() -> None:
    remarks: list[str] = []
    with logged() as lines, isolated("p", remarks.append):
        pass
    assert remarks == lines == []


def test_an_interruption_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt), isolated("p"):
        raise KeyboardInterrupt


def test_the_place_is_the_plugins_own_line() -> None:
    place = pytest.raises(CellError, match=r"p raised JSONDecodeError: .* \(.*test_isolation.py, line \d+\)")
    with place, isolated("p", thing=_Here):
        json.loads("{")


class _Here:
    """Something of this module."""


# -------------------------------------------------------------------------------------------------------- settings


def test_settings_are_restored_and_reported(executor: Build, plugins: Plugins, tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(False)  # what it imports has filters of its own
    before = torch.get_num_threads(), list(warnings.filters), dict(os.environ)
    handler = signal.getsignal(signal.SIGTERM)
    run = executor(cells(careless.switches()))
    with logged() as lines:
        run.build_all()
    run.build(list(run.plan.nodes)[-1])
    assert signal.getsignal(signal.SIGTERM) == handler
    assert Path.cwd() == tmp_path
    assert (torch.get_num_threads(), list(warnings.filters), dict(os.environ)) == before
    assert torch.get_default_dtype() is torch.float32
    assert torch.is_grad_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    reasons = [problem.reason for problem in plugins.problems]
    for part in (
        "the current folder to /", "the environment's CARELESS", "the environment's PATH", "the filters of warnings",
        "torch's default dtype to torch.float64", "torch's grad mode to False", "torch's number of threads to",
        "torch's deterministic mode to", "the handler of SIGTERM",
    ):  # fmt: skip
        assert any(f"apply() of step 'switches' changed {part}" in reason for reason in reasons), part
    assert all(reason.endswith("; it was restored") for reason in reasons)
    assert {f"{WHO}: {reason}" for reason in reasons} <= set(lines)


def test_a_step_that_breaks_keeps_no_file_open(tmp_path: Path) -> None:
    def breaks() -> None:
        file = (tmp_path / "held").open("w")
        file.write("x")
        raise LookupError

    remarks: list[str] = []
    with pytest.raises(CellError) as caught, warnings.catch_warnings(action="ignore"), isolated("p", remarks.append):
        breaks()
    assert isinstance(caught.value.__cause__, LookupError)
    assert str(tmp_path / "held") not in open_handles().values()
    assert remarks == []


@pytest.mark.timing
def test_other_threads_and_the_code_after_a_plugin_may_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", os._exit)  # restored after this test
    monkeypatch.setitem(isolation._ENDING, "_exit", ended.append)
    with isolated("p"):
        with pytest.raises(CellError, match=r"q raised ProcessEnd: os\._exit\(1\) would end the run"), isolated("q"):
            os._exit(1)
        with pytest.raises(SystemExit):
            os._exit(2)
        with ThreadPoolExecutor() as threads:
            threads.submit(os._exit, 3).result()
    os._exit(4)
    assert ended == [3, 4]


def test_isolation_takes_no_time() -> None:
    began = time.process_time()
    for _ in range(50):
        with isolated("p"):
            pass
    assert (time.process_time() - began) / 50 < 0.005


# ------------------------------------------------------------------------------------------------------------- call


def test_every_kind_of_object_can_be_called_and_is_named(plugins: Plugins) -> None:
    def breaks() -> None:
        raise LookupError("no")

    things = {
        "dataset 'toy'": plugins.datasets.get("toy"),
        "architecture 'conv'": plugins.architectures.get("conv"),
        "step 'halve'": toy.Halve(0.5),
        "metric 'mean'": plugins.metrics.get("mean"),
        "runtime 'eager'": plugins.runtimes.get("eager"),
    }
    for name, thing in things.items():
        kind = DataError if name.startswith("dataset") else CellError
        with pytest.raises(kind) as caught:
            plugins.call(thing, breaks)
        assert str(caught.value).startswith(
            f"plugin toy (toy-plugin 1.2): breaks() of {name} raised LookupError: no ({__file__}, line "
        )
        assert plugins.call(thing, lambda value, **options: (value, options), 1, method=2) == (1, {"method": 2})


def test_a_method_is_called_by_its_name_and_errors_of_the_harness_pass(plugins: Plugins) -> None:
    assert plugins.call(toy.Halve(0.5), "parameters") == {"factor": 0.5}
    step = plugins.call(toy.Halve, toy.Halve, factor=0.25)
    assert step == toy.Halve(0.25)
    with pytest.raises(UsageError, match="step 'halve' has no parameter 'x'") as caught:
        plugins.call(toy.Halve, toy.Halve, x=1)
    assert not isinstance(caught.value, CellError)


# ----------------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (careless.breaks(), "apply() of step 'breaks' raised LookupError: in the middle of apply ("),
        (careless.leaves(), "apply() of step 'leaves' raised SystemExit: 3 ("),
        (
            careless.vanishes(),
            "apply() of step 'vanishes' raised ProcessEnd: os._exit(0) would end the run without its records; raise an "
            "exception instead (",
        ),
        (careless.vanishes("execl"), "raised ProcessEnd: os.execv('/bin/true') would end the run without its records"),
        (careless.vanishes("fork"), "apply() of step 'vanishes' raised ValueError: the child ended with 7 ("),
        (careless.vanishes("base"), "apply() of step 'vanishes' raised BaseException: derived from nothing ("),
        (careless.recurs(), "apply() of step 'recurs' raised RecursionError: maximum recursion depth exceeded"),
        (careless.mute(), "apply() of step 'mute' raised MuteError: (its text cannot be read) ("),
        (careless.poisons(), "network that poisons() gives answers NaN or infinity for 1 of 2 labels of one example"),
        (careless.widens(), "widens() gives answers one example with the shape (1, 5), not (1, 2): a step keeps"),
        (careless.Promises("train", 0), "declares fit('train', epochs=1) and did not run it: its key would miss"),
        (careless.Promises("train", 1), "fit('train', epochs=1) and did not run it and ran fit('finetune', epochs=1)"),
        (careless.Promises("finetune", 2), "ran fit('finetune', epochs=1) and does not declare it"),
    ],
    ids=lambda value: str(value) if isinstance(value, Step) else "",
)
def test_a_bad_step_is_named_by_plugin_and_place(executor: Build, step: Step, words: str) -> None:
    found = failure(executor, step)
    assert found.startswith(f"{WHO}: ")
    assert words in found
    if " raised " in words:
        assert "careless.py, line" in found


@pytest.mark.parametrize("kind", [BaseException, GeneratorExit, SystemExit, pytest.fail.Exception])
def test_any_exception_but_an_interrupt_fails_only_the_call(kind: type[BaseException]) -> None:
    with pytest.raises(CellError, match="plugin p raised"), isolated("plugin p"):
        raise kind("no")
    with pytest.raises(KeyboardInterrupt), isolated("plugin p"):
        raise KeyboardInterrupt


def test_standard_streams_that_a_step_closes_are_restored(executor: Build, capfd: pytest.CaptureFixture[str]) -> None:
    run = executor(cells(careless.vanishes("close")))
    run.build_all()
    assert run.store.has(list(run.plan.nodes)[-1])
    assert any(
        "vanishes' changed file descriptor 1; it was restored" in str(problem) for problem in run.plugins.problems
    )
    os.write(1, b"still here")
    assert capfd.readouterr().out.endswith("still here")


def test_a_forked_child_never_returns_to_the_harness(executor: Build, capfd: pytest.CaptureFixture[str]) -> None:
    run = executor(cells(careless.vanishes("live")))
    run.build_all()
    assert run.store.has(list(run.plan.nodes)[-1])
    assert "vanishes' forked a process that returned to the harness; it was ended" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (
            careless.trains("examples"),
            "calls fit(): Training(examples=0): epochs, batch",
        ),
        (careless.trains("epochs"), "calls fit(): Training(epochs=0): epochs, batch"),
        (careless.trains("epoch", 1), "a training has no field 'epoch'; did you mean 'epochs'"),
        (careless.freezes(), "in which nothing can be trained: its 5 parameters are all frozen"),
        (careless.forgets(), "forgets() gave NoneType, not a network"),
    ],
)
def test_a_step_that_trains_on_nothing_is_told_how_to_mend_it(executor: Build, step: Step, words: str) -> None:
    found = failure(executor, step)
    assert "toy-synthetic conv seed 0: " in found
    assert words in found


@pytest.mark.parametrize("step", [careless.Promises("finetune", 1), careless.Promises("", 2), careless.Promises("", 0)])
def test_a_step_that_keeps_its_promise_or_makes_none_is_built(executor: Build, step: Step) -> None:
    run = executor(cells(train(), step))
    run.build_all()
    run.build(list(run.plan.nodes)[-1])


def test_promises_are_compared_by_what_is_trained_in_any_order() -> None:
    usual = Training(2, 16, "SGD", {"lr": 0.1})
    both: Any = {"train": usual, "finetune": usual}
    fits: Any = (("train", {}), ("finetune", {"epochs": 1}), ("finetune", {"epochs": 2}))
    ran: Any = [("finetune", usual), ("finetune", with_changes(usual, {"epochs": 1})), ("train", usual)]
    assert undeclared_difference(fits, ran, both) is None
    assert undeclared_difference(fits, ran[1:], both) is not None
    assert undeclared_difference(None, ran, both) is None


def test_what_cannot_say_what_it_trains_fails_its_own_cells(executor: Build) -> None:
    good = cells(train())
    matrix = Matrix(dataset="toy-synthetic", architecture="conv", steps={"bad": [careless.Wonders()]})
    bad = list(matrix.cells("n"))
    run = executor([*good, *bad])
    ((name, problem),) = run.plan.problems.items()
    assert name == bad[0].name
    assert str(problem).startswith(f"{WHO}: trainings() of step 'wonders' raised LookupError: no idea (")
    assert list(run.plan.artefacts) == [good[0].name]


def test_a_step_that_is_not_the_registered_one_fails_its_own_cells(executor: Build) -> None:
    class Halve(toy.Halve):
        """Another one of this name."""

    ((_, problem),) = executor(cells(Halve())).plan.problems.items()
    assert isinstance(problem, UsageError)
    assert "test_isolation is not the one that plugin toy (toy-plugin 1.2) registers" in str(problem)


# --------------------------------------------------------------------------------------------------------- a suite

BAD = """
import careless
steps = {
    "good": [step("halve")],
    "breaks": [careless.breaks()], "leaves": [careless.leaves()], "forgets": [careless.forgets()],
    "poisons": [careless.poisons()], "widens": [careless.widens()], "nothing": [careless.trains("examples")],
    "frozen": [careless.freezes()], "promises": [careless.Promises("train", 0)], "wonders": [careless.Wonders()],
    "chatters": [careless.chatters(30)], "leaks": [careless.leaks()], "switches": [careless.switches()],
}
toys = Matrix(dataset="toy", architecture="conv", runtime="eager", steps=steps)
print("a suite may print")
"""
FAIL = {
    "breaks": "apply() of step 'breaks' raised LookupError: in the middle of apply",
    "leaves": "apply() of step 'leaves' raised SystemExit: 3",
    "forgets": "gave NoneType, not a network",
    "poisons": "answers NaN or infinity for 1 of 2 labels",
    "widens": "with the shape (1, 5), not (1, 2)",
    "nothing": "Training(examples=0): epochs, batch and examples are whole numbers, at least 1",
    "frozen": "nothing can be trained",
    "promises": "did not run it",
    "wonders": "trainings() of step 'wonders' raised LookupError",
}


@pytest.fixture
def careless_installed(toy_installed: object) -> None:
    installed().add(careless, CARELESS)


def test_a_suite_of_bad_steps_measures_the_good_ones(suite: Suite, careless_installed: None) -> None:
    result = suite(BAD, "--benchmark-json=run.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=4, failed=len(FAIL))
    out = "\n".join(result.outlines)
    for option, words in FAIL.items():
        line = next(line for line in result.outlines if line.startswith(f"toy-synthetic-conv-{option}-seed0: "))
        assert words in line
    assert f"{WHO}: apply() of step 'chatters': chatter 0" in out
    assert "chatter 29" not in out
    summary = [line for line in result.outlines if line.startswith(f"harness: {WHO}: ")]
    for words in (
        "apply() of step 'chatters' prints to the standard output (30 lines)",
        "apply() of step 'switches' changed torch's grad mode to False; it was restored",
    ):
        assert f"harness: {WHO}: {words}" in summary
    measured = {f"toys[toy-synthetic-conv-{option}-seed0]" for option in ("good", "chatters", "leaks", "switches")}
    assert benchmarks().keys() == measured
    json.loads(Path("run.json").read_text(), parse_constant=pytest.fail)  # NaN and the like are not JSON


def test_the_plan_for_programs_is_json_whatever_is_printed(
    careless_installed: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy.Halve, "preview", lambda self, model, example: print("a preview prints") or model)
    monkeypatch.setattr(
        toy.Toy, "matches", lambda self, folder: print("so does a data set") or (folder / toy.MARKER).exists()
    )
    Path("suite.py").write_text("from harness import *\n" + BAD)
    assert main(["plan", "suite.py", "--json"]) == 0
    out, err = capsys.readouterr()
    found = {cell["id"]: cell for cell in json.loads(out)["cells"]}
    assert len(found) == 13
    assert "trainings() of step 'wonders' raised" in next(c for i, c in found.items() if "wonders" in i)["problem"]
    assert "preview() of step 'halve': a preview prints" in err
    assert "of dataset 'toy-synthetic': so does a data set" in err
    assert "a suite may print" in err
