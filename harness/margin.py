"""The margin: the relative change that matters, as people write it ("1%") and as it is computed with (0.01)."""

from __future__ import annotations

import decimal
import math

from harness.errors import UsageError

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
