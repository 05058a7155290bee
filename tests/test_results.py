"""The published results: every file can be read, its table is what its records give, and it is no made-up data."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.record import read
from harness.report.tables import tables

RESULTS = Path(__file__).parent.parent / "results"
#: Those that are published with a table; a user's own run may lie beside them.
FILES = sorted(table.with_suffix(".json") for table in RESULTS.rglob("*.txt"))


def test_there_are_results() -> None:
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_table_is_what_its_records_give(file: Path) -> None:
    assert file.with_suffix(".txt").read_text().rstrip("\n") == tables(read(file), 200)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_results_are_of_real_data_and_say_where_they_come_from(file: Path) -> None:
    for record in read(file):
        assert not record["synthetic"]
        assert len(record["artefact"]["key"]) == len(record["artefact"]["sha256"]) == 64
    assert f"`{file.relative_to(RESULTS).with_suffix('')}`" in (RESULTS / "README.md").read_text()
