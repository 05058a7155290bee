"""The command ``harness``: list, plan, data, report, explain."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.datasets import DEFAULT, status
from harness.errors import HarnessError, UsageError, explain_disk_errors
from harness.keys import differences
from harness.plugins import Registry, installed
from harness.presets import PRESETS, preset
from harness.progress import Display

USAGE_ERROR, INTERRUPTED = 4, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 4 for an error of use, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("harness: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="harness", description="Benchmarks of compressed neural networks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="what the installed plugins bring, and which were left out")
    command.set_defaults(run=_list)

    command = commands.add_parser("plan", help="a suite's cells, what must be built and how long; runs nothing")
    command.add_argument("suite", type=Path)
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument("--preset", default="quick", help=f"one of {', '.join(PRESETS)} (default: quick)")
    command.add_argument("--store", type=Path, default=Path(".harness"))
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

    command = commands.add_parser(
        "report", help="the tables of one or more runs; of a cell that is in several, the last counts"
    )
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN.json")
    command.set_defaults(run=_report)

    command = commands.add_parser("explain", help="what an artefact depends on, or why two have different keys")
    command.add_argument("keys", nargs="+", metavar="KEY", help="one or two keys, or their beginnings")
    command.add_argument("--store", type=Path, default=Path(".harness"))
    command.set_defaults(run=_explain)
    return parser


def _list(options: argparse.Namespace) -> None:
    plugins = installed()
    for registry in (plugins.datasets, plugins.architectures, plugins.steps, plugins.metrics, plugins.runtimes):
        _list_one(registry)
    for problem in plugins.problems:
        print(f"left out: {problem}")


def _list_one(registry: Registry[Any]) -> None:
    print(f"{registry.kind}s")
    for name in registry:
        item = registry.get(name)
        about = getattr(item, "about", "") or (item.__doc__ or "").strip().partition("\n")[0]
        print(f"  {name:<18} {about}  [{registry.origin(name)}]")


def _plan(options: argparse.Namespace) -> None:
    from harness.report.plan import plan_document, plan_text
    from harness.session import Options, Session
    from harness.suite import cells_of, load

    size = preset(options.preset)
    plugins = installed()
    cells = [
        cell
        for name, matrix in load(options.suite).items()
        for cell in cells_of(matrix, name, options.suite.as_posix(), plugins, size, options.data)
    ]
    known = {cell.name: cell for cell in cells}
    chosen = Options(size, options.store, options.data, options.device)
    with Session(cells, known, plugins, chosen, sys.stderr) as run:
        print(json.dumps(plan_document(run), indent=1) if options.json else plan_text(run))


def _data_status(options: argparse.Namespace) -> None:
    status(installed(), options.data, print)


def _data_fetch(options: argparse.Namespace) -> None:
    plugins = installed()
    dataset = plugins.datasets.get(options.name)
    folder = (Path(options.data) if options.data else DEFAULT) / dataset.name
    with explain_disk_errors(f"cannot make the folder {folder}", "or choose another with --data"):
        folder.mkdir(parents=True, exist_ok=True)
    with Display(sys.stderr).step(f"fetch {dataset.name}") as progress:
        dataset.fetch(folder, progress)
    if not dataset.recognises(folder):
        raise UsageError(f"{folder} is still not a complete {dataset.name}; fetch again")
    print(f"{dataset.name} is in {folder}")


def _report(options: argparse.Namespace) -> None:
    from harness.record import read
    from harness.report.tables import tables

    newest = {(r["suite"], r["matrix"], r["cell"], r["preset"]): r for file in options.runs for r in read(file)}
    try:
        print(tables(list(newest.values()), shutil.get_terminal_size((120, 40)).columns))
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"a record of {', '.join(map(str, options.runs))} is damaged: {error!r}") from error


def _explain(options: argparse.Namespace) -> None:
    from harness.store import Store

    if not options.store.is_dir():
        raise UsageError(f"there is no store at {options.store}; name one with --store")
    store = Store(options.store, lambda text: print(text, file=sys.stderr))
    if len(options.keys) > 2:
        raise UsageError("explain takes one key or two")
    first, *others = [store.lineage(key) for key in options.keys]
    if not others:
        print(json.dumps(first, indent=1))
        return
    lines = list(differences(first, others[0]))
    print("\n".join(lines) if lines else "the two keys are the same")


if __name__ == "__main__":
    sys.exit(main())
