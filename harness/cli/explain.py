"""Run ``harness explain``: print what an artefact's key depends on, or how two keys differ."""

from __future__ import annotations

import argparse
import json
from typing import Any

from harness.cli.common import add_store_options, existing_store
from harness.errors import UsageError
from harness.keys import differences, schema_change
from harness.store.shared import SharedStore, shared_url


def add_explain_command(commands: Any) -> None:
    """Declare the command on argparse's subparsers."""
    command = commands.add_parser("explain", help="print what an artefact depends on, or why two keys differ")
    command.add_argument("keys", nargs="+", metavar="KEY", help="one or two keys, or their beginnings")
    add_store_options(command)
    command.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> None:
    from harness.store.local import Store

    url = shared_url(options.shared)
    root = options.store if url else existing_store(options.store)
    store = Store(root, SharedStore(url) if url else None, create=False)
    if len(options.keys) > 2:
        raise UsageError("explain takes one key or two")
    first, *rest = [store.lineage(key) for key in options.keys]
    if not rest:
        print(json.dumps(first, indent=1))
        return
    lines = list(differences(first, rest[0]))
    if (across_schemas := schema_change(first, rest[0])) is not None:
        lines.insert(0, across_schemas)
    print("\n".join(lines) if lines else "the two keys are the same")
