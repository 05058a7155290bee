"""Run ``harness store``: print what a store holds, and remove artefacts that no run needs."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from harness.cli.common import STORE, add_store_options, existing_store
from harness.errors import UsageError
from harness.store.shared import SharedStore, shared_url


def add_store_command(commands: Any) -> None:
    """Declare the command and its actions on argparse's subparsers."""
    command = commands.add_parser("store", help="show what a store holds, or remove artefacts that no run needs")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("status", help="print the number of artefacts, their size and age")
    add_store_options(action)
    action.set_defaults(run=_status)
    action = actions.add_parser(
        "gc",
        help="remove artefacts that are not needed",
        description="Remove artefacts that no kept run needs, directly or as an ancestor, and that no run has used "
        "recently.",
    )
    action.add_argument(
        "--keep",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="RUN.json",
        help="the runs whose artefacts stay",
    )
    action.add_argument("--keep-nothing", action="store_true", help="keep the artefacts of no run")
    place = action.add_mutually_exclusive_group()
    place.add_argument("--store", type=Path, default=STORE, metavar="DIR", help="the store (default: %(default)s)")
    place.add_argument("--shared", metavar="URL", help="a shared store instead; HARNESS_SHARED is ignored here")
    action.add_argument(
        "--older-than",
        default="1d",
        metavar="AGE",
        help="only artefacts unused for this long, such as 12h or 7d; more than a run takes (default: %(default)s)",
    )
    action.add_argument("--dry-run", action="store_true", help="print what would be removed, and remove nothing")
    action.set_defaults(run=_gc)


def _status(options: argparse.Namespace) -> None:
    from harness.store.local import Store
    from harness.store.text import status_text

    url = shared_url(options.shared)
    if options.store.is_dir() or url is None:
        print(status_text(str(options.store), Store(existing_store(options.store), create=False).entries()))
    if url is not None:
        shared = SharedStore(url)
        print(status_text(shared.url, shared.entries()))


def _gc(options: argparse.Namespace) -> None:
    from harness.store.gc import age, find, named
    from harness.store.local import Store
    from harness.store.text import entry_text, garbage_text

    if bool(options.keep) == options.keep_nothing:
        raise UsageError("gc needs to know which runs to keep: give --keep RUN.json ..., or --keep-nothing")
    before = time.time() - age(options.older_than)
    needed = named(options.keep)
    local = options.shared is None
    place = Store(existing_store(options.store), create=False) if local else SharedStore(options.shared)
    garbage = find(place, needed, before)
    verb = "would remove" if options.dry_run else "removed"
    removed = []
    for entry in (*garbage.artefacts, *garbage.leftovers):
        if options.dry_run or place.remove(entry):
            removed.append(entry)
            print(f"{verb} {entry_text(entry)}", flush=True)
    print(garbage_text(garbage, removed, verb))
