"""The three studies' files: their figures as the studies print them, and cells that the suites really declare."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.build.plan import describe
from harness.plugin.manager import installed
from harness.suite.collect import cells_of, load
from harness.suite.presets import preset
from harness_compress.prune import kept_count
from harness_studies.document import CellSpec, Document, Place, read
from harness_studies.match import Matcher

SUITES = Path(__file__).parents[2] / "suites"
A, B, C = (read(installed().things["study"][name]) for name in ("A", "B", "C"))


def place(document: Document, table: str, row: str, column: str) -> Place:
    (found,) = (entry for entry in document.places if (entry.table, entry.row, entry.column) == (table, row, column))
    return found


@pytest.mark.parametrize(
    ("table", "row", "column", "value", "spread", "choice"),
    [
        ("AUROC, RNN", "M_F", "100 %", 0.9186, 0.0013, ""),
        ("AUROC, RNN", "M_Q", "31.94 %", 0.9136, 0.0010, "10/L2"),
        ("AUROC, RNN", "M_FKD", "4.61 %", 0.8809, 0.0058, "5/L1"),
        ("AUROC, RNN", "M_QKD", "4.61 %", 0.8724, 0.0070, "1/L2"),
        ("AUROC, CNN", "M_F", "57.95 %", 0.9309, 0.0003, "10/L2"),
        ("AUROC, CNN", "M_F", "2.56 %", 0.8984, 0.0031, "5/L1"),
        ("AUROC, CNN", "M_Q", "57.95 %", 0.9227, 0.0056, "1/L1"),
        ("AUROC, CNN", "M_FKD", "100 %", 0.9320, 0.0007, ""),
        ("AUROC, CNN", "M_QKD", "2.56 %", 0.8808, 0.0187, "10/L1"),
        ("AUROC, ResNet", "M_F", "1.77 %", 0.9228, 0.0011, "10/L2"),
        ("AUROC, ResNet", "M_Q", "100 %", 0.9093, 0.0101, ""),
        ("AUROC, ResNet", "M_FKD", "25.47 %", 0.9294, 0.0009, "10/L2"),
        ("AUROC, ResNet", "M_QKD", "1.77 %", 0.9053, 0.0111, "10/L2"),
        ("Parameters, RNN", "M_F", "31.94 %", 7237, None, ""),
        ("Parameters, CNN", "M_F", "2.56 %", 953, None, ""),
        ("Parameters, ResNet", "M_F", "56.60 %", 283493, None, ""),
        ("Size of the state_dict file, RNN", "int8", "4.61 %", 7.770, None, ""),
        ("Size of the state_dict file, ResNet", "float", "100 %", 2042.902, None, ""),
    ],
)
def test_study_b(table: str, row: str, column: str, value: float, spread: float | None, choice: str) -> None:
    published = place(B, table, row, column).published
    assert (published.value, published.spread, published.runs, published.choice) == (value, spread, 5, choice)


def test_study_b_is_whole() -> None:
    counts = Counter(entry.table.partition(",")[0] for entry in B.places)
    assert counts == {"AUROC": 48, "Parameters": 12, "Size of the state_dict file": 12}
    assert all(entry.published.spread is not None for entry in B.places if entry.figure.name == "auroc")
    pruned = [entry for entry in B.places if entry.figure.name == "auroc" and entry.column != "100 %"]
    assert all(entry.published.choice in {f"{r}/{n}" for r in (1, 5, 10) for n in ("L1", "L2")} for entry in pruned)
    # as the study says of its shares
    whole = {entry.table: entry.published.value for entry in B.places if entry.column == "100 %"}
    for entry in B.places:
        if entry.figure.name == "parameters":
            share = 100 * entry.published.value / whole[entry.table]
            assert f"{share:.2f} %".replace("100.00", "100") == entry.column


@pytest.mark.parametrize(
    ("row", "values"),
    [
        ("LSTM", (8081, 129, 523, 4890, 0.836)),
        ("pruned LSTM", (3273, 73, 318, 4990, 0.853)),
        ("hLSTM", (6993, 111, 254, 3000, 0.860)),
        ("DNN", (60929, 767, 20, 3300, 0.82)),
        ("pruned DNN", (27312, 315, 10, 3310, 0.81)),
        ("quantized DNN", (60929, 64, 15, 0.82)),
    ],
)
def test_study_a(row: str, values: tuple[float, ...]) -> None:
    assert tuple(entry.published.value for entry in A.places if entry.row == row) == values


def test_study_c() -> None:
    assert place(C, "Malaria, accuracy on average", "Quantize16", "density 0.1").published.value == 0.7244
    assert place(C, "Chest X-ray, top-1 accuracy", "PruneQuantize16", "density 0.5").published.value == 0.48
    assert place(C, "Chest X-ray, accuracy of single classes", "density 0.1", "fibrosis").published.value == 0.98
    assert {entry.cell.datasets for entry in C.places} == {("malaria",), ("chestxray14",)}


def declared(*suites: str) -> list[Any]:
    """As much of a record as matching looks at, of every cell that these suites declare."""
    plugins = installed()
    found = []
    for suite in suites:
        file = SUITES / f"{suite}.py"
        for name, matrix in load(file).items():
            for cell in cells_of(matrix, name, file.as_posix(), plugins, preset("study"), None):
                axes = dict(cell.axes) | {"dataset": str(cell.axes["dataset"]).removesuffix("-synthetic")}
                steps = [{"step": describe(step)} for step in cell.steps]
                timing = {"profile": {"onednn": cell.profile.onednn, "pace": cell.profile.pace}}
                found.append({"axes": axes, "steps": steps, "timing": timing, "preset": "study", "synthetic": False})
    return found


@pytest.mark.parametrize(
    ("document", "suites"),
    [(A, ("icu_matrix",)), (B, ("ptbxl_matrix", "ptbxl_pruning", "channels_matrix"))],
    ids=["A", "B"],
)
def test_every_published_figure_and_finding_is_of_cells_that_a_suite_declares(
    document: Document, suites: tuple[str, ...]
) -> None:
    matcher = Matcher(declared(*suites), installed().things["step"])
    cells: dict[CellSpec, Any] = {entry.cell: entry.figure for entry in document.places}
    cells |= {cell: claim.figure for claim in document.claims for _, *pair in claim.pairs for cell in pair}
    for cell, figure in cells.items():
        assert matcher.matches(cell, figure), str(cell)


def test_each_pruning_of_study_b_is_run_in_all_six_ways() -> None:
    matcher = Matcher(declared("ptbxl_pruning"), installed().things["step"])
    for entry in B.places:
        if entry.figure.name == "auroc" and entry.published.choice:
            choices = {match.choice(entry.choice) for match in matcher.matches(entry.cell, entry.figure)}
            assert len(choices) == 6
            assert entry.published.choice in choices


@pytest.mark.parametrize(("name", "layers"), [("channels_cnn", (32, 64, 96, 32)), ("channels_resnet", (64, 128, 128))])
def test_channel_counts_are_multiples_of_eight_and_their_neighbours(name: str, layers: tuple[int, ...]) -> None:
    options = load(SUITES / "channels_matrix.py")[name].axes["channels"]
    multiples = 0
    for option, steps in options.items():
        if option == "full":
            continue
        (wanted, whole), (_, pruning) = map(int, option.split("of")), steps
        counts = [kept_count(units, pruning.parameters()["keep"]) for units in layers]
        assert counts == [units * wanted // whole for units in layers]
        assert {count % 8 == 0 for count in counts} == {wanted % 8 == 0}
        multiples += wanted % 8 == 0
    assert (multiples, len(options)) == (3, 10)


def test_what_a_study_says_is_cited() -> None:
    for document in (A, B, C):
        assert document.doi.startswith("10.")
        assert all(entry.where for entry in (*document.places, *document.claims))


def test_naming_studies_reads_no_file_and_loads_no_torch() -> None:
    heavy = {"torch", "scipy", "numpy", "harness_studies.comparison"}
    script = f"import sys, harness_studies; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
