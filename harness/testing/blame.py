"""How a check of the kit fails: what it looked at, what it wants, what it got, and how to mend it."""

from __future__ import annotations

from typing import NoReturn

import pytest


def fail_check(thing: object, *, wanted: str, got: str, fix: str) -> NoReturn:
    """Fail the running test with a text that the author of ``thing`` can act on."""
    __tracebackhide__ = True
    pytest.fail(f"{thing}\nwanted: {wanted}\ngot:    {got}\nfix:    {fix}", pytrace=False)


def some(findings: list[str], most: int = 4) -> str:
    """A few of the findings, in one line."""
    more = f", and {len(findings) - most} more" if len(findings) > most else ""
    return "; ".join(findings[:most]) + more
