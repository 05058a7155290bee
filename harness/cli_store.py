"""The options of commands that name stores."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.errors import UsageError

STORE = Path(".harness")


def add_store(command: argparse.ArgumentParser) -> None:
    """Give a command the options ``--store`` and ``--shared``."""
    command.add_argument("--store", type=Path, default=STORE, metavar="DIR", help="(default: %(default)s)")
    command.add_argument(
        "--shared", metavar="URL", help="a store that machines share (default: the variable HARNESS_SHARED)"
    )


def existing(store: Path) -> Path:
    """The folder. Raises UsageError when there is none: who only looks must make none."""
    if not store.is_dir():
        raise UsageError(f"there is no store at {store}; name one with --store")
    return store
