"""The report's page: what it says stands in it, nothing in a name does anything, and it loads nothing."""

from __future__ import annotations

import csv
import html
import io
import itertools
import json
import re
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import run_files
from hostile import NAMES, hostile_records

from harness.api.sections import Section
from harness.records.runs import read
from harness.report import page as page_module
from harness.report.choice import lead
from harness.report.markdown import markdown
from harness.report.model import Report, report
from harness.report.page import page
from harness.report.sheet import sheet


@pytest.fixture(autouse=True)
def _small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the charts' library, which takes seconds to make; the browser's test has it."""
    monkeypatch.setattr(page_module, "_library", lambda: "/* Vega */")
    monkeypatch.setattr(page_module, "DRAWN_NETWORKS", 0)


def of(made: Sequence[Any], tmp_path: Path, **entries: Any) -> Report:
    return report([read(run_files.write(tmp_path / "run.json", made, **entries))])


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts[-1] += data
        elif self._within != "style":
            self.words.append(data)


def test_the_summary_and_every_variant_stand_in_the_page(tmp_path: Path) -> None:
    made = [run_files.cell(1.0), run_files.cell(0.5, pruning="half", difference=(-0.001, -0.002, 0.0))]
    text = page(of(made, tmp_path), [Section("Carbon", text="2 < 3 kg")])
    words = " ".join(Elements(text).words)
    assert "Surely within 0.005 auroc of the reference" in words
    assert "0.500 [0.498, 0.502]" in words
    assert "-0.0010 [-0.0020, +0.0000]" in words
    assert "run.json" in words
    assert "2 < 3 kg" in words
    assert "preset quick" in words
    assert "Skipped and failed" in words


def test_sentences_are_not_cut_where_names_are(tmp_path: Path) -> None:
    option = "half" * 60
    made = [
        run_files.cell(1.0, pruning="full", figures={"auroc": 0.9, "parameters": 1000}),
        run_files.cell(0.5, pruning=option, cell="other", figures={"auroc": 0.9, "parameters": 500}),
    ]
    found = of(made, tmp_path)
    text = lead(found.networks[0])
    assert len(text) > page_module.LONGEST
    assert text in html.unescape(page(found, []))


def test_made_up_data_is_said_before_anything_else(tmp_path: Path) -> None:
    text = page(of([run_files.cell(1.0, dataset="toy-synthetic", synthetic=True)], tmp_path), [])
    assert "SYNTHETIC DATA" in text[: text.index('id="summary"')]


def test_every_record_is_in_the_page_with_its_keys_and_hashes(tmp_path: Path) -> None:
    made = [run_files.cell(1.0), run_files.cell(0.5, pruning="half")]
    made[1]["artefact"] = {"key": "c" * 64, "sha256": "d" * 64}
    data = json.loads(Elements(page(of(made, tmp_path), [])).scripts[0])
    (network,) = data["networks"]
    (trace,) = network["traces"][1]
    assert (trace["artefact key"], trace["artefact sha256"]) == ("c" * 64, "d" * 64)
    assert data["shared"][trace["run file@"]].endswith("run.json")
    assert data["shared"][trace["reference@"]] == "conv-plain-full-float32-0"
    assert trace["latency / reference"][0] == 0.5
    row = dict(zip(data["fields"], network["rows"][1], strict=True))
    assert (row["label"], row["ratio"], row["parameter_share"]) == ("plain-half-float32", 0.5, 1)
    captions = {chart["title"]: chart["caption"] for chart in network["charts"]}
    assert "In brackets: the share of parameters left." in captions["Latency along pruning"]


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    made = [
        run_files.cell(1.0),
        run_files.cell(2.0, pruning="half", figures={"auroc": float("nan"), "parameters": 1.0}),
    ]
    made[1]["timing"]["ratio"] |= {"value": float("inf")}
    data = json.loads(Elements(page(of(made, tmp_path), [])).scripts[0], parse_constant=lambda name: pytest.fail(name))
    row = dict(zip(data["fields"], data["networks"][0]["rows"][1], strict=True))
    assert row["ratio"] is None
    assert row["quality"] is None


def test_hostile_names_are_text(tmp_path: Path) -> None:
    entry = {"suite": "s", "matrix": "m", "outcome": "failed"}
    left = [entry | {"cell": name, "reason": name} for name in NAMES]
    text = page(of(hostile_records(), tmp_path, harness={"left": left}), [Section(name, text=name) for name in NAMES])
    harmless = page(of([run_files.cell(1.0)], tmp_path), [Section("Carbon", text="none")])
    found, plain = Elements(text), Elements(harmless)
    scripts = [element for element in found.found if element[0] == "script"]
    assert len(scripts) == len([element for element in plain.found if element[0] == "script"]) == 3
    for _, attributes in found.found:
        assert not [name for name in attributes if name.startswith("on")]
        for link in ("href", "src"):
            assert (attributes.get(link) or "#").startswith(("#", "data:"))
    data = json.loads(found.scripts[0])
    labels = [row[0] for network in data["networks"] for row in network["rows"]]
    assert "plain-<script>alert(1)</script>-float32" in labels
    assert all(f"plain-{name}-float32" in labels for name in NAMES)
    assert "7 * 7" in html.unescape(text)
    assert max(map(len, found.words)) < 20_000


def test_hostile_names_are_no_markdown_and_no_formula(tmp_path: Path) -> None:
    found = of(hostile_records(), tmp_path)
    text = markdown(found, [Section("Carbon", text="```\n# x")])
    assert "<script>" not in text
    assert "[link](" not in text
    assert not re.search(r"^# x", text, re.MULTILINE)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    rows = list(csv.DictReader(io.StringIO(sheet(found))))
    assert len(rows) == len(found.records)
    assert not [value for row in rows for value in row.values() if value.startswith(("=", "@"))]
    assert "'=1+1" in [row["pruning"] for row in rows]


def test_the_sheet_has_all_figures_of_all_cells(tmp_path: Path) -> None:
    made = [run_files.cell(1.0), run_files.cell(0.5, pruning="half", figures={"auroc": 0.123456789012345, "x": 1.0,
                                                                              "parameters": 3.0})]  # fmt: skip
    first, second = csv.DictReader(io.StringIO(sheet(of(made, tmp_path))))
    assert second["auroc"] == "0.123456789012345"
    assert (first["x"], second["x"]) == ("", "1.0")
    assert second["latency / reference"] == "0.5"
    assert second["artefact"] == "a" * 64


def test_nothing_is_loaded_and_only_the_page_s_own_scripts_run(tmp_path: Path) -> None:
    found = Elements(page(of([run_files.cell(1.0)], tmp_path), [])).found
    (policy,) = [attributes["content"] for _, attributes in found if "http-equiv" in attributes]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert "http" not in policy
    assert "'unsafe-inline'" not in policy.partition("style-src")[0]


def test_tables_have_captions_and_scopes_and_headings_have_an_order(tmp_path: Path) -> None:
    found = Elements(page(of([run_files.cell(1.0), run_files.cell(0.5, pruning="half")], tmp_path), [])).found
    names = [name for name, _ in found]
    assert names.count("table") == names.count("caption") > 3
    assert all("scope" in attributes for name, attributes in found if name == "th")
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {(attributes["href"] or "")[1:] for name, attributes in found if name == "a"}
    assert links <= set(ids)


@pytest.mark.timing
def test_ten_thousand_cells_take_seconds(tmp_path: Path) -> None:
    networks = [f"net{number}" for number in range(100)]
    made = [run_files.cell(1.0, architecture=name, pruning="full" if level == 0 else f"level{level}")
            for name in networks for level in range(100)]  # fmt: skip
    found = of(made, tmp_path)
    start = time.process_time()
    text = page(found, [])
    assert time.process_time() - start < 20
    assert len(text) < 30e6
    data = json.loads(Elements(text).scripts[0])
    assert sum(len(network["rows"]) for network in data["networks"]) == 10_000
    assert text.count("<tr>") < 10_000, "without a script the page shows the beginning alone"
