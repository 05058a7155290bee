"""The command ``harness plugin``: new, check."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from harness.plugin.scaffold import KINDS, new, typed


def add_plugin_command(commands: Any) -> None:
    """Add ``harness plugin`` to the subcommands that argparse gave."""
    command = commands.add_parser("plugin", help="begin a plugin of your own, or check one that is installed")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser(
        "new",
        help="write a plugin's package, which works and is tested, to put your own method into",
        description="Write the package of a new plugin: one module that does something real and small, its tests, "
        "and for a compressor a suite.",
    )
    action.add_argument("kind", metavar="KIND", help=f"one of {', '.join(KINDS)}")
    action.add_argument(
        "name", metavar="NAME", help="as in low-rank: package harness-low-rank, and low_rank where suites name it"
    )
    action.add_argument("--into", type=Path, metavar="DIR", help="the package's folder (default: ./harness-NAME)")
    action.set_defaults(run=_new)
    action = actions.add_parser(
        "check",
        help="run the conformance kit on all that an installed plugin brings",
        epilog="Exit code: 0 when all passed, or was skipped with its reason, 1 when something failed, 4 for a name "
        "that is not there.",
    )
    action.add_argument("name", metavar="NAME", help="of its entry point (see harness list), distribution or module")
    action.set_defaults(run=_check)


def _new(options: argparse.Namespace) -> None:
    written = new(options.kind, options.name, options.into)
    shown = os.path.relpath(written.folder)
    print(f"wrote {shown}")
    for file in written.files:
        print(f"  {file}")
    print("\nnext:")
    for line in [f"cd {shlex.quote(shown)}"] * (shown != ".") + typed(written.commands):
        print(f"  {line}")


def _check(options: argparse.Namespace) -> int:
    from harness.testing.check import check

    return check(options.name)
