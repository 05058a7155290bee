"""Run ``harness compare``: judge a run against an earlier one by their records alone, with the gate's exit code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.cli.history import print_history
from harness.errors import UsageError


def add_compare_command(commands: Any) -> None:
    """Declare the command on argparse's subparsers."""
    command = commands.add_parser(
        "compare", help="judge a run against an earlier one by their records alone; exit codes as those of the gate"
    )
    command.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN.json",
        help="the earlier run, then the later one; three or more print their history",
    )
    command.add_argument("--gate", metavar="RULES", help="how much worse is allowed, as latency=2%% (see docs/ci.md)")
    command.add_argument("--summary", type=Path, metavar="FILE.md", help="write the findings as Markdown")
    command.add_argument("--junit", type=Path, metavar="FILE.xml", help="write the findings as JUnit XML")
    command.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    if len(options.runs) < 2:
        raise UsageError("compare takes two runs, the earlier first, or more to print their history")
    if len(options.runs) > 2:
        print_history(options.runs)
        return 0
    from harness.gate.judge import judge
    from harness.gate.output import write_findings
    from harness.gate.text import Background, format_options, gate_text
    from harness.policy.baseline import Baseline
    from harness.policy.rules import check_figures, parse_rules, policy, project_rules
    from harness.records.runs import later_journal, read
    from harness.run.declarations import default_rules, defaults_for

    project, rules = project_rules(Path()), parse_rules(options.gate) if options.gate else {}
    earlier, later = options.runs
    run = read(later)
    if (journal := later_journal(later)) is not None:
        raise UsageError(
            f"{later} is of an earlier run, because the run that was to replace it was interrupted and left {journal}: "
            "compare that file, or delete it to compare the earlier run"
        )
    check_figures(rules, {name: figure.better for record in run.records for name, figure in record.figures.items()})
    new = {record.name: record for record in run.records}
    suites = {record.suite for record in run.records} | (run.suites or {}).keys()
    baseline = Baseline.of(earlier, run.records[0].preset).aligned(suites)
    lost_cells = baseline.lost(new, run.unmeasured, run.suites)
    defaults = default_rules([*baseline.records.values(), *run.records])
    judgement = judge(
        baseline.records,
        new,
        lost_cells,
        lambda record: policy(defaults_for(record, defaults), project, record.gate, rules),
    )
    repeated_options = {
        "--harness-preset": run.records[0].preset,
        "--harness-against": earlier,
        "--harness-gate": options.gate,
    }
    background = Background(earlier, baseline.documents, run.documents, format_options(repeated_options))
    print(gate_text(judgement, background))
    write_findings(judgement, background, options.summary, options.junit)
    return judgement.exit_code
