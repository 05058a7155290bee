"""Reading records from benchmark files, and refusing what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import Profile, UsageError
from harness.records.record import SCHEMA, left_in, left_of, read
from harness.suite.matrix import Cell


def written(folder: Path, *records: Any) -> Path:
    """A benchmark JSON with an entry for each record; None is an entry that is not ours."""
    benchmarks = [{"name": "x", "extra_info": {} if record is None else {"harness": record}} for record in records]
    file = folder / "run.json"
    file.write_text(json.dumps({"benchmarks": benchmarks}))
    return file


def test_records_are_read_in_order_among_other_benchmarks(tmp_path: Path) -> None:
    ours = [{"schema": SCHEMA, "cell": name} for name in "ab"]
    assert read(written(tmp_path, ours[0], None, ours[1])) == ours


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file .*run.json; a run writes one with --benchmark-json="),
        ("{", "cannot be read as a benchmark JSON"),
        (b"\xff\xfe", "cannot be read as a benchmark JSON"),
        ("[]", "holds no record"),
        ('{"benchmarks": null}', "holds no record"),
        ('{"benchmarks": [3, {"extra_info": null}, {"extra_info": {"harness": "text"}}]}', "holds no record"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    file = tmp_path / "run.json"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError, match=message):
        read(file)


def test_a_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read as a benchmark JSON"):
        read(tmp_path)


def test_another_schema_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"has records of schema 99; this version reads {SCHEMA}"):
        read(written(tmp_path, {"schema": SCHEMA}, {"schema": 99}))


def test_what_was_left_is_told_with_its_reason() -> None:
    def cell(name: str, skip: str | None = None) -> Cell:
        axes = {"dataset": "toy", "architecture": "conv", "runtime": "eager", "seed": 0}
        return Cell("s.py", "m", "pruning", axes, (), Profile(), "r", name, skip=skip)

    cells = [cell("done"), cell("ruled", "a rule"), cell("broken"), cell("beyond"), cell("late")]
    done: Any = {"suite": "s.py", "matrix": "m", "cell": "done"}
    reasons = {"s.py::m[broken]": "an error", "s.py::m[beyond]": "no such layer"}
    left = left_of(cells, [done], reasons, {"s.py::m[beyond]"})
    assert [(entry["cell"], entry["outcome"], entry["reason"]) for entry in left] == [
        ("ruled", "skipped", "a rule"),
        ("broken", "failed", "an error"),
        ("beyond", "skipped", "no such layer"),
        ("late", "not run", "selected, and not measured"),
    ]
    assert left_in({"harness": {"left": left}}) == left
    assert left_in({"harness": {"left": "damaged"}}) == left_in({}) == []
