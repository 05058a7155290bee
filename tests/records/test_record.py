"""The classes of a record: decoding, encoding, refusing what is damaged, and the questions that they answer."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import decoded, interval, verdict
from run_files import cell, contaminated

from harness.records.record import Interval, Record, StepRecord, Timing, decode, to_json

RESULTS = Path(__file__).parents[2] / "results"


def published() -> Iterator[Any]:
    """The JSON of all records in ``results/``."""
    for file in sorted(RESULTS.rglob("*.json")):
        document = json.loads(file.read_text())
        if isinstance(document, dict):
            yield from (entry["extra_info"]["harness"] for entry in document.get("benchmarks", []))


def complete() -> Any:
    """The JSON of a record that has every field."""
    signals = [{"signal": "steal", "value": 0.5, "limit": 0.01, "beyond": True},
               {"signal": "load", "value": None, "limit": 1, "beyond": False}]  # fmt: skip
    ratio = interval(1.1, 1.05, 1.15)
    confirmation = {"ratio": ratio, "per_process": [1.1, 1.2], "signals": signals}
    made = cell(
        timing={
            "protocol": "paired",
            "steady": None,
            "bootstrap": None,
            "per_process": [1.0, 1.1],
            "involuntary_switches": [0, 3],
            "load": {"before": 0.5},
            "signals": signals,
            "canary": [[3, 4], [5, 6]],
            "itself": {
                "sha256": "b",
                "ratio": ratio,
                "per_process": [1.0],
                "smallest_change": None,
                "disturbed": False,
            },
            "cost": {"wall": 3.5, "calls": 2.0},
            "verdict": verdict("slower") | {"confirmation": confirmation},
        }
    )
    made["steps"] = [{"step": "train()", "facts": {"epochs": 2}, "seconds": 1.5}]
    made["figures"]["auroc"]["interval"] = interval(0.93, 0.9, 0.95)
    made["gate"] = {"latency": "2%"}
    made["against"] = {
        "run": "old.json",
        "artefact": {"key": "c" * 64, "sha256": "c"},
        "sha256": "",
        "same": False,
        "timing": copy.deepcopy(made["timing"]),
        "latency": None,
        "reason": "",
        "figures": copy.deepcopy(made["figures"]),
        "differences": {"auroc": interval(0.0, None, None)},
        "code": {"architecture conv": "0123"},
        "code_changed": True,
        "commit": "c0ffee",
    }
    return made


def test_every_published_record_is_the_same_after_decoding_and_encoding() -> None:
    documents = list(published())
    assert len(documents) == 284
    for document in documents:
        again = to_json(decode(document))
        assert again == document
        assert list(again) == list(document), "fields in another order"
        assert list(again["timing"]) == list(document["timing"])


@pytest.mark.parametrize("document", [complete(), cell(), cell(None), contaminated()], ids=range(4))
def test_a_record_is_the_same_after_encoding_and_decoding(document: Any) -> None:
    record = decoded(document)
    assert decode(to_json(record)) == record
    assert decode(json.loads(json.dumps(to_json(record)))) == record


def test_a_complete_record_is_the_same_after_decoding_and_encoding() -> None:
    assert to_json(decoded(complete())) == complete()


def test_what_a_file_omits_is_omitted_and_what_it_has_as_null_stays_null() -> None:
    bare, full = cell(machine=None), complete()
    timing = to_json(decoded(bare))["timing"]
    assert timing.keys() - bare["timing"].keys() == {"protocol"}, "the oldest files do not name it"
    assert to_json(decoded(bare)).keys() - bare.keys() == {"gate"}
    encoded = to_json(decoded(full))["timing"]
    assert (encoded["steady"], encoded["bootstrap"], encoded["itself"]["smallest_change"]) == (None, None, None)


def test_not_a_number_stays_what_it_is() -> None:
    document = cell(figures={"auroc": float("nan"), "parameters": float("inf")})
    figures = to_json(decoded(document))["figures"]
    assert str(figures["auroc"]["value"]) == "nan"
    assert figures["parameters"]["value"] == float("inf")


def test_what_a_reader_does_to_the_json_does_not_reach_the_record() -> None:
    record = decoded(complete())
    encoded = to_json(record)
    encoded["steps"][0]["facts"].clear()
    encoded["timing"]["signals"].clear()
    encoded["machine"].clear()
    assert to_json(record) == complete()


def test_fields_of_later_versions_are_allowed_at_every_depth() -> None:
    document = complete()
    for place in (document, document["timing"], document["timing"]["ratio"], document["steps"][0]):
        place["later"] = {"anything": [1]}
    assert decode(document) == decode(complete())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("timing.ratio", "fast", "timing.ratio: Expected `object`, got `str`"),
        ("timing.ratio", [1.0], "timing.ratio: Expected `object`, got `array`"),
        ("timing.ratio.value", None, "timing.ratio.value: Expected `float`, got `null`"),
        ("timing.ratio.value", ..., "timing.ratio: Object missing required field `value`"),
        ("timing.processes", 1.5, "timing.processes: Expected `int`, got `float`"),
        ("timing.processes", True, "timing.processes: Expected `int`, got `bool`"),
        ("timing.signals.1.beyond", 1, "timing.signals[1].beyond: Expected `bool`, got `int`"),
        ("timing.canary.0.1", "3", "timing.canary[0][1]: Expected `int`, got `str`"),
        ("timing.itself.per_process", {}, "timing.itself.per_process: Expected `array`, got `object`"),
        ("timing.verdict.confirmation.signals.0.limit", None, "signals[0].limit: Expected `float`, got `null`"),
        ("timing.verdict.p", ..., "timing.verdict: Object missing required field `p`"),
        ("figures.auroc.value", True, "figures.auroc.value: Expected `float | null`, got `bool`"),
        ("figures.auroc.value", 10**400, "figures.auroc.value: Number out of range"),
        ("against.timing.cost.wall", "1 s", "against.timing.cost.wall: Expected `float`, got `str`"),
        ("axes.seed", 0.5, "axes.seed: Expected `int | str`, got `float`"),
        ("artefact", None, "artefact: Expected `object`, got `null`"),
        ("artefact.key", 3, "artefact.key: Expected `str`, got `int`"),
        ("test_examples", ..., "Object missing required field `test_examples`"),
        ("steps", {}, "steps: Expected `array`, got `object`"),
    ],
)
def test_a_fault_is_refused_with_its_path_and_what_was_expected(path: str, value: Any, message: str) -> None:
    document = complete()
    *places, last = [int(name) if name.isdigit() else name for name in path.split(".")]
    place = document
    for name in places:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        decode(document)
    assert message in str(caught.value)


@pytest.mark.parametrize("document", [None, [], 3, "text"])
def test_what_is_no_object_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="Expected `object`, got"):
        decode(document)


NAMES = st.sampled_from(["share", "timing", "figures", "schema", "suite"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
    )
)
def test_whatever_json_holds_is_decoded_or_refused(document: Any) -> None:
    for kind in (Record, Timing, Interval):
        with pytest.raises(ValueError):  # noqa: PT011
            decode(document, kind)


def test_a_record_answers_how_it_was_timed() -> None:
    timed, single, untimed = decoded(cell()), decoded(cell(timing={"protocol": "single"})), decoded(cell(None))
    assert [record.protocol for record in (timed, single, untimed)] == ["paired", "single", None]
    assert [record.identity[-1] for record in (timed, single, untimed)] == ["paired", "single", ""]
    assert untimed.verdict is None
    assert timed.verdict is None
    slower = decoded(complete()).verdict
    assert slower is not None
    assert slower.kind == "slower"


def test_only_old_records_are_contaminated() -> None:
    signals = [{"signal": "steal", "value": 0.5, "limit": 0.01, "beyond": True}]
    assert not decoded(cell(timing={"signals": signals})).contaminated
    assert decoded(contaminated()).contaminated
    assert not decoded(cell(None)).contaminated
    timing = decoded(complete()).timing
    assert timing is not None
    assert [signal.signal for signal in timing.exceeded] == ["steal"]


def test_the_one_a_a_run_of_old_records_is_read_as_a_list_of_one() -> None:
    timing = decoded(complete()).timing
    assert timing is not None
    assert timing.itself is not None
    assert timing.aa_runs == [timing.itself]
    assert timing.aa_ratios == [[1.0]]
    assert (timing.looks, timing.level) == (1, 0.05)
    newer = msgspec.structs.replace(timing, itself=None, recorded_aa_runs=[timing.itself] * 2)
    assert newer.aa_runs == [timing.itself] * 2
    bare = decoded(cell()).timing
    assert bare is not None
    assert bare.aa_runs == []


def test_a_record_answers_for_its_figures_and_its_name() -> None:
    record = decoded(cell(figures={"auroc": None}))
    assert (record.value("auroc"), record.value("parameters"), record.value("absent")) == (None, 1000.0, None)
    assert list(record.headlines) == ["auroc"]
    assert record.name == "suites/toy.py::m[conv-plain-full-float32-0]"
    assert record.is_reference
    assert not decoded(cell(pruning="half")).is_reference
    assert record.fingerprint.cpu == "Some CPU"


def test_a_step_s_trainings_have_a_former_name() -> None:
    history = [{"epochs": 2}]
    steps = [StepRecord("train()", facts, None) for facts in ({"trainings": history}, {"fits": history}, {})]
    assert [step.trainings for step in steps] == [history, history, None]
    assert any(step.trainings for step in decode(next(published())).steps)
