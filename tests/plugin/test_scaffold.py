"""A new plugin's package works unchanged in its own environment; after an error, nothing is written."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from environments import Environment
from hypothesis import assume, given
from hypothesis import strategies as st
from toy import Halve

from harness import HarnessError, StoreError, UsageError
from harness.cli.main import main
from harness.plugin import scaffold
from harness.plugin.manager import Origin, Plugins, installed
from harness.plugin.scaffold import KINDS, Names, check_free, new, render, typed

ROOT = Path(__file__).parents[2]
KIND = st.sampled_from(sorted(KINDS))
NAME = st.from_regex(r"[a-z][a-z0-9]{0,6}([_-][a-z0-9]{1,6}){0,2}", fullmatch=True)
#: Each kind with a name for it.
EXAMPLES = {kind: f"{kind[:3]}-one" for kind in KINDS}
RULES = "E,F,W,I,UP,B,C4,SIM,RET,PT,D100,D104,D300,RUF"


@pytest.fixture
def here(nowhere: None, toy_installed: object) -> Path:
    """An empty folder to write into, with the toy plugin alone installed."""
    folder = Path("here").absolute()
    folder.mkdir()
    return folder


# ---------------------------------------------------------------------------------------------- generated packages work


def use(environment: Environment, folder: Path, kind: str) -> str:
    """Write and install a package, and return the output of ``harness list``."""
    environment.run("harness", "plugin", "new", kind, EXAMPLES[kind], "--into", folder)
    environment.install(folder)
    return environment.run("harness", "list").stdout


@pytest.mark.slow
def test_a_new_compressor_is_listed_and_planned(fresh_environment: Environment, tmp_path: Path) -> None:
    shown = use(fresh_environment, tmp_path / "package", "compressor")
    assert re.search(
        r"^  com_one +Set the weights of each layer .*\[com_one \(harness-com-one 0\.1\.0\)\]$", shown, re.M
    )
    suite = tmp_path / "package" / "suites" / "compression.py"
    plan = fresh_environment.run("harness", "plan", suite, "--preset", "smoke").stdout
    for cell in ("full", "com_one", "prune", "com_one+int8"):
        assert f"cnn-plain-{cell}-seed0" in plan


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_tests_of_each_kind_pass(fresh_environment: Environment, tmp_path: Path, kind: str) -> None:
    name = Names.of(EXAMPLES[kind]).name
    shown = use(fresh_environment, tmp_path / "package", kind)
    fresh_environment.run("pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path / "package")
    assert re.search(rf"^  {name} .*\[{name} \(harness-{EXAMPLES[kind]} 0\.1\.0\)\]$", shown, re.M)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_passes_the_check(fresh_environment: Environment, tmp_path: Path, kind: str) -> None:
    name = Names.of(EXAMPLES[kind]).name
    if fresh_environment.run("python", "-c", f"import harness_{name}", check=False).returncode:
        fresh_environment.run("harness", "plugin", "new", kind, EXAMPLES[kind], "--into", tmp_path / "package")
        fresh_environment.install(tmp_path / "package")
    assert name in fresh_environment.run("harness", "plugin", "check", name).stdout


@pytest.mark.slow
def test_the_suite_of_a_new_compressor_runs(fresh_environment: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    fresh_environment.run("harness", "plugin", "new", "compressor", "suite-one", "--into", folder)
    fresh_environment.install(folder)
    ran = fresh_environment.run("pytest", "suites/compression.py", "--harness-preset=smoke", cwd=folder)
    assert "8 passed" in ran.stdout


# ------------------------------------------------------------------------------------------------------ what is written


def test_the_package_and_the_commands_are_listed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "new", "compressor", "low-rank", "--into", "here/deep/er"]) == 0
    lines = capsys.readouterr().out.splitlines()
    files = sorted(path.relative_to(here / "deep/er").as_posix() for path in here.rglob("*") if path.is_file())
    assert files == [
        ".gitignore", "README.md", "harness_low_rank.py", "pyproject.toml", "suites/compression.py",
        "tests/test_low_rank.py",
    ]  # fmt: skip
    assert lines[0] == "wrote here/deep/er"
    assert sorted(line.strip() for line in lines[1:7]) == files
    assert lines[7:10] == ["", "next:", "  cd here/deep/er"]
    commands = [line.strip().replace(f"{Path(sys.executable).parent}/", "") for line in lines[10:]]
    assert len(commands) == 3
    for command in commands:
        assert command in (here / "deep/er/README.md").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_is_that_of_the_distribution(here: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(here)
    written = new(kind, "two_words")
    assert written.folder == here / "harness-two-words"
    assert {path.name for path in here.iterdir()} == {"harness-two-words"}
    project = tomllib.loads((written.folder / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["harness"] == {"two_words": "harness_two_words"}


def test_an_empty_folder_is_filled(here: Path) -> None:
    written = new("metric", "low-rank", here)
    assert {file.parts[0] for file in written.files} == {path.name for path in here.iterdir()}


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_midway_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, there: bool, error: BaseException
) -> None:
    write, folder = Path.write_text, here / "package"
    if there:
        folder.mkdir()

    def failing(self: Path, text: str, **options: Any) -> int:
        if self.name.startswith("test_"):
            raise error
        return write(self, text, **options)

    monkeypatch.setattr(Path, "write_text", failing)
    expected = StoreError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="disk is full" if expected is StoreError else None):
        new("compressor", "low-rank", folder)
    assert list(here.rglob("*")) == ([folder] if there else [])


@given(KIND, NAME)
def test_every_accepted_name_gives_valid_python_and_toml(kind: str, name: str) -> None:
    try:
        names = Names.of(name)
        check_free(kind, names, Plugins())
    except UsageError:
        assume(False)
    files = render(kind, names)
    for path, text in files.items():
        assert "$" not in text.replace("$ ", "")
        assert "NAME" not in path.name
        if path.suffix == ".py":
            ast.parse(text)
    project = tomllib.loads({str(path): text for path, text in files.items()}["pyproject.toml"])
    ((point, module),) = project["project"]["entry-points"]["harness"].items()
    assert point == name.replace("-", "_")
    assert f"{module}.py" in map(str, files)
    assert project["project"]["name"] == f"harness-{name.replace('_', '-')}"


@pytest.mark.parametrize("name", ["ab", "weight-clusters", "zeta"])
def test_generated_code_is_clean_and_formatted(here: Path, name: str) -> None:
    for kind in KINDS:
        new(kind, name, here / kind)
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--select", RULES, "--ignore", "E501,RUF002,RUF003"], ["format", "--diff"]):
        ran = subprocess.run(
            [*ruff, *command, "--no-cache", "."], cwd=here, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
def test_generated_code_passes_the_type_checker(here: Path) -> None:
    files = []
    for kind, name in EXAMPLES.items():
        written = new(kind, name, here / kind)
        files += [written.folder / file for file in written.files if file.suffix == ".py"]
    path = ":".join(map(str, [ROOT, ROOT / "plugins", *(here / kind for kind in KINDS)]))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(here / "cache"), "--config-file"]
    ran = subprocess.run(
        [*command, str(ROOT / "pyproject.toml"), *map(str, files)],
        cwd=here, env={"MYPYPATH": path, "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_wheel_has_the_templates(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("harness/plugin/templates/")}
    templates = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "harness/plugin/templates").rglob("*") if path.is_file()
    }
    assert packed == templates
    assert len(templates) == 3 + 2 * len(KINDS) + 1


@pytest.mark.parametrize(
    ("active", "line"), [(True, "harness plugin check x"), (False, "{home}/harness plugin check x")]
)
def test_commands_have_a_path_if_the_environment_is_not_active(
    monkeypatch: pytest.MonkeyPatch, active: bool, line: str
) -> None:
    home = Path(sys.executable).parent
    location = str(home / "harness") if active else "/elsewhere/harness"
    monkeypatch.setattr(scaffold.shutil, "which", lambda program: location)
    assert typed(["harness plugin check x"]) == [line.format(home=home)]


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("LowRank", "low-rank"),
        ("low rank", "low-rank"),
        ("low--rank", "low-rank"),
        ("-low", "low"),
        ("4bit", "bit"),
        ("harness-low-rank", "low-rank"),
        ("harness", "low-rank"),
        ("../up", "up"),
        ("", "low-rank"),
        ("é", "low-rank"),
        ("low\n", "low"),
    ],
)
def test_an_invalid_name_is_refused(here: Path, name: str, suggestion: str) -> None:
    with pytest.raises(UsageError, match=f"as in '{suggestion}'$"):
        new("compressor", name, here)
    Names.of(suggestion)


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("compressor", "lambda", "is a keyword or a builtin of Python"),
        ("compressor", "print", "is a keyword or a builtin of Python"),
        ("dataset", "copy", "'copy' is a module of Python's standard library"),
        ("compressor", "model", "'model' is a name that the generated code uses itself"),
        ("dataset", "split", "'Split' is a name that the generated code uses itself"),
        ("compressor", "prune", "'prune' is a name that"),
        ("metric", "halve", "step 'halve' is already registered by plugin toy .*; choose another name"),
        ("dataset", "toy", "dataset 'toy' is already registered by plugin toy"),
        ("metric", "mean-score", "metric 'mean' already has a figure called 'mean_score'"),
        ("compressor", "numpy", "a module called 'numpy' is already installed"),
        ("compressor", "ecg", "a plugin called 'ecg' is already installed"),
        ("metric", "metric", "name that the generated code uses itself"),
    ],
)
def test_a_name_in_use_is_refused(here: Path, kind: str, name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        new(kind, name, here)
    assert not any(here.iterdir())


def test_a_registered_name_is_reported_before_a_word_of_the_generated_code(here: Path) -> None:
    installed().steps.add("prune", Halve, Origin("compress", "harness", "1"))
    with pytest.raises(UsageError, match="step 'prune' is already registered by plugin compress"):
        new("compressor", "prune", here)


def test_the_name_of_a_module_is_refused(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "harness_mine_too.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="a module called 'harness_mine_too' is already installed"):
        new("compressor", "mine-too", here)


@pytest.mark.parametrize(
    ("kind", "name"), [("metric", "metric-spec"), ("runtime", "predictor"), ("compressor", "fake-context")]
)
def test_a_class_of_the_generated_code_is_refused(here: Path, kind: str, name: str) -> None:
    word = name.title().replace("-", "")
    with pytest.raises(UsageError, match=f"'{word}' is a name that the generated code uses itself"):
        new(kind, name, here)


def test_an_unknown_kind_suggests_the_nearest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "new", "compresor", "low-rank"]) == 4
    assert "did you mean 'compressor'?" in capsys.readouterr().err


def test_a_folder_in_use_is_refused(here: Path) -> None:
    (here / "file").write_text("mine")
    for folder, reason in ((here, "is not empty; name another"), (here / "file", "is a file; name a folder")):
        with pytest.raises(UsageError, match=reason):
            new("compressor", "low-rank", folder)
    assert [(path.name, path.read_text()) for path in here.iterdir()] == [("file", "mine")]


def test_a_folder_that_cannot_be_created_is_reported(here: Path) -> None:
    (here / "file").write_text("mine")
    with pytest.raises(HarnessError, match=r"cannot write the package into .*--into"):
        new("compressor", "low-rank", here / "file" / "package")
    assert [path.name for path in here.iterdir()] == ["file"]
