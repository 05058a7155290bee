"""The differences of two records: of the cell, by key documents, and of its surroundings."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from records import decoded, record

from harness.keys import key_of
from harness.records import changes as module

NETWORK = {"torch": "2.13", "data": {"fingerprint": "abc"}}


def changes(old: Any, new: Any, old_documents: Any, new_documents: Any) -> list[str]:
    return module.changes(decoded(old), decoded(new), old_documents, new_documents)


def cell_changes(old: Any, new: Any, old_documents: Any, new_documents: Any) -> list[str]:
    return module.cell_changes(decoded(old), decoded(new), old_documents, new_documents)


def surrounding_changes(old: Any, new: Any) -> list[str]:
    return module.surrounding_changes(decoded(old), decoded(new))


def documents(network: Any, *steps: Any) -> dict[str, Any]:
    """Return documents by key, one a step, each the child of the one before."""
    made = {key_of(network): network}
    for step in steps:
        document = {**step, "parent": list(made)[-1]}
        made[key_of(document)] = document
    return made


def train(version: str = "1", plugin: str = "0.1.0") -> Any:
    return {"step": "train", "version": version, "plugin": {"distribution": "harness", "version": plugin}}


def prune(**parameters: Any) -> Any:
    return {"step": "prune", "parameters": parameters}


def of(known: dict[str, Any], **more: Any) -> Any:
    made: Any = record()
    made |= {
        "artefact": {"key": list(known)[-1], "sha256": list(known)[-1]},
        "versions": {"torch": "2.13.0"},
        "steps": [{"step": "train()", "facts": {}, "seconds": None}],
    }
    return made | more


def between(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return changes(of(old), of(new), old, new)


def test_nothing_changed() -> None:
    known = documents(NETWORK, train())
    assert between(known, known) == []


def test_what_the_keys_know_is_named_by_its_step() -> None:
    old = documents(NETWORK, train(), prune(keep=0.5, norm="l1"))
    assert between(old, documents(NETWORK, train(), prune(keep=0.25, norm="l1"))) == [
        "prune: parameters.keep: 0.5 -> 0.25"
    ]
    assert between(old, documents(NETWORK, train("2"), prune(keep=0.5, norm="l1"))) == ['train: version: "1" -> "2"']
    new = documents(NETWORK | {"data": {"fingerprint": "def"}}, train(plugin="0.2.0"), prune(keep=0.5, norm="l1"))
    assert between(old, new) == [
        'network: data.fingerprint: "abc" -> "def"',
        'train: plugin.version: "0.1.0" -> "0.2.0"',
    ]


def test_added_and_removed_steps() -> None:
    short, long = documents(NETWORK, train()), documents(NETWORK, train(), prune(keep=0.5))
    assert between(short, long) == ["step prune added"]
    assert between(long, short) == ["step prune removed"]


def test_other_bytes_under_one_key() -> None:
    known = documents(NETWORK, train())
    other = of(known, artefact={"key": list(known)[-1], "sha256": "other"})
    (line,) = changes(of(known), other, known, known)
    assert line == "the bytes of the deployed file differ, although its key is the same"


def test_without_documents_the_steps_are_compared_as_in_the_suite() -> None:
    old = of(documents(NETWORK, train()))
    new = of(documents(NETWORK, train("2")), steps=[{"step": "train(epochs=2)", "facts": {}, "seconds": None}])
    assert changes(old, new, {}, {}) == ["steps train() -> train(epochs=2)"]
    keys = [list(documents(NETWORK, train(version)))[-1][:12] for version in "12"]
    assert changes(old, of(documents(NETWORK, train("2"))), {}, {}) == [f"artefact {keys[0]} -> {keys[1]}"]


def test_other_references_and_test_examples() -> None:
    known = documents(NETWORK, train())
    old, new = of(known), of(known, test_examples=30)
    for made, key in ((old, "b"), (new, "c")):
        made |= {"reference": "other", "reference_artefact": {"key": 64 * key, "sha256": key}}
    assert cell_changes(old, new, known, known) == [
        "reference's artefact bbbbbbbbbbbb -> cccccccccccc",
        "test examples 20 -> 30",
    ]
    new["reference"] = old["reference"] = old["cell"]
    assert cell_changes(old, new, known, known) == ["test examples 20 -> 30"], "it is the reference itself"


def across_schemas(**new: Any) -> list[str]:
    """Return the differences of two records whose keys have schema 1 and 2."""
    old_documents = documents(NETWORK | {"schema": 1}, train() | {"schema": 1})
    new_documents = documents(NETWORK | {"schema": 2}, {"schema": 2, "step": "train", "plugin": "harness"})
    sides = [of(known, reference="other", reference_artefact={"key": next(iter(known)), "sha256": "same"})
             for known in (old_documents, new_documents)]  # fmt: skip
    return changes(sides[0], sides[1] | new, old_documents, new_documents)


SCHEMAS = "the keys have different schemas (1 -> 2), so the cause of a difference cannot be named"


def test_across_schemas_no_cause_is_named() -> None:
    """The documents differ in how they are written; only the files and the recipes can be compared."""
    assert across_schemas() == [SCHEMAS]
    key = list(documents(NETWORK | {"schema": 2}, {"schema": 2, "step": "train", "plugin": "harness"}))[-1]
    same = {"artefact": {"key": key, "sha256": list(documents(NETWORK | {"schema": 1}, train() | {"schema": 1}))[-1]}}
    assert across_schemas(**same) == [], "the file is the same"
    assert across_schemas(**same, reference_artefact={"key": key, "sha256": "another"}) == [SCHEMAS]
    other = [{"step": "train(epochs=2)", "facts": {}, "seconds": None}]
    assert across_schemas(steps=other) == ["steps train() -> train(epochs=2)"]


MACHINE = {"cpu": "a CPU", "memory_bytes": 16 * 2**30, "kernel": "6.1", "microcode": "0x1"}
WORKERS = [{"threads": 1, "allocator": name, "pid": pid} for pid, name in enumerate("xyx")]
ONE = [{"threads": 1, "allocator": "jemalloc", "pid": 3, "affinity": [1], "torch": "9"}]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"versions": {"torch": "2.14.0"}}, ["torch 2.13.0 -> 2.14.0"]),
        ({"versions": {}}, ["torch 2.13.0 -> -"]),
        ({"machine": MACHINE | {"kernel": "7", "turbo": False}}, ["kernel 6.1 -> 7", "turbo - -> off"]),
        ({"machine": MACHINE | {"microcode": None}}, ["microcode 0x1 -> unknown"]),
        ({"machine": MACHINE | {"memory_bytes": 16 * 2**30 + 1}}, []),
        ({"machine": MACHINE | {"cpu": "another"}}, ["machine a CPU, 16 GB -> another, 16 GB"]),
        ({"timing": {"processes": 6}}, []),  # they are added until the verdict is decided
        ({"timing": {"environment": WORKERS}}, ["allocator jemalloc -> x, y"]),
        ({"timing": {"environment": ONE}}, []),
        ({"timing": {"profile": {"pace": "20ms"}}}, ["pace back-to-back -> 20ms"]),
        ({"timing": {"environment": []}}, ["threads 1 -> -", "allocator jemalloc -> -"]),
    ],
)
def test_surrounding_changes(change: dict[str, Any], expected: list[str]) -> None:
    old = of(documents(NETWORK), machine=dict(MACHINE))
    new = copy.deepcopy(old)
    new |= change | ({"timing": new["timing"] | change["timing"]} if "timing" in change else {})
    assert surrounding_changes(old, old) == []
    assert surrounding_changes(old, new) == expected


def test_records_without_timing_or_machine() -> None:
    bare = of(documents(NETWORK), timing=None)
    assert surrounding_changes(bare, bare) == []
    assert "kernel - -> 6.1" in surrounding_changes(bare, bare | {"machine": MACHINE})
