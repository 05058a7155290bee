"""What a run of all checks of the kit's module comes to."""

from __future__ import annotations

from collections.abc import Callable

#: Runs the checks of a module with these fixtures: the text of each that failed, by its name.
Failures = Callable[..., dict[str, str]]
