"""Keys: one spelling for one value, and why two documents differ."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.keys import canonical, differences, key_of, to_jsonable

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


def shuffled(document: object) -> object:
    """The same document with every mapping's names in the opposite order."""
    if isinstance(document, dict):
        return {name: shuffled(document[name]) for name in reversed(document)}
    return [shuffled(entry) for entry in document] if isinstance(document, list) else document


@given(DOCUMENTS)
def test_order_of_names_does_not_matter(document: object) -> None:
    assert key_of(document) == key_of(shuffled(document))


@given(DOCUMENTS)
def test_a_document_and_its_json_have_one_key(document: object) -> None:
    assert key_of(json.loads(canonical(document))) == key_of(document)


@given(DOCUMENTS, DOCUMENTS)
def test_differences_are_empty_exactly_when_the_keys_agree(old: object, new: object) -> None:
    lines = list(differences(to_jsonable(old), to_jsonable(new)))
    assert (lines == []) == (key_of(old) == key_of(new))


def test_a_key_is_the_sha256_of_the_sorted_json() -> None:
    import hashlib

    assert key_of({"b": [1.5, None], "a": "é"}) == hashlib.sha256(b'{"a":"\\u00e9","b":[1.5,null]}').hexdigest()
    assert len(key_of(0)) == 64


def test_whole_floats_are_integers_but_other_kinds_stay_apart() -> None:
    assert (
        key_of({"keep": 1}) == key_of({"keep": 1.0}) == key_of({"keep": np.float32(1)}) == key_of({"keep": np.int64(1)})
    )
    assert len({key_of(value) for value in (1, True, "1", [1], None, 1.5)}) == 6
    assert key_of(0.0) == key_of(-0.0)


def test_values_of_python_that_json_lacks() -> None:
    @dataclasses.dataclass
    class Point:
        x: int
        where: PurePosixPath

    assert to_jsonable(Point(1, PurePosixPath("a/b"))) == {"x": 1, "where": "a/b"}
    assert to_jsonable({3, 1, 2}) == to_jsonable(range(1, 4)) == to_jsonable((1, 2, 3)) == [1, 2, 3]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_only_finite_numbers_have_a_key(value: float) -> None:
    with pytest.raises(UsageError, match="finite"):
        key_of({"deep": [value]})


@pytest.mark.parametrize("value", [object(), {1: "a"}, np.zeros(2), int, b"bytes"])
def test_what_has_no_json_form_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"has no JSON form|needs texts as names"):
        key_of(value)


def test_differences_name_the_path_and_both_values() -> None:
    old = {"step": "prune", "parameters": {"keep": 0.5, "gone": 1}, "trainings": [{"lr": 1}, {"lr": 2}]}
    new = {"step": "prune", "parameters": {"keep": 0.25, "new": "a"}, "trainings": [{"lr": 1}, {"lr": 3}]}
    assert list(differences(old, new)) == [
        "parameters.gone: only in the first: 1",
        "parameters.keep: 0.5 -> 0.25",
        'parameters.new: only in the second: "a"',
        "trainings.1.lr: 2 -> 3",
    ]
