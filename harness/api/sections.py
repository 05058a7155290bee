"""Define what a plugin adds to the report: a section of paragraphs, tables and charts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

#: Stands in a cell of a table that has no value.
MISSING = "-"
NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+( %)?( \[[^\]]*\])?$")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts; every row has as many cells as there are ``headers``."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold only numbers or nothing; these are aligned to the right."""
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.headers)
        return tuple(all(NUMBER.match(cell) or cell in ("", MISSING) for cell in column) for column in columns)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A Vega-Lite chart: ``spec`` without data, and ``values``, its rows, which the specification calls "rows".

    ``kind`` ends the names of its files. The caption says in words what the chart shows.
    """

    kind: str
    title: str
    caption: str
    spec: Mapping[str, Any]
    values: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the report. Every part but the title may be empty; they appear in the order of the fields.

    ``text`` is preformatted and shown as it is; ``notes`` are a list below the tables. The terminal shows no charts.
    ``harness report RUN.json --section NAME`` prints a section alone by its ``name``, or else its title.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    text: str = ""
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    name: str = ""
    #: Leave it out of the report; print it only when the user asks for it by name.
    on_request: bool = False
    #: It could not be made, and ``paragraphs`` say why; printed alone, it ends the command with a usage error.
    failed: bool = False

    def __post_init__(self) -> None:
        """Raise TypeError for a part of another type, before a view fails on it."""
        wanted: dict[str, tuple[type, Sequence[object]]] = {
            "title": (str, [self.title]),
            "text": (str, [self.text]),
            "name": (str, [self.name]),
            "paragraphs": (str, self.paragraphs),
            "notes": (str, self.notes),
            "tables": (Table, self.tables),
            "charts": (Chart, self.charts),
        }
        for field, (kind, parts) in wanted.items():
            if isinstance(parts, str) or not all(isinstance(part, kind) for part in parts):
                raise TypeError(f"Section.{field} holds something else than {kind.__name__}")


@dataclasses.dataclass(frozen=True)
class ReportContext:
    """What a section is made for.

    ``section`` is the name of the only section that is shown, if the user asked for one. ``width`` is the number of
    columns of the terminal; it is None for a report that is written to a file. ``things`` are what plugins registered:
    by kind ("step", or a kind that a plugin publishes), then by name.
    """

    section: str | None
    width: int | None
    things: Mapping[str, Mapping[str, Any]]

    def wants(self, name: str) -> bool:
        """Whether the section of this name is shown if it exists; case does not matter."""
        return self.section is None or self.section.casefold() == name.casefold()


def sections_of(answer: object) -> list[Section] | None:
    """The sections that a plugin's hook returned: one, several, a title with a text, or nothing (None).

    Returns None for anything else.
    """
    if answer is None:
        return []
    if isinstance(answer, Section):
        return [answer]
    if isinstance(answer, tuple) and list(map(type, answer)) == [str, str]:
        title, text = answer
        return [Section(title, text=text)]
    if isinstance(answer, list | tuple) and all(isinstance(entry, Section) for entry in answer):
        return list(answer)
    return None
