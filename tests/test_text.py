"""Margins and durations as people write them: read, refused, and written again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.text import format_margin, parse_duration, parse_margin, percent


@pytest.mark.parametrize(
    ("text", "margin"),
    [
        ("1%", 0.01),
        ("2.5 %", 0.025),
        (" 0.01 ", 0.01),
        ("0.7%", 0.007),
        (".05", 0.05),
        ("0", 0.0),
        ("0%", 0.0),
        ("150%", 1.5),
    ],
)
def test_a_margin_is_read(text: str, margin: float) -> None:
    assert parse_margin(text) == margin


@pytest.mark.parametrize(
    "text",
    ["", "%", "1%%", "-1%", "-0.01", "-0", "nan", "nan%", "snan", "inf", "1e999%", "1e9999999", "one", "2,5%", "1 % x"],
)
def test_what_is_no_margin_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"write it as 1% or 0\.01"):
        parse_margin(text)


@pytest.mark.parametrize("text", ["1", "2.5"])
def test_a_forgotten_percent_sign_is_asked_about(text: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean {text}%"):
        parse_margin(text)


@given(st.text(max_size=8) | st.from_regex(r"-?[0-9]{0,3}\.?[0-9]{0,3} ?%?", fullmatch=True))
def test_any_text_is_a_margin_or_an_error_of_use(text: str) -> None:
    try:
        margin = parse_margin(text)
    except UsageError:
        return
    assert 0 <= margin < math.inf


@given(st.integers(0, 99_999))
def test_a_margin_reads_as_it_is_written(thousandths: int) -> None:
    margin = thousandths / 100_000
    assert parse_margin(format_margin(margin)) == margin


def test_a_margin_is_written_for_people() -> None:
    assert [format_margin(margin) for margin in (0.01, 0.025, 0.07, 0.0)] == ["1 %", "2.5 %", "7 %", "0 %"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("20ms", 0.02), (" 1.5 s ", 1.5), ("2min", 120.0), (".5us", 5e-7), ("7µs", 7e-6)]
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "20", "ms", "0ms", "-1s", "1 hour", "1e3s", "1 s s", "nan s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration: write a positive number with a unit"):
        parse_duration(text)


def test_a_share_is_written_in_two_digits_or_to_the_percent() -> None:
    assert [percent(share) for share in (0.00418, 0.034, 0.5, 0.9949, 1.0, 5.0)] == [
        *("0.42 %", "3.4 %", "50 %", "99 %", "100 %", "500 %")
    ]
