"""Run ``harness doctor``: measure what this machine can resolve."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from harness.cli.common import add_json_option, add_margin_option

NOT_FIT = 1


def add_doctor_command(commands: Any) -> None:
    """Declare the command on argparse's subparsers."""
    command = commands.add_parser(
        "doctor",
        help="measure in half a minute what this machine can resolve, and advise; changes nothing",
        epilog="Exit code: 0 if the machine resolves the margin, 1 if it does not, 4 for a wrong option or if nothing "
        "could be timed.",
    )
    add_margin_option(command)
    command.add_argument(
        "--allocator",
        nargs="+",
        default=["system"],
        metavar="NAME",
        help="use the first allocator that is installed (default: system)",
    )
    add_json_option(command)
    command.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from harness.doctor.doctor import examine
    from harness.doctor.text import doctor_text

    diagnosis = examine(options.margin, options.allocator)
    print(json.dumps(dataclasses.asdict(diagnosis), indent=1) if options.json else doctor_text(diagnosis))
    return 0 if diagnosis.fit else NOT_FIT
