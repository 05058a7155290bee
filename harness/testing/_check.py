"""Run the conformance kit on what a plugin registers, in its own process: ``harness plugin check NAME``."""

from __future__ import annotations

import contextlib
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

from harness.api import Progress
from harness.errors import UsageError, nearest
from harness.plugin.manager import GROUP
from harness.progress import Display

CHILD = "import sys; from harness.testing._kit import main; sys.exit(main())"
#: The outcomes, the worst first.
OUTCOMES = ("crashed", "failed", "skipped", "passed")


def check(name: str, thing: str | None = None) -> int:
    """Check the plugin ``name``, an entry point, a distribution or an importable module, and print the results.

    ``thing`` names the only object to check. Returns 0 if no check failed, else 1. Raises UsageError, with the nearest
    name, if there is no such plugin, or none of those found registers ``thing``.
    """
    codes: list[int] = []
    errors: list[UsageError] = []
    for plugin, installed in _find(name):
        try:
            codes.append(_check(plugin, installed, thing))
        except UsageError as error:
            errors.append(error)
    if not codes:
        raise errors[0]
    return max(codes)


def _find(name: str) -> list[tuple[str, bool]]:
    """The entry points (True) or the module (False) with this name; imports nothing."""
    points = list(entry_points(group=GROUP))
    distributions = {point.dist.name for point in points if point.dist is not None}
    for matches in (
        [point for point in points if point.name == name],
        [point for point in points if point.dist is not None and _same(point.dist.name, name)],
        [point for point in points if point.module == name],
    ):
        if matches:
            return [(point.name, True) for point in matches]
    try:
        spec = importlib.util.find_spec(name) if all(map(str.isidentifier, name.split("."))) else None
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None:
        known = {*(point.name for point in points), *(point.module for point in points), *distributions}
        raise UsageError(f"no plugin, distribution or module is called {name!r}{nearest(name, known)}")
    return [(name, False)]


def _same(one: str, other: str) -> bool:
    """Whether two names are the same distribution, for which - and _ are equivalent."""
    return one.lower().replace("_", "-") == other.lower().replace("_", "-")


def _check(plugin: str, installed: bool, thing: str | None) -> int:
    from harness.measure.process import how_it_ended

    with tempfile.TemporaryDirectory() as folder:
        lines, output = Path(folder) / "lines", Path(folder) / "output"
        lines.touch()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_DEBUG_TEMPROOT": folder,
            "HARNESS_CHECK_NAME": plugin,
            "HARNESS_CHECK_INSTALLED": "1" if installed else "0",
            "HARNESS_CHECK_THING": thing or "",
            "HARNESS_CHECK_LINES": str(lines),
        }
        environment.pop("PYTEST_ADDOPTS", None)
        with output.open("w") as file, Display(sys.stderr).step(f"checking plugin {plugin}") as progress:
            process = subprocess.Popen(
                [sys.executable, "-c", CHILD], env=environment, stdout=file, stderr=subprocess.STDOUT
            )
            try:
                while process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=0.2)
                    _show(_read(lines), progress)
            finally:
                process.kill()
                process.wait()
        log = _read(lines)
        last = output.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    if wrong := [line["wrong"] for line in log if "wrong" in line]:
        raise UsageError(wrong[0])
    rows = _rows(log)
    begun = [line["begins"] for line in log if "begins" in line]
    ended = {line["ends"] for line in log if "ends" in line}
    unfinished = bool(begun) and begun[-1] not in ended
    if unfinished or process.returncode not in (0, 1, 5):  # a plugin may end the process with any status
        crashed = begun[-1].rpartition("::")[2] if unfinished else "before the first check"
        reason = f"the process {how_it_ended(process.returncode)}; later checks did not run: {last}"
        rows.append({"object": plugin, "check": crashed, "outcome": "crashed", "reason": reason})
    print(_format(plugin, rows))
    return int(any(row["outcome"] in ("failed", "crashed") for row in rows) or not rows)


def _read(lines: Path) -> list[dict[str, Any]]:
    """The complete lines that the child wrote so far."""
    return [json.loads(line) for line in lines.read_text(encoding="utf-8").split("\n")[:-1]]


def _show(log: Sequence[Mapping[str, Any]], progress: Progress) -> None:
    """Report the checks that ended, of how many, and the one that runs."""
    total = [line["total"] for line in log if "total" in line]
    begun = [line["begins"] for line in log if "begins" in line]
    if total and begun:
        ended = len({line["ends"] for line in log if "ends" in line})
        progress(ended, total[0], begun[-1].rpartition("::")[2])


def _rows(log: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row per object and check, with the worst outcome over all networks and its reason."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    outcomes: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in log:
        if "ends" in line:
            outcomes.setdefault((line["object"], line["check"]), []).append(line)
    for (subject, name), lines in outcomes.items():
        worst = next(outcome for outcome in OUTCOMES if any(line["outcome"] == outcome for line in lines))
        worst_lines = [line for line in lines if line["outcome"] == worst]
        is_partial = len(worst_lines) < len(lines) and worst != "passed"
        share = f"{len(worst_lines)} of {len(lines)} cases: " if is_partial else ""
        rows[subject, name] = {
            "object": subject,
            "check": name.removeprefix("test_").replace("_", " "),
            "outcome": worst,
            "reason": share + worst_lines[0]["reason"],
        }
    order = list(dict.fromkeys(subject for subject, _ in rows))
    return sorted(rows.values(), key=lambda row: order.index(row["object"]))


def _format(plugin: str, rows: Sequence[Mapping[str, str]]) -> str:
    from tabulate import tabulate

    failed = [row for row in rows if row["outcome"] in ("failed", "crashed")]
    table, previous = [], ""
    for row in rows:  # only the first row of an object names it
        reason = "see below" if row in failed else row["reason"]
        table.append([row["object"] if row["object"] != previous else "", row["check"], row["outcome"], reason])
        previous = row["object"]
    counts = {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in OUTCOMES}
    summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "nothing was checked"
    return "\n".join(
        [
            f"plugin {plugin}",
            tabulate(table, ["object", "check", "outcome", "reason"], maxcolwidths=[40, 44, None, 60]),
            *(f"\n{row['check']}: {row['outcome']}\n{row['reason']}" for row in failed),
            f"\nplugin {plugin}: {summary}",
        ]
    )
