"""Format text: counts, durations, margins, tables, and text from files made safe for a terminal or Markdown."""

from __future__ import annotations

import decimal
import math
import re
import textwrap
from collections.abc import Sequence

from harness.errors import UsageError


def pluralize(count: int, thing: str) -> str:
    """A number of things: "1 cell", "2 cells"."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """A guessed duration: seconds below a minute and a half, else minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


#: The units of durations that users write, in seconds.
UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}


def parse_duration(text: str) -> float:
    """The seconds of a duration that a user wrote with its unit, such as "20ms", "1.5 s" or "2min".

    Raises UsageError for anything else, and for a duration that is not positive.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([^\W\d]+)\s*", text)
    seconds = float(match[1]) * UNITS.get(match[2], math.nan) if match else math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(
            f"{text!r} is not a duration: write a positive number with a unit ({', '.join(UNITS)}), as 20ms"
        )
    return seconds


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
    """Escape what would control a terminal; line ends are kept."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text.encode("utf-8", "backslashreplace").decode()
    )


def one_line(text: str) -> str:
    """The name of a cell or of whatever came from a file, on one line."""
    return printable(text).replace("\n", "\\n")


def escape_markdown(text: str) -> str:
    """The text on one line, with nothing in it that Markdown or HTML would interpret."""
    return re.sub(r"([\\`*_\[\]|~#@])", r"\\\1", escape_html(text))


def escape_html(text: str) -> str:
    """The text on one line, without HTML in it."""
    return re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;")


def fit_table(headers: Sequence[str], body: Sequence[Sequence[str]], width: int) -> str:
    """A plain-text table. If it is wider than ``width``, intervals go below their estimates and long texts wrap."""
    text = _laid_out(headers, body)
    if max(map(len, text.splitlines())) > width:
        body = [[entry.replace(" [", "\n[") for entry in line] for line in body]
        headers = [header.replace(" - ", "\n- ") for header in headers]
        text = _laid_out(headers, body)
    for room in (48, 36, 24, 18, 14, 11, 9):
        if max(map(len, text.splitlines())) <= width:
            break
        narrow = [_wrapped(header, max(room, 10)) for header in headers]
        text = _laid_out(narrow, [[_wrapped(entry, room) for entry in line] for line in body])
    return text


def _wrapped(entry: str, room: int) -> str:
    indent = "  " if entry.startswith("  ") else ""
    lines = [_lines(line, room, indent) for line in entry.splitlines() or [""]]
    return "\n".join(cell for line in lines for cell in line)


def _lines(line: str, room: int, indent: str) -> list[str]:
    return textwrap.wrap(line, room, subsequent_indent=indent, break_long_words=False) or [""]


def _laid_out(headers: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    from tabulate import tabulate

    # As a row, since tabulate makes a column wider than its header.
    return tabulate([headers, *body], tablefmt="plain", disable_numparse=True, preserve_whitespace=True)
