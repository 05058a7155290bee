"""Garbage collection: never what a kept run names, nor what that came from; everything else that is old."""

from __future__ import annotations

import dataclasses
import datetime
import errno
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import pytest
from fakes import TOYS, Suite, benchmarks, logged
from hypothesis import given, settings
from hypothesis import strategies as st
from records import record

from harness.cli.main import main
from harness.errors import StoreError, UsageError
from harness.keys import key_of
from harness.store.gc import Kept, Place, age, find, named
from harness.store.layout import META, MODEL
from harness.store.local import Store
from harness.store.shared import SharedStore

DAY = 86400.0


def put(store: Store, document: dict[str, Any], days: float = 0.0) -> str:
    """An artefact that was used so many days ago."""
    key = store.put(document, lambda file: file.write_bytes(b"x" * 1000) and None, {}, 0).key
    folder = store.root / "artefacts" / key[:2] / key
    for path in (folder / META, folder / MODEL, folder):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return key


def keys(store: Store) -> set[str]:
    return {folder.name for folder in store.root.glob("artefacts/*/*")}


def run_file(*names: str, reference: str | None = None) -> Path:
    """A run whose records name these artefacts, in the current folder."""
    records = [
        record()
        | {"artefact": {"key": name, "sha256": ""}, "reference_artefact": {"key": reference or name, "sha256": ""}}
        for name in names
    ]
    file = Path(f"run-{names[0][:6]}.json")
    file.write_text(json.dumps({"benchmarks": [{"extra_info": {"harness": entry}} for entry in records]}))
    return file


def collect(place: Place, roots: set[str], days: float = 1.0, documents: Any = None) -> set[str]:
    """Remove the garbage; the names of what was removed."""
    garbage = find(place, Kept(roots, documents or {}), time.time() - days * DAY)
    return {entry.name for entry in (*garbage.artefacts, *garbage.leftovers) if place.remove(entry)}


def folder(root: Path) -> Store:
    """A local store without a shared one, as garbage collection opens it."""
    return Store(root, create=False)


@pytest.fixture
def gc(nowhere: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(["store", "gc", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


# --------------------------------------------------------------------------------------------------------------- law


@dataclasses.dataclass(frozen=True)
class Graph:
    """Documents, each after those that it names; how old they are; which are there, and which a kept run names."""

    documents: list[dict[str, Any]]
    days: list[float]
    there: list[bool]
    named: list[bool]
    #: Whether the kept run holds the documents of what it names, ancestors included.
    told: bool


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    documents: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 9))):
        earlier = st.sampled_from([key_of(document) for document in documents]) if documents else st.nothing()
        document: dict[str, Any] = {"number": number, "data": {"fingerprint": key_of(["data", number])}}
        if documents and draw(st.integers(0, 3)):
            document["parent"] = draw(earlier)
        if documents and draw(st.integers(0, 3)) == 0:
            document["parameters"] = {"teachers": [draw(earlier)]}
        documents.append(document)
    size = len(documents)
    choose = lambda of: draw(st.lists(of, min_size=size, max_size=size))  # noqa: E731
    return Graph(
        documents,
        choose(st.sampled_from([0.1, 0.9, 1.1, 30.0])),
        choose(st.sampled_from([True, True, True, False])),
        choose(st.integers(0, 3).map(lambda number: number == 0)),
        draw(st.booleans()),
    )


def reached(graph: Graph, starts: list[int], known: list[bool]) -> set[str]:
    """What the starts came from, as far as the documents are known."""
    numbers = {key_of(document): number for number, document in enumerate(graph.documents)}
    found: set[int] = set()

    def follow(number: int) -> None:
        if number not in found:
            found.add(number)
            text = json.dumps(graph.documents[number])
            for key, other in numbers.items():
                if key in text and known[number]:
                    follow(other)

    for number in starts:
        follow(number)
    return {key_of(graph.documents[number]) for number in found}


@pytest.mark.parametrize("kind", ["folder", pytest.param("shared", marks=pytest.mark.slow)])
@settings(deadline=None, max_examples=100)
@given(graph=graphs())
def test_a_kept_runs_artefacts_and_their_ancestors_stay_and_other_old_ones_go(kind: str, graph: Graph) -> None:
    with (
        tempfile.TemporaryDirectory() as home,
        mock.patch("os.fsync"),
        logged("harness.store") as lines,
    ):  # the disk may be slow, and proves nothing here
        place, store = _filled(graph, kind, Path(home))
        all_keys = [key_of(document) for document in graph.documents]
        roots = {key for key, is_named in zip(all_keys, graph.named, strict=True) if is_named}
        starts = [number for number, is_named in enumerate(graph.named) if is_named]
        told = reached(graph, starts, [True] * len(all_keys)) if graph.told else set()
        documents = {key: one for key, one in zip(all_keys, graph.documents, strict=True) if key in told}
        known = [is_there or key in told for key, is_there in zip(all_keys, graph.there, strict=True)]
        young = [number for number, days in enumerate(graph.days) if days < 1 and graph.there[number]]
        needed, recent = reached(graph, starts, known), reached(graph, young, known)
        there = {key for key, is_there in zip(all_keys, graph.there, strict=True) if is_there}
        garbage = find(place, Kept(roots, documents), time.time() - DAY)
        assert garbage.missing == roots - there
        removed = collect(place, roots, documents=documents)
        assert removed.isdisjoint(needed), "the one thing that must never happen"
        assert removed == there - needed - recent
        assert {key for key in all_keys if store.get(key)} == there - removed
        assert collect(place, roots, documents=documents) == set()
        assert lines == []


def _filled(graph: Graph, kind: str, home: Path) -> tuple[Place, Store]:
    """A place that holds the graph, and a store that sees it."""
    making = Store(home / "making")
    if kind == "folder":
        for document, days, there in zip(graph.documents, graph.days, graph.there, strict=True):
            if there:
                put(making, document, days)
        return folder(making.root), making
    memory = fsspec.filesystem("memory").store
    memory.clear()
    shared = SharedStore("memory://graph")
    making.shared = shared
    for document, days, there in zip(graph.documents, graph.days, graph.there, strict=True):
        if there:
            key = put(making, document)
            for name in memory:
                if key in name.rpartition("/")[2][:64]:
                    memory[name].created = _ago(days)
    return shared, Store(home / "reading", shared)


def _ago(days: float) -> Any:
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)


# ------------------------------------------------------------------------------------------------------------ caution


def test_one_that_is_needed_and_cannot_tell_its_ancestors_stops_it(store: Store) -> None:
    parent = put(store, {"root": 1}, days=9)
    child = put(store, {"parent": parent}, days=9)
    (store.root / "artefacts" / child[:2] / child / META).write_text("{")
    with pytest.raises(
        StoreError, match=rf"artefact {child} is needed but .* nothing was removed; run its suite again"
    ):
        collect(folder(store.root), {child}, days=2)
    os.utime(store.root / "artefacts" / child[:2] / child / META, (5 * DAY,) * 2)
    assert collect(folder(store.root), {parent}, days=2) == {child}, "what is not needed need not be read"


@pytest.mark.parametrize("above", [False, True])
def test_a_folder_that_may_not_be_looked_into_stops_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, above: bool
) -> None:
    parent = put(store, {"root": 1}, days=9)
    child = put(store, {"parent": parent}, days=9)
    denied = store.root / "artefacts" / child[:2] / ("" if above else child)
    with monkeypatch.context() as patch:
        for name in ("listdir", "scandir"):  # as chmod does for anybody but root
            patch.setattr(os, name, _denying(getattr(os, name), denied))
        with pytest.raises(StoreError, match=r"cannot look into .*: permission denied"):
            collect(folder(store.root), {child})
    assert keys(store) == {parent, child}


def _denying(function: Callable[..., Any], denied: Path) -> Callable[..., Any]:
    def checked(path: Any = ".") -> Any:
        if isinstance(path, (str, os.PathLike)) and Path(path) == denied:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return function(path)

    return checked


def test_a_run_s_own_documents_tell_what_is_lost_or_damaged_here(nowhere: None, store: Store) -> None:
    root, other = put(store, {"root": 1}, days=9), put(store, {"root": 2}, days=9)
    between = {"parent": root}
    child = {"parent": key_of(between)}
    put(store, child, days=9)
    (store.root / "artefacts" / key_of(child)[:2] / key_of(child) / META).write_text("{")
    file = run_file(key_of(child))
    document = json.loads(file.read_text())
    documents = {key_of(child): child, key_of(between): between, key_of("forged"): {"parent": other}, "x": {"y": "z"}}
    file.write_text(json.dumps(document | {"harness": {"documents": documents}}))
    kept = named([file])
    assert kept.documents == {key_of(child): child, key_of(between): between}
    assert collect(folder(store.root), set(kept.keys), documents=kept.documents) == {other}
    assert keys(store) == {root, key_of(child)}


def test_the_earlier_model_that_a_run_was_compared_with_is_named(nowhere: None) -> None:
    file = run_file(key_of("new"))
    document = json.loads(file.read_text())
    document["benchmarks"][0]["extra_info"]["harness"]["against"] = {
        "run": "base.json",
        "artefact": {"key": key_of("old"), "sha256": ""},
        "sha256": "",
        "same": False,
        "timing": None,
        "latency": None,
        "reason": "not timed",
        "figures": {},
        "differences": {},
    }
    file.write_text(json.dumps(document))
    assert named([file]).keys == {key_of("new"), key_of("old")}


def test_what_is_used_meanwhile_stays(store: Store) -> None:
    key = put(store, {"root": 1}, days=9)
    place = folder(store.root)
    (entry,) = find(place, Kept(), time.time() - DAY).artefacts
    assert store.get(key) is not None
    assert not place.remove(entry)
    assert find(place, Kept(), time.time() - DAY).artefacts == [], "getting is using"
    assert keys(store) == {key}


def test_what_is_used_meanwhile_stays_in_a_shared_store(store: Store, tmp_path: Path) -> None:
    store.shared = SharedStore(f"file://{tmp_path}/shared")
    key = put(store, {"root": 1})
    for file in (tmp_path / "shared" / "artefacts").iterdir():
        os.utime(file, (time.time() - 9 * DAY,) * 2)
    (entry,) = find(store.shared, Kept(), time.time() - DAY).artefacts
    store.share([key])
    assert not store.shared.remove(entry)
    assert find(store.shared, Kept(), time.time() - DAY).artefacts == []


def test_what_is_gone_meanwhile_is_no_error(store: Store, tmp_path: Path) -> None:
    store.shared = SharedStore(f"file://{tmp_path}/shared")
    put(store, {"root": 1}, days=9)
    places: list[Place] = [folder(store.root), store.shared]
    entries = [place.entries()[0] for place in places]
    shutil.rmtree(store.root / "artefacts")
    shutil.rmtree(tmp_path / "shared" / "artefacts")
    assert [place.remove(entry) for place, entry in zip(places, entries, strict=True)] == [False, False]


def test_what_is_of_unknown_age_stays(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.shared = SharedStore(f"file://{tmp_path}/shared")
    put(store, {"root": 1})
    monkeypatch.setattr("harness.store.shared.TIMES", ("nothing",))
    assert find(store.shared, Kept(), time.time() + DAY).artefacts == []


def test_checkpoints_that_are_old_go_unless_a_run_holds_their_lock(store: Store) -> None:
    for name in ("old", "held", "new"):
        checkpoint = store.progress(name) / "fit.safetensors"
        checkpoint.write_bytes(b"x")
        if name != "new":
            for path in (checkpoint, checkpoint.parent):
                os.utime(path, (5 * DAY,) * 2)
    cache = store.data("toy") / "cache"
    cache.write_text("slow to make")
    os.utime(cache, (5 * DAY,) * 2)
    with store.lock("held"):
        assert collect(folder(store.root), set()) == {"old"}
    assert cache.exists()
    assert {folder.name for folder in (store.root / "progress").iterdir()} == {"held", "new"}


def test_a_stranger_s_files_stay(store: Store, tmp_path: Path) -> None:
    store.shared = SharedStore(f"file://{tmp_path}/shared")
    key = put(store, {"root": 1}, days=9)
    strange = [
        store.root / "artefacts" / "README",
        store.root / "artefacts" / "ab" / "notes",
        tmp_path / "shared" / "artefacts" / "README.json",
        tmp_path / "shared" / "artefacts" / f"{key}.txt",
        tmp_path / "shared" / "thesis.tex",
    ]
    for file in strange:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    for file in (tmp_path / "shared").rglob("*"):
        os.utime(file, (5 * DAY,) * 2)
    for place in (folder(store.root), store.shared):
        assert collect(place, set()) == {key}
    assert all(file.exists() for file in strange)


@pytest.mark.parametrize("kind", ["file", pytest.param("s3", marks=pytest.mark.slow)])
def test_halves_of_uploads_and_of_removals_go_when_they_are_old(
    kind: str, request: pytest.FixtureRequest, store: Store, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/shared"
    if kind == "s3":
        request.getfixturevalue("s3")
        url = "s3://models/halves"
    store.shared = SharedStore(url)
    whole, half = put(store, {"root": 1}), put(store, {"root": 2})
    system, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    system.rm_file(f"{root}/artefacts/{half}.json")
    system.pipe_file(f"{root}/artefacts/harness-x-1-2.partial", b"x")
    assert collect(store.shared, {whole}) == set()
    removed = collect(store.shared, {whole}, days=-1)
    assert removed == {half, "harness-x-1-2.partial"}
    assert len(system.find(root, refresh=True) if kind == "s3" else system.find(root)) == 2
    assert Store(tmp_path / "another", SharedStore(url)).get(whole) is not None


def test_a_removal_that_is_stopped_leaves_nothing_that_a_reader_takes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    store.shared = SharedStore(f"file://{tmp_path}/shared")
    key = put(store, {"root": 1})
    (entry,) = store.shared.entries()
    with monkeypatch.context() as patch:
        remove = store.shared._fs.rm_file
        patch.setattr(store.shared._fs, "rm_file", lambda path: remove(path) if path.endswith("json") else 1 / 0)
        with pytest.raises(StoreError, match="cannot remove from the shared store"):
            store.shared.remove(entry)
    another = Store(tmp_path / "another", SharedStore(f"file://{tmp_path}/shared"))
    assert not another.has(key)
    assert another.get(key) is None
    assert said == []
    assert collect(store.shared, set(), days=-1) == {key}


# ------------------------------------------------------------------------------------------------------------ command


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("1.5 h", 5400), ("7d", 7 * DAY), ("2w", 14 * DAY)])
def test_an_age(text: str, seconds: float) -> None:
    assert age(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1 year", "nan d"])
def test_what_is_no_age_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number with a unit, such as 12h"):
        age(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "gc needs to know which runs to keep: give --keep RUN.json ..., or --keep-nothing"),
        (["--keep", "good.json", "--keep-nothing"], "or --keep-nothing"),
        (["--keep", "results/*.json"], "there is no file results/*.json"),
        (["--keep", "good.json", "absent.json"], "there is no file absent.json"),
        (["--keep", "good.json", "--keep", "absent.json"], "there is no file absent.json"),
        (["--keep", "half.json"], "half.json cannot be read"),
        (["--keep", "empty.json"], "empty.json holds no record"),
        (
            ["--keep", "nameless.json"],
            "nameless.json is damaged: record 1 (cell c), Object missing required field `artefact`",
        ),
        (["--keep", "strange.json"], "are ['nonsense'], which are no keys; nothing was removed"),
        (["--keep-nothing", "--older-than", "7"], "the age '7' is not a number with a unit"),
        (["--keep-nothing", "--store", "absent"], "no store at absent"),
        (["--keep-nothing", "--shared", ""], "the URL of the shared store is empty"),
        (["--keep-nothing", "--shared", "s3://", "--store", "s"], "not allowed with argument"),
    ],
)
def test_gc_refuses_and_removes_nothing(
    gc: Callable[..., tuple[int, str, str]], arguments: list[str], message: str
) -> None:
    store = Store(Path(".harness"))
    key = put(store, {"root": 1}, days=9)
    run_file(key_of("another")).rename("good.json")
    Path("half.json").write_text(Path("good.json").read_text()[:-9])
    Path("empty.json").write_text('{"benchmarks": []}')
    nameless = {name: value for name, value in record().items() if name != "artefact"} | {"cell": "c"}
    Path("nameless.json").write_text(json.dumps({"benchmarks": [{"extra_info": {"harness": nameless}}]}))
    run_file("nonsense").rename("strange.json")
    code, out, err = gc(*arguments)
    assert (code, out) == (4, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert keys(store) == {key}


def test_gc_says_what_it_removes_and_a_dry_run_removes_nothing(gc: Callable[..., tuple[int, str, str]]) -> None:
    store = Store(Path(".harness"))
    root = put(store, {"root": 1}, days=30)
    kept, reference = put(store, {"parent": root, "a": 1}, days=30), put(store, {"parent": root, "a": 2}, days=30)
    old, recent = put(store, {"parent": root, "a": 3}, days=10), put(store, {"parent": root, "a": 4}, days=3)
    checkpoint = store.progress("interrupted") / "fit.safetensors"
    checkpoint.write_bytes(b"x" * 2000)
    for path in (checkpoint, checkpoint.parent):
        os.utime(path, (5 * DAY,) * 2)
    file = str(run_file(kept, reference=reference))
    another = str(run_file(key_of("gone")))
    arguments = ("--keep", file, "--keep", another, "--older-than", "7d")
    code, out, err = gc(*arguments, "--dry-run")
    assert (code, err) == (0, "")
    first, second, *summary = out.splitlines()
    assert first.startswith(f"would remove {old[:12]}    1.3 kB")
    assert second.startswith("would remove interrupted")
    assert "2 kB  last used 1970-01-0" in second
    assert summary[0].startswith("would remove 1 artefact, 1.3")
    assert ", and 2 kB that interruptions left; kept 4 artefacts, 5." in summary[0]
    assert summary[1] == "1 of those that the kept runs name are not here"
    assert keys(store) == {root, kept, reference, old, recent}
    code, out, _ = gc(*arguments)
    assert code == 0
    assert out.startswith(f"removed {old[:12]}")
    assert keys(store) == {root, kept, reference, recent}
    assert list((store.root / "progress").iterdir()) == []
    assert list((store.root / "tmp").iterdir()) == []
    _, out, _ = gc(*arguments)
    assert out.startswith("removed 0 artefacts, 0 B; kept 4")


def test_gc_looks_at_the_place_that_is_named_alone(
    gc: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{Path.cwd()}/shared"
    store = Store(Path(".harness"), SharedStore(url))
    one = put(store, {"root": 1}, days=9)
    for file in Path("shared/artefacts").iterdir():
        os.utime(file, (5 * DAY,) * 2)
    monkeypatch.setenv("HARNESS_SHARED", url)
    gc("--keep-nothing")
    assert keys(store) == set()
    assert len(list(Path("shared/artefacts").iterdir())) == 2
    assert main(["store", "status"]) == 0
    here, there = capsys.readouterr().out.splitlines()
    assert here == ".harness: 0 artefacts, 0 B"
    assert there.startswith(f"{url}: 1 artefact, 1.2")
    assert re.search(r"kB; last used: 1970-01-0\d \d\d:\d\d the oldest, 1970-01-0\d \d\d:\d\d the newest$", there)
    code, out, _ = gc("--keep-nothing", "--shared", url)
    assert code == 0
    assert f"removed {one[:12]}" in out
    assert list(Path("shared/artefacts").iterdir()) == []


@pytest.mark.slow
def test_gc_in_s3(gc: Callable[..., tuple[int, str, str]], s3: Any) -> None:
    store = Store(Path(".harness"), SharedStore("s3://models/toys"))
    parent = put(store, {"root": 1})
    kept, other = put(store, {"parent": parent}), put(store, {"root": 2})
    code, out, err = gc("--shared", "s3://models/toys", "--keep", str(run_file(kept)), "--older-than", "1h")
    assert (code, err) == (0, "")
    assert out.startswith("removed 0 artefacts, 0 B; kept 3 artefacts")
    time.sleep(1.1)
    code, out, _ = gc("--shared", "s3://models/toys", "--keep", str(run_file(kept)), "--older-than", "0s")
    assert out.startswith(f"removed {other[:12]}")
    assert {Path(name).name[:64] for name in s3.find("models")} == {parent, kept}


def test_status_of_no_store_is_an_error_and_makes_none(nowhere: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "status"]) == 4
    assert capsys.readouterr().err == "harness: no store at .harness; name one with --store\n"
    assert not Path(".harness").exists()


def test_a_run_s_models_outlive_the_garbage(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"file://{Path.cwd()}/shared"
    suite(TOYS, "--harness-store=a", f"--harness-shared={url}", "--benchmark-json=all.json")
    suite(TOYS, "-k", "conv", "--harness-store=a", f"--harness-shared={url}", "--benchmark-json=run.json")
    for place, removed in ((["--store", "a"], 5), (["--shared", url], 3)):  # here two of the models were deployed, too
        assert main(["store", "gc", "--keep", "run.json", "--older-than", "0s", *place]) == 0
        assert f"removed {removed} artefacts" in capsys.readouterr().out
    store = Store(Path("a"), create=False)
    refs = [entry["extra_info"]["harness"]["artefact"] for entry in benchmarks("run.json").values()]
    assert [store.deployable(ref["deployable"]).sha256 for ref in refs] == [ref["sha256"] for ref in refs]  # type: ignore[union-attr]
    again = suite(TOYS, "-k", "conv", "--harness-store=b", f"--harness-shared={url}", "--benchmark-json=again.json")
    assert "steps to build" not in "\n".join(again.outlines)
    (key,) = {
        entry["extra_info"]["harness"]["artefact"]["key"]
        for name, entry in benchmarks("again.json").items()
        if "half" in name
    }
    capsys.readouterr()
    assert main(["explain", key, "--store", "nowhere", "--shared", url]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert not Path("nowhere").exists()
