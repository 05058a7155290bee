"""Records of a run: which selected cells have none, and why."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from records import decoded
from run_files import cell as record

from harness import Profile
from harness.plugin.manager import Plugins
from harness.run.options import Options
from harness.run.recorder import Recorder
from harness.store.local import Store
from harness.suite.matrix import Cell
from harness.suite.presets import preset


def test_the_cells_that_were_not_measured_have_their_reasons(plugins: Plugins, store: Store, tmp_path: Path) -> None:
    def selected(name: str, skip: str | None = None) -> Cell:
        axes = {"dataset": "toy", "architecture": "conv", "runtime": "eager", "seed": 0}
        return Cell("s.py", "m", "pruning", axes, (), Profile(), "r", name, skip=skip)

    cells = [selected("done"), selected("ruled", "a rule"), *map(selected, ("broken", "beyond", "late"))]
    planner: Any = SimpleNamespace(selected=cells)
    recorder = Recorder(planner, plugins, store, Options(preset("smoke"), tmp_path))
    recorder.records.append(decoded(record(suite="s.py", matrix="m", cell="done")))
    reasons = {"s.py::m[broken]": "an error", "s.py::m[beyond]": "no such layer"}
    assert [
        (entry.cell, entry.outcome, entry.reason) for entry in recorder.unmeasured(reasons, {"s.py::m[beyond]"})
    ] == [
        ("ruled", "skipped", "a rule"),
        ("broken", "failed", "an error"),
        ("beyond", "skipped", "no such layer"),
        ("late", "not run", "selected, and not measured"),
    ]
