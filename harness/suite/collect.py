"""Suite files: the cells of a matrix on this machine, and reading a suite without pytest."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from harness.data.library import resolve
from harness.errors import DataError, NoData, UsageError, describe_error
from harness.plugin.isolation import FOREIGN
from harness.plugin.manager import Plugins
from harness.suite.matrix import Cell, Matrix
from harness.suite.presets import Preset


def cells_of(
    matrix: Matrix, name: str, suite: str, plugins: Plugins, preset: Preset, data: str | None
) -> Iterator[Cell]:
    """The cells of a matrix at a preset's size, with stand-ins for the data sets that are not found.

    Where none may stand in, for the user named a place for data, the cells are there and say so as their problem.

    Raises UsageError for a name that no plugin brought.
    """
    layouts = {architecture: plugins.architectures.get(architecture).layout for architecture in matrix.architectures}
    if len(set(layouts.values())) > 1 and "architecture" in matrix.reference:
        raise UsageError(
            f"reference names an architecture, but these read different forms of the data ({layouts}), so that no pair "
            "of them can be timed on one input; leave it out"
        )
    for runtime in matrix.runtimes:
        plugins.runtimes.get(runtime)
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
        pairs = ", ".join(f"{name} by {used}" for name, used in datasets.items() if name != used)
        raise UsageError(
            f"one data set would be used twice, since some are not found here ({pairs}); get them or drop them"
        )
    return matrix.cells(name, suite, matrix.seeds[: preset.seeds], datasets, missing)


def load(file: Path) -> dict[str, Matrix]:
    """The matrices that a suite file declares, by name. Raises UsageError for a file that is none or has none."""
    if not file.is_file():
        raise UsageError(f"there is no suite file {file}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} is not a Python file, so it cannot be a suite")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    except FOREIGN as error:
        raise UsageError(f"{file} cannot be imported: {describe_error(error)}") from error
    found = {name: value for name, value in vars(module).items() if isinstance(value, Matrix)}
    if not found:
        raise UsageError(f"{file} declares no Matrix")
    return found
