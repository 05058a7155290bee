"""Parse the command ``harness`` and run one of its subcommands, one module each in this package."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from harness.cli.compare import add_compare_command
from harness.cli.data import add_data_command
from harness.cli.doctor import add_doctor_command
from harness.cli.explain import add_explain_command
from harness.cli.history import add_history_command
from harness.cli.list import add_list_command
from harness.cli.plan import add_plan_command
from harness.cli.plugin import add_plugin_command
from harness.cli.recover import add_recover_command
from harness.cli.report import add_report_command
from harness.cli.store import add_store_command
from harness.errors import FULL_DISK, HarnessError, UsageError, nearest
from harness.plugin.manager import KERNEL
from harness.progress import log_to

USAGE_ERROR, INTERRUPTED = 4, 130
#: Commands of version 0.1 that became scripts.
MOVED_COMMANDS = {"calibrate": "results/calibration/calibrate.py"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code: 0, 4 for a usage error, 130 if interrupted, or the subcommand's own."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and arguments[0] in MOVED_COMMANDS:
            command, script = arguments[0], MOVED_COMMANDS[arguments[0]]
            raise UsageError(
                f"the command {command} was moved to {script}; run it with python, the options are the same"
            )
        if not arguments:
            _parser().print_help()
            return 0
        options = _parser().parse_args(arguments)
        with log_to(sys.stderr):
            code: int | None = options.run(options)
        sys.stdout.flush()
        return code or 0
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("harness: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        print("harness: the disk is full: free some space, and run the command again", file=sys.stderr)
        with contextlib.suppress(OSError):
            sys.stdout.close()  # Python would write the rest at exit, and fail again
        return USAGE_ERROR


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError, with the nearest valid words for a wrong command or choice."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = (
                "command" if isinstance(action, argparse._SubParsersAction) else f"value of {action.option_strings[-1]}"
            )
            self.error(f"there is no {what} {value!r}{nearest(str(value), map(str, action.choices))}")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="harness", description="Benchmarks of compressed neural networks.")
    parser.add_argument("--version", action="version", version=f"{KERNEL.distribution} {KERNEL.version}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_list_command(commands)
    add_plan_command(commands)
    add_data_command(commands)
    add_store_command(commands)
    add_plugin_command(commands)
    add_doctor_command(commands)
    add_recover_command(commands)
    add_report_command(commands)
    add_compare_command(commands)
    add_history_command(commands)
    add_explain_command(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
