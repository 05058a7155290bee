"""Define a kind of thing that plugins register: its name, its contract and the hook that brings it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of thing, such as "study". Plugins register instances of ``contract``, or subclasses if ``by_class``.

    They do so in the function ``hook``, which takes ``register``.
    """

    name: str
    contract: type
    hook: str
    by_class: bool = False
    plural: str = ""

    @property
    def heading(self) -> str:
        """The plural."""
        return self.plural or f"{self.name}s"
