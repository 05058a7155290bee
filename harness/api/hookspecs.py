"""The hooks: all that a plugin can do, each with its reason and an example. This is the contract's only home.

A plugin is a module named by an entry point of the group ``harness``::

    [project.entry-points.harness]
    my_plugin = "my_plugin"

It implements any of the hooks below as functions marked with ``harness.hookimpl``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from harness.api import Architecture, Dataset, Kind, Metric, ReportContext, Runtime, Section, Step
    from harness.api.compressor import Compressor

PROJECT = "harness"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def harness_datasets(register: Callable[[Dataset], None]) -> None:
    """Bring data sets, so that suites can name them.

    ::

        @hookimpl
        def harness_datasets(register):
            register(Chapman())
    """


@hookspec
def harness_architectures(register: Callable[[Architecture], None]) -> None:
    """Bring networks, so that suites can name them.

    ::

        @hookimpl
        def harness_architectures(register):
            register(InceptionTime())
    """


@hookspec
def harness_steps(register: Callable[[type[Step] | Compressor[...]], None]) -> None:
    """Bring steps (compressors): the classes, not values of them, so that suites can name and parametrise them.

    What ``harness.api.compressor`` made of a function is such a class.

    ::

        @hookimpl
        def harness_steps(register):
            register(LowRank)
    """


@hookspec
def harness_metrics(register: Callable[[Metric], None]) -> None:
    """Bring metrics; every registered metric is computed for every cell.

    ::

        @hookimpl
        def harness_metrics(register):
            register(Sensitivity())
    """


@hookspec
def harness_runtimes(register: Callable[[Runtime], None]) -> None:
    """Bring what executes deployed files, so that suites can name it.

    ::

        @hookimpl
        def harness_runtimes(register):
            register(TFLite())
    """


@hookspec
def harness_kinds(register: Callable[[Kind], None]) -> None:
    """Publish a kind of thing of your own, which other plugins bring with the hook that it names.

    The harness checks and lists such things as it does data sets, and hands them to sections of the report.

    ::

        @hookimpl
        def harness_kinds(register):
            register(Kind("study", Study, hook="harness_studies", plural="studies"))
    """


@hookspec
def harness_cell_finished(record: Mapping[str, Any]) -> None:
    """Look at the record of a cell that was measured: to log it, or send it elsewhere.

    It is what goes into the JSON file but for the verdict on its latency, which depends on the other cells too and
    joins it at the end of the run.

    ::

        @hookimpl
        def harness_cell_finished(record):
            print(record["cell"], record["figures"]["auroc"]["value"])
    """


@hookspec
def harness_report_section(
    records: Sequence[Mapping[str, Any]], context: ReportContext
) -> Section | Sequence[Section] | tuple[str, str] | None:
    """Add sections to the report: one, several, a title with a preformatted text, or None to add nothing.

    ``context`` says what the report is made for; leave the argument out if you do not need it.

    ::

        @hookimpl
        def harness_report_section(records):
            rows = tuple((record["cell"], f"{grams(record):.1f}") for record in records)
            return Section("Carbon", tables=(Table("CO2 of each training", ("cell", "grams"), rows),))
    """
