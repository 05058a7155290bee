"""Reading run files, refusing what is none, and the order of runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import TOYS, Suite, Workers
from records import decoded
from run_files import cell, contaminated, write, write_all

from harness import UsageError
from harness.measure.machine import Disturbance
from harness.records.record import SCHEMA, Unmeasured, VerdictRecord, checksum, to_json
from harness.records.runs import collect, labels, read, read_records, unmeasured_in
from harness.records.verdicts import CellVerdicts, verdict_sections


def written(folder: Path, *records: Any) -> Path:
    """A run file with an entry for each record; None is an entry that is not ours."""
    benchmarks = [{"name": "x", "extra_info": {} if record is None else {"harness": record}} for record in records]
    file = folder / "run.json"
    file.write_text(json.dumps({"benchmarks": benchmarks}))
    return file


def test_records_are_read_in_order_among_other_benchmarks(tmp_path: Path) -> None:
    ours = [cell(cell=name) for name in "ab"]
    assert read_records(written(tmp_path, ours[0], None, ours[1])) == [decoded(entry) for entry in ours]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file .*run.json; a run writes one with --benchmark-json="),
        ("{", "cannot be read as a benchmark JSON"),
        (b"\xff\xfe", "cannot be read as a benchmark JSON"),
        ("[]", "holds no record"),
        ('{"benchmarks": null}', "holds no record"),
        ('{"benchmarks": [3, {"extra_info": null}, {"extra_info": {"harness": "text"}}]}', "holds no record"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    file = tmp_path / "run.json"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError, match=message):
        read_records(file)


def test_a_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read as a benchmark JSON"):
        read_records(tmp_path)


def test_another_schema_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"has records of schema 99; this version reads {SCHEMA}"):
        read_records(written(tmp_path, cell(), {"schema": 99}))


def test_damaged_entries_of_unmeasured_cells_are_ignored() -> None:
    missing = [
        Unmeasured(suite="s.py", matrix="m", cell="late", outcome="not run", reason="selected, and not measured")
    ]
    assert unmeasured_in({"harness": {"left": to_json(missing)}}) == missing
    assert unmeasured_in({"harness": {"left": [3, {"cell": 1}, *to_json(missing)]}}) == missing
    assert unmeasured_in({"harness": {"left": "damaged"}}) == unmeasured_in({}) == []


def test_a_run_has_its_records_date_and_commit(tmp_path: Path) -> None:
    file = write(
        tmp_path / "r.json",
        [cell(), cell(seed=1)],
        datetime="2026-03-01T14:00:00+02:00",
        commit_info={"id": "abcdef1234", "branch": "b", "dirty": True, "time": "2026-02-01T00:00:00Z"},
    )
    run = read(file)
    assert [record.axes["seed"] for record in run.records] == [0, 1]
    assert run.date.isoformat() == "2026-03-01T12:00:00+00:00"
    assert (run.commit.id, run.commit.branch, run.commit.short) == ("abcdef1234", "b", "abcdef1 (dirty)")
    assert run.commit.date is not None
    assert labels([run]) == ["2026-03-01 abcdef1 (dirty)"]


@pytest.mark.parametrize("info", [None, 3, {}, {"id": "unversioned", "dirty": "no"}, {"id": 7, "time": "noon"}])
def test_a_run_may_be_of_no_commit(tmp_path: Path, info: Any) -> None:
    commit = read(write(tmp_path / "r.json", [cell()], commit_info=info)).commit
    assert (commit.id, commit.short, commit.date) == (None, "no commit", None)


@pytest.mark.parametrize("date", [None, 3, "noon", "", "0001-01-01T00:00:00+14:00"])
def test_a_run_must_say_when_it_was_made(tmp_path: Path, date: Any) -> None:
    with pytest.raises(UsageError, match=r"r\.json does not say when it was made"):
        read(write(tmp_path / "r.json", [cell()], datetime=date))


def test_a_damaged_record_is_named_with_the_path_of_its_fault(tmp_path: Path) -> None:
    broken = cell(cell="half")
    broken["timing"]["ratio"] = "fast"
    message = (
        r"r\.json is damaged: record 2 \(cell half\), timing\.ratio: Expected `object`, got `str`; restore the file"
    )
    with pytest.raises(UsageError, match=message):
        read(write(tmp_path / "r.json", [cell(), broken]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record["axes"].pop("runtime"), "axes: no runtime"),
        (lambda record: record["timing"].update(environment=[]), r"timing\.environment: lacks a worker"),
        (lambda record: record["timing"]["environment"][0].pop("threads"), r"timing\.environment: lacks a worker"),
        (
            lambda record: record["timing"].update(per_process=[2.0, 0.51]),
            r"ratio: 1.0 contradicts per_process",
        ),
        (lambda record: record["timing"]["ratio"].update(low=1.5), r"ratio: 1.0 is not within its interval \[1.5"),
    ],
)
def test_a_record_that_contradicts_itself_or_lacks_something_is_damaged(
    tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    broken = cell(cell="half")
    change(broken)
    with pytest.raises(UsageError, match=rf"is damaged: record 2 \(cell half\), .*{message}.*restore the file"):
        read(write(tmp_path / "r.json", [cell(), broken]))


def sealed(folder: Path) -> dict[str, Any]:
    """The document of a run file with checksums, as a run writes it."""
    made = [cell(cell="whole"), cell(cell="half")]
    document: dict[str, Any] = json.loads(write(folder / "r.json", made).read_text())
    for entry in document["benchmarks"]:
        entry["extra_info"]["harness_sha256"] = checksum(entry["extra_info"]["harness"])
    decided = CellVerdicts(
        reference=VerdictRecord(
            kind="faster", margin=0.01, p=0.001, processes_needed=None, reason="", confirmation=None
        )
    )
    document["harness"] = verdict_sections({HALF: decided})
    return document


HALF = decoded(cell(cell="half")).name


def test_a_run_file_with_checksums_is_read_however_it_is_laid_out(tmp_path: Path) -> None:
    document = sealed(tmp_path)
    texts = [json.dumps(document, indent=indent, sort_keys=bool(indent)) for indent in (None, 4)]
    for text in texts:
        (tmp_path / "r.json").write_text(text)
        records = read_records(tmp_path / "r.json")
        assert [record.cell for record in records] == ["whole", "half"]
        assert records[1].verdict is not None
        assert records[1].verdict.kind == "faster"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("figures", "auroc", "value"), 0.999),
        (("figures", "file_size", "value"), float("nan")),
        (("artefact", "sha256"), "0" * 64),
        (("preset",), "study"),
        (("a_field_of_a_later_version",), 1),
    ],
)
def test_an_edited_record_is_named(tmp_path: Path, place: tuple[str, ...], value: Any) -> None:
    document = sealed(tmp_path)
    *path, last = place
    target = document["benchmarks"][1]["extra_info"]["harness"]
    for name in path:
        target = target[name]
    target[last] = value
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"r\.json is damaged: record 2 \(cell half\), it does not match its SHA-256"):
        read_records(tmp_path / "r.json")


@pytest.mark.parametrize("checksum", [None, 3, "0" * 64])
def test_another_checksum_is_no_checksum(tmp_path: Path, checksum: Any) -> None:
    document = sealed(tmp_path)
    document["benchmarks"][0]["extra_info"]["harness_sha256"] = checksum
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"record 1 \(cell whole\), it does not match its SHA-256"):
        read_records(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda ours: ours["verdicts"][HALF]["reference"].update(p=0.0001), "it does not match its SHA-256"),
        (lambda ours: ours["verdicts"].clear(), "Expected `object`, got `null`"),
        (lambda ours: ours["verdicts_sha256"].clear(), "it does not match its SHA-256"),
    ],
)
def test_an_edited_verdict_is_named(tmp_path: Path, change: Callable[[Any], Any], reason: str) -> None:
    document = sealed(tmp_path)
    change(document["harness"])
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=rf"r\.json is damaged: verdicts of {re.escape(HALF)}: {reason}"):
        read_records(tmp_path / "r.json")


def test_a_run_file_of_an_earlier_version_has_no_checksum(tmp_path: Path) -> None:
    document = sealed(tmp_path)
    del document["harness"]["verdicts_sha256"]
    for entry in document["benchmarks"]:
        del entry["extra_info"]["harness_sha256"]
    (tmp_path / "r.json").write_text(json.dumps(document))
    assert [record.cell for record in read_records(tmp_path / "r.json")] == ["whole", "half"]


def test_what_cannot_be_parsed_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    with pytest.raises(UsageError, match="cannot be read as a benchmark JSON"):
        read(deep)


def test_runs_are_in_the_order_of_time_and_those_of_one_time_as_given(tmp_path: Path) -> None:
    late, early = write(tmp_path / "a.json", [cell()], 2), write(tmp_path / "z.json", [cell()], 1)
    twins = [write(tmp_path / f"{name}.json", [cell(ratio)], 1.5) for name, ratio in (("y", 1.1), ("b", 1.2))]
    runs, remarks = collect([late, *twins, early])
    assert [run.path.stem for run in runs] == ["z", "y", "b", "a"]
    assert remarks == []
    assert labels(runs)[1:3] == [f"2026-03-03 00:00:00 dd50000 {path}" for path in twins]


def test_labels_have_the_time_only_where_it_tells(tmp_path: Path) -> None:
    commit = {"id": "a" * 40}
    files = [write(tmp_path / f"{day}.json", [cell(1 + day)], day, commit_info=commit) for day in (0, 0.25, 1)]
    assert labels([read(file) for file in files]) == [
        "2026-03-01 12:00 aaaaaaa", "2026-03-01 18:00 aaaaaaa", "2026-03-02 12:00 aaaaaaa",
    ]  # fmt: skip
    assert labels([read(files[0]), read(files[2])]) == ["2026-03-01 aaaaaaa", "2026-03-02 aaaaaaa"]


def test_of_a_folder_what_is_no_run_is_named_and_passed_over(tmp_path: Path) -> None:
    write_all(tmp_path / "deep" / "er", [[cell()], [cell(1.1)]])
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "notes.txt").write_text("no run")
    (tmp_path / "folder.json").mkdir()
    document = json.loads((tmp_path / "deep" / "er" / "run000.json").read_text())
    document["benchmarks"][0]["extra_info"]["harness"]["schema"] = 99
    (tmp_path / "other.json").write_text(json.dumps(document))
    runs, remarks = collect([tmp_path])
    assert [run.path.name for run in runs] == ["run000.json", "run001.json"]
    assert len(remarks) == 3
    for remark, name, reason in zip(
        remarks, ("broken", "list", "other"), ("cannot be read", "no record", "of schema 99"), strict=True
    ):
        assert remark.startswith(f"skipped: {tmp_path / name}.json")
        assert reason in remark


def test_a_file_that_is_named_must_be_a_run(tmp_path: Path) -> None:
    good = write(tmp_path / "good.json", [cell()])
    with pytest.raises(UsageError, match="there is no file"):
        collect([good, tmp_path / "absent.json"])


def test_where_there_is_no_run_is_an_error_with_what_was_passed_over(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UsageError, match=r"(?s)there is no run in .*skipped: .*list\.json"):
        collect([tmp_path])


def test_a_run_counts_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", [cell()])
    copy = tmp_path / "copy.json"
    shutil.copy(file, copy)
    runs, remarks = collect([file, tmp_path, file])
    assert [run.path.name for run in runs] == ["a.json"]
    assert remarks == [f"skipped: {copy} is a copy of {file}"]


def test_runs_of_one_time_that_differ_both_count(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.json", [cell()]), write(tmp_path / "b.json", [contaminated()])]
    assert len(collect(files)[0]) == 2


def test_a_clock_that_was_wrong_is_told(tmp_path: Path) -> None:
    info = {"id": "a" * 40, "time": "2027-01-01T00:00:00Z"}
    file = write(tmp_path / "a.json", [cell()], commit_info=info)
    (remark,) = collect([file])[1]
    assert "made at 2026-03-01 12:00, before its commit of 2027-01-01 00:00: a clock was wrong" in remark


@pytest.mark.parametrize("protocol", ["paired", "single"])
def test_what_the_harness_writes_is_a_run(suite: Suite, protocol: str) -> None:
    suite(TOYS, "--benchmark-json=run.json", "-k", "conv", f"--harness-protocol={protocol}")
    assert [record.cell for record in read(Path("run.json")).records] == [
        "toy-synthetic-conv-full-seed0",
        "toy-synthetic-conv-half-seed0",
    ]


def test_a_run_on_a_disturbed_machine_is_decided(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workers, "disturbance", Disturbance(0, 0.5, None))
    suite(TOYS, "--benchmark-json=run.json", "-k", "conv and half")
    (record,) = read(Path("run.json")).records
    assert record.timing is not None
    assert [signal.signal for signal in record.timing.exceeded] == ["steal"]
    assert not record.contaminated
    assert record.verdict is not None
    assert record.verdict.kind == "faster"
