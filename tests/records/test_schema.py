"""Whether documents have the form of a TypedDict."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_files import cell, contaminated

from harness.records.record import Record, read
from harness.records.schema import fault

RESULTS = Path(__file__).parents[2] / "results" / "ptbxl"


class Inner(TypedDict):
    share: float | None
    kind: NotRequired[str]


class Outer(TypedDict):
    name: str
    count: int
    on: bool
    inner: Inner
    many: list[Inner]
    named: dict[str, Inner]
    anything: Any


GOOD: dict[str, Any] = {
    "name": "n",
    "count": 3,
    "on": True,
    "inner": {"share": 1},
    "many": [{"share": None, "kind": "k"}],
    "named": {"a": {"share": 0.5}},
    "anything": [1, {}],
}


def test_what_has_the_form_has_no_fault_and_may_have_more() -> None:
    assert fault(GOOD | {"later": 1}, Outer) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "name is 3, not a text"),
        ({"name": None}, "name is None, not a text"),
        ({"count": 1.5}, "count is 1.5, not a whole number"),
        ({"count": True}, "count is True, not a whole number"),
        ({"on": 1}, "on is 1, not true or false"),
        ({"inner": []}, "inner is [], not an object"),
        ({"inner": {}}, "inner.share is missing"),
        ({"inner": {"share": "1"}}, "inner.share is '1', not a number"),
        ({"inner": {"share": 1, "kind": None}}, "inner.kind is None, not a text"),
        ({"many": {}}, "many is {}, not a list"),
        ({"many": [{"share": 1}, 4]}, "many[1] is 4, not an object"),
        ({"named": {"b": {"share": True}}}, "named.b.share is True, not a number"),
        ({"named": 1}, "named is 1, not an object"),
    ],
)
def test_the_first_fault_is_told_with_its_place(change: dict[str, Any], message: str) -> None:
    assert fault(GOOD | change, Outer) == message


def test_a_missing_entry_and_what_is_no_object_are_faults() -> None:
    assert fault({name: value for name, value in GOOD.items() if name != "on"}, Outer) == "on is missing"
    assert fault(None, Outer) == "it is None, not an object"


def test_long_values_are_cut() -> None:
    assert len(fault(GOOD | {"count": "x" * 10_000}, Outer) or "") < 80


NAMES = st.sampled_from([*GOOD, "share", "timing", "figures", "schema"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
    )
)
def test_whatever_json_holds_is_answered(document: Any) -> None:
    for form in (Outer, Record):
        assert isinstance(fault(document, form), str)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_published_records_have_the_form(file: Path) -> None:
    assert [fault(record, Record) for record in read(file)] == [None] * len(read(file))


def test_records_of_tests_have_the_form() -> None:
    assert fault(cell(), Record) is None
    assert fault(cell(None), Record) is None
    assert fault(contaminated(), Record) is None
