"""Suite files are read without pytest and expand into the cells that this machine can run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import toy

from harness import Matrix, UsageError
from harness.plugin.manager import Plugins
from harness.suite.collect import cells_of, imported_suites, is_suite, load
from harness.suite.presets import PRESETS, preset

MATRIX = "Matrix(dataset='toy', architecture='conv', training={'plain': []})"


def suite(folder: Path, source: str) -> Path:
    file = folder / "suite.py"
    file.write_text("from harness import *\n" + source)
    return file


def test_all_matrices_of_a_file_by_name(tmp_path: Path) -> None:
    matrices = load(suite(tmp_path, f"one = {MATRIX}\nother = 3\ntwo = {MATRIX}\n"))
    assert list(matrices) == ["one", "two"]
    assert isinstance(matrices["one"], Matrix)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "declares no Matrix; assign one"),
        ("import no_such_module", "cannot be imported: ModuleNotFoundError"),
        ("def", "cannot be imported: SyntaxError"),
        ("m = Matrix(dataset='toy', architecture='conv', columns='x')", "suite.py: columns names axis 'x'"),
    ],
)
def test_a_broken_suite_is_named(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(suite(tmp_path, source))


def test_a_missing_file_or_one_that_is_not_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no suite file"):
        load(tmp_path / "absent.py")
    (tmp_path / "suite.json").write_text("{}")
    with pytest.raises(UsageError, match="is not a Python file"):
        load(tmp_path / "suite.json")


def ids(plugins: Plugins, size: str = "study", data: str | None = None, **axes: object) -> list[str]:
    matrix = Matrix(**({"dataset": "toy", "architecture": "conv", "runtime": "eager", "seed": range(3)} | axes))
    return [cell.id for cell in cells_of(matrix, "m", "suite.py", plugins, preset(size), data)]


@pytest.mark.parametrize("size", list(PRESETS))
def test_a_number_of_seeds_holds_in_every_preset(plugins: Plugins, size: str) -> None:
    toy.write(Path("data"))
    matrix = Matrix(dataset="toy", architecture="conv", runtime="eager", seed=[3, 7])
    chosen = dataclasses.replace(preset(size), seeds=4, exact_seeds=True)
    cells = cells_of(matrix, "m", "suite.py", plugins, chosen, None)
    assert [cell.seed for cell in cells] == [3, 7, 8, 9]
    one = dataclasses.replace(chosen, seeds=1)
    assert [cell.seed for cell in cells_of(matrix, "m", "suite.py", plugins, one, None)] == [3]


def test_presets_bound_the_seeds(plugins: Plugins) -> None:
    toy.write(Path("data"))
    assert ids(plugins) == ["conv-seed0", "conv-seed1", "conv-seed2"]
    assert ids(plugins, "quick") == ids(plugins, "smoke") == ["conv-seed0"]


def test_a_fallback_replaces_a_data_set_that_is_not_found(plugins: Plugins) -> None:
    assert ids(plugins, "quick") == ["toy-synthetic-conv-seed0"]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"architecture": "convv"}, "no architecture is called 'convv'; did you mean 'conv'"),
        ({"runtime": "eagre"}, "no runtime is called 'eagre'; did you mean 'eager'"),
        ({"dataset": "tyo"}, "no dataset is called 'tyo'; did you mean 'toy'"),
    ],
)
def test_names_that_no_plugin_registered_are_refused(plugins: Plugins, axes: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ids(plugins, **axes)


def test_a_fallback_cannot_duplicate_a_data_set_of_the_matrix(plugins: Plugins) -> None:
    with pytest.raises(UsageError, match=r"used twice.*toy by toy-synthetic"):
        ids(plugins, dataset=["toy", "toy-synthetic"])


def test_presets_shrink_the_training() -> None:
    conv = toy.Conv()
    whole = conv.training("train")
    assert PRESETS["study"].training(conv, "train") == whole
    quick, smoke = (PRESETS[name].training(conv, "train") for name in ("quick", "smoke"))
    assert (quick.epochs, quick.examples) == (2, 48)
    assert (smoke.epochs, smoke.examples) == (1, 64)
    assert quick.optimizer_args == whole.optimizer_args
    assert PRESETS["quick"].training(conv, "finetune").epochs == 2


def test_an_unknown_preset_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="no preset is called 'quik'; did you mean 'quick'"):
        preset("quik")


def test_an_architecture_whose_layout_the_data_set_lacks_is_refused(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ids(plugins, architecture=["conv", "flat"])
    with pytest.raises(
        UsageError, match="reference names an architecture, but these architectures read different layouts"
    ):
        ids(plugins, architecture=["conv", "flat"], reference={"architecture": "conv"})
    monkeypatch.setattr(toy.Flat, "layout", "maen")
    with pytest.raises(
        UsageError, match=r"'flat' cannot read data set 'toy': .* has no layout 'maen'; did you mean 'mean'"
    ):
        ids(plugins, architecture="flat")
    monkeypatch.setattr(toy.Toy, "layouts", {})
    with pytest.raises(UsageError, match="it has only its own"):
        ids(plugins, architecture="flat")


# -------------------------------------------------------------------------------------------------- finding suites


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from harness import Matrix\nm = Matrix()", True),
        ("import harness\nif True:\n    m = harness.Matrix()", True),
        ("from harness import *\nM = {'a': Matrix()}['a']", True),
        ("from harness import Matrix\ndef make(): return Matrix()\ndef twice(): return make()\nm = twice()", True),
        ("from harness import Matrix as M\nm = M()", True),
        ("from harness import Matrix as M\ndef make(): return M()\nm = make()", True),
        ("from harness import Matrix\nm = Matrix(", True),
        ("from harness import Matrix\ndef make(): return Matrix()", False),
        ("from harness import Matrix\ndef test(): Matrix()\nx = len('')", False),
        ("from harness import train\nm = 'Matrix()'", False),
        ("from sympy import Matrix\nm = Matrix()", False),
        ("", False),
    ],
)
def test_a_suite_is_told_by_its_source(tmp_path: Path, source: str, found: bool) -> None:
    (tmp_path / "file.py").write_text(source)
    assert is_suite(tmp_path / "file.py") is found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from suite import m", True),
        ("from .suite import m", True),
        ("from . import suite", True),
        ("import suite\nm = suite.m", True),
        ("from suites.suite import *", True),
        ("from harness import Matrix", False),
        ("from helper import m", False),
        ("from .. import suite", False),
        ("def test():\n    import suite", False),
        ("import suite(", False),
    ],
)
def test_a_file_may_import_suites(tmp_path: Path, source: str, found: bool) -> None:
    (tmp_path / "suite.py").write_text("from harness import Matrix\nm = Matrix()")
    (tmp_path / "helper.py").write_text("m = 1")
    (tmp_path / "file.py").write_text(source)
    assert imported_suites(tmp_path / "file.py") == ([tmp_path / "suite.py"] if found else [])


def test_the_suites_of_this_project_are_suites() -> None:
    files = sorted((Path(__file__).parents[2] / "suites").glob("*.py"))
    assert len(files) >= 5
    assert all(map(is_suite, files))
