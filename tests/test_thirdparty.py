"""A third party's distribution, installed by pip into a fresh environment and run in a suite beside our own steps."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from environments import Environment
from fakes import benchmarks

from harness.store.entry import Artefact
from harness.store.local import Store

LOWRANK = Path(__file__).parent / "thirdparty" / "lowrank"
#: Added to the suite of the plugin's README: a network in which there is nothing to gain.
HOPELESS = """
hopeless = Matrix(dataset="physionet2012", architecture="dnn", steps={"whole": [train(), lowrank(keep=1)]})
"""
#: Of the network's three layers that gain: outputs, inputs, rank.
LAYERS = [(256, 85, 42), (128, 256, 64), (64, 128, 32)]
CELL = "physionet2012-synthetic-dnn-{}-seed0"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of the plugin's suite: the folder that it was run in, what it printed, and its records by cell."""

    folder: Path
    printed: str
    records: Mapping[str, Mapping[str, Any]]

    def artefact(self, option: str) -> Artefact:
        """The artefact of a cell, with the document of its key."""
        found = Store(self.folder / ".harness").get(self.records[CELL.format(option)]["artefact"]["key"])
        assert found is not None
        return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin's project, to be changed at will."""
    return Path(shutil.copytree(LOWRANK, tmp_path_factory.mktemp("projects") / "lowrank"))


@pytest.fixture(scope="module")
def lowrank_there(fresh_environment: Environment, project: Path) -> Environment:
    """The environment that has the plugin."""
    fresh_environment.install(project)
    return fresh_environment


@pytest.fixture(scope="module")
def run(lowrank_there: Environment, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The suite of the plugin's README, run with real workers."""
    (source,) = re.findall(r"```python\n(.*?)```", (LOWRANK / "README.md").read_text(), re.DOTALL)
    folder = tmp_path_factory.mktemp("suite")
    (folder / "suite.py").write_text(source + HOPELESS)
    options = ("--harness-preset=smoke", "--benchmark-json=run.json")
    printed = lowrank_there.run("pytest", "suite.py", *options, cwd=folder).stdout
    entries = benchmarks(str(folder / "run.json")).values()
    records = [entry["extra_info"]["harness"] for entry in entries]
    return Run(folder, printed, {record["cell"]: record for record in records})


def test_the_installed_plugin_is_listed_with_its_distribution(lowrank_there: Environment) -> None:
    listed = lowrank_there.run("harness", "list").stdout
    assert re.search(r"^  lowrank  .*\[lowrank \(harness-lowrank 0\.1\.0\)\]$", listed, re.MULTILINE)


@pytest.mark.slow
def test_its_cells_stand_beside_those_of_the_built_in_steps(run: Run) -> None:
    assert "4 passed, 1 skipped" in run.printed
    header = next(line for line in run.printed.splitlines() if "lowrank+int8" in line and "full" in line)
    assert header.split() == ["full", "lowrank", "prune+lowrank", "lowrank+int8"]
    for row in ("auroc", "state_size", "macs", "latency / reference", "verdict"):
        line = next(line for line in run.printed.splitlines() if line.startswith(row))
        assert len(re.split(" {2,}", line.strip())) == 5, line


@pytest.mark.slow
def test_a_network_in_which_nothing_gains_is_skipped_with_the_plugins_reason(run: Run) -> None:
    assert "lowrank: no layer of DenseNetwork gains: layers.0: at rank 85 of 85 two factors save nothing" in run.printed
    assert CELL.format("whole") not in run.records


@pytest.mark.slow
def test_the_records_have_what_was_made_of_the_network(run: Run) -> None:
    assert sorted(run.records) == sorted(map(CELL.format, ("full", "lowrank", "lowrank+int8", "prune+lowrank")))
    full, low, pruned, int8 = (
        {name: figure["value"] for name, figure in run.records[CELL.format(option)]["figures"].items()}
        for option in ("full", "lowrank", "prune+lowrank", "lowrank+int8")
    )
    _, step = run.records[CELL.format("lowrank")]["steps"]
    assert step["step"] == "lowrank(by=rank, keep=0.5, finetune=True)"
    assert step["facts"]["ranks"] == {"layers.0": [42, 85], "layers.2": [64, 128], "layers.4": [32, 64]}
    assert step["facts"]["left"] == {"linear": "at rank 1 of 1 two factors save nothing"}
    assert [fit["phase"] for fit in step["facts"]["trainings"]] == ["finetune"]
    assert step["facts"]["parameters"] == {"before": full["parameters"], "after": low["parameters"]}
    saved = sum(rows * width - rank * (rows + width) for rows, width, rank in LAYERS)
    assert full["macs"] - low["macs"] == full["parameters"] - low["parameters"] == saved
    assert pruned["parameters"] < low["parameters"] < full["parameters"]
    assert int8["int8_weights"] == 100
    assert int8["state_size"] < low["state_size"] / 2
    for record in run.records.values():
        assert record["timing"]["ratio"]["value"] > 0


@pytest.mark.slow
def test_the_key_depends_on_the_plugin_s_code_and_parameters(run: Run) -> None:
    document = run.artefact("lowrank").document
    assert document["step"] == "lowrank"
    assert document["plugin"] == "harness-lowrank"
    assert document["parameters"] == {"by": "rank", "keep": 0.5}, "finetune is at its default"
    assert re.fullmatch("[0-9a-f]{16}", document["code"])
    assert document["parent"] == run.artefact("full").key
    assert list(document["training"]) == ["finetune"]


@pytest.mark.slow
def test_its_own_tests_pass_where_it_is_installed(lowrank_there: Environment, project: Path) -> None:
    printed = lowrank_there.run("pytest", "-q", "-p", "no:cacheprovider", "tests/test_lowrank.py", cwd=project).stdout
    assert re.search(r"^\d\d+ passed", printed, re.MULTILINE), printed


@pytest.mark.slow
def test_it_holds_to_the_conformance_kit(lowrank_there: Environment, project: Path) -> None:
    lowrank_there.run("pytest", "-q", "-p", "no:cacheprovider", "tests/test_conformance.py", cwd=project)


@pytest.mark.slow
@pytest.mark.slow
def test_its_code_is_in_the_key_and_its_version_is_not(run: Run, lowrank_there: Environment, project: Path) -> None:
    """Last, as it leaves another version installed."""

    def planned() -> dict[str, dict[str, Any]]:
        lowrank_there.install(project)
        plan = lowrank_there.run("harness", "plan", "suite.py", "--preset=smoke", "--json", cwd=run.folder).stdout
        return {cell["id"]: cell for cell in json.loads(plan)["cells"]}

    def changed(cells: Mapping[str, Mapping[str, Any]]) -> set[str]:
        return {cell for cell, record in run.records.items() if cells[cell]["key"] != record["artefact"]["key"]}

    metadata = project / "pyproject.toml"
    metadata.write_text(metadata.read_text().replace('version = "0.1.0"', 'version = "0.2.0"'))
    released = planned()
    assert changed(released) == set(), "a release with the same code rebuilds nothing"
    assert all(released[cell]["built"] for cell in run.records)
    module = project / "harness_lowrank.py"
    module.write_text(module.read_text().replace("    def apply(", '    version = "2"\n\n    def apply(', 1))
    edited = planned()
    assert changed(edited) == run.records.keys() - {CELL.format("full")}
    assert {cell for cell in run.records if edited[cell]["built"]} == {CELL.format("full")}
