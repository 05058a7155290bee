"""Run ``harness list``: print what the installed plugins register."""

from __future__ import annotations

import argparse
from typing import Any

from harness.plugin.manager import Registry, installed


def add_list_command(commands: Any) -> None:
    """Declare the command on argparse's subparsers."""
    command = commands.add_parser(
        "list", help="print what the installed plugins register, and which plugins were left out"
    )
    command.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> None:
    plugins = installed()
    for registry in plugins.registries.values():
        _print_registry(registry)
    for problem in plugins.problems:
        print(f"problem: {problem}")


def _print_registry(registry: Registry[Any]) -> None:
    print(registry.heading)
    for name in registry:
        item = registry.get(name)
        summary = getattr(item, "summary", "") or (item.__doc__ or "").strip().partition("\n")[0]
        print(f"  {name:<18} {summary}  [{registry.origin(name)}]")
