"""Deployed files are stored, checked against the network, audited, and evaluated with the batch that is timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from fakes import TOYS, Suite, Workers, benchmarks

from harness import Audit, CellError, ExecutedOperator, Predictor, Profile, hookimpl
from harness.run.deployment import check_coverage, check_parity
from harness.store.local import Store
from harness.suite.matrix import Cell

HALF = "toys[toy-synthetic-conv-half-seed0]"
CELL = Cell("suite.py", "m", "", {"runtime": "fast", "seed": 0}, (), Profile(), "reference", "cell")


def record(suite: Suite, *options: str, passed: int = 1, source: str = TOYS) -> Any:
    """The record of a cell after a run of this cell alone; None where it failed."""
    result = suite(source, "-k", "conv and half", "--benchmark-json=run.json", *options)
    result.assert_outcomes(passed=passed, failed=1 - passed, deselected=3)
    return benchmarks()[HALF]["extra_info"]["harness"] if passed else "\n".join(result.outlines)


def answering(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let the toy runtime change its probabilities by a function of the inputs and the probabilities."""
    load = toy.Eager.load

    def changed(self: toy.Eager, file: Path) -> Predictor:
        predictor = load(self, file)
        return lambda inputs: change(inputs, predictor(inputs).clone())

    monkeypatch.setattr(toy.Eager, "load", changed)


def test_a_deployed_file_is_stored_and_deployed_once(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    first = record(suite)
    stored = Store(Path(".harness"), create=False).deployable(first["artefact"]["deployable"])
    assert stored is not None
    assert stored.sha256 == first["artefact"]["sha256"]
    assert stored.document["artefact"] == first["artefact"]["key"]
    assert stored.document["deployable"] == "eager"
    artefact = Store(Path(".harness"), create=False).local(first["artefact"]["key"])
    assert artefact is not None
    assert stored.file.samefile(artefact.file), "equal files take their space once"
    monkeypatch.setattr(toy.Eager, "deploy", lambda *_: pytest.fail("deployed again"))
    assert record(suite)["artefact"] == first["artefact"]


def test_another_version_or_option_of_a_runtime_is_another_deployable(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {record(suite)["artefact"]["deployable"]}
    monkeypatch.setattr(toy.Eager, "options", lambda self: {"level": 3})
    keys.add(record(suite)["artefact"]["deployable"])
    monkeypatch.setattr(toy.Eager, "version", "2")
    keys.add(record(suite)["artefact"]["deployable"])
    monkeypatch.setattr(toy.Eager, "depends_on_cpu", True)
    keys.add(record(suite)["artefact"]["deployable"])
    assert len(keys) == 4


def test_the_checks_of_a_deployed_file_are_in_the_record(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit((ExecutedOperator("Conv", "float32", 2),), 0.0, 0.0)
    monkeypatch.setattr(toy.Eager, "audit", lambda self, file, example: audit)
    deployment = record(suite)["deployment"]
    (parity,) = deployment["parity"]
    assert (deployment["runtime"], deployment["version"], deployment["batch"]) == ("eager", "1", 128)
    assert (parity["against"], parity["limits"]) == ("network", {"difference": 1e-4})
    assert max(parity["difference"], parity["mean"], deployment["batch_difference"]) < 1e-6
    assert deployment["audit"]["operators"] == [{"kind": "Conv", "precision": "float32", "count": 2}]


def test_a_file_that_answers_unlike_its_network_fails_with_the_figures(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, lambda inputs, answers: answers + 0.125)
    text = record(suite, passed=0)
    assert "unlike the network: probabilities differ by 0.125 on average and by up to 0.125" in text


def test_a_file_that_answers_nan_fails(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, lambda inputs, answers: answers * float("nan"))
    assert "answers NaN or infinity" in record(suite, passed=0)


def test_answers_that_depend_on_the_batch_are_evaluated_one_by_one(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    predict = Workers.predict

    def recording(self: Workers, *arguments: Any) -> Any:
        sizes.append(arguments[-1])
        return predict(self, *arguments)

    monkeypatch.setattr(Workers, "predict", recording)
    answering(monkeypatch, lambda inputs, answers: answers + 0.25 * (answers.mean(dim=0) - answers))
    deployment = record(suite)["deployment"]
    assert deployment["batch"] == 1
    assert deployment["batch_difference"] > 1e-4
    assert sizes == [1, 128, 1] * 2, "the checks one by one and together, then the test split one by one; twice"


def test_a_file_that_cannot_answer_a_batch_is_evaluated_one_by_one(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(inputs: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        if len(inputs) > 1:
            raise CellError("one at a time")
        return answers

    answering(monkeypatch, change)
    deployment = record(suite)["deployment"]
    assert (deployment["batch"], deployment["batch_difference"]) == (1, None)


def test_a_profile_that_the_runtime_ignores_is_refused(suite: Suite) -> None:
    source = TOYS.replace('runtime="eager"', 'runtime="eager", profile=Profile(isa="avx2")')
    text = record(suite, passed=0, source=source)
    assert "the profile sets isa='avx2', which runtime 'eager' does not honour" in text
    assert not list(Path(".harness").glob("artefacts/*/*")), "nothing is built for it"


def test_the_cells_of_a_runtime_that_is_not_there_are_skipped(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.Eager, "packages", ("no-such-package",))
    result = suite(TOYS, "-k", "conv and half", "-rs")
    result.assert_outcomes(skipped=1, deselected=3)
    assert "runtime 'eager' needs the package no-such-package" in "\n".join(result.outlines)


def test_a_pair_of_two_runtimes_is_timed_in_one_worker(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    class Second(toy.Eager):
        name = "second"

    @hookimpl
    def harness_runtimes(register: Any) -> None:
        register(toy.Eager())
        register(Second())

    monkeypatch.setattr(toy, "harness_runtimes", harness_runtimes)
    asked: set[tuple[str, str]] = set()
    time_pair = Workers.time_pair

    def recording(self: Workers, *arguments: Any, **named: Any) -> Any:
        asked.add((named["reference_runtime"], named["runtime"]))
        return time_pair(self, *arguments, **named)

    monkeypatch.setattr(Workers, "time_pair", recording)
    source = TOYS.replace('runtime="eager"', 'runtime=["eager", "second"], reference={"runtime": "eager"}')
    result = suite(source, "-k", "conv and half and second", "--benchmark-json=run.json")
    result.assert_outcomes(passed=1, deselected=7)
    (entry,) = benchmarks().values()
    found = entry["extra_info"]["harness"]
    assert (found["cell"], found["reference"]) == (
        "toy-synthetic-conv-half-second-seed0",
        "toy-synthetic-conv-full-eager-seed0",
    )
    assert asked == {("eager", "second"), ("eager", "eager")}, "the pair, and the reference's A/A runs"


def test_parity_counts_the_probabilities_that_changed() -> None:
    expected = np.zeros((10, 2), np.float32)
    scores = expected.copy()
    scores[:2, 0] = 0.02
    parity = check_parity(CELL, "float network", scores, expected, {"mean": 0.1, "changed": 0.1})
    assert parity.changed == pytest.approx(0.1)
    assert parity.mean == pytest.approx(0.002)
    with pytest.raises(CellError, match=r"10\.0% of them by more than 0\.01 \(allowed: changed at most 0\.05\)"):
        check_parity(CELL, "float network", scores, expected, {"mean": 0.1, "changed": 0.05})


def test_a_request_that_falls_back_to_float_fails_with_the_operators() -> None:
    audit = Audit((ExecutedOperator("Conv", "int8"), ExecutedOperator("MatMul", "float32", 3)), 0.5, 0.8)
    check_coverage(CELL, audit, 0.5)
    with pytest.raises(CellError, match=r"only 50\.0% of the weights and 80\.0% .* 3 MatMul in float32"):
        check_coverage(CELL, audit, 0.9)
    with pytest.raises(CellError, match=r"is unknown, .*: nothing is reported"):
        check_coverage(CELL, Audit(reason="nothing is reported"), 0.9)
    check_coverage(CELL, Audit(reason="nothing is reported"), 0.0)
