"""What tests of studies share: a small study's file, and records of its cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from records import record

from harness.api.sections import ReportContext, Section
from harness_studies import Study
from harness_studies.comparison import StudyComparison, compare
from harness_studies.section import study_sections

TEXT = """
title = "A study"
citation = "Someone: Somewhere 2020"
doi = "10.1/x"
task = "a task"
runs = 5
dataset = "toy"
stand_ins.toy = ["other"]
notes = ["a note"]

[figures.auroc]
label = "AUROC"
margin = 0.01
[figures.parameters]
label = "parameters"
digits = 0
tolerance = 0.0
[figures.state_size]
unit = "kB"
digits = 1
tolerance = 0.01
overhead = 1.0
scale = "ratio"
[figures.latency]
apart = "another machine"
scale = "ratio"

[parts.conv]
architecture = "conv"
[parts.plain]
steps = [{ step = "train" }]
[parts."half"]
steps = [{ step = "prune", keep = 0.5, norm = ["l1", "l2"], rounds = [1, 5] }]
[parts."half, L1"]
steps = [{ step = "prune", keep = 0.5, norm = "l1", rounds = [1, 5] }]
[parts."half, L2"]
steps = [{ step = "prune", keep = 0.5, norm = "l2", rounds = [1, 5] }]
[parts.int8]
steps = [{ step = "quantize", scheme = "ptq-int8" }]
[parts.native]
profile = { onednn = false }

[[table]]
title = "AUROC"
where = "table 1"
figure = "auroc"
parts = ["conv", "plain"]
choice = ["rounds", "norm"]
columns = [{ name = "100 %" }, { name = "50 %", parts = ["half"] }]
rows = [
    { name = "M_F", values = [[0.93, 0.001], [0.92, 0.002, "5/L2"]] },
    { name = "M_Q", then = ["int8"], values = [[0.91, 0.003], []] },
]

[[table]]
title = "size"
parts = ["conv", "plain"]
columns = [
    { name = "parameters", figure = "parameters" },
    { name = "file", figure = "state_size" },
    { name = "latency", figure = "latency" },
]
rows = [{ name = "M_F", values = [1000, 50, 7] }]

[[finding]]
claim = "int8 is slower"
where = "section 3"
figure = "latency"
relation = "above"
a = ["conv", "plain", "{level}", "int8"]
b = ["conv", "plain", "{level}"]
over.level = ["", "half"]

[[finding]]
claim = "pruning costs nothing"
figure = "auroc"
relation = "not below"
margin = 0.01
a = ["conv", "plain", "half"]
b = ["conv", "plain"]

[[finding]]
claim = "L1 and L2 are the same"
figure = "auroc"
relation = "same"
margin = 0.01
a = ["conv", "plain", "half, L1"]
b = ["conv", "plain", "half, L2"]

[[finding]]
claim = "without oneDNN int8 is faster"
figure = "latency"
relation = "below"
a = ["conv", "native", "plain", "int8"]
b = ["conv", "native", "plain"]
"""

TRAIN = "train()"
INT8 = "quantize(scheme=ptq-int8, calibration=128, coverage=0.9)"


def study(folder: Path, text: str = TEXT) -> Study:
    """The study with this text."""
    file = folder / "study.toml"
    file.write_text(text)
    return Study("made", file)


def comparison(folder: Path, records: Sequence[Any]) -> StudyComparison:
    """The study compared with these records; no step is registered."""
    return compare(study(folder), records, {})


def sections(made: Study, records: Sequence[Any]) -> list[Section]:
    """The sections of a report in a file, of which one study is registered; those that are shown."""
    context = ReportContext(None, None, {"study": {made.name: made}, "step": {}})
    return [section for section in study_sections(records, context) if not section.on_request]


def prune(norm: str = "l1", rounds: int = 1) -> str:
    return f"prune(norm={norm}, keep=0.5, rounds={rounds})"


def cell(*steps: str, preset: str = "study", **changes: Any) -> Any:
    """A record with these steps after the training, named by them; ``per_process`` are its ratios."""
    made: Any = record(**changes)
    made["steps"] = [{"step": step, "facts": {}, "seconds": 1.0} for step in (TRAIN, *steps)]
    made["preset"] = preset
    seed = made["axes"]["seed"]
    made["cell"], made["reference"] = f"{'>'.join(steps)}-{seed}", f"-{seed}"
    made["figures"]["auroc"]["better"] = "higher"
    if "interval" in changes:
        low, high = changes["interval"]
        value = made["figures"]["auroc"]["value"]
        made["figures"]["auroc"]["interval"] = {
            "value": value,
            "low": low,
            "high": high,
            "level": 0.95,
            "method": "boot",
        }
    if made["timing"] is not None:
        made["timing"]["ratio"]["method"] = "Student's t over 4 processes"
        if "per_process" in changes:
            made["timing"]["per_process"] = list(changes["per_process"])
        if "verdict" in changes:
            made["timing"]["verdict"] = {"kind": changes["verdict"]}
    return made
