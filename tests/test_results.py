"""The published results: every file can be read, its table is what its records give, and it is no made-up data."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

import make
from calibration_tables import summarize, table
from harness.plugin.manager import installed
from harness.records.record import Record
from harness.records.runs import read as read_run
from harness.records.runs import read_records
from harness.report.charts import all_charts, slug
from harness.report.model import report
from harness.report.output import file_sections
from harness.report.page import island, script_json

RESULTS = Path(__file__).parent.parent / "results"
#: What a script there printed of the runs' artefacts: without records of its own.
OBSERVERS = [RESULTS / "int8" / "observers.txt", RESULTS / "int8" / "observers-2.2.2.txt"]
CALIBRATION = RESULTS / "calibration" / "calibration.json"


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return make.tables()


def test_every_table_is_made_by_the_script(texts: dict[str, str]) -> None:
    observers = {table.relative_to(RESULTS).as_posix() for table in OBSERVERS}
    assert texts.keys() == {table.relative_to(RESULTS).as_posix() for table in RESULTS.rglob("*.txt")} - observers


@pytest.mark.parametrize("file", [f"{run}.txt" for run in make.RUNS] + [f"{table}.txt" for table in make.STUDIES])
def test_a_table_is_what_its_records_give(texts: dict[str, str], file: str) -> None:
    assert (RESULTS / file).read_text() == texts[file]


def test_the_readme_names_every_run_and_study() -> None:
    readme = (RESULTS / "README.md").read_text()
    for name in (*make.RUNS, *make.STUDIES):
        assert f"`{name}`" in readme


def test_the_calibration_s_table_is_what_its_document_gives() -> None:
    document = json.loads(CALIBRATION.read_text())
    assert CALIBRATION.with_suffix(".txt").read_text().rstrip("\n") == table(document)
    assert all(condition["summary"]["itself"]["comparisons"] >= 200 for condition in document["conditions"])
    again = [condition | {"summary": summarize(condition["comparisons"])} for condition in document["conditions"]]
    assert table(document | {"conditions": again}) == table(document)
    assert "`calibration/calibration`" in (RESULTS / "README.md").read_text()


def test_the_page_and_the_figures_are_of_these_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RESULTS)
    files = [f"{run}.json" for run in make.RUNS]
    found = report([read_run(Path(file)) for file in files])
    sections = file_sections(found, installed())
    text = Path("report.html").read_text(encoding="utf-8")
    data = text.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    assert json.loads(data) == json.loads(script_json(island(found, sections)))
    names = {file.stem for file in Path("figures").iterdir()}
    assert names == {
        f"{number:02}-{slug(name)}-{chart.kind}" for number, (name, chart) in enumerate(all_charts(found, sections), 1)
    }


@pytest.mark.parametrize("table", OBSERVERS, ids=lambda table: table.stem)
def test_other_observers_were_tried_on_the_networks_of_the_records(table: Path) -> None:
    lines = table.read_text().splitlines()
    rows = [re.split(r" {2,}", line.strip()) for line in lines[4:]]
    found: dict[str, Record] = {}
    for run in ("cnn", "rnn"):
        for record in read_records(RESULTS / "ptbxl" / f"{run}.json"):
            axes = record.axes
            if axes["training"] == "plain" and not str(axes["profile"]).startswith("native"):
                found[f"{axes['architecture']} {axes['pruning']} {axes['precision']}"] = record
    assert len({row[0] for row in rows}) == (8 if table == OBSERVERS[0] else 4)
    for name, auroc, scheme, _, _, _, size, smaller in rows:
        whole, int8 = found[f"{name} float32"].figures, found[f"{name} int8"].figures
        assert float(auroc) == pytest.approx(whole["auroc"].value, abs=1e-4)
        if scheme == "ptq-int8" and table == OBSERVERS[0]:
            assert (float(size), float(smaller)) == (whole["state_size"].value, int8["state_size"].value)


def spreads(run: str) -> tuple[float, float]:
    """How far the median latencies, and the paired ratios, of networks of one shape differ in a run, in per cent."""
    shapes: dict[Any, list[Record]] = {}
    for record in read_records(RESULTS / f"{run}.json"):
        shape = [record.axes.get(axis) for axis in ("architecture", "precision", "profile")]
        shape += [record.figures[figure].value for figure in ("parameters", "macs")]
        shapes.setdefault(tuple(shape), []).append(record)
    alike = [records for records in shapes.values() if len(records) > 1]
    medians = [[record.figures["latency"].value or 0.0 for record in records] for records in alike]
    ratios = [[record.timing.ratio.value for record in records if record.timing] for records in alike]
    return tuple(100 * max((max(of) / min(of) - 1 for of in each), default=0.0) for each in (medians, ratios))  # type: ignore[return-value]


def test_the_spread_of_latencies_is_that_of_the_records() -> None:
    found = {run: spreads(run) for run in make.RUNS if run != "ptbxl/channels"}  # no two networks there are alike
    text = " ".join((RESULTS / "README.md").read_text().split())
    for run, (medians, _) in found.items():
        assert f"{medians:.0f} % (`{run}`)" in text
    most = max(ratios for _, ratios in found.values())
    assert f"paired ratios differ by at most {most:.0f} %" in text
    measuring = " ".join((RESULTS.parent / "docs" / "measuring.md").read_text().split())
    widest = max(medians for medians, _ in found.values())
    assert f"by up to {widest:.0f} % within one run, their paired ratios by at most {most:.0f} %" in measuring


def test_the_latencies_of_study_a_are_paired_ratios() -> None:
    """A variant's is its paired ratio, times the medians of the full networks, of which no pair was timed."""
    seeds: dict[tuple[str, ...], list[Record]] = {}
    for record in read_records(RESULTS / "icu" / "physionet2012.json"):
        seeds.setdefault(tuple(str(record.axes[axis]) for axis in ("architecture", "pruning", "precision")), []).append(
            record
        )

    def median(name: str) -> float:
        return statistics.mean(record.figures["latency"].value or 0.0 for record in seeds[name, "full", "float32"])

    def over_lstm(name: str, pruning: str, precision: str) -> float:
        pairs = [record.timing.ratio.value for record in seeds[name, pruning, precision] if record.timing]
        return statistics.geometric_mean(pairs) * median(name) / median("lstm")

    table = (RESULTS.parent / "docs" / "studies.md").read_text()
    (row,) = (line for line in table.splitlines() if line.startswith("| latency over the LSTM's"))
    measured = [re.split(r"[ (]", cell.strip())[0] for cell in row.strip("|").split("|")[1:]]
    cells = [("lstm", "full", "float32"), ("lstm", "below0.5", "float32"), ("hlstm", "full", "float32"),
             ("hlstm", "below0.5", "float32"), ("dnn", "full", "float32"), ("dnn", "full", "uniform8")]  # fmt: skip
    expected = [f"{over_lstm(*cell):.2f}" for cell in cells]
    assert ["1.00", *measured[1:]] == expected
    shares = [f"{100 * over_lstm(*cell):.0f} %" for cell in (cells[2], cells[1])]
    in_its_own = [record.timing.ratio.value for record in seeds[cells[5]] if record.timing]
    text = (RESULTS / "README.md").read_text()
    assert f"Measured: {', '.join(shares)}, and {100 * statistics.geometric_mean(in_its_own):.0f} %" in text


@pytest.mark.parametrize("run", make.RUNS)
def test_results_are_of_real_data_and_say_where_they_come_from(run: str) -> None:
    for record in read_records(RESULTS / f"{run}.json"):
        assert not record.synthetic
        assert len(record.artefact.key) == len(record.artefact.sha256) == 64
