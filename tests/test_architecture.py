"""The order of the packages: each imports only what stands before it, and plugins import only public packages."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness

ROOT = Path(harness.__file__).parents[1]
#: From the ground up; docs/architecture.md describes each. The leaves import at most one another.
LEAVES = ("former_names", "errors", "keys", "text", "files")
PACKAGES = (
    *("nn", "stats", "api", "progress", "records", "policy", "plugin", "store", "data", "suite", "measure", "build"),
    *("run", "gate", "history", "report", "doctor", "testing", "cli"),
    *("pytest_options", "pytest_run_files", "pytest_plugin"),
)
RANK = {**dict.fromkeys(LEAVES, 0), **{name: rank for rank, name in enumerate(PACKAGES, 1)}}
#: What a plugin may import, beside ``harness`` itself.
PUBLIC = ("api", "data", "errors", "nn", "records", "report", "stats", "testing", "text")
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if path.name.startswith("harness_"))


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """The modules of this project that a file imports anywhere, within functions too, with their lines."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "harness":
            submodules = [alias.name for alias in node.names if alias.name in RANK]
            names = [f"harness.{name}" for name in submodules] or ["harness"]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        else:
            names = []
        yield from ((node.lineno, name) for name in names if name.partition(".")[0].startswith("harness"))


def package_of(module: str) -> str | None:
    """The package, or the leaf, within ``harness`` that a module belongs to; None for ``harness`` itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def sources(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*.py")) if "__pycache__" not in file.parts]


def test_every_package_has_its_place_in_the_order() -> None:
    packages = {
        path.stem for path in (ROOT / "harness").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert packages - {"__init__"} == set(RANK)


@pytest.mark.parametrize("name", RANK)
def test_a_package_imports_only_packages_before_it(name: str) -> None:
    home = ROOT / "harness" / name
    files = sources(home) if home.is_dir() else [home.with_suffix(".py")]
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {module}"
        for file in files
        for line, module in imported(file)
        if module.partition(".")[0] == "harness"
        and (other := package_of(module)) is not None
        and RANK[other] > RANK[name]
    ]
    assert not wrong, f"the order is {', '.join((*LEAVES, *PACKAGES))}"


@pytest.mark.parametrize("name", RANK)
def test_no_circle_of_imports_within_a_package(name: str) -> None:
    home = ROOT / "harness" / name
    if not home.is_dir():
        return
    modules = {f"harness.{name}.{file.stem}": file for file in home.glob("*.py") if file.stem != "__init__"}
    graph = {
        module: {other for _, other in imported(file) if other in modules and other != module}
        for module, file in modules.items()
    }
    while graph:
        free = [module for module, others in graph.items() if not others & graph.keys()]
        assert free, f"these modules import one another: {sorted(graph)}"
        for module in free:
            del graph[module]


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_imports_only_public_packages(name: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {module}"
        for file in sources(ROOT / "plugins" / name)
        for line, module in imported(file)
        if module.partition(".")[0] not in ("harness", name)
        or (module.partition(".")[0] == "harness" and package_of(module) not in (None, *PUBLIC))
    ]
    assert not wrong, f"plugins may import harness and of it {', '.join(PUBLIC)}"
