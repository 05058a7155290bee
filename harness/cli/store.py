"""The command ``harness store``: status, gc; and the options that name stores, for the other commands."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.store.shared import SharedStore, shared_url

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


def add_store_command(commands: Any) -> None:
    """Add ``harness store`` to the subcommands that argparse gave."""
    command = commands.add_parser("store", help="look into a store, or remove from it what no kept run needs")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("status", help="how many artefacts there are, how large and how old")
    add_store(action)
    action.set_defaults(run=_status)
    action = actions.add_parser(
        "gc",
        help="remove artefacts that are not needed",
        description="Remove the artefacts that no kept run names, that none of its models came from, and that no run "
        "has made or used for a while.",
    )
    action.add_argument(
        "--keep",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="RUN.json",
        help="the runs that still count",
    )
    action.add_argument("--keep-nothing", action="store_true", help="no run counts any more")
    place = action.add_mutually_exclusive_group()
    place.add_argument("--store", type=Path, default=STORE, metavar="DIR", help="where (default: %(default)s)")
    place.add_argument("--shared", metavar="URL", help="where instead; the variable HARNESS_SHARED does not count here")
    action.add_argument(
        "--older-than",
        default="1d",
        metavar="AGE",
        help="not used for so long, longer than a run takes: 12h, 7d (default: %(default)s)",
    )
    action.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    action.set_defaults(run=_gc)


def _status(options: argparse.Namespace) -> None:
    from harness.store.local import Store
    from harness.store.text import status_text

    url = shared_url(options.shared)
    if options.store.is_dir() or url is None:
        print(status_text(str(options.store), Store(existing(options.store), create=False).entries()))
    if url is not None:
        shared = SharedStore(url)
        print(status_text(shared.url, shared.entries()))


def _gc(options: argparse.Namespace) -> None:
    from harness.store.gc import age, find, named
    from harness.store.local import Store
    from harness.store.text import entry_text, garbage_text

    if bool(options.keep) == options.keep_nothing:
        raise UsageError("gc removes what no kept run names: give --keep RUN.json ..., or else --keep-nothing")
    before = time.time() - age(options.older_than)
    kept = named(options.keep)
    local = options.shared is None
    place = Store(existing(options.store), create=False) if local else SharedStore(options.shared)
    garbage = find(place, kept, before)
    verb = "would remove" if options.dry_run else "removed"
    removed = []
    for entry in (*garbage.artefacts, *garbage.leftovers):
        if options.dry_run or place.remove(entry):
            removed.append(entry)
            print(f"{verb} {entry_text(entry)}", flush=True)
    print(garbage_text(garbage, removed, verb))
