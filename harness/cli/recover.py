"""Run ``harness recover``: make a run file of the journal that an interrupted run left."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness.errors import UsageError


def add_recover_command(commands: Any) -> None:
    """Declare the command on argparse's subparsers."""
    command = commands.add_parser("recover", help="make a run file of the cells that an interrupted run measured")
    command.add_argument("journal", type=Path, metavar="RUN.json.DATE.journal", help="the file that the run left")
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="RUN.json", help="the run file; the journal is then removed"
    )
    command.set_defaults(run=_recover)


def _recover(options: argparse.Namespace) -> None:
    from harness.files import atomic_write
    from harness.records.journal import SUFFIX, count_cells, is_running
    from harness.records.runs import load

    journal, output = options.journal, options.output
    if not journal.name.endswith(SUFFIX):
        raise UsageError(f"{journal} is no journal: the name of one ends with {SUFFIX}")
    if is_running(journal):
        raise UsageError(f"the run that writes {journal} goes on; wait for its end")
    if output.exists():
        raise UsageError(f"{output} exists; name another file with -o")
    document, _ = load(journal)
    with atomic_write(output, "or name another file with -o") as temporary:
        temporary.write_text(json.dumps(document, indent=4), encoding="utf-8")
    journal.unlink()
    print(f"{output} has {count_cells(document)}; the others are listed as not measured")
