"""What tests of records share: the JSON and the classes of made-up cells, and a look into a printed table."""

from __future__ import annotations

import copy
from typing import Any

from harness.records.record import Record, decode

#: The roles of the figures that metrics of this repository declare.
ROLES = {
    "parameters": "parameters",
    "nonzero": "nonzero",
    "file_size": "file",
    "int8_weights": "int8 weights",
    "int8_macs": "int8 macs",
}
INTERVAL = {"level": 0.95, "method": "made up"}


def record(**changes: Any) -> Any:
    """The JSON of a cell's record; ``changes`` are its axes, or any of figures, difference, ratio, synthetic."""
    axes: dict[str, Any] = {
        "dataset": "toy",
        "architecture": "conv",
        "training": "plain",
        "pruning": "full",
        "precision": "float32",
        "runtime": "torch",
        "profile": "",
        "seed": 0,
    }
    axes |= {name: value for name, value in changes.items() if name in axes}
    figures = {"auroc": 0.93, "parameters": 1000.0} | changes.get("figures", {})
    ratio = changes.get("ratio", (1.0, 0.98, 1.02))

    def identify(options: dict[str, Any]) -> str:
        return "-".join(str(options[name]) for name in ("architecture", "training", "pruning", "precision", "seed"))

    return {
        "schema": 1,
        "suite": "suites/toy.py",
        "matrix": "m",
        "cell": identify(axes),
        "reference": identify(axes | {"training": "plain", "pruning": "full", "precision": "float32"}),
        "axes": axes,
        "columns": "pruning",
        "synthetic": changes.get("synthetic", False),
        "preset": "quick",
        "device": "cpu",
        "artefact": {"key": "a" * 64, "sha256": "a" * 64},
        "reference_artefact": {"key": "b" * 64, "sha256": "b" * 64},
        "steps": [],
        "figures": {
            name: {"metric": name, "value": value, "unit": "", "better": None, "digits": 4, "headline": True}
            | ({"role": ROLES[name]} if name in ROLES else {})
            for name, value in figures.items()
        },
        "differences": {"auroc": interval(*changes.get("difference", (0.0, 0.0, 0.0)))},
        "test_examples": 20,
        "timing": {
            "profile": {},
            "processes": 4,
            "pairs": 50,
            "warmup": 100,
            "ratio": interval(*ratio),
            "environment": [{"threads": 1, "allocator": "jemalloc"}],
        }
        if ratio
        else None,
        "versions": {"torch": "2.13.0"},
    }


def interval(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    """The JSON of an interval."""
    return {"value": value, "low": low, "high": high} | INTERVAL


def verdict(kind: str, reason: str = "", margin: float = 0.01) -> dict[str, Any]:
    """The JSON of a verdict."""
    return {"kind": kind, "margin": margin, "p": None, "processes_needed": None, "reason": reason, "confirmation": None}


def decoded(document: Any) -> Record:
    """The record of a JSON object, which may still be changed afterwards."""
    return decode(copy.deepcopy(document))


def line(text: str, *words: str) -> list[str]:
    """The fields of the first line that begins with these words."""
    for entry in text.splitlines():
        if entry.split()[: len(words)] == list(words):
            return entry.split()
    raise AssertionError(f"no line begins with {words} in\n{text}")
