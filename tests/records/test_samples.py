"""The samples of a run file: encoded compactly, decoded exactly, and read from files of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_files
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from harness.errors import UsageError
from harness.records.samples import decode, encode, read_aa_samples, read_samples

NAME = "suites/toy.py::m[conv-plain-full-float32-0]"
SHAPE = (4, 50)
RNG = np.random.default_rng(0)
SAMPLES = {
    "reference": RNG.normal(350_000, 9_000, SHAPE).astype(np.int64),
    "candidate": RNG.normal(250_000, 5_000, SHAPE).astype(np.int64),
    "reference_first": RNG.random(SHAPE) < 0.5,
    "inputs": RNG.integers(0, 64, SHAPE),
}


def write(folder: Path, samples: Any, **section: Any) -> Path:
    """Write a run file of one cell, with these samples."""
    file = run_files.write(folder / "run.json", [run_files.cell()], harness=section)
    document = json.loads(file.read_text())
    document["benchmarks"][0]["extra_info"]["harness_samples"] = samples
    file.write_text(json.dumps(document))
    return file


@given(arrays(st.sampled_from([np.int64, np.int32, np.uint8, np.bool_]), array_shapes(min_side=0)))
def test_what_is_encoded_is_decoded(array: Any) -> None:
    decoded = decode(json.loads(json.dumps(encode({"times": array}))))["times"]
    assert decoded.dtype == (np.bool_ if array.dtype == np.bool_ else np.int64)
    np.testing.assert_array_equal(decoded, array)


def test_samples_are_small() -> None:
    """As plain numbers they took a half more, and with each number on a line of its own ten times as much."""
    lists = {name: array.tolist() for name, array in SAMPLES.items()}
    compact = len(json.dumps(encode(SAMPLES), indent=4))
    assert compact < len(json.dumps(lists, separators=(",", ":"))) / 1.5
    assert compact < len(json.dumps(lists, indent=4)) / 5


def test_samples_are_decoded_without_this_package() -> None:
    import base64
    import zlib

    entry = encode(SAMPLES)["reference"]
    plain = np.frombuffer(zlib.decompress(base64.b64decode(entry["zlib"])), entry["type"]).reshape(entry["shape"])
    np.testing.assert_array_equal(plain, SAMPLES["reference"])


def test_the_samples_of_each_timing_are_read(tmp_path: Path) -> None:
    confirmed = {NAME: {"earlier": encode({"candidate": [[7]]})}}
    by_model = {"reference": encode(SAMPLES), "earlier": encode({"reference": [[1, 2]], "candidate": [[3, 4]]})}
    file = write(tmp_path, by_model, confirmation_samples=confirmed)
    samples = read_samples(file)
    assert samples.keys() == {(NAME, "reference"), (NAME, "earlier")}
    np.testing.assert_array_equal(samples[NAME, "reference"]["candidate"], SAMPLES["candidate"])
    assert samples[NAME, "earlier"]["candidate"].tolist() == [[3, 4]]
    assert read_samples(file, confirmations=True)[NAME, "earlier"]["candidate"].tolist() == [[7]]


def test_files_of_version_0_1_have_lists(tmp_path: Path) -> None:
    lists = {name: array.tolist() for name, array in SAMPLES.items()}
    file = write(tmp_path, lists, confirmation_samples={NAME: {"reference": lists}})
    for confirmations in (False, True):
        (samples,) = read_samples(file, confirmations).values()
        for name, array in SAMPLES.items():
            np.testing.assert_array_equal(samples[name], array)
            assert samples[name].dtype == array.dtype


def test_the_samples_of_a_a_runs_are_read(tmp_path: Path) -> None:
    file = write(tmp_path, None)
    assert read_aa_samples(file) == []
    document = json.loads(file.read_text())
    document["benchmarks"][0]["extra_info"]["harness_aa_samples"] = [encode(SAMPLES), {"candidate": {}}]
    file.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"run\.json is damaged: an A/A run: samples cannot be decoded"):
        read_aa_samples(file)
    document["benchmarks"][0]["extra_info"]["harness_aa_samples"].pop()
    file.write_text(json.dumps(document))
    (samples,) = read_aa_samples(file)
    np.testing.assert_array_equal(samples["candidate"], SAMPLES["candidate"])


@pytest.mark.parametrize("confirmations", [False, True])
def test_a_file_without_samples_has_none(tmp_path: Path, confirmations: bool) -> None:
    assert read_samples(write(tmp_path, None), confirmations) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"zlib": "no base64"},
        {"zlib": "AAAA"},
        {"shape": [4, 51]},
        {"shape": [4, 49]},
        {"shape": "x"},
        {"type": "<f8"},
        {"type": "O"},
        {"type": None},
    ],
)
def test_damaged_samples_are_an_error_that_names_file_and_cell(tmp_path: Path, change: dict[str, Any]) -> None:
    entry = encode(SAMPLES)
    entry["candidate"] |= change
    file = write(tmp_path, {"reference": entry})
    with pytest.raises(UsageError, match=r"run\.json is damaged: cell .*: samples cannot be decoded"):
        read_samples(file)
