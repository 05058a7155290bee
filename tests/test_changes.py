"""What changed between two records: from the keys' documents, and around the model."""

from __future__ import annotations

import copy
from typing import Any

from records import record

from harness.changes import changes, surroundings
from harness.keys import key_of

NETWORK = {"torch": "2.13", "data": {"fingerprint": "abc"}}


def documents(network: Any, *steps: Any) -> dict[str, Any]:
    """Documents by key: those of the steps, each the child of the one before."""
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
        "steps": [{"step": "train()"}],
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


def test_steps_that_came_and_went() -> None:
    short, long = documents(NETWORK, train()), documents(NETWORK, train(), prune(keep=0.5))
    assert between(short, long) == ["step prune added"]
    assert between(long, short) == ["step prune removed"]


def test_other_bytes_under_one_key_are_told() -> None:
    known = documents(NETWORK, train())
    other = of(known, artefact={"key": list(known)[-1], "sha256": "other"})
    (line,) = changes(of(known), other, known, known)
    assert line == "the deployed file: other bytes, though nothing that the key knows differs"


def test_without_documents_the_steps_are_compared_as_they_were_written() -> None:
    old = of(documents(NETWORK, train()))
    new = of(documents(NETWORK, train("2")), steps=[{"step": "train(epochs=2)"}])
    assert changes(old, new, {}, {}) == ["steps: train() -> train(epochs=2)"]
    assert changes(old, of(documents(NETWORK, train("2"))), {}, {}) == [
        "the deployed file: other bytes, though nothing that the key knows differs"
    ]


def test_what_is_around_the_model() -> None:
    old = of(documents(NETWORK), machine={"cpu": "a", "kernel": "6.1", "aslr": 2})
    new = copy.deepcopy(old)
    assert surroundings(old, new) == []
    new["versions"]["torch"] = "2.13.1"
    new["machine"] |= {"kernel": "6.2", "aslr": 0}
    new["timing"]["environment"][0]["allocator"] = "system"
    assert surroundings(old, new) == [
        "torch: 2.13.0 -> 2.13.1",
        "machine kernel: 6.1 -> 6.2",
        "profile allocator: jemalloc -> system",
    ]
    new["timing"] = None
    assert len(surroundings(old, new)) == 2
