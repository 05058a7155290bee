"""``harness plugin check NAME``: the conformance kit on all that a plugin registers, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from harness.errors import UsageError, nearest
from harness.plugin.manager import GROUP

CHILD = "import sys; from harness.testing.kit import main; sys.exit(main())"
#: The outcomes, the one that counts most first.
OUTCOMES = ("crashed", "failed", "skipped", "passed")


def check(name: str) -> int:
    """Check the plugin ``name``, an entry point, a distribution or an importable module; print what was found.

    Returns 0 when all passed (a skip has its reason), 1 when something failed. Raises UsageError for a name that is
    none of these, with the nearest.
    """
    codes = [_check(plugin, installed) for plugin, installed in _find(name)]
    return max(codes)


def _find(name: str) -> list[tuple[str, bool]]:
    """The entry points that are meant, or the module; nothing is imported."""
    points = list(entry_points(group=GROUP))
    distributions = {point.dist.name for point in points if point.dist is not None}
    for chosen in (
        [point for point in points if point.name == name],
        [point for point in points if point.dist is not None and _same(point.dist.name, name)],
        [point for point in points if point.module == name],
    ):
        if chosen:
            return [(point.name, True) for point in chosen]
    try:
        found = importlib.util.find_spec(name) if all(map(str.isidentifier, name.split("."))) else None
    except (ImportError, ValueError, AttributeError):
        found = None
    if found is None:
        known = {*(point.name for point in points), *(point.module for point in points), *distributions}
        raise UsageError(f"no plugin, distribution or module is called {name!r}{nearest(name, known)}")
    return [(name, False)]


def _same(one: str, other: str) -> bool:
    """Whether two names are one distribution's: - and _ are the same to packaging."""
    return one.lower().replace("_", "-") == other.lower().replace("_", "-")


def _check(plugin: str, installed: bool) -> int:
    from harness.measure.process import how_it_ended

    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines"
        lines.touch()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_DEBUG_TEMPROOT": folder,
            "HARNESS_CHECK_NAME": plugin,
            "HARNESS_CHECK_INSTALLED": "1" if installed else "0",
            "HARNESS_CHECK_LINES": str(lines),
        }
        environment.pop("PYTEST_ADDOPTS", None)
        done = subprocess.run(
            [sys.executable, "-c", CHILD], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        told = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    rows = _rows(told)
    begun = [line["begins"] for line in told if "begins" in line]
    ended = {line["ends"] for line in told if "ends" in line}
    if done.returncode not in (0, 1, 5):
        last = done.stdout.strip().rpartition("\n")[2]
        crashed = begun[-1].rpartition("::")[2] if begun and begun[-1] not in ended else "before the first check"
        reason = f"the process {how_it_ended(done.returncode)}; what comes after was not checked: {last}"
        rows.append({"thing": plugin, "check": crashed, "outcome": "crashed", "reason": reason})
    print(_told(plugin, rows))
    return int(any(row["outcome"] in ("failed", "crashed") for row in rows) or not rows)


def _rows(told: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A row for each check of each thing, however many networks it was tried on: its worst outcome, and why."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    tried: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in told:
        if "ends" in line:
            tried.setdefault((line["thing"], line["check"]), []).append(line)
    for (thing, name), lines in tried.items():
        worst = next(outcome for outcome in OUTCOMES if any(line["outcome"] == outcome for line in lines))
        found = [line for line in lines if line["outcome"] == worst]
        where = f"{len(found)} of {len(lines)} ways: " if 0 < len(found) < len(lines) and worst != "passed" else ""
        rows[thing, name] = {
            "thing": thing,
            "check": name.removeprefix("test_").replace("_", " "),
            "outcome": worst,
            "reason": where + found[0]["reason"],
        }
    order = list(dict.fromkeys(thing for thing, _ in rows))
    return sorted(rows.values(), key=lambda row: order.index(row["thing"]))


def _told(plugin: str, rows: Sequence[Mapping[str, str]]) -> str:
    from tabulate import tabulate

    failed = [row for row in rows if row["outcome"] in ("failed", "crashed")]
    table, above = [], ""
    for row in rows:  # a thing is named once, in its first row
        reason = "see below" if row in failed else row["reason"]
        table.append([row["thing"] if row["thing"] != above else "", row["check"], row["outcome"], reason])
        above = row["thing"]
    counts = {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in OUTCOMES}
    summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "nothing was checked"
    return "\n".join(
        [
            f"plugin {plugin}",
            tabulate(table, ["thing", "check", "outcome", "reason"], maxcolwidths=[40, 44, None, 60]),
            *(f"\n{row['check']}: {row['outcome']}\n{row['reason']}" for row in failed),
            f"\nplugin {plugin}: {summary}",
        ]
    )
