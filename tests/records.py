"""What tests of reports share: records of made-up cells, and a look into a printed table."""

from __future__ import annotations

from typing import Any

from harness.records.record import Record


def record(**changes: Any) -> Record:
    """The record of one cell; ``changes`` are its axes, or any of figures, difference, ratio, synthetic."""
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

    made: Any = {
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
        "figures": {
            name: {"metric": name, "value": value, "unit": "", "better": None, "digits": 4, "headline": True}
            for name, value in figures.items()
        },
        "differences": {
            "auroc": dict(zip(("value", "low", "high"), changes.get("difference", (0.0, 0.0, 0.0)), strict=True))
        },
        "test_examples": 20,
        "timing": {
            "profile": {},
            "processes": 4,
            "pairs": 50,
            "ratio": dict(zip(("value", "low", "high"), ratio, strict=True)),
            "environment": [{"threads": 1, "allocator": "jemalloc"}],
        }
        if ratio
        else None,
    }
    return made


def line(text: str, *words: str) -> list[str]:
    """The fields of the first line that begins with these words."""
    for entry in text.splitlines():
        if entry.split()[: len(words)] == list(words):
            return entry.split()
    raise AssertionError(f"no line begins with {words} in\n{text}")
