"""The shared store: artefacts come whole, sound, or not at all; errors are one line; a failure stops no run."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import toy
from fakes import TOYS, Suite, benchmarks

from harness import Matrix, train
from harness.build.executor import Executor
from harness.errors import StoreError, UsageError
from harness.keys import key_of
from harness.store import local as store_module
from harness.store import shared
from harness.store.layout import META, MODEL
from harness.store.local import Store
from harness.store.shared import SharedStore, shared_url

DOCUMENT = {"step": "halve", "parameters": {"factor": 0.5}}
KEY = key_of(DOCUMENT)


def put(store: Store, document: dict[str, Any] = DOCUMENT, data: bytes = b"weights") -> str:
    return store.put(document, lambda file: file.write_bytes(data) and None, {"kept": 0.5}, 2.0).key


KINDS = ("file", "memory", "s3")


@pytest.fixture(params=["file", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty shared store of each kind: with folders, in memory, and with the semantics of S3."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return "s3://models/of/toys"
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return "memory://toys"
    return f"file://{tmp_path}/shared"


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return f"file://{tmp_path}/shared"


@pytest.fixture
def machine(tmp_path: Path, said: list[str]) -> Callable[..., Store]:
    """A store of its own for each call, with that shared store."""
    count = iter(range(100))
    return lambda url, number=None: Store(
        tmp_path / f"machine-{next(count) if number is None else number}", SharedStore(url)
    )


def files(url: str) -> dict[str, bytes]:
    """What lies in a shared store, by name."""
    system, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    found = system.find(root)
    return {Path(name).name: content for name, content in (system.cat(found) if found else {}).items()}


def write(url: str, name: str, content: bytes) -> None:
    system, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    system.pipe_file(f"{root}/artefacts/{name}", content)


# -------------------------------------------------------------------------------------------------- between machines


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_what_one_machine_makes_another_gets(url: str, machine: Callable[..., Store], said: list[str]) -> None:
    first = machine(url)
    put(first)
    second = machine(url)
    assert second.has(KEY)
    assert second.local(KEY) is None, "asking fetches nothing"
    found, own = second.get(KEY), first.get(KEY)
    assert found is not None
    assert own is not None
    assert found.file.read_bytes() == b"weights"
    assert found.file.is_relative_to(second.root)
    assert (found.document, found.facts, found.seconds) == (own.document, own.facts, own.seconds)
    assert found.file.with_name(META).read_bytes() == own.file.with_name(META).read_bytes()
    assert second.local(KEY) == found
    assert machine(url).get(key_of({"another": 1})) is None
    assert len(files(url)) == 2, "no temporary file is left"
    assert list((second.root / "tmp").iterdir()) == []
    assert said == []


def test_what_another_machine_made_since_is_found(url: str, machine: Callable[..., Store]) -> None:
    early = machine(url)
    put(machine(url))
    assert not early.has(KEY), "it looks once"
    assert early.get(KEY) is not None, "but asks anew before it builds"


def test_has_asks_nothing_and_descriptions_are_asked_for_together(
    folder: str, machine: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine(folder)
    keys = [put(first, {"number": number}) for number in range(20)]
    second = machine(folder)
    assert second.shared is not None
    system = second.shared._fs
    calls: list[str] = []
    for name in ("ls", "find", "info", "exists", "cat", "cat_file", "open", "get_file"):
        method = getattr(system, name)
        spy = lambda *a, _name=name, _method=method, **k: calls.append(_name) or _method(*a, **k)  # noqa: E731
        monkeypatch.setattr(system, name, spy)
    assert all(map(second.has, keys))
    assert not second.has(key_of("x"))
    assert calls == []
    assert second.describe(keys).keys() == set(keys)
    assert calls.count("cat") == 1


def test_share_sends_what_the_other_lacks(url: str, tmp_path: Path, said: list[str]) -> None:
    alone = Store(tmp_path / "alone")
    one, two = put(alone, {"number": 1}), put(alone, {"number": 2})
    joined = Store(tmp_path / "alone", SharedStore(url))
    joined.share([one, key_of("not here")])
    assert {name[:64] for name in files(url)} == {one}
    joined.share([one, two])
    assert {name[:64] for name in files(url)} == {one, two}
    assert said[-1] == f"0 artefacts came from {url}, 2 went there"


def test_share_notes_the_use_of_what_is_old(url: str, machine: Callable[..., Store], monkeypatch: Any) -> None:
    put(machine(url))
    second = machine(url)
    assert second.shared is not None
    before = files(url)
    (entry,) = second.shared.entries()
    time.sleep(1.1)  # the time of S3 has seconds
    second.share([KEY])
    assert second.shared.entries() == [entry], "it is new"
    monkeypatch.setattr(shared, "REFRESH", 0.0)
    second.share([])
    assert second.shared.entries() == [entry], "it is not used"
    second.share([KEY])
    (later,) = second.shared.entries()
    assert (later.used or 0) > (entry.used or 0)
    assert files(url) == before


def test_explain_looks_into_the_shared_store(url: str, machine: Callable[..., Store]) -> None:
    root, child = {"root": 1}, {"parent": key_of({"root": 1})}
    first, second = machine(url), machine(url)
    put(first, root)
    put(second, child)
    assert machine(url).lineage(key_of(child)[:10]) == [root, child]
    with pytest.raises(UsageError, match="no artefact has a key that begins with '0000'"):
        machine(url).lineage("0000")


# ------------------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda files: {name: b"weightz" for name in files if "tensors" in name}, "does not match its hash"),
        (lambda files: {name: pickle.dumps([1]) for name in files if "tensors" in name}, "is a pickle"),
        (lambda files: {name: None for name in files if "tensors" in name}, "is incomplete"),
        (lambda files: {name: text[:40] for name, text in files.items() if "json" in name}, "cannot be read"),
        (lambda files: {name: b"[]" for name in files if "json" in name},
         "has metadata that the harness did not write"),
        (lambda files: {name: _edited(text, sha256="../../x") for name, text in files.items() if "json" in name},
         "has metadata that the harness did not write"),
        (lambda files: {name: _edited(text, facts={"kept": 0.6}) for name, text in files.items() if "json" in name},
         "has metadata that do not match their checksum"),
        (lambda files: {name: b" " * (2**24 + 1) for name in files if "json" in name},
         "has 16,777,217 bytes of metadata, more than 16,777,216"),
        (lambda files: {name: _edited(text, document={"a": 2}) for name, text in files.items() if "json" in name},
         "has the metadata of another artefact"),
        (lambda files: {name: _edited(text, facts=[1]) for name, text in files.items() if "json" in name},
         "has metadata that the harness did not write"),
        (lambda files: {name: _edited(text, facts={"x": float("nan")}) for name, text in files.items()
                        if "json" in name}, "cannot be read (NaN is not a JSON number)"),
        (lambda files: {name: b"[" * 10**5 for name in files if "json" in name}, "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_damaged_there_is_said_not_used_and_replaced(
    folder: str, machine: Callable[..., Store], said: list[str], harm: Callable[..., Any], reason: str
) -> None:
    put(machine(folder))
    for name, content in harm(files(folder)).items():
        path = Path(folder.removeprefix("file://")) / "artefacts" / name
        path.unlink() if content is None else path.write_bytes(content)
    second = machine(folder)
    assert second.get(KEY) is None
    assert second.get(KEY) is None
    (line,) = said
    assert line.startswith(f"artefact {KEY[:12]} of {folder} {reason}")
    assert not second.has(KEY)
    assert list(second.root.glob("artefacts/*/*")) == []
    put(second)
    third = machine(folder).get(KEY)
    assert third is not None
    assert third.file.read_bytes() == b"weights"
    assert len(said) == 1


ODD: dict[str, Callable[[Path], Any]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", ["json", "tensors"])
def test_an_odd_entry_costs_that_artefact_alone(
    folder: str, machine: Callable[..., Store], said: list[str], odd: str, place: str
) -> None:
    first = machine(folder)
    other = put(first, {"number": 1})
    put(first)
    (file,) = Path(folder.removeprefix("file://")).glob(f"artefacts/{KEY}*{place}*")
    file.unlink()
    ODD[odd](file)
    second = machine(folder)
    assert second.get(KEY) is None
    assert second.describe([KEY, other]).keys() == ({other} if place == "json" else {KEY, other})
    assert second.get(other) is not None
    assert not [line for line in said if "goes on" in line], "the store is not paused"
    put(second)  # built again and, unless a folder is in the way, sent
    put(second, {"number": 2})
    second.share([KEY])
    third = machine(folder)
    assert (third.get(KEY) is None) == (odd == "folder")
    assert third.get(key_of({"number": 2})) is not None
    if odd == "folder":
        assert list(file.iterdir()) == []
        assert [line for line in said if f"has a folder in the place of {file.name}: it is not sent there" in line]


def test_a_file_that_cannot_be_read_costs_that_artefact_alone(
    folder: str, machine: Callable[..., Store], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine(folder)
    put(first)
    other = put(first, {"number": 1})
    second = machine(folder)
    assert second.shared is not None
    cat_file = second.shared._fs.cat_file

    def deny(path: str, *rest: Any, **options: Any) -> Any:
        if KEY in path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return cat_file(path, *rest, **options)

    monkeypatch.setattr(second.shared._fs, "cat_file", deny)
    assert second.get(KEY) is None
    assert second.describe([KEY, other]).keys() == {other}
    assert second.get(other) is not None
    (line,) = said
    assert line.startswith(f"artefact {KEY[:12]} of {folder} cannot be read (no permission")


def test_metadata_behind_a_symbolic_link_are_read(folder: str, machine: Callable[..., Store], said: list[str]) -> None:
    put(machine(folder))
    for file in Path(folder.removeprefix("file://")).glob("artefacts/*"):
        file.symlink_to(file.rename(file.with_name(f"target-{file.name}")))
    second = machine(folder)
    assert second.has(KEY)
    assert second.describe([KEY]).keys() == {KEY}
    assert second.get(KEY) is not None
    assert said == []


def test_large_metadata_are_not_read(folder: str, machine: Callable[..., Store], monkeypatch: Any) -> None:
    other = put(machine(folder), {"number": 1})
    put(machine(folder))
    write(folder, f"{KEY}.json", b" " * (2**24 + 1))
    second = machine(folder)
    assert second.shared is not None
    read = []
    cat_file = second.shared._fs.cat_file
    monkeypatch.setattr(second.shared._fs, "cat_file", lambda path, **o: read.append(path) or cat_file(path, **o))
    assert second.get(KEY) is None
    assert second.describe([KEY, other]).keys() == {other}
    assert len(read) == 1
    assert other in read[0]


def _edited(text: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(text) | changes).encode()


def test_what_is_damaged_is_downloaded_once(
    folder: str, machine: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(machine(folder))
    (model,) = [name for name in files(folder) if "tensors" in name]
    write(folder, model, b"weightz")
    second = machine(folder)
    assert second.shared is not None
    downloads = []
    get_file = second.shared._fs.get_file
    monkeypatch.setattr(second.shared._fs, "get_file", lambda *names: downloads.append(names) or get_file(*names))
    assert [second.get(KEY), second.get(KEY)] == [None, None]
    assert len(downloads) == 1


def test_a_swapped_description_is_not_used(url: str, machine: Callable[..., Store], said: list[str]) -> None:
    first = machine(url)
    one, two = put(first, {"number": 1}), put(first, {"number": 2}, b"others")
    there = files(url)
    write(url, f"{one}.json", there[f"{two}.json"])
    assert machine(url).get(one) is None
    assert "has the metadata of another artefact" in said[0]
    assert machine(url).get(two) is not None


def test_what_is_damaged_here_is_fetched_again(folder: str, machine: Callable[..., Store], said: list[str]) -> None:
    first = machine(folder)
    put(first)
    file = first.get(KEY).file  # type: ignore[union-attr]
    file.write_bytes(b"weightz")
    found = first.get(KEY)
    assert found is not None
    assert found.file.read_bytes() == b"weights"
    assert len(said) == 1
    assert "does not match its hash" in said[0]


# ----------------------------------------------------------------------------------------------- writers and killers


def _content(digit: int) -> bytes:
    return bytes([digit]) * 300_000


def _write_again_and_again(url: str, root: Path, digit: int, stop: Any) -> None:
    store, data = Store(root, SharedStore(url)), _content(digit)
    while not stop.is_set():
        put(store, data=data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "s3"])
def test_of_two_writers_of_one_key_a_reader_gets_one_whole(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, said: list[str]
) -> None:
    url = f"file://{tmp_path}/shared"
    if kind == "s3":
        request.getfixturevalue("s3")
        url = "s3://models/raced"
    digits = (1, 2)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    writers = [
        context.Process(target=_write_again_and_again, args=(url, tmp_path / f"writer-{digit}", digit, stop))
        for digit in digits
    ]
    for writer in writers:
        writer.start()
    try:
        got = []
        deadline = time.monotonic() + 60
        reader = SharedStore(url)
        while (len(got) < 20 or len(set(got)) < 2) and time.monotonic() < deadline:
            fresh = Store(tmp_path / f"reader-{time.monotonic_ns()}", reader)
            artefact = fresh.get(KEY)
            if artefact is not None:
                got.append(artefact.file.read_bytes())
    finally:
        stop.set()
        for writer in writers:
            writer.join(timeout=60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert said == []
    assert len(got) >= 20
    assert set(got) == set(map(_content, digits)), "both wrote"
    assert sum(name.endswith(".json") for name in files(url)) == 1


#: Uploads, and stands still in the middle of what it is told.
UPLOADER = """
import sys, time
from pathlib import Path
from harness.store.shared import SharedStore
from harness.store.local import Store

url, root, when = sys.argv[1:]
shared = SharedStore(url)
if when == "between":  # the model is there, the description is not
    shared._fs.pipe_file = lambda *_: print("uploading", flush=True) or time.sleep(60)
elif when == "partial":  # half of the model is there
    def put_file(source, target):
        with open(target, "wb") as file:
            file.write(Path(source).read_bytes()[:3])
        print("uploading", flush=True)
        time.sleep(60)
    shared._fs.put_file = put_file
else:
    print("uploading", flush=True)
content = bytes(int(when)) if when.isdigit() else b"half"
document = {"step": "halve", "parameters": {"factor": 0.5}}
Store(Path(root), shared).put(document, lambda file: file.write_bytes(content), {}, 0)
print("uploaded", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("kind", "when"), [("file", "between"), ("file", "partial"), pytest.param("s3", "between", marks=pytest.mark.slow)]
)
def test_a_killed_upload_leaves_nothing_that_a_reader_takes(
    kind: str, when: str, request: pytest.FixtureRequest, tmp_path: Path, machine: Callable[..., Store], said: list[str]
) -> None:
    url = f"file://{tmp_path}/shared"
    if kind == "s3":
        request.getfixturevalue("s3")
        url = "s3://models/killed"
    _kill(url, tmp_path, when)
    assert len(files(url)) == 1
    reader = machine(url)
    assert not reader.has(KEY)
    assert reader.get(KEY) is None
    put(reader)
    assert machine(url).get(KEY) is not None
    assert said == []
    assert len(files(url)) == 3, "the half is left, and garbage"
    assert reader.shared is not None
    rest = [*reader.shared.leftovers(), *(entry for entry in reader.shared.entries() if len(entry.files) == 3)]
    assert len(rest) == 1


def _kill(url: str, tmp_path: Path, when: str, until: Callable[[], bool] = lambda: True) -> None:
    command = [sys.executable, "-c", UPLOADER, url, str(tmp_path / "killed"), when]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "uploading\n"
        deadline = time.monotonic() + 60
        while not until() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert until()
    finally:
        process.kill()
        rest = process.communicate()[0]
    assert "uploaded" not in rest


@pytest.mark.slow
def test_a_large_upload_to_s3_that_is_killed_is_not_there(
    s3: Any, tmp_path: Path, machine: Callable[..., Store], said: list[str]
) -> None:
    size = 160 * 2**20  # several parts of 50 MB
    _kill("s3://models/large", tmp_path, str(size), until=lambda: bool(s3.list_multipart_uploads("models")))
    assert files("s3://models/large") == {}
    assert machine("s3://models/large").get(KEY) is None
    assert said == []


def test_an_upload_that_fails_leaves_nothing(
    folder: str, machine: Callable[..., Store], monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    store = machine(folder)
    assert store.shared is not None

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.shared._fs, "mv", full)
    put(store)
    assert files(folder) == {}
    assert "the disk is full, here or there; free some space" in said[0]


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "the URL of the shared store is empty"),
        ("s3://", "s3:// names no place; write it as s3://BUCKET/FOLDER"),
        ("s3:///folder", "names no place"),
        ("file:///", "names no place"),
        ("s4://bucket", "fsspec knows no protocol 's4'; did you mean 's3'"),
        ("simplecache::s3://bucket", "without '::' and wildcards"),
        ("s3://bucket/*", "without '::' and wildcards"),
    ],
)
def test_a_url_that_cannot_work_is_an_error_of_use(url: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        SharedStore(url)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "s3fs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"s3://models needs a package that is not installed .*: pip install s3fs"):
        SharedStore("s3://models")


def test_a_folder_that_is_not_there_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"neither a folder .*/not/mounted nor one to create it in; create"):
        SharedStore(f"file://{tmp_path}/not/mounted")
    SharedStore(f"file://{tmp_path}/mounted")
    assert list(tmp_path.iterdir()) == [], "looking makes nothing"


def test_a_bucket_that_is_not_there_is_an_error(s3: Any) -> None:
    with pytest.raises(
        StoreError, match=r"cannot read the shared store s3://modles/x: .*bucket does not exist; create"
    ):
        SharedStore("s3://modles/x")
    assert not s3.exists("modles")


def test_wrong_credentials_are_an_error(s3: Any, s3_server: str) -> None:
    def check_after(actions: str) -> None:
        address = f"{s3_server}/moto-api/reset-auth"
        urllib.request.urlopen(
            urllib.request.Request(address, actions.encode(), {"Content-Type": "text/plain"}, method="POST")
        )

    check_after("0")
    try:
        with pytest.raises(StoreError, match=r"s3://models: no permission \(.+\); check the credentials"):
            SharedStore("s3://models")
    finally:
        check_after("inf")


def test_no_credentials_are_an_error(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match="s3://models: no credentials were found; for S3 set AWS_ACCESS_KEY_ID"):
        SharedStore("s3://models")


def test_a_server_that_does_not_answer_is_an_error(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match=r"s3://models: EndpointConnectionError: .*check the URL, the network"):
        SharedStore("s3://models")


def test_a_password_is_not_shown() -> None:
    with pytest.raises(StoreError) as caught:
        SharedStore("ftp://somebody:secret@127.0.0.1:9/models")
    assert "secret" not in str(caught.value)
    assert "ftp://***@127.0.0.1:9/models" in str(caught.value)


def test_a_folder_for_reading_alone_can_be_read(
    folder: str, machine: Callable[..., Store], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(machine(folder))
    reader = machine(folder)

    def deny(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    assert reader.shared is not None
    monkeypatch.setattr(reader.shared._fs, "put_file", deny)
    assert reader.get(KEY) is not None
    put(reader, {"own": 1})
    put(reader, {"own": 2})
    assert reader.get(KEY) is not None
    (line,) = said
    assert f"cannot write to the shared store {folder}: no permission" in line
    assert "the run goes on with" in line


def test_a_store_that_goes_away_is_said_once_left_alone_and_served_when_it_is_back(
    machine: Callable[..., Store], folder: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(folder)
    assert store.shared is not None
    asked = []

    def dead(*arguments: Any, **_: Any) -> None:
        asked.append(arguments)
        raise TimeoutError("the network is down")

    with monkeypatch.context() as broken:
        for name in ("cat", "cat_file", "info", "put_file", "ls"):
            broken.setattr(store.shared._fs, name, dead)
        for number in range(3):
            assert store.get(key_of({"number": number})) is None
            put(store, {"number": number})
        assert len(asked) == 3, "one for reading, one that finds that the store cannot be listed, one for writing"
        assert len(said) == 2
        assert f"cannot read the shared store {folder}: TimeoutError: the network is down; check" in said[0]
        assert f"cannot write to the shared store {folder}" in said[1]
        monkeypatch.setattr(store_module, "PAUSE", 0.0)
        store.share([key_of({"number": 0})])
        assert len(asked) == 4
        assert len(said) == 2
    store.share([key_of({"number": number}) for number in range(3)])
    assert len(files(folder)) == 6
    assert said[2:] == [f"0 artefacts came from {folder}, 3 went there"]


def test_the_option_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_SHARED", raising=False)
    assert shared_url(None) is None
    monkeypatch.setenv("HARNESS_SHARED", "s3://models")
    assert shared_url(None) == "s3://models"
    assert shared_url("file:///models") == "file:///models"
    assert shared_url("") is None


# -------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("kind", ["file", pytest.param("s3", marks=pytest.mark.slow)])
def test_a_second_machine_builds_nothing(
    kind: str, request: pytest.FixtureRequest, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{Path.cwd()}/shared"
    if kind == "s3":
        request.getfixturevalue("s3")
        url = "s3://models/toys"
    options = ("-k", "conv", f"--harness-shared={url}")
    first = suite(TOYS, *options, "--harness-store=a", "--benchmark-json=a.json")
    first.assert_outcomes(passed=2, deselected=2)
    assert f"harness: preset smoke, store a, shared store {url}" in first.outlines
    assert f"harness: 0 artefacts came from {url}, 3 went there" in first.outlines

    monkeypatch.setattr(Executor, "_apply", lambda *_: pytest.fail("built again"))
    toy.Toy.loads.clear()
    second = suite(TOYS, *options, "--harness-store=b", "--benchmark-json=b.json")
    second.assert_outcomes(passed=2, deselected=2)
    text = "\n".join(second.outlines)
    assert "steps to build" not in text
    assert f"harness: 2 artefacts came from {url}, 0 went there" in text
    assert len(list(Path("b").glob(f"artefacts/*/*/{MODEL}"))) == 2, "the ancestor is not needed"
    for name, entry in benchmarks("a.json").items():
        before, after = (benchmarks(file)[name]["extra_info"]["harness"] for file in ("a.json", "b.json"))
        for field in ("artefact", "reference_artefact", "steps", "figures", "differences"):
            assert after[field] == before[field] == entry["extra_info"]["harness"][field]


def test_only_models_that_a_trusted_run_names_are_taken(url: str, tmp_path: Path, said: list[str]) -> None:
    writer = Store(tmp_path / "writer", SharedStore(url))
    keys = [put(writer, {"number": number}, b"weights %d" % number) for number in range(3)]
    hashes = [hashlib.sha256(b"weights %d" % number).hexdigest() for number in range(3)]
    trusted = {keys[0]: {hashes[2], hashes[0]}, keys[1]: {hashes[2]}}
    reader = Store(tmp_path / "reader", SharedStore(url, trusted))
    assert [reader.has(key) for key in keys] == [True, True, False]
    assert [reader.get(key) is not None for key in keys] == [True, False, False]
    (line,) = said
    assert line.startswith(f"artefact {keys[1][:12]} of {url} has a model that the trusted run does not name")


def test_a_run_with_a_trusted_run_builds_what_that_does_not_name(suite: Suite) -> None:
    url = f"file://{Path.cwd()}/shared"
    suite(TOYS, "-k", "conv", "--harness-store=a", f"--harness-shared={url}", "--benchmark-json=a.json")
    options = ("-k", "conv", f"--harness-shared={url}")
    same = suite(TOYS, *options, "--harness-store=b", "--harness-trusted=a.json")
    same.assert_outcomes(passed=2, deselected=2)
    assert f"harness: 2 artefacts came from {url}, 0 went there" in same.outlines
    forged = json.loads(Path("a.json").read_text())
    for entry in forged["benchmarks"]:
        entry["extra_info"]["harness"]["artefact"]["sha256"] = "0" * 64
        entry["extra_info"]["harness"]["reference_artefact"]["sha256"] = "0" * 64
        del entry["extra_info"]["harness_sha256"]
    Path("other.json").write_text(json.dumps(forged))
    other = suite(TOYS, *options, "--harness-store=c", "--harness-trusted=other.json")
    other.assert_outcomes(passed=2, deselected=2)
    assert "artefacts came from" not in "\n".join(other.outlines).replace("0 artefacts came from", "")
    assert "\n".join(other.outlines).count("has a model that the trusted run does not name") == 2


def test_a_trusted_run_needs_a_shared_store(suite: Suite) -> None:
    result = suite(TOYS, "--harness-trusted=a.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--harness-trusted restricts a shared store, and there is none" in "\n".join(result.errlines)


def test_what_was_built_alone_is_shared_later(suite: Suite) -> None:
    url = f"file://{Path.cwd()}/shared"
    suite(TOYS, "-k", "conv", "--harness-store=a")
    result = suite(TOYS, "-k", "conv", "--harness-store=a", f"--harness-shared={url}")
    assert f"harness: 0 artefacts came from {url}, 3 went there" in result.outlines
    assert len(files(url)) == 6


def test_an_earlier_run_s_models_are_had_from_the_shared_store(suite: Suite) -> None:
    url = f"file://{Path.cwd()}/shared"
    suite(TOYS, "-k", "conv", "--harness-store=a", f"--harness-shared={url}", "--benchmark-json=base.json")
    changed = TOYS.replace('step("halve")', 'step("halve", factor=0.25)')
    options = ("-k", "conv and half", "--harness-store=b", "--harness-against=base.json", "--benchmark-json=new.json")
    result = suite(changed, *options, f"--harness-shared={url}")
    assert f"harness: 2 artefacts came from {url}, 1 went there" in result.outlines
    against = benchmarks("new.json")["toys[toy-synthetic-conv-half-seed0]"]["extra_info"]["harness"]["against"]
    assert (against["reason"], against["same"]) == ("", False)
    assert against["timing"]["ratio"]["value"] > 0


def test_a_plan_finds_what_is_shared_and_fetches_nothing(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{Path.cwd()}/shared"
    monkeypatch.setenv("HARNESS_SHARED", url)
    suite(TOYS, "-k", "conv", "--harness-store=a")
    result = suite(TOYS, "-k", "conv", "--harness-store=b", "--harness-plan")
    assert f"steps to build: 0; in the store b or {url}: 3" in "\n".join(result.outlines)
    assert list(Path("b").glob("artefacts/*/*")) == []


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        ("s3://", pytest.ExitCode.USAGE_ERROR, "s3:// names no place"),
        ("file:///not/mounted/store", pytest.ExitCode.TESTS_FAILED, "neither a folder /not/mounted/store nor one"),
    ],
)
def test_a_wrong_url_ends_the_run_before_it_begins(suite: Suite, url: str, code: int, message: str) -> None:
    result = suite(TOYS, f"--harness-shared={url}")
    text = "\n".join([*result.outlines, *result.errlines])
    assert result.ret == code
    assert message in text
    assert "Traceback" not in text
    assert not Path(".harness/artefacts").exists()


def test_a_shared_store_that_fails_later_costs_nothing_but_a_line(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*_: Any, **__: Any) -> None:
        raise StoreError("cannot write to the shared store: it burns")

    monkeypatch.setattr(SharedStore, "send", dead)
    result = suite(TOYS, "-k", "conv", f"--harness-shared=file://{Path.cwd()}/shared")
    result.assert_outcomes(passed=2, deselected=2)
    assert "\n".join(result.outlines).count("it burns") == 1


def test_what_is_collected_as_garbage_during_a_run_is_built_again(
    executor: Callable[..., Executor], store: Store
) -> None:
    recipe = Matrix(dataset="toy-synthetic", architecture="conv", steps={"only": [train(), toy.Halve()]})
    run = executor(list(recipe.cells("m")), "smoke")
    run.build_all()
    key = list(run.plan.nodes)[-1]
    before = run.build(key).sha256
    shutil.rmtree(store.root / "artefacts")
    assert run.build(key).file.exists()
    assert run.build(key).sha256 == before
