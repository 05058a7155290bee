"""The published results: every file can be read, its table is what its records give, and it is no made-up data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.calibration.summary import summarise
from harness.plugins import installed
from harness.record import read
from harness.report.calibration import table as calibration
from harness.report.studies import study_text
from harness.report.terminal import report_text
from harness.studies import compare

RESULTS = Path(__file__).parent.parent / "results"
#: Those that are published with a table; a user's own run may lie beside them.
STUDIES = {
    RESULTS / "studies" / "a.txt": ("A", ["icu/physionet2012"]),
    RESULTS / "studies" / "b.txt": ("B", ["ptbxl/quick", "ptbxl/study-cnn-seed0"]),
}
TABLES = sorted(table.with_suffix(".json") for table in RESULTS.rglob("*.txt") if table not in STUDIES)
CALIBRATION = RESULTS / "calibration" / "calibration.json"
FILES = [file for file in TABLES if file != CALIBRATION]


def test_there_are_results() -> None:
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_table_is_what_its_records_give(file: Path) -> None:
    assert file.with_suffix(".txt").read_text().rstrip("\n") == report_text(read(file), installed(), 200)


@pytest.mark.parametrize("table", STUDIES, ids=lambda table: table.stem)
def test_a_study_s_table_is_what_the_records_give(table: Path) -> None:
    name, runs = STUDIES[table]
    records = [record for run in runs for record in read(RESULTS / f"{run}.json")]
    found = compare(installed().studies.get(name), records)
    assert table.read_text().rstrip("\n") == study_text(found, 160)
    assert f"`studies/{table.stem}`" in (RESULTS / "README.md").read_text()


def test_the_calibration_s_table_is_what_its_document_gives() -> None:
    document = json.loads(CALIBRATION.read_text())
    assert CALIBRATION.with_suffix(".txt").read_text().rstrip("\n") == calibration(document)
    assert all(condition["summary"]["itself"]["comparisons"] >= 200 for condition in document["conditions"])
    again = [condition | {"summary": summarise(condition["comparisons"])} for condition in document["conditions"]]
    assert calibration(document | {"conditions": again}) == calibration(document)
    assert "`calibration/calibration`" in (RESULTS / "README.md").read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_results_are_of_real_data_and_say_where_they_come_from(file: Path) -> None:
    for record in read(file):
        assert not record["synthetic"]
        assert len(record["artefact"]["key"]) == len(record["artefact"]["sha256"]) == 64
    assert f"`{file.relative_to(RESULTS).with_suffix('')}`" in (RESULTS / "README.md").read_text()
