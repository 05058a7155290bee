"""What the kernel's tests share: the toy plugin, loaded directly or installed as a third party's, and a store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import toy
from fakes import HEAD, Suite, Workers

from harness import plugins as plugins_module
from harness.datasets import Library
from harness.matrix import Cell
from harness.measure import pool
from harness.plan import make
from harness.plugins import Origin, Plugins
from harness.presets import preset
from harness.progress import Display
from harness.store import Store

if TYPE_CHECKING:
    from harness.execute import Executor

pytest_plugins = ["pytester"]

TOY = Origin("toy", "toy-plugin", "1.2")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the environment nor the current folder names data or a store."""
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def plugins(nowhere: None) -> Plugins:
    """The toy plugin alone."""
    loaded = Plugins()
    loaded.add(toy, TOY)
    assert not loaded.problems
    return loaded


@pytest.fixture
def said() -> list[str]:
    """What the store said."""
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "store", said.append)


@pytest.fixture
def executor(plugins: Plugins, store: Store) -> Callable[..., Executor]:
    """An executor of some cells at a preset's size, with the synthetic toy data."""
    from harness.execute import Executor

    def build(cells: Sequence[Cell], size: str = "quick") -> Executor:
        library = Library(plugins, store, None, Display(None))
        plan = make(cells, plugins, library.fingerprint, preset(size), "cpu")
        return Executor(plan, plugins, library, store, Display(None))

    return build


@pytest.fixture
def toy_installed(nowhere: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The toy plugin as the only one installed, in this process."""
    point = EntryPoint("toy", "toy", plugins_module.GROUP)
    monkeypatch.setattr(plugins_module, "entry_points", lambda group: [point])
    plugins_module.installed.cache_clear()
    yield toy
    plugins_module.installed.cache_clear()


@pytest.fixture
def toy_distribution(tmp_path: Path) -> Path:
    """A folder that holds the toy plugin's distribution, as pip would install it: put it on PYTHONPATH."""
    site = tmp_path / "site"
    information = site / "toy_plugin-1.2.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugin\nVersion: 1.2\n")
    (information / "entry_points.txt").write_text("[harness]\ntoy = toy\n")
    (site / "toy.py").write_text(Path(toy.__file__).read_text())
    return site


@pytest.fixture(scope="module")
def everything_imported() -> None:
    """pytester forgets what is first imported within it, and torch cannot be imported twice: so it is done before."""
    import harness.evaluate
    import harness.measure.statistics
    import harness.report.plan
    import harness.report.tables
    from harness.training import fit

    part, conv = toy.part(8, 0), toy.Conv()
    fit(conv.build(toy.Toy.task), part, part, conv.training("train"), seed=0)
    harness.report.tables.tables([])


@pytest.fixture
def suite(
    everything_imported: None, toy_installed: ModuleType, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Suite:
    """Runs pytest, in this process, on a suite with this source."""
    monkeypatch.setattr(pool, "Workers", Workers)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(source: str, *options: str) -> pytest.RunResult:
        (pytester.path / "suite.py").write_text(HEAD + source)
        return pytester.runpytest_inprocess("suite.py", "-p", "no:cacheprovider", "--harness-preset=smoke", *options)

    return run
