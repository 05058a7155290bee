"""Make the tables, the report and the figures again from the committed records: ``python results/make.py``."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from harness.files import atomic_write
from harness.plugin.manager import installed
from harness.records.runs import read, read_records
from harness.report.charts import write_figures
from harness.report.model import report
from harness.report.output import file_sections, write_report
from harness.report.terminal import named_section, report_text

RESULTS = Path(__file__).parent
STUDY_B = ("ptbxl/cnn.r5", "ptbxl/cnn", "ptbxl/rnn.r5", "ptbxl/rnn", "ptbxl/resnet", "ptbxl/channels")
#: The runs that the page and the figures show; each run has a table too.
RUNS = (*STUDY_B, "ptbxl/epochs", "icu/physionet2012")
#: By the file of a study's table, the study and the runs beside which it stands.
STUDIES = {"studies/a": ("A", ("icu/physionet2012",)), "studies/b": ("B", STUDY_B)}
#: Characters in a line of the tables.
TABLE_WIDTH, STUDY_WIDTH = 200, 160


def tables() -> dict[str, str]:
    """The text of every table, by its file in this folder."""
    plugins = installed()
    texts = {f"{run}.txt": report_text(read_records(RESULTS / f"{run}.json"), plugins, TABLE_WIDTH) for run in RUNS}
    for file, (study, runs) in STUDIES.items():
        records = [record for run in runs for record in read_records(RESULTS / f"{run}.json")]
        texts[f"{file}.txt"] = named_section(records, plugins, study, STUDY_WIDTH)
    texts["calibration/calibration.txt"] = _calibration_table()
    return {file: f"{text}\n" for file, text in texts.items()}


def _calibration_table() -> str:
    sys.path.insert(0, str(RESULTS / "calibration"))  # a script's folder, with modules beside it
    from calibration_tables import table

    return table(json.loads((RESULTS / "calibration" / "calibration.json").read_text(encoding="utf-8")))


def main() -> None:
    """Write the tables, ``report.html`` and the figures; figures that no chart makes any more are removed."""
    for file, text in tables().items():
        with atomic_write(RESULTS / file, "and run again") as aside:
            aside.write_text(text, encoding="utf-8")
    plugins = installed()
    with contextlib.chdir(RESULTS):  # the report names the files as they are called here
        model = report([read(Path(f"{run}.json")) for run in RUNS])
    write_report(model, plugins, RESULTS / "report.html")
    written = {path.name for path in write_figures(model, file_sections(model, plugins), RESULTS / "figures")}
    for path in (RESULTS / "figures").iterdir():
        if path.suffix != ".svg" or path.name not in written:  # the PNG are left out for their size
            path.unlink()


if __name__ == "__main__":
    main()
