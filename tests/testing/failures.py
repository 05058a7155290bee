"""The type of the fixture ``failures``."""

from __future__ import annotations

from collections.abc import Callable

#: Runs the checks of a module with these fixtures; returns the messages of the failed ones by name.
Failures = Callable[..., dict[str, str]]
