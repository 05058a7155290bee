"""Study A's table: every published row meets a cell of the suite, and what is shown is what the records say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from records import line, record

from harness.plan import describe
from harness.plugins import installed
from harness.presets import preset
from harness.suite import cells_of, load
from harness_icu.study import LSTM, PUBLISHED, TITLE, Model, model_of, report

SUITE = Path(__file__).parents[2] / "suites" / "icu_matrix.py"
PRUNED = ["train(epochs=1)", "prune_quantile(quantile=0.5, absolute=False, gates=mean, epochs=19)"]


def icu(
    architecture: str, steps: list[str] | None = None, seed: int = 0, seconds: float | None = 30.0, **figures: Any
) -> Any:
    """A record of a network on PhysioNet 2012."""
    known = {"auroc": 0.85, "parameters": 8657, "state_size": 36.5, "latency": 100.0} | figures
    made: Any = record(dataset="physionet2012", architecture=architecture, seed=seed, figures=known)
    steps = ["train()"] if steps is None else steps
    made["steps"] = [{"step": step, "facts": {}, "seconds": seconds} for step in steps]
    return made


def section(*records: Any) -> str:
    found = report(records)
    assert found is not None
    assert found[0] == TITLE
    return found[1]


def test_every_published_row_is_a_cell_of_the_suite() -> None:
    plugins = installed()
    matrix = load(SUITE)["physionet2012"]
    cells = cells_of(matrix, "physionet2012", SUITE.as_posix(), plugins, preset("study"), None)
    models = set()
    for cell in cells:
        steps = [{"step": describe(step), "seconds": 1.0} for step in cell.steps]
        models.add(model_of({"axes": {"architecture": cell.architecture}, "steps": steps}))
    assert set(PUBLISHED) <= models
    # the combinations that the study proposes, and ours
    assert {Model("hlstm", 0.5), Model("hlstm", 0.0, "uniform8"), Model("hlstm", 0.5, "ptq-int8")} <= models
    assert len(models) == 27
    assert None not in models


def test_published_stands_below_measured() -> None:
    text = section(icu("lstm", auroc=0.8512, latency=123.4, brier=0.09), icu("dnn", [*PRUNED], parameters=20225))
    absolute = text.split("against the LSTM")[0]
    lines = [entry.split() for entry in absolute.splitlines()]
    measured = lines.index(["lstm", "8,657", "36.5", "123.4", "30", "0.8512", "-", "0.0900", "-"])
    assert lines[measured + 1] == ["published", "8,081", "129", "523", "4,890", "0.836", "-", "-", "-"]
    pruned = next(index for index, entry in enumerate(lines) if entry[:4] == ["dnn", "pruned", "50", "%"])
    assert lines[pruned][4] == "20,225"
    assert lines[pruned][7] == "60", "both steps took half a minute"
    assert lines[pruned + 1][:2] == ["published", "27,312"]


def test_a_model_that_the_study_lacks_has_no_published_line() -> None:
    text = section(icu("hlstm", [*PRUNED, "quantize(scheme=ptq-int8, calibration=128)"]))
    assert line(text, "hlstm")[:5] == ["hlstm", "pruned", "50", "%", "ptq-int8"]
    assert "published" not in text.partition("Published: MIMIC-III")[0]


def test_networks_are_set_against_the_lstm_of_their_own_seed_and_study() -> None:
    lstm = [icu("lstm", seed=seed, auroc=0.80 + seed / 100) for seed in (0, 1)]
    hlstm = [icu("hlstm", seed=seed, auroc=0.81 + seed / 100, latency=150.0) for seed in (0, 1, 2)]
    relative = section(*lstm, *hlstm).split("against the LSTM")[1]
    assert line(relative, "hlstm") == ["hlstm", "1.000", "1.000", "1.500", "1.000", "+0.0100"], "seed 2 has no LSTM"
    published = PUBLISHED[Model("hlstm")]
    assert line(relative, "published") == [
        "published",
        f"{published.parameters / PUBLISHED[LSTM].parameters:.3f}",
        f"{111 / 129:.3f}",
        f"{254 / 523:.3f}",
        f"{3000 / 4890:.3f}",
        "+0.024",
    ]


def test_seeds_are_averaged_with_their_deviation() -> None:
    text = section(*(icu("lstm", seed=seed, auroc=value) for seed, value in enumerate((0.82, 0.84, 0.86))))
    assert line(text, "lstm")[5:7] == ["0.8400", "±0.0200"]


def test_what_the_store_forgot_is_a_dash() -> None:
    assert line(section(icu("lstm", seconds=None)), "lstm")[4] == "-"


def test_other_data_made_up_data_and_other_recipes_have_no_section() -> None:
    made_up = icu("lstm")
    made_up["axes"]["dataset"] = "physionet2012-synthetic"
    made_up["synthetic"] = True
    assert report([made_up, record(architecture="lstm"), icu("lstm", ["train()", "halve(factor=0.5)"])]) is None
    unknown = icu("lstm")
    unknown["axes"]["architecture"] = "gru"
    assert report([unknown]) is None
