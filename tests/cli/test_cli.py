"""The command ``harness``: every subcommand, its output and exit code."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import fakes
import pytest
import run_files
import toy
from records import line, record

from harness.cli.main import main
from harness.keys import key_of
from harness.plugin.manager import Origin, Problem, installed
from harness.store.local import Store

Run = Callable[..., tuple[int, str, str]]

SUITE = """
from harness import Matrix, step, train
toys = Matrix(dataset="toy", architecture="conv", runtime="eager", seed=range(2),
              pruning={"full": [train()], "half": [train(), step("halve")]})
"""


@pytest.fixture
def run(toy_installed: ModuleType, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command, and returns its exit code, output and errors."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_list_shows_what_plugins_register_and_their_problems(run: Run) -> None:
    installed().problems.append(Problem(Origin("x", "x-dist", "0"), "failed to import"))
    code, out, _ = run("list")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "datasets"
    for part in ("conv", "a toy network", "toy-synthetic", "halve", "eager", "mean"):
        assert part in out
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "datasets", "architectures", "steps", "metrics", "runtimes", "studies", "problem:",
    ]  # fmt: skip
    assert lines[-1] == "problem: plugin x (x-dist 0): failed to import"
    code, out, _ = run("list", "--json")
    document = json.loads(out)
    assert (code, [*document]) == (0, [line for line in lines if line.isalpha()] + ["problems"])
    assert document["problems"] == ["plugin x (x-dist 0): failed to import"]
    assert document["steps"][0] == {
        "name": "train",
        "summary": "Train the network from scratch as its architecture declares; arguments here replace that.",
        "plugin": "kernel",
        "distribution": "compression-harness",
        "version": version("compression-harness"),
    }


def test_list_shows_a_step_with_its_parameters_and_trainings(run: Run) -> None:
    code, out, _ = run("list", "tune")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == ["step", "tune", "[toy", "(unknown", "distribution", "?)]"]
    assert ["parameter", "type", "default"] in lines
    assert ["epochs", "int", "1"] in lines
    assert ["trainings:", "finetune", "with", "epochs", "1"] in lines
    (document,) = json.loads(run("list", "tune", "--json")[1])
    assert (document["kind"], document["plugin"]) == ("step", "toy")
    assert document["declares"] == {
        "parameters": [{"name": "epochs", "type": "int", "required": False, "default": 1}],
        "trainings": [{"phase": "finetune", "epochs": 1}],
        "teacher": False,
    }


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("nothing", ["no parameters", "trainings: known only when it runs"]),
        ("halve", ["factor       float   0.5", "trainings: known only when it runs"]),
        ("picky", ["trainings: "]),
        ("mimic", ["the incoming network becomes the teacher of all later training"]),
        ("conv", ["architecture conv", "a toy network", "train: epochs"]),
        ("toy", ["dataset toy", "fallback: toy-synthetic", "task: input_shape 2 x 16, labels"]),
        ("eager", ["runtime eager"]),
        ("mean", ["metric mean"]),
    ],
)
def test_list_shows_one_thing_of_any_kind(run: Run, name: str, parts: list[str]) -> None:
    code, out, _ = run("list", name)
    assert code == 0
    assert f"{name}  [" in out.splitlines()[0]
    for part in parts:
        assert part in out


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with contextlib.suppress(SystemExit):
        assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: harness")
    for command in ("list", "plan", "plugin", "doctor"):
        assert f"    {command}" in out


def test_plan_prints_the_plan(run: Run) -> None:
    Path("suite.py").write_text(SUITE)
    code, out, _ = run("plan", "suite.py", "--json", "--store", "s")
    document = json.loads(out)
    assert code == 0
    assert [cell["id"] for cell in document["cells"]] == [
        "toy-synthetic-conv-full-seed0",
        "toy-synthetic-conv-half-seed0",
    ]
    assert [(cell["parameters"], cell["macs"]) for cell in document["cells"]] == [(90, 392)] * 2
    code, out, _ = run("plan", "suite.py", "--preset", "study", "--store", "s")
    assert code == 0
    assert "steps to build: 6" in out


def test_plan_uses_the_option_data(run: Run) -> None:
    Path("suite.py").write_text(SUITE)
    toy.write(Path("mine/toy"))
    _, out, _ = run("plan", "suite.py", "--json", "--data", "mine")
    assert json.loads(out)["cells"][0]["id"] == "conv-full-seed0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "absent.py"], "harness: there is no suite file absent.py"),
        (["plan", "suite.py", "--preset", "quik"], "no preset is called 'quik'; did you mean 'quick'"),
        (["plan", "suite.py", "--data", "absent"], "the option for data names absent, which is not a folder"),
        (["data", "fetch", "toi"], "no dataset is called 'toi'; did you mean 'toy'"),
        (["data", "fetch", "toy"], "toy cannot be downloaded by the harness: a toy"),
        (["report", "absent.json"], "there is no file absent.json"),
        (["history", "absent.json"], "there is no file absent.json"),
        (["history", "."], "there is no run in .; make one"),
        (
            ["history", "suite.py", "--figure", "x.gif"],
            "cannot draw x.gif: the format is unknown; name a file *.svg",
        ),
        (["history", "suite.py", "--margin", "much"], "the margin 'much' is not a share"),
        (["explain", "abc"], "no store at .harness; name one with --store"),
        (["explain", "abc", "--store", "."], "no artefact has a key that begins with 'abc'"),
        (["explain", "a", "b", "c", "--store", "."], "explain takes one key or two"),
        (["doctor", "--margin", "1 percent"], "the margin '1 percent' is not a share of the latency"),
        (["doctor", "--margin", "0"], "no machine resolves a margin of 0"),
        (["doctor", "--allocator", "jemaloc"], "unknown allocator; did you mean 'jemalloc'"),
        (["lst"], "there is no command 'lst'; did you mean 'list'"),
        (
            ["store", "gcc"],
            "there is no command 'gcc'; did you mean 'gc'? (known: gc, status) (see harness store --help)",
        ),
        (["plan", "suite.py", "--device", "cud"], "there is no value of --device 'cud'; did you mean 'cuda'"),
        (["list", "halv"], "no plugin registers 'halv'; did you mean 'halve'"),
        (["plugin", "new", "compresor", "x"], "no plugin is of kind 'compresor'; did you mean 'compressor'"),
        (["calibrate", "--pairs", "20"], "calibrate was moved to results/calibration/calibrate.py"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_4(run: Run, arguments: Sequence[str], message: str) -> None:
    Path("suite.py").write_text(SUITE)
    code, out, err = run(*arguments)
    assert (code, out) == (4, "")
    assert err.splitlines()[-1].startswith("harness: ")
    assert message in err


@pytest.mark.parametrize(
    "arguments", [["plann"], ["store"], ["doctor", "--nonsense"], ["report"], ["history"], ["doctor", "--allocator"]]
)
def test_invalid_arguments_are_a_usage_error(run: Run, arguments: Sequence[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (4, "")
    assert err.startswith("harness: ")
    assert "(see harness" in err
    assert "--help)" in err


def write_run(name: str, *records: Any) -> None:
    Path(name).write_text(json.dumps({"benchmarks": [{"extra_info": {"harness": record}} for record in records]}))


def toy_record(**changes: Any) -> Any:
    made: Any = record(figures={"parameters": 91.0}, **changes)
    return made | {"steps": [{"step": "train(epochs=1)", "facts": {}, "seconds": 1.0}]}


def test_report_shows_a_study_beside_measured_figures(run: Run) -> None:
    write_run("run.json", toy_record())
    code, out, err = run("report", "run.json", "--study", "TOYS")
    assert (code, err) == (0, "")
    assert out.startswith("Study toys: published beside measured")
    assert line(out, "conv", "whole")[2:] == ["90", "91", "1", "seed", "+1", "differs:", "+1.1%"]


def test_a_study_is_not_compared_with_synthetic_data(run: Run) -> None:
    write_run("run.json", toy_record(synthetic=True))
    code, out, _ = run("report", "run.json", "--study", "toys")
    assert code == 0
    assert "synthetic data cannot reproduce a figure" in out
    assert line(out, "conv", "whole")[2:] == ["90", "not", "run"]


def test_an_unknown_study_is_refused_with_the_nearest(run: Run) -> None:
    write_run("run.json", toy_record())
    code, out, err = run("report", "run.json", "--study", "toyz")
    assert (code, out) == (4, "")
    assert err.startswith("harness: the report has no section 'toyz'; did you mean 'toys'?")


def test_an_incomplete_record_is_a_usage_error(run: Run) -> None:
    Path("run.json").write_text('{"benchmarks": [{"extra_info": {"harness": {"schema": 1}}}]}')
    code, _, err = run("report", "run.json")
    assert code == 4
    assert "run.json is damaged: record 1, Object missing required field `suite`" in err


def test_data_status_and_fetch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = run("data", "status")
    assert "toy: not found in data; put its files into data/toy" in out
    monkeypatch.setattr(toy.Toy, "fetch", lambda self, folder, progress: toy.write(folder))
    _, out, _ = run("data", "status")
    assert "toy: not found in data; get it: harness data fetch toy" in out
    code, out, _ = run("data", "fetch", "toy")
    assert (code, out) == (0, "toy is in data/toy\n")
    _, out, _ = run("data", "status")
    assert "toy: found in data/toy" in out
    _, out, _ = run("data", "status", "--json")
    found = {entry["name"]: entry for entry in json.loads(out)}
    assert found["toy"] == {
        "name": "toy", "summary": "a toy", "synthetic": False, "folder": "data/toy", "searched": ["data"],
        "problem": None, "bundled": False, "advice": "",
    }  # fmt: skip
    assert (found["toy-synthetic"]["synthetic"], found["toy-synthetic"]["folder"]) == (True, None)


def test_an_incomplete_fetch_is_a_usage_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.Toy, "fetch", lambda self, folder, progress: None)
    code, _, err = run("data", "fetch", "toy")
    assert code == 4
    assert "data/toy is still not a complete toy; fetch again" in err


def put(*documents: dict[str, Any]) -> list[str]:
    store = Store(Path("s"))
    for document in documents:
        store.put(document, lambda file: file.write_bytes(b"x") and None, {}, 0)
    return [key_of(document) for document in documents]


def test_explain_prints_a_lineage_or_the_difference_of_two(run: Run) -> None:
    root = {"root": {"seed": 0}}
    one, two = ({"parent": key_of(root), "parameters": {"keep": keep}} for keep in (0.5, 0.25))
    keys = put(root, one, two)
    _, out, _ = run("explain", keys[1], "--store", "s")
    assert json.loads(out) == [root, one]
    _, out, _ = run("explain", keys[1], keys[2], "--store", "s")
    assert out == "1.parameters.keep: 0.5 -> 0.25\n"
    _, out, _ = run("explain", keys[1], keys[1], "--store", "s")
    assert out == "the two keys are the same\n"


def test_explain_creates_no_store(run: Run) -> None:
    code, _, _ = run("explain", "abc", "--store", "nosuch")
    assert code == 4
    assert not Path("nosuch").exists()


class Machine(fakes.Workers):
    """Fake timing workers: a network is as fast as itself, and a slower one ``speed`` times as slow."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("speed", "code", "verdict"), [(1.02, 0, "Good enough"), (1.0, 1, "Not good enough")])
def test_doctor_s_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch, speed: float, code: int, verdict: str) -> None:
    monkeypatch.setattr("harness.doctor.doctor.Workers", Machine)
    monkeypatch.setattr(Machine, "speed", speed)
    found, out, err = run("doctor")
    assert found == code
    assert f"\n  {verdict} for a margin of 1 %" in out
    assert "A/A comparison 8 of 8" in err
    found, out, _ = run("doctor", "--json", "--margin", "0.9 %", "--allocator", "system", "jemalloc")
    document = json.loads(out)
    assert found == code
    assert (document["fit"], document["margin"]) == (code == 0, 0.009)
    assert document["itself"][0]["ratio"]["ratio"] == 1.0


def test_a_missing_allocator_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.measure.profile._libraries", lambda: iter(()))
    code, out, err = run("doctor", "--allocator", "jemalloc")
    assert (code, out, len(err.splitlines())) == (4, "", 1)
    assert err.startswith("harness: allocator jemalloc is not on this machine")


def test_workers_that_do_not_start_are_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.doctor.probe.COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    code, out, err = run("doctor")
    assert (code, out) == (4, "")
    assert err.splitlines()[-1] == (
        "harness: the timing worker exited with status 3 while starting; it printed nothing"
    )


def test_help_states_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "as 1% or 0.01 (default: 1%)" in text
    assert "0 if the machine resolves the margin, 1 if it does not, 4 for" in text


STEP = (1.0, 1.001, 0.999, 1.0, 1.0, 1.1, 1.1, 1.101, 1.099)


def test_history_prints_and_draws_changes(run: Run) -> None:
    files = run_files.write_all(Path("runs"), [[run_files.cell(value)] for value in STEP])
    Path("runs/notes.json").write_text("{}")
    code, out, err = run("history", "runs", "--figure", "f.svg")
    assert code == 0
    assert "1.000 -> 1.100 (+10.0 %, worse)" in out
    assert err == "harness: skipped: runs/notes.json holds no record of this harness\n"
    assert Path("f.svg").read_text().startswith("<?xml")
    _, out, err = run("history", *map(str, files), "--margin", "20%")
    assert (err, "1 cell without a change (--all lists them)." in out) == ("", True)
    assert "latency / reference" not in out
    assert "latency / reference" in run("history", *map(str, files), "--margin", "20%", "--all")[1]


def test_history_as_json(run: Run) -> None:
    run_files.write_all(Path("runs"), [[run_files.cell(value)] for value in STEP])
    code, out, _ = run("history", "runs", "--json")
    document = json.loads(out)
    assert code == 0
    (change,) = document["groups"][0]["series"][0]["changes"]
    assert (change["last"], change["first"], change["worse"]) == (4, 5, True)
    assert len(document["runs"]) == len(document["groups"][0]["series"][0]["points"]) == 9


def test_a_figure_that_cannot_be_written_or_drawn_is_one_line(run: Run) -> None:
    run_files.write(Path("a.json"), [run_files.cell()])
    Path("taken").write_text("")
    code, _, err = run("history", "a.json", "--figure", "taken/f.svg")
    assert (code, len(err.splitlines())) == (4, 1)
    assert err.startswith("harness: cannot write taken/f.svg")
    run_files.write(Path("b.json"), [run_files.cell(None)])
    code, _, err = run("history", "b.json", "--figure", "f.svg")
    assert code == 4
    assert "there is no ratio of latencies to draw" in err


def test_the_command_loads_libraries_lazily() -> None:
    code = "import sys, harness.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "scipy", "ruptures", "matplotlib"} & set(done.stdout.split())


def test_an_interruption_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.cli.data.status", interrupt)
    assert main(["data", "status"]) == 130
    assert capsys.readouterr().err == "harness: interrupted\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_an_output_on_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "harness.cli.main", "list"]
        listed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert listed.returncode == 4
    assert listed.stderr == "harness: the disk is full: free some space, and run the command again\n"


def test_version_prints_the_name_of_the_distribution_and_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"compression-harness {version('compression-harness')}\n"
