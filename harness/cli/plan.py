"""Run ``harness plan``: print what a suite would build and measure, and how long that takes."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from harness.cli.common import add_json_option, add_store_options, print_problems
from harness.plugin.manager import installed
from harness.store.shared import shared_url
from harness.suite.presets import PRESETS, preset


def add_plan_command(commands: Any) -> None:
    """Declare the command on argparse's subparsers."""
    command = commands.add_parser(
        "plan", help="print a suite's cells, the artefacts to build and the estimated time; runs nothing"
    )
    command.add_argument("suite", type=Path)
    add_json_option(command)
    command.add_argument("--preset", default="quick", help=f"one of {', '.join(PRESETS)} (default: quick)")
    add_store_options(command)
    command.add_argument("--seeds", type=int, metavar="N", help="how many seeds of each matrix")
    command.add_argument("--data", metavar="DIR")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    command.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> None:
    from harness.run.options import Options
    from harness.run.plan_text import plan_document, plan_text
    from harness.run.session import Session
    from harness.suite.collect import cells_of, load

    size = preset(options.preset)
    if options.seeds is not None:
        size = dataclasses.replace(size, seeds=options.seeds, exact_seeds=True)
    plugins = installed()
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the plan alone, but a suite may print
        cells = [
            cell
            for name, matrix in load(options.suite).items()
            for cell in cells_of(matrix, name, options.suite.as_posix(), plugins, size, options.data)
        ]
        cells_by_name = {cell.name: cell for cell in cells}
        run_options = Options(size, options.store, options.data, options.device, shared=shared_url(options.shared))
        with Session(cells, cells_by_name, plugins, run_options, sys.stderr) as run:
            text = json.dumps(plan_document(run), indent=1) if options.json else plan_text(run)
    print(text)
    print_problems(plugins)
