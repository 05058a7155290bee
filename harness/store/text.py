"""Format the contents of a store, and what garbage collection removed, for the terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from harness.store.entry import Entry
from harness.store.gc import Garbage
from harness.text import pluralize


def status_text(name: str, entries: Sequence[Entry]) -> str:
    """Format a store as one line."""
    text = f"{name}: {_amount(entries)}"
    times = [entry.used for entry in entries if entry.used is not None]
    return f"{text}; last used: {_when(min(times))} the oldest, {_when(max(times))} the newest" if times else text


def entry_text(entry: Entry) -> str:
    """Format an artefact or a leftover: its name, its size, and its last use."""
    note = "" if entry.complete else "  incomplete"
    return f"{entry.name[:12]}  {_bytes(entry.size):>8}  last used {_when(entry.used)}{note}"


def garbage_text(garbage: Garbage, removed: Sequence[Entry], verb: str) -> str:
    """Summarize what was removed, or would be, and what is kept."""
    others = set(garbage.leftovers)
    artefacts = [entry for entry in removed if entry not in others]
    leftovers = [entry for entry in removed if entry in others]
    text = f"{verb} {_amount(artefacts)}"
    if leftovers:
        text += f", and {_bytes(sum(entry.size for entry in leftovers))} that interruptions left"
    text += f"; kept {_amount(garbage.kept)}"
    if garbage.missing:
        text += f"\n{len(garbage.missing)} of those that the kept runs name are not here"
    return text


def _amount(entries: Sequence[Entry]) -> str:
    return f"{pluralize(len(entries), 'artefact')}, {_bytes(sum(entry.size for entry in entries))}"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _when(seconds: float | None) -> str:
    return "?" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
