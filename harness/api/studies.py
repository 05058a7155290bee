"""What was published, to be set beside what is measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclasses.dataclass(frozen=True)
class Study:
    """A published study, to set beside what is measured: ``file`` is its TOML (``harness.studies.document``).

    The file is read when the study is first asked for.
    """

    name: str
    file: Path
    summary: str = ""
