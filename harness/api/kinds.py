"""Define a kind of thing that plugins register: its name, its contract and the hook that brings it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of thing, as "study": ``contract`` is the class of which a value (``by_class``: a subclass) is registered.

    Plugins bring such things in the function ``hook``, which takes ``register``.
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
