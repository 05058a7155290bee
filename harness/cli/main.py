"""The command ``harness``: list, plan, data, store, plugin, doctor, report, compare, history, explain."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from harness.cli.plugins import add_plugin_command
from harness.cli.runs import add_margin, add_run_commands
from harness.cli.store import add_store, add_store_command, existing
from harness.data.library import DEFAULT, status
from harness.errors import HarnessError, UsageError, explain_disk_errors
from harness.keys import differences, schema_change
from harness.plugin.manager import Registry, installed
from harness.progress import Display, log_to
from harness.store.shared import SharedStore, shared_url
from harness.suite.presets import PRESETS, preset

NOT_FIT, USAGE_ERROR, INTERRUPTED = 1, 4, 130
#: Commands of version 0.1 that are no part of the package any more, and where they went.
MOVED_COMMANDS = {"calibrate": "results/calibration/calibrate.py"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 4 for an error of use, 130 when interrupted, or the command's own."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and arguments[0] in MOVED_COMMANDS:
            command, script = arguments[0], MOVED_COMMANDS[arguments[0]]
            raise UsageError(
                f"the command {command} was moved to {script}; run it with python, the options are the same"
            )
        options = _parser().parse_args(arguments)
        with log_to(sys.stderr):
            code: int | None = options.run(options)
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


class Parser(argparse.ArgumentParser):
    """A parser whose errors are those of the command."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help says more)")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="harness", description="Benchmarks of compressed neural networks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="what the installed plugins bring, and which were left out")
    command.set_defaults(run=_list)

    command = commands.add_parser("plan", help="a suite's cells, what must be built and how long; runs nothing")
    command.add_argument("suite", type=Path)
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument("--preset", default="quick", help=f"one of {', '.join(PRESETS)} (default: quick)")
    add_store(command)
    command.add_argument("--data", metavar="DIR")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    command.set_defaults(run=_plan)

    command = commands.add_parser("data", help="find or fetch data sets")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("status", help="which data sets are found, and where")
    action.add_argument("--data", metavar="DIR")
    action.set_defaults(run=_data_status)
    action = actions.add_parser("fetch", help="download a data set, verified; goes on where it stopped")
    action.add_argument("name")
    action.add_argument("--data", metavar="DIR", help=f"fetch into DIR/NAME (default: {DEFAULT}/NAME)")
    action.set_defaults(run=_data_fetch)

    add_store_command(commands)
    add_plugin_command(commands)

    command = commands.add_parser(
        "doctor",
        help="what this machine can resolve, in half a minute, and what would improve it; changes nothing",
        epilog="Exit code: 0 when the machine is good enough for the margin, 1 when it is not, 4 for a wrong option or "
        "when nothing could be timed.",
    )
    add_margin(command)
    command.add_argument(
        "--allocator", nargs="+", default=["system"], metavar="NAME", help="the first that is found (default: system)"
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=_doctor)

    add_run_commands(commands)

    command = commands.add_parser("explain", help="what an artefact depends on, or why two have different keys")
    command.add_argument("keys", nargs="+", metavar="KEY", help="one or two keys, or their beginnings")
    add_store(command)
    command.set_defaults(run=_explain)
    return parser


def _list(options: argparse.Namespace) -> None:
    plugins = installed()
    for registry in plugins.registries.values():
        _list_one(registry)
    for problem in plugins.problems:
        print(f"problem: {problem}")


def _list_one(registry: Registry[Any]) -> None:
    print(registry.heading)
    for name in registry:
        item = registry.get(name)
        summary = getattr(item, "summary", "") or (item.__doc__ or "").strip().partition("\n")[0]
        print(f"  {name:<18} {summary}  [{registry.origin(name)}]")


def _plan(options: argparse.Namespace) -> None:
    from harness.run.plan_text import plan_document, plan_text
    from harness.run.session import Options, Session
    from harness.suite.collect import cells_of, load

    size = preset(options.preset)
    plugins = installed()
    with contextlib.redirect_stdout(sys.stderr):  # for the plan alone, whatever the suite prints
        cells = [
            cell
            for name, matrix in load(options.suite).items()
            for cell in cells_of(matrix, name, options.suite.as_posix(), plugins, size, options.data)
        ]
        known = {cell.name: cell for cell in cells}
        chosen = Options(size, options.store, options.data, options.device, shared=shared_url(options.shared))
        with Session(cells, known, plugins, chosen, sys.stderr) as run:
            text = json.dumps(plan_document(run), indent=1) if options.json else plan_text(run)
    print(text)
    for problem in plugins.problems:
        print(f"harness: {problem}", file=sys.stderr)


def _data_status(options: argparse.Namespace) -> None:
    print("\n".join(status(installed(), options.data)))


def _data_fetch(options: argparse.Namespace) -> None:
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


def _doctor(options: argparse.Namespace) -> int:
    from harness.doctor.doctor import examine
    from harness.doctor.text import doctor_text

    diagnosis = examine(options.margin, options.allocator)
    print(json.dumps(dataclasses.asdict(diagnosis), indent=1) if options.json else doctor_text(diagnosis))
    return 0 if diagnosis.fit else NOT_FIT


def _explain(options: argparse.Namespace) -> None:
    from harness.store.local import Store

    url = shared_url(options.shared)
    root = options.store if url else existing(options.store)
    store = Store(root, SharedStore(url) if url else None, create=False)
    if len(options.keys) > 2:
        raise UsageError("explain takes one key or two")
    first, *others = [store.lineage(key) for key in options.keys]
    if not others:
        print(json.dumps(first, indent=1))
        return
    lines = list(differences(first, others[0]))
    if (across_schemas := schema_change(first, others[0])) is not None:
        lines.insert(0, across_schemas)
    print("\n".join(lines) if lines else "the two keys are the same")


if __name__ == "__main__":
    sys.exit(main())
