"""Run ``harness data``: show where data sets are, and download them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from harness.cli.common import add_json_option
from harness.data.library import DEFAULT, status
from harness.errors import UsageError, explain_disk_errors
from harness.plugin.manager import installed
from harness.progress import Display


def add_data_command(commands: Any) -> None:
    """Declare the command and its actions on argparse's subparsers."""
    command = commands.add_parser("data", help="find or download data sets")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("status", help="print where data sets are")
    action.add_argument("--data", metavar="DIR")
    add_json_option(action)
    action.set_defaults(run=_status)
    action = actions.add_parser("fetch", help="download and verify a data set; continues an interrupted download")
    action.add_argument("name")
    action.add_argument("--data", metavar="DIR", help=f"download into DIR/NAME (default: {DEFAULT}/NAME)")
    action.set_defaults(run=_fetch)


def _status(options: argparse.Namespace) -> None:
    states = list(status(installed(), options.data))
    print(json.dumps(list(map(dataclasses.asdict, states)), indent=1) if options.json else "\n".join(map(str, states)))


def _fetch(options: argparse.Namespace) -> None:
    plugins = installed()
    dataset = plugins.datasets.get(options.name)
    folder = (Path(options.data) if options.data else DEFAULT) / dataset.name
    with explain_disk_errors(f"cannot make the folder {folder}", "or choose another with --data"):
        folder.mkdir(parents=True, exist_ok=True)
    display = Display(sys.stderr)
    with display.step(f"fetch {dataset.name}") as progress:
        plugins.call(dataset, "fetch", folder, progress)
    if not plugins.call(dataset, "matches", folder):
        raise UsageError(f"{folder} is still not a complete {dataset.name}; fetch again")
    print(f"{dataset.name} is in {folder}")
