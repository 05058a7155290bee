"""Text from files made plain: nothing in it steers a terminal or breaks a line."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with what would steer a terminal written out; the ends of lines are kept."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text.encode("utf-8", "backslashreplace").decode()
    )


def one_line(text: str) -> str:
    """The name of a cell or of whatever came from a file, on one line."""
    return printable(text).replace("\n", "\\n")
