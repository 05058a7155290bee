"""Run ``harness history``: print and draw how figures changed over many runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.cli.common import add_json_option, add_margin_option
from harness.text import DEFAULT_MARGIN


def add_history_command(commands: Any) -> None:
    """Declare the command on argparse's subparsers."""
    command = commands.add_parser(
        "history", help="print how figures changed over runs on each machine, and what else changed"
    )
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN.json", help="runs, or folders of runs")
    command.add_argument("--all", action="store_true", help="list figures without a change too")
    command.add_argument("--figure", type=Path, metavar="FILE", help="draw the ratios: *.svg, *.png or *.pdf")
    add_json_option(command)
    add_margin_option(command)
    command.set_defaults(
        run=lambda options: print_history(
            options.runs, options.margin, everything=options.all, as_json=options.json, figure=options.figure
        )
    )


def print_history(
    files: Sequence[Path],
    margin: float = DEFAULT_MARGIN,
    *,
    everything: bool = False,
    as_json: bool = False,
    figure: Path | None = None,
) -> None:
    """Print the history of run files, or folders of them, as text or JSON; draw it if a figure is named."""
    from harness.records.runs import collect

    if figure is not None:
        from harness.history.figure import check_suffix

        check_suffix(figure)
    runs, remarks = collect(files)
    from harness.history.series import history
    from harness.history.text import history_document, history_text
    from harness.text import printable

    model = history(runs, margin)
    for remark in remarks:
        print(f"harness: {printable(remark)}", file=sys.stderr)
    if as_json:
        print(json.dumps(history_document(model, remarks), indent=1))
    else:
        print(history_text(model, shutil.get_terminal_size((120, 40)).columns, everything))
    if figure is not None:
        from harness.history.figure import draw

        draw(model, figure)
