"""Parse the gate's rules: how much worse each figure may become, and which outcomes fail a build.

Rules come in layers, and a later layer replaces rules of an earlier one: the rules that metrics declare,
``[tool.harness.gate]`` of pyproject.toml, the matrix's ``gate=``, the command line.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from harness.errors import UsageError, nearest
from harness.text import format_margin, parse_margin

#: The outcomes that can fail a build, the gravest first; each has its own exit code.
Outcome = Literal["regressed", "lost", "not judged", "contaminated", "inconclusive"]
OUTCOMES: tuple[Outcome, ...] = ("regressed", "lost", "not judged", "contaminated", "inconclusive")
#: How much a rule counts. "critical": the figure is required; if it regressed or is missing, the build fails whatever
#: ``fail_on`` says. "supporting", the default: the build fails by ``fail_on``. "advisory": it never fails the build.
Tier = Literal["critical", "supporting", "advisory"]
TIERS: tuple[Tier, ...] = get_args(Tier)
FAIL_ON = "fail_on"
LATENCY = "latency"
OF_REFERENCE = " of reference"
#: The harness itself measures latency, as a ratio. The metrics declare the default rules of all other figures.
DEFAULTS: Mapping[str, str] = {LATENCY: "1%"}


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How much worse a figure may be than in the earlier run.

    "share": by this share of the earlier value (0.01 is 1 %). "absolute": by this amount. "kept": the figure must be at
    least this share of the reference's figure in the same run, whatever the earlier run had, as MLPerf requires 99 % of
    the float network's quality.
    """

    kind: Literal["share", "absolute", "kept"]
    value: float
    tier: Tier = "supporting"

    def __str__(self) -> str:
        tier = "" if self.tier == "supporting" else f" {self.tier}"
        match self.kind:
            case "share":
                return format_margin(self.value) + tier
            case "absolute":
                return f"{self.value:g}{tier}"
            case _:
                return f"{format_margin(self.value)}{OF_REFERENCE}{tier}"

    def fails(self, outcome: Outcome, fail_on: Collection[Outcome]) -> bool:
        """Whether an outcome of a figure with this rule fails the build."""
        if self.tier == "advisory":
            return False
        return outcome in fail_on or (self.tier == "critical" and outcome in ("regressed", "lost"))


@dataclasses.dataclass(frozen=True)
class Policy:
    """The tolerances of the judged figures, by name, and the outcomes that fail a build."""

    tolerances: Mapping[str, Tolerance]
    fail_on: frozenset[Outcome] = frozenset({"regressed", "lost", "not judged"})

    @property
    def latency(self) -> float | None:
        """The margin of latency, a share; None if latency is not judged."""
        tolerance = self.tolerances.get(LATENCY)
        return None if tolerance is None else tolerance.value


def policy(*layers: Mapping[str, str]) -> Policy:
    """Combine layers of rules, figure to tolerance, over the default for latency. Raises UsageError for a bad rule."""
    rules: dict[str, str] = dict(DEFAULTS)
    for layer in layers:
        rules.update(layer)
    outcomes = rules.pop(FAIL_ON, None)
    tolerances = {figure: parse_tolerance(figure, text) for figure, text in rules.items() if text.strip() != "off"}
    return Policy(tolerances) if outcomes is None else Policy(tolerances, _outcomes(outcomes))


def parse_tolerance(figure: str, text: str) -> Tolerance:
    """Parse a tolerance, "1%", "0.005" or "99% of reference", and its tier, as in "1% critical".

    Raises UsageError if it is invalid.
    """
    normalized = " ".join(text.split())
    tier = next((tier for tier in TIERS if normalized.endswith(f" {tier}")), None)
    normalized = normalized.removesuffix(f" {tier}")
    number = normalized.removesuffix(OF_REFERENCE)
    try:
        if normalized.endswith(OF_REFERENCE):
            tolerance = Tolerance("kept", parse_margin(number))
            valid = 0 < tolerance.value <= 1
        elif number.endswith("%"):
            tolerance, valid = Tolerance("share", parse_margin(number)), True
        else:
            tolerance = Tolerance("absolute", float(number))
            valid = 0 <= tolerance.value < math.inf
    except (UsageError, ValueError):
        valid = False
    if not valid:
        raise UsageError(
            f"gate: {figure} = {text!r} is not a tolerance; write 1% for a share of the earlier figure, 0.005 for an "
            "amount, '99% of reference' for a share of the reference's figure, or off; critical or advisory may follow"
        )
    if figure == LATENCY and tolerance == Tolerance("share", 0.0):
        raise UsageError(
            f"gate: latency = {text!r}: no measurement can show that two latencies are equal; write 1% or off"
        )
    if figure == LATENCY and tolerance.kind != "share":
        raise UsageError(f"gate: latency = {text!r}: latencies are compared as ratios; write a share, as 1%")
    return tolerance if tier is None else dataclasses.replace(tolerance, tier=tier)


def parse_rules(text: str) -> dict[str, str]:
    """Parse the rules of a command line: "latency=2%,FIGURE=0.01,fail_on=regressed+lost"."""
    rules: dict[str, str] = {}
    for rule in text.split(","):
        figure, equals, tolerance = rule.partition("=")
        if not equals or not figure.strip() or not tolerance.strip():
            raise UsageError(f"gate: {rule.strip()!r} is not a rule; write FIGURE=TOLERANCE, as latency=2%")
        if figure.strip() in rules:
            raise UsageError(f"gate: {figure.strip()} has two rules; leave one out")
        rules[figure.strip()] = tolerance.strip()
    return rules


def project_rules(folder: Path) -> dict[str, str]:
    """Read ``[tool.harness.gate]`` of the folder's pyproject.toml; empty without such a table."""
    file = folder / "pyproject.toml"
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read [tool.harness.gate] of {file}: {error}; correct the file") from None
    table: object = document
    for name in ("tool", "harness", "gate"):
        table = table.get(name, {}) if isinstance(table, Mapping) else table
    if not isinstance(table, Mapping):
        raise UsageError(
            f'{file}: [tool.harness.gate] is not a table; write figures and tolerances in it, as latency = "1%"'
        )
    return check_rules(table, f"{file}: [tool.harness.gate]")


def check_rules(rules: Mapping[str, object], source: str) -> dict[str, str]:
    """Check declared rules, and return them as text. Raises UsageError that begins with ``source``."""
    checked: dict[str, str] = {}
    for figure, rule in rules.items():
        if figure == FAIL_ON and isinstance(rule, Sequence) and not isinstance(rule, str):
            rule = "+".join(map(str, rule))
        if isinstance(rule, (int, float)) and not isinstance(rule, bool):
            rule = repr(rule)
        if not isinstance(figure, str) or not isinstance(rule, str):
            raise UsageError(f'{source}: {figure} = {rule!r} is not a rule; write figure = "tolerance"')
        checked[figure] = rule
    try:
        policy(checked)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
    return checked


def check_figures(figures: Iterable[str], better_sides: Mapping[str, str | None]) -> None:
    """Check that each figure with a rule can be judged.

    ``better_sides`` maps the figures of all cells to "higher", "lower" or None. Raises UsageError for a figure that is
    missing there, or maps to None.
    """
    for figure in figures:
        if figure in (LATENCY, FAIL_ON):
            continue
        if figure not in better_sides:
            raise UsageError(f"gate: no cell has a figure {figure!r}{nearest(figure, {LATENCY, *better_sides})}")
        if better_sides[figure] is None:
            raise UsageError(
                f"gate: the figure {figure!r} cannot be judged, as it declares no better side; remove its rule"
            )


def _outcomes(text: str) -> frozenset[Outcome]:
    """The outcomes in a text such as "regressed+lost"; "not-judged" saves quotes on a command line."""
    outcomes = set()
    for name in filter(None, (name.strip().replace("-", " ") for name in text.removeprefix("none").split("+"))):
        if name not in OUTCOMES:
            raise UsageError(f"gate: fail_on = {text!r}: {name!r} is not an outcome{nearest(name, OUTCOMES)}")
        outcomes.add(name)
    return frozenset(outcome for outcome in OUTCOMES if outcome in outcomes)
