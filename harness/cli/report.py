"""Run ``harness report``: print the tables of runs, or write them as a page, Markdown, CSV or charts."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from harness.cli.common import print_problems
from harness.errors import UsageError
from harness.plugin.manager import installed


def add_report_command(commands: Any) -> None:
    """Declare the command on argparse's subparsers."""
    command = commands.add_parser(
        "report", help="print or write the tables of runs; of a cell in several runs, the last record counts"
    )
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN.json")
    command.add_argument(
        "--section",
        "--study",
        dest="section",
        metavar="NAME",
        help="print one section alone: a study, with published figures beside measured ones, or a section of a plugin",
    )
    command.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write to a file instead: a page *.html, Markdown *.md, *.csv"
    )
    command.add_argument("--figures", type=Path, metavar="DIR", help="draw the charts into a folder, as SVG and PNG")
    command.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    if options.section is not None and (options.output is not None or options.figures is not None):
        raise UsageError("--section prints one section; leave it out to write all of them with -o or --figures")
    try:
        if options.output is None and options.figures is None:
            _print_report(options)
        else:
            _write_report(options)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UsageError(f"a record of {', '.join(map(str, options.runs))} is damaged: {error!r}") from error


def _print_report(options: argparse.Namespace) -> None:
    from harness.records.runs import read_records
    from harness.report.terminal import named_section, report_text

    plugins = installed()
    newest = {record.identity: record for file in options.runs for record in read_records(file)}
    records, width = list(newest.values()), shutil.get_terminal_size((120, 40)).columns
    if options.section is None:
        print(report_text(records, plugins, width))
    else:
        print(named_section(records, plugins, options.section, width))
    print_problems(plugins)


def _write_report(options: argparse.Namespace) -> None:
    from harness.records.runs import read
    from harness.report.model import report
    from harness.report.output import check_form, file_sections, write_report

    if options.output is not None:
        check_form(options.output)
    plugins = installed()
    model = report([read(file) for file in options.runs])
    if options.output is not None:
        write_report(model, plugins, options.output)
        print(f"the report is {options.output}")
    if options.figures is not None:
        from harness.report.charts import write_figures

        files = write_figures(model, file_sections(model, plugins), options.figures)
        print(f"{len(files)} figures are in {options.figures}")
    print_problems(plugins)
