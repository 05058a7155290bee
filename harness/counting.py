"""Counts and durations in words: one cell, two cells, 20 s, 3 min."""

from __future__ import annotations


def counted(count: int, thing: str) -> str:
    """A number of things: "1 cell", "2 cells"."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def about(seconds: float) -> str:
    """A guessed duration: seconds below a minute and a half, else minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
