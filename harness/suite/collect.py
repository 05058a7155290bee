"""Find and read suite files without pytest, and expand a matrix into the cells that this machine can run."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from harness.data.library import resolve
from harness.errors import DataError, NoData, UsageError, describe_error
from harness.plugin.manager import Plugins
from harness.suite.matrix import Cell, Matrix
from harness.suite.presets import Preset


def cells_of(
    matrix: Matrix, name: str, suite: str, plugins: Plugins, preset: Preset, data: str | None
) -> Iterator[Cell]:
    """Return the cells of a matrix at a preset's size; fallbacks replace data sets that are not found.

    When the user named a folder for data, no fallback is used: the cells of a missing data set carry the reason as
    their ``problem``.

    Raises UsageError for a name that no plugin registered.
    """
    layouts = {architecture: plugins.architectures.get(architecture).layout for architecture in matrix.architectures}
    if len(set(layouts.values())) > 1 and "architecture" in matrix.reference:
        raise UsageError(
            f"reference names an architecture, but these architectures read different layouts of the data ({layouts}), "
            "so they cannot be timed on the same input; leave architecture out of reference"
        )
    unavailable = {}
    for runtime in matrix.runtimes:
        reason = plugins.call(plugins.runtimes.get(runtime), "unavailable")
        if reason is not None:
            unavailable[runtime] = str(reason)
    datasets, missing = {}, {}
    for dataset in matrix.datasets:
        try:
            datasets[dataset] = resolve(dataset, plugins, data).dataset.name
        except (NoData, DataError) as error:
            datasets[dataset], missing[dataset] = dataset, str(error)
    for dataset, used in datasets.items():
        for architecture, layout in layouts.items():
            try:
                plugins.datasets.get(used).task_in(layout)
            except UsageError as error:
                raise UsageError(f"architecture {architecture!r} cannot read data set {dataset!r}: {error}") from None
    if len(set(datasets.values())) < len(datasets):
        replaced = ", ".join(f"{name} by {used}" for name, used in datasets.items() if name != used)
        raise UsageError(
            f"one data set would be used twice, because fallbacks replace those that are not found ({replaced}); "
            "fetch the missing ones or remove them from the matrix"
        )
    return matrix.cells(name, suite, preset.seeds_of(matrix.seeds), datasets, missing, unavailable)


def is_suite(file: Path) -> bool:
    """Return whether a Python file makes a ``Matrix`` of the harness at its top level, by its source alone.

    The top level calls Matrix, or a function of a file in which some function calls Matrix. A file that names both
    words and cannot be parsed counts, so that its error is reported.
    """
    source = file.read_bytes()
    if b"harness" not in source or b"Matrix" not in source:
        return False
    tree = _parsed(source)
    if tree is None:
        return True
    statements = tree.body
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    definitions = [statement for statement in statements if isinstance(statement, kinds)]
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = [name for node in imported for name in node.names if name.name == "Matrix"]
    makers = {"Matrix", *(name.asname for name in names if name.asname is not None)}
    if any(makers & _called(definition) for definition in definitions):
        makers |= {definition.name for definition in definitions}
    return any(makers & _called(statement) for statement in statements if not isinstance(statement, kinds))


def imported_suites(file: Path) -> list[Path]:
    """Return the suites beside a Python file that it imports, or imports from, at its top level, by its source alone.

    `is_suite` is false for a file that only imports a Matrix, or makes one of another's.
    """
    tree = _parsed(file.read_bytes())
    modules: list[str] = []
    for statement in () if tree is None else tree.body:
        if isinstance(statement, ast.Import):
            modules += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.level < 2:
            modules += [statement.module] if statement.module else [alias.name for alias in statement.names]
    neighbours = [file.parent / f"{name.rpartition('.')[2]}.py" for name in dict.fromkeys(modules)]
    return [neighbour for neighbour in neighbours if neighbour.is_file() and is_suite(neighbour)]


def _parsed(source: bytes) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None


def _called(statement: ast.stmt) -> set[str]:
    """The names of what a statement calls, without the modules in front."""
    functions = [node.func for node in ast.walk(statement) if isinstance(node, ast.Call)]
    names = [function.id for function in functions if isinstance(function, ast.Name)]
    return {*names, *(function.attr for function in functions if isinstance(function, ast.Attribute))}


def load(file: Path) -> dict[str, Matrix]:
    """Return the matrices of a suite file by name. Raises UsageError if it cannot be imported or declares none."""
    if not file.is_file():
        raise UsageError(f"there is no suite file {file}; check the path")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} is not a Python file; a suite is a file *.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UsageError(f"{file} cannot be imported: {describe_error(error)}") from error
    matrices = {name: value for name, value in vars(module).items() if isinstance(value, Matrix)}
    if not matrices:
        raise UsageError(f"{file} declares no Matrix; assign one to a variable at the top level")
    return matrices
