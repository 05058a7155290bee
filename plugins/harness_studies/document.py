"""Read a study's TOML file: the published figures, the cells that they describe, and findings that are orderings.

::

    title, citation, doi, task                 # texts
    runs = 5                                   # the number of runs in a published mean, unless a table gives another
    dataset = "ptbxl"                          # the data set of cells whose parts name no other
    stand_ins.mimic3 = ["physionet2012"]       # other data of the same task; figures on them reproduce nothing
    notes = ["..."]

    [figures.auroc]                            # the figure of a metric; "training" is the steps' seconds
    name = "auroc"                             # if the entry has another name
    label = "AUROC"
    digits = 4
    margin = 0.005                             # judged by an interval; or
    # tolerance = 0.01, overhead = 1.0         # judged exactly, within this share plus this amount; or
    # apart = "another machine"                # not judged, for this reason
    # exact = true                             # has no uncertainty (implied by a tolerance)
    scale = "ratio"                            # how two cells are compared; else "difference"
    presets = ["study"]                        # the presets that count; else "quick" too

    [parts."keep 75 %"]                        # cells consist of parts: architecture, dataset, runtime, profile, steps
    steps = [{ step = "prune", keep = 0.75, norm = ["l1", "l2"], rounds = [1, 5, 10] }]

    [[table]]
    title = "AUROC, RNN"
    where = "Results"
    figure = "auroc"
    parts = ["rnn"]                            # of all its cells; "{row}" and "{column}" are replaced by their names
    choice = ["rounds", "norm"]                # parameters that were chosen for each cell; the best is published
    columns = [{ name = "100 %" }, { name = "61.45 %", parts = ["keep 75 %"] }]
    rows = [{ name = "M_Q", parts = ["plain"], then = ["int8"], values = [[0.9156, 0.0008], [0.9155, 0.0010, "1/L1"]] }]

    [[finding]]
    claim = "int8 is slower than float once the CNN is pruned"
    where = "Results, latency"
    figure = "latency"
    relation = "above"                         # a above b; or below, same, not below, not above
    margin = 0.01                              # for the last three
    a = ["cnn", "plain", "{level}", "int8"]
    b = ["cnn", "plain", "{level}"]
    over.level = ["keep 75 %", "keep 50 %"]    # one pair for each; "{level[0]}" is the first item of a list

A cell's recipe joins the steps of its parts, in the order table, row, column, ``then`` of the row. It is matched with
the steps of a record. A parameter that the study does not name must have the step's default, a list allows several
values, and "" means that the suite left the parameter open. A value is a number, [mean, standard deviation], or the two
with the choice; [] leaves the entry empty.
"""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from harness.errors import UsageError, nearest


@dataclasses.dataclass(frozen=True)
class Study:
    """A published study. ``file`` is its TOML file in the form above; it is read when a report needs the study."""

    name: str
    file: Path
    summary: str = ""


Relation = Literal["above", "below", "same", "not below", "not above"]
#: A step's parameters with their allowed values, in the order of the study's file.
Parameters = tuple[tuple[str, tuple[Any, ...]], ...]


@dataclasses.dataclass(frozen=True)
class StepPattern:
    """A step that a cell's recipe must have."""

    step: str
    parameters: Parameters = ()


@dataclasses.dataclass(frozen=True)
class CellSpec:
    """The cell that a published figure describes, composed of ``parts``; the study's own data set is the first."""

    parts: tuple[str, ...] = dataclasses.field(compare=False)
    datasets: tuple[str, ...]
    architecture: str
    runtime: str
    profile: tuple[tuple[str, Any], ...]
    steps: tuple[StepPattern, ...]

    def __str__(self) -> str:
        return ", ".join(self.parts)


@dataclasses.dataclass(frozen=True)
class FigureSpec:
    """A figure of the study: how it is shown and judged (see the module's docstring)."""

    name: str
    label: str
    unit: str = ""
    digits: int = 4
    margin: float | None = None
    tolerance: float | None = None
    overhead: float = 0.0
    apart: str = ""
    exact: bool = False
    scale: Literal["difference", "ratio"] = "difference"
    presets: tuple[str, ...] = ("quick", "study")


@dataclasses.dataclass(frozen=True)
class Published:
    """A published figure, its standard deviation over ``runs`` if the study states it, and the best choice."""

    value: float
    spread: float | None = None
    runs: int = 1
    choice: str = ""


@dataclasses.dataclass(frozen=True)
class Place:
    """One entry of a published table; ``choice`` names the parameters that were chosen for it."""

    table: str
    where: str
    row: str
    column: str
    figure: FigureSpec
    cell: CellSpec
    published: Published
    choice: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Claim:
    """A finding that is an ordering: in each named pair, ``relation`` holds between the figures of the two cells."""

    claim: str
    where: str
    figure: FigureSpec
    relation: Relation
    margin: float
    pairs: tuple[tuple[str, CellSpec, CellSpec], ...]


@dataclasses.dataclass(frozen=True)
class Document:
    """The content of a study's file."""

    name: str
    title: str
    citation: str
    doi: str
    task: str
    notes: tuple[str, ...]
    places: tuple[Place, ...]
    claims: tuple[Claim, ...]


def read(study: Study) -> Document:
    """Read the study's file. Raises UsageError, with file and place, if it does not have the form above."""
    try:
        content = tomllib.loads(study.file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"study {study.name}: {study.file} cannot be read as TOML: {error}") from error
    try:
        return _Reader(study.name, content).document()
    except KeyError as error:
        raise UsageError(f"study {study.name}: {study.file} has no entry {error}: add it") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"study {study.name}: {study.file} does not have the form of a study: {error}") from error
    except UsageError as error:
        raise UsageError(f"study {study.name}: {study.file}: {error}") from error


class _Reader:
    def __init__(self, name: str, content: Mapping[str, Any]) -> None:
        self.name = name
        self.content = content
        self.parts: Mapping[str, Mapping[str, Any]] = content.get("parts", {})
        self.figures = {key: _figure(key, entry) for key, entry in content.get("figures", {}).items()}

    def document(self) -> Document:
        texts = {key: str(self.content[key]) for key in ("title", "citation", "doi", "task")}
        places = tuple(place for table in self.content.get("table", ()) for place in self._places(table))
        claims = tuple(self._claim(entry) for entry in self.content.get("finding", ()))
        return Document(self.name, **texts, notes=tuple(self.content.get("notes", ())), places=places, claims=claims)

    def _places(self, table: Mapping[str, Any]) -> Iterator[Place]:
        columns = table["columns"]
        for row in table["rows"]:
            if len(row["values"]) != len(columns):
                where = f"table {table['title']!r}, row {row['name']!r}"
                raise UsageError(
                    f"{where} has {len(row['values'])} values for {len(columns)} columns; write [] for an empty entry"
                )
            for column, value in zip(columns, row["values"], strict=True):
                if value == []:
                    continue
                parts = [entry for source in (table, row, column) for entry in source.get("parts", ())]
                names = {"row": row["name"], "column": column["name"]}
                yield Place(
                    table=table["title"],
                    where=table.get("where", ""),
                    row=row["name"],
                    column=column["name"],
                    figure=self._lookup("figure", column.get("figure", table.get("figure", "")), self.figures),
                    cell=self.cell([part.format(**names) for part in (*parts, *row.get("then", ()))]),
                    published=_published(value, table.get("runs", self.content.get("runs", 1))),
                    choice=tuple(table.get("choice", ())),
                )

    def _claim(self, entry: Mapping[str, Any]) -> Claim:
        if entry["relation"] not in get_args(Relation):
            raise UsageError(
                f"relation {entry['relation']!r} is unknown{nearest(entry['relation'], get_args(Relation))}"
            )
        over: Mapping[str, Sequence[str | list[str]]] = entry.get("over", {})
        pairs = []
        for options in itertools.product(*over.values()):
            chosen = dict(zip(over, options, strict=True))
            a, b = ([part.format(**chosen) for part in entry[side]] for side in ("a", "b"))
            label = ", ".join(option if isinstance(option, str) else " / ".join(option) for option in options)
            pairs.append((label, self.cell(a), self.cell(b)))
        return Claim(
            claim=entry["claim"],
            where=entry.get("where", ""),
            figure=self._lookup("figure", entry["figure"], self.figures),
            relation=entry["relation"],
            margin=float(entry.get("margin", 0.0)),
            pairs=tuple(pairs),
        )

    def cell(self, names: Sequence[str]) -> CellSpec:
        """The cell composed of these parts; empty names are ignored."""
        names = [name for name in names if name]
        parts = [self._lookup("part", name, self.parts) for name in names]
        merged = {key: value for part in parts for key, value in part.items() if key != "steps"}
        if unknown := set(merged) - {"dataset", "architecture", "runtime", "profile"}:
            raise UsageError(f"a part of {names} has the unknown entry {min(unknown)!r}")
        if "architecture" not in merged:
            raise UsageError(f"no part of {names} names an architecture")
        dataset = merged.get("dataset", self.content.get("dataset", ""))
        return CellSpec(
            parts=tuple(names),
            datasets=(dataset, *self.content.get("stand_ins", {}).get(dataset, ())),
            architecture=merged["architecture"],
            runtime=merged.get("runtime", "torch"),
            profile=tuple(merged.get("profile", {}).items()),
            steps=tuple(_step_pattern(step) for part in parts for step in part.get("steps", ())),
        )

    def _lookup(self, kind: str, name: str, known: Mapping[str, Any]) -> Any:
        if name not in known:
            raise UsageError(f"no {kind} is called {name!r}{nearest(name, known)}")
        return known[name]


def _figure(name: str, entry: Mapping[str, Any]) -> FigureSpec:
    if "tolerance" in entry:
        entry = {**entry, "exact": True}
    lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
    return FigureSpec(**{"name": name, "label": name, **entry, **lists})


def _step_pattern(entry: Mapping[str, Any]) -> StepPattern:
    allowed = {key: tuple(value) if isinstance(value, list) else (value,) for key, value in entry.items()}
    ((step,), *_) = (allowed.pop("step"),)
    return StepPattern(step, tuple(allowed.items()))


def _published(value: Any, runs: int) -> Published:
    mean, *others = value if isinstance(value, list) else [value]
    spread = float(others[0]) if others else None
    return Published(float(mean), spread, runs, others[1] if len(others) > 1 else "")
