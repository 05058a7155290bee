"""The policy of a gate: how much worse each figure may become, as people write it and as it is computed with.

A policy comes in layers, each over the one before: the rules that metrics declare, ``[tool.harness.gate]`` of
pyproject.toml, the matrix's ``gate=``, the command line.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from harness.errors import UsageError, nearest
from harness.text import format_margin, parse_margin

#: What may fail a build; each has an exit code of its own.
Outcome = Literal["regressed", "lost", "contaminated", "inconclusive"]
OUTCOMES: tuple[Outcome, ...] = ("regressed", "lost", "contaminated", "inconclusive")
FAIL_ON = "fail_on"
LATENCY = "latency"
OF_REFERENCE = " of reference"
#: The harness times latency itself, as a ratio. Every other figure's default rule is declared by its metric.
DEFAULTS: Mapping[str, str] = {LATENCY: "1%"}


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How much worse a figure may be than the earlier run's.

    A ``share`` of it (0.01 is 1 %), an ``absolute`` amount, or, of quality, it must keep at least the share ``kept`` of
    the reference's figure in the same run, whatever the earlier run had (MLPerf asks for 99 % of the float network's).
    """

    kind: Literal["share", "absolute", "kept"]
    value: float

    def __str__(self) -> str:
        match self.kind:
            case "share":
                return format_margin(self.value)
            case "absolute":
                return f"{self.value:g}"
            case _:
                return f"{format_margin(self.value)}{OF_REFERENCE}"


@dataclasses.dataclass(frozen=True)
class Policy:
    """A tolerance for each figure that is judged, by its name, and the outcomes that fail a build."""

    tolerances: Mapping[str, Tolerance]
    fail_on: frozenset[Outcome] = frozenset({"regressed", "lost"})

    @property
    def latency(self) -> float | None:
        """The margin of latency, a share; None where latency is not judged."""
        found = self.tolerances.get(LATENCY)
        return None if found is None else found.value


def policy(*layers: Mapping[str, str]) -> Policy:
    """Combine layers of rules, figure to tolerance, over the rule for latency. Raises UsageError for a bad rule."""
    rules: dict[str, str] = dict(DEFAULTS)
    for layer in layers:
        rules.update(layer)
    outcomes = rules.pop(FAIL_ON, None)
    found = {figure: parse_tolerance(figure, text) for figure, text in rules.items() if text.strip() != "off"}
    return Policy(found) if outcomes is None else Policy(found, _outcomes(outcomes))


def parse_tolerance(figure: str, text: str) -> Tolerance:
    """The tolerance that a user wrote as "1%", "0.005" or "99% of reference"."""
    written = " ".join(text.split())
    number = written.removesuffix(OF_REFERENCE)
    try:
        if written.endswith(OF_REFERENCE):
            tolerance = Tolerance("kept", parse_margin(number))
            sound = 0 < tolerance.value <= 1
        elif number.endswith("%"):
            tolerance, sound = Tolerance("share", parse_margin(number)), True
        else:
            tolerance = Tolerance("absolute", float(number))
            sound = 0 <= tolerance.value < math.inf
    except (UsageError, ValueError):
        sound = False
    if not sound:
        raise UsageError(
            f"gate: {figure} = {text!r} is no tolerance; write a share of the earlier figure as 1%, an amount as "
            "0.005, a share of the reference's figure as '99% of reference', or off"
        )
    if figure == LATENCY and tolerance == Tolerance("share", 0.0):
        raise UsageError(
            f"gate: latency = {text!r}: no run can show two models the same to the last digit; write 1% or off"
        )
    if figure == LATENCY and tolerance.kind != "share":
        raise UsageError(f"gate: latency = {text!r}: latencies are compared as ratios; write the share, as 1%")
    return tolerance


def parse_rules(text: str) -> dict[str, str]:
    """The rules of a command line: "latency=2%,auroc=0.01"; of outcomes "fail_on=regressed+lost"."""
    rules: dict[str, str] = {}
    for part in text.split(","):
        figure, equals, tolerance = part.partition("=")
        if not equals or not figure.strip() or not tolerance.strip():
            raise UsageError(f"gate: {part.strip()!r} is no rule; write FIGURE=TOLERANCE, as latency=2%,auroc=0.01")
        rules[figure.strip()] = tolerance.strip()
    return rules


def project_rules(folder: Path) -> dict[str, str]:
    """The rules in ``[tool.harness.gate]`` of the folder's pyproject.toml; none where there is no such table."""
    file = folder / "pyproject.toml"
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read for [tool.harness.gate]: {error}") from None
    table: object = document
    for name in ("tool", "harness", "gate"):
        table = table.get(name, {}) if isinstance(table, Mapping) else table
    if not isinstance(table, Mapping):
        raise UsageError(f'{file}: [tool.harness.gate] is a table of figures and tolerances, as latency = "1%"')
    return check_rules(table, f"{file}: [tool.harness.gate]")


def check_rules(rules: Mapping[str, object], where: str) -> dict[str, str]:
    """Rules that somebody declared, each checked; raises UsageError that says where."""
    found: dict[str, str] = {}
    for figure, rule in rules.items():
        if figure == FAIL_ON and isinstance(rule, Sequence) and not isinstance(rule, str):
            rule = "+".join(map(str, rule))
        if isinstance(rule, (int, float)) and not isinstance(rule, bool):
            rule = repr(rule)
        if not isinstance(figure, str) or not isinstance(rule, str):
            raise UsageError(f'{where}: {figure} = {rule!r} is no rule; write figure = "tolerance"')
        found[figure] = rule
    try:
        policy(found)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return found


def check_figures(given: Iterable[str], known: Mapping[str, str | None]) -> None:
    """Raise UsageError when a rule that somebody gave is of a figure that no cell has, or that has no better side.

    ``known`` maps each figure to what is better, higher or lower.
    """
    for figure in given:
        if figure in (LATENCY, FAIL_ON):
            continue
        if figure not in known:
            raise UsageError(f"gate: no cell has a figure {figure!r}{nearest(figure, {LATENCY, *known})}")
        if known[figure] is None:
            raise UsageError(f"gate: whether more or less of {figure!r} is better is not known; leave it out")


def _outcomes(text: str) -> frozenset[Outcome]:
    found = set()
    for part in filter(None, (part.strip() for part in text.removeprefix("none").split("+"))):
        if part not in OUTCOMES:
            raise UsageError(f"gate: fail_on = {text!r}: no outcome is called {part!r}{nearest(part, OUTCOMES)}")
        found.add(part)
    return frozenset(outcome for outcome in OUTCOMES if outcome in found)
