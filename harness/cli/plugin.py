"""Run ``harness plugin``: create the package of a plugin, or check an installed one."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from harness.plugin.scaffold import KINDS, new, typed


def add_plugin_command(commands: Any) -> None:
    """Declare the command and its actions on argparse's subparsers."""
    command = commands.add_parser("plugin", help="create the package of a plugin, or check an installed plugin")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser(
        "new",
        help="write the package of a working, tested plugin, as a start for your own method",
        description="Write the package of a new plugin: a module with a small working example, its tests, and "
        "for a compressor a suite.",
    )
    action.add_argument("kind", metavar="KIND", help=f"one of {', '.join(KINDS)}")
    action.add_argument(
        "name", metavar="NAME", help="such as low-rank: the package is harness-low-rank, and suites name it low_rank"
    )
    action.add_argument("--into", type=Path, metavar="DIR", help="the package's folder (default: ./harness-NAME)")
    action.set_defaults(run=_new)
    action = actions.add_parser(
        "check",
        help="run the conformance kit on what an installed plugin registers",
        epilog="Exit code: 0 if every check passed or was skipped with a reason, 1 if one failed, 4 for an unknown "
        "name.",
    )
    action.add_argument("name", metavar="NAME", help="its entry point (see harness list), distribution or module")
    action.add_argument(
        "thing", nargs="?", metavar="THING", help="check this step, network, data set, metric or runtime alone"
    )
    action.set_defaults(run=_check)


def _new(options: argparse.Namespace) -> None:
    package = new(options.kind, options.name, options.into)
    folder = os.path.relpath(package.folder)
    print(f"wrote {folder}")
    for file in package.files:
        print(f"  {file}")
    print("\nnext:")
    for line in [f"cd {shlex.quote(folder)}"] * (folder != ".") + typed(package.commands):
        print(f"  {line}")


def _check(options: argparse.Namespace) -> int:
    from harness.testing._check import check

    return check(options.name, options.thing)
