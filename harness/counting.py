"""Counts in words: one cell, two cells."""

from __future__ import annotations


def counted(count: int, thing: str) -> str:
    """A number of things: "1 cell", "2 cells"."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
