"""The commands that read runs: report, compare, history."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.plugin.manager import installed
from harness.text import DEFAULT_MARGIN, parse_margin


def add_run_commands(commands: Any) -> None:
    """Declare them, with what each runs."""
    command = commands.add_parser(
        "report", help="the tables of one or more runs; of a cell that is in several, the last counts"
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
        "-o", "--output", type=Path, metavar="FILE", help="write it instead: a page *.html, Markdown *.md, or *.csv"
    )
    command.add_argument("--figures", type=Path, metavar="DIR", help="draw its charts into a folder, as SVG and PNG")
    command.set_defaults(run=_report)

    command = commands.add_parser(
        "compare", help="what became of an earlier run's cells in a later one, by their records alone; ends as the gate"
    )
    command.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN.json",
        help="the earlier run, then the later one; of three or more the history is shown",
    )
    command.add_argument(
        "--gate", metavar="RULES", help="how much worse is allowed, as latency=2%%,auroc=0.01 (see the README)"
    )
    command.add_argument("--summary", type=Path, metavar="FILE.md", help="write the findings as Markdown")
    command.add_argument("--junit", type=Path, metavar="FILE.xml", help="write the findings as JUnit XML")
    command.set_defaults(run=_compare)

    command = commands.add_parser(
        "history", help="what changed from run to run on each machine, and what else changed there"
    )
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN.json", help="runs, or folders of them")
    command.add_argument("--all", action="store_true", help="also what did not change")
    command.add_argument("--figure", type=Path, metavar="FILE", help="draw the ratios: *.svg, *.png or *.pdf")
    command.add_argument("--json", action="store_true", help="for programs")
    add_margin(command)
    command.set_defaults(run=_history)


def add_margin(command: argparse.ArgumentParser) -> None:
    """Declare the option --margin."""
    command.add_argument(
        "--margin",
        type=parse_margin,
        default=f"{100 * DEFAULT_MARGIN:g}%",
        help="the relative change that matters, as 1%% or 0.01 (default: %(default)s)",
    )


def _report(options: argparse.Namespace) -> None:
    from harness.records.runs import read_records
    from harness.report.terminal import named_section, report_text

    if options.output is not None or options.figures is not None:
        if options.section is not None:
            raise UsageError("--section prints one section; leave it out to write all of them with -o or --figures")
        _write_report(options)
        return
    plugins = installed()
    try:
        newest = {record.identity: record for file in options.runs for record in read_records(file)}
        records, width = list(newest.values()), shutil.get_terminal_size((120, 40)).columns
        if options.section is None:
            print(report_text(records, plugins, width))
        else:
            print(named_section(records, plugins, options.section, width))
        for problem in plugins.problems:
            print(f"harness: {problem}", file=sys.stderr)
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"a record of {', '.join(map(str, options.runs))} is damaged: {error!r}") from error


def _write_report(options: argparse.Namespace) -> None:
    from harness.records.runs import read
    from harness.report.model import report
    from harness.report.output import check_form, file_sections, write_report

    if options.output is not None:
        check_form(options.output)
    plugins = installed()
    found = report([read(file) for file in options.runs])
    if options.output is not None:
        write_report(found, plugins, options.output)
        print(f"the report is {options.output}")
    if options.figures is not None:
        from harness.report.charts import write_figures

        written = write_figures(found, file_sections(found, plugins), options.figures)
        print(f"{len(written)} figures are in {options.figures}")
    for problem in plugins.problems:
        print(f"harness: {problem}", file=sys.stderr)


def _history(options: argparse.Namespace) -> None:
    from harness.records.runs import collect

    if options.figure is not None:
        from harness.history.figure import check_suffix

        check_suffix(options.figure)
    runs, remarks = collect(options.runs)
    from harness.history.series import history
    from harness.history.text import history_document, history_text
    from harness.text import printable

    found = history(runs, options.margin)
    for remark in remarks:
        print(f"harness: {printable(remark)}", file=sys.stderr)
    if options.json:
        print(json.dumps(history_document(found, remarks), indent=1))
    else:
        print(history_text(found, shutil.get_terminal_size((120, 40)).columns, options.all))
    if options.figure is not None:
        from harness.history.figure import draw

        draw(found, options.figure)


def _compare(options: argparse.Namespace) -> int:
    if len(options.runs) < 2:
        raise UsageError("compare takes two runs, the earlier first; of three or more it shows the history")
    if len(options.runs) > 2:
        _history(argparse.Namespace(runs=options.runs, margin=DEFAULT_MARGIN, figure=None, json=False, all=False))
        return 0
    from harness.gate.judge import judge
    from harness.gate.output import write_findings
    from harness.gate.text import Background, gate_text, typed
    from harness.policy.baseline import Baseline
    from harness.policy.rules import check_figures, parse_rules, policy, project_rules
    from harness.records.runs import read
    from harness.run.declarations import default_rules

    project, rules = project_rules(Path()), parse_rules(options.gate) if options.gate else {}
    earlier, later = options.runs
    run = read(later)
    check_figures(rules, {name: figure.better for record in run.records for name, figure in record.figures.items()})
    new = {record.name: record for record in run.records}
    baseline = Baseline.of(earlier, run.records[0].preset).aligned({record.suite for record in run.records})
    lost = {name: f"{later} has no record of it" for name in baseline.records if name not in new}
    defaults = default_rules([*baseline.records.values(), *run.records])
    found = judge(baseline.records, new, lost, lambda record: policy(defaults, project, record.gate, rules))
    again = {"--harness-preset": run.records[0].preset, "--harness-against": earlier, "--harness-gate": options.gate}
    background = Background(earlier, baseline.documents, run.documents, typed(again))
    print(gate_text(found, background))
    write_findings(found, background, options.summary, options.junit)
    return found.exit_code
