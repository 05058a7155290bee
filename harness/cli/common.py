"""Declare the options, and print the warnings, that several commands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.errors import UsageError
from harness.plugin.manager import Plugins
from harness.text import DEFAULT_MARGIN, parse_margin

STORE = Path(".harness")


def add_store_options(command: argparse.ArgumentParser) -> None:
    """Declare ``--store`` and ``--shared``."""
    command.add_argument("--store", type=Path, default=STORE, metavar="DIR", help="(default: %(default)s)")
    command.add_argument(
        "--shared", metavar="URL", help="a store that machines share (default: the variable HARNESS_SHARED)"
    )


def add_margin_option(command: argparse.ArgumentParser) -> None:
    """Declare ``--margin``."""
    command.add_argument(
        "--margin",
        type=parse_margin,
        default=f"{100 * DEFAULT_MARGIN:g}%",
        help="the relative change that matters, as 1%% or 0.01 (default: %(default)s)",
    )


def add_json_option(command: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    command.add_argument("--json", action="store_true", help="print JSON, for programs")


def existing_store(folder: Path) -> Path:
    """Return the folder. Raises UsageError if it does not exist: a command that only reads creates no store."""
    if not folder.is_dir():
        raise UsageError(f"no store at {folder}; name one with --store")
    return folder


def print_problems(plugins: Plugins) -> None:
    """Print the plugins' problems to standard error."""
    for problem in plugins.problems:
        print(f"harness: {problem}", file=sys.stderr)
