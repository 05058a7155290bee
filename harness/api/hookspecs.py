"""Specify the hooks: everything that a plugin can do, each with an example.

A plugin is a module that an entry point of the group ``harness`` names::

    [project.entry-points.harness]
    my_plugin = "my_plugin"

It implements any of the hooks below, as functions marked with ``harness.hookimpl``.
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
    """Register data sets, so that suites can name them.

    ::

        @hookimpl
        def harness_datasets(register):
            register(Chapman())
    """


@hookspec
def harness_architectures(register: Callable[[Architecture], None]) -> None:
    """Register networks, so that suites can name them.

    ::

        @hookimpl
        def harness_architectures(register):
            register(InceptionTime())
    """


@hookspec
def harness_steps(register: Callable[[type[Step] | Compressor[...]], None]) -> None:
    """Register steps (compressors), as classes and not as instances, so that suites can name and parametrise them.

    A function decorated with ``@compressor`` is such a class.

    ::

        @hookimpl
        def harness_steps(register):
            register(LowRank)
    """


@hookspec
def harness_metrics(register: Callable[[Metric], None]) -> None:
    """Register metrics; every registered metric is computed for every cell.

    ::

        @hookimpl
        def harness_metrics(register):
            register(Sensitivity())
    """


@hookspec
def harness_runtimes(register: Callable[[Runtime], None]) -> None:
    """Register runtimes, which execute deployed files, so that suites can name them.

    ::

        @hookimpl
        def harness_runtimes(register):
            register(TFLite())
    """


@hookspec
def harness_kinds(register: Callable[[Kind], None]) -> None:
    """Publish your own kind of object, which other plugins register with the hook that the kind names.

    The harness validates and lists such objects like data sets, and passes them to sections of the report.

    ::

        @hookimpl
        def harness_kinds(register):
            register(Kind("study", Study, hook="harness_studies", plural="studies"))
    """


@hookspec
def harness_cell_finished(record: Mapping[str, Any]) -> None:
    """Receive the record of a measured cell, for example to log it or send it elsewhere.

    It equals the record in the JSON file, except for the verdict on the latency. The verdict depends on the other cells
    and is added at the end of the run.

    ::

        @hookimpl
        def harness_cell_finished(record):
            print(record["cell"], record["figures"]["auroc"]["value"])
    """


@hookspec
def harness_report_section(
    records: Sequence[Mapping[str, Any]], context: ReportContext
) -> Section | Sequence[Section] | tuple[str, str] | None:
    """Add to the report: return a section, several, a pair of title and preformatted text, or None.

    ``context`` describes the report; leave the argument out if you do not need it.

    ::

        @hookimpl
        def harness_report_section(records):
            rows = tuple((record["cell"], f"{grams(record):.1f}") for record in records)
            return Section("Carbon", tables=(Table("CO2 of each training", ("cell", "grams"), rows),))
    """
