"""Format text: counts, durations, margins, and text from files made safe for a terminal."""

from __future__ import annotations

import decimal
import math

from harness.errors import UsageError


def pluralize(count: int, thing: str) -> str:
    """A number of things: "1 cell", "2 cells"."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """A guessed duration: seconds below a minute and a half, else minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


DEFAULT_MARGIN = 0.01


def parse_margin(text: str) -> float:
    """The margin that a user wrote as "1%", "2.5 %" or "0.01", as a share (0.01)."""
    number = text.strip()
    percent = number.endswith("%")
    try:
        value = decimal.Decimal(number.removesuffix("%").rstrip())
        share = float(value / 100 if percent else value)
    except (decimal.DecimalException, ValueError):
        share = math.nan
    if not math.isfinite(share) or math.copysign(1, share) < 0:
        raise UsageError(f"the margin {text!r} is not a share of the latency, at least 0: write it as 1% or 0.01")
    if share >= 1 and not percent:
        raise UsageError(f"the margin {text!r} would be {share:.0%}: did you mean {number}%? Write it as 1% or 0.01")
    return share


def format_margin(margin: float) -> str:
    """A margin for people: "1 %" for 0.01."""
    return f"{100 * margin:g} %"


def percent(share: float) -> str:
    """A share in two digits or to the percent: "0.42 %" for 0.00418, "130 %" for 1.3."""
    return f"{100 * share:.2g} %" if abs(share) < 0.995 else f"{100 * share:.0f} %"


def printable(text: str) -> str:
    """The text with what would steer a terminal written out; the ends of lines are kept."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text.encode("utf-8", "backslashreplace").decode()
    )


def one_line(text: str) -> str:
    """The name of a cell or of whatever came from a file, on one line."""
    return printable(text).replace("\n", "\\n")
