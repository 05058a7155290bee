"""The store: whole or not at all, verified on reading, and clear about what is wrong."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from harness.errors import StoreError, UsageError
from harness.keys import key_of
from harness.store import layout
from harness.store.entry import (
    METADATA_LIMIT,
    PICKLES,
    Artefact,
    Damaged,
    check_model,
    parse_metadata,
    sha256_of,
)
from harness.store.layout import META, MODEL, LocalLayout
from harness.store.local import Store

Content = Callable[[Path], None]


def content(data: bytes = b"weights") -> Content:
    return lambda file: file.write_bytes(data) and None


def put(store: Store, document: dict[str, Any], data: bytes = b"weights") -> Artefact:
    return store.put(document, content(data), {"kept": 0.5}, 2.0)


def artefact_folders(store: Store) -> list[str]:
    return sorted(folder.name for folder in (store.root / "artefacts").glob("*/*"))


def test_what_was_put_is_got(store: Store) -> None:
    document = {"step": "halve", "parameters": {"factor": 0.5}}
    assert store.get(key_of(document)) is None
    put(store, document)
    found = store.get(key_of(document))
    assert found is not None
    assert found.key == key_of(document)
    assert found.file.read_bytes() == b"weights"
    assert (found.document, found.facts, found.seconds) == (document, {"kept": 0.5}, 2.0)
    assert store.has(key_of(document))


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 19280])
def test_a_header_of_any_length_is_no_pickle(store: Store, length: int) -> None:
    """The length comes first in the file, and these begin like a pickle or a ZIP archive."""
    weights = {"weight": torch.zeros(1)}
    bare = int.from_bytes(safetensors.torch.save(weights, {"note": ""})[:8], "little")
    content = safetensors.torch.save(weights, {"note": "x" * (length - bare)})
    assert content.startswith(PICKLES)
    artefact = store.put({"root": 1}, lambda file: file.write_bytes(content) and None, {}, 0)
    found = store.get(artefact.key)
    assert found is not None
    assert found.file.read_bytes() == content


def test_the_store_tells_backups_and_git_to_pass_it_by(store: Store) -> None:
    assert (store.root / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert (store.root / ".gitignore").read_text() == "*\n"


def test_the_checkpoints_of_a_step_go_when_its_artefact_is_there(store: Store) -> None:
    document = {"step": "a"}
    (store.progress(key_of(document)) / "fit.safetensors").write_bytes(b"x")
    put(store, document)
    assert list((store.root / "progress").iterdir()) == []


# ----------------------------------------------------------------------------------------------------- atomicity


def test_a_write_that_raises_leaves_nothing(store: Store) -> None:
    def half(file: Path) -> None:
        file.write_bytes(b"hal")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        store.put({"a": 1}, half, {}, 0)
    assert artefact_folders(store) == []
    assert store.get(key_of({"a": 1})) is None


def test_a_kill_in_the_middle_leaves_nothing_that_counts(store: Store, said: list[str]) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom harness.store.local import Store\n"
        "def write(file):\n    file.write_bytes(b'half'); print('writing', flush=True); time.sleep(60)\n"
        "Store(Path(sys.argv[1])).put({'a': 1}, write, {}, 0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(store.root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not store.has(key_of({"a": 1}))
    assert store.get(key_of({"a": 1})) is None
    assert said == []
    assert put(store, {"a": 1}).file.read_bytes() == b"weights"
    assert len(list((store.root / "tmp").iterdir())) == 1
    store.scratch().close()  # as the next run does
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_full_disk_is_an_error_that_says_so_and_leaves_nothing_half(
    store: Store, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "rename")), full)
    with pytest.raises(
        StoreError, match=r"cannot write an artefact in .*store: the disk is full.*choose another store"
    ):
        put(store, {"a": 1})
    monkeypatch.undo()
    assert artefact_folders(store) == []


def test_a_store_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot create the store in .*file/store"):
        Store(tmp_path / "file" / "store")


# ------------------------------------------------------------------------------------------------------- damage


def damaged(store: Store, said: list[str], harm: Callable[[Path], Any]) -> str:
    """What the store says about an artefact after ``harm`` was done to its folder; checks that it can be rebuilt."""
    document = {"a": 1}
    harm(put(store, document).file.parent)
    assert store.get(key_of(document)) is None
    (line,) = said
    assert line.startswith(f"artefact {key_of(document)[:12]} ")
    assert line.endswith("it is not used, and built again when it is needed")
    assert put(store, document).file.read_bytes() == b"weights"
    return line


def edit(folder: Path, **changes: Any) -> None:
    meta = json.loads((folder / META).read_text())
    (folder / META).write_text(json.dumps(meta | changes))


def in_place_of(file: Path, make: Callable[[Path], None]) -> None:
    file.unlink()
    make(file)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: (folder / MODEL).write_bytes(b"weightz"), "does not match its hash"),
        (lambda folder: (folder / MODEL).write_bytes(b""), "does not match its hash"),
        (lambda folder: (folder / MODEL).write_bytes(pickle.dumps([1])), "is a pickle"),
        (lambda folder: (folder / MODEL).write_bytes(b"PK\x03\x04 as torch.save writes"), "is a pickle"),
        (lambda folder: (folder / MODEL).unlink(), "is incomplete"),
        (lambda folder: (folder / META).unlink(), "is incomplete"),
        (lambda folder: (folder / META).write_text((folder / META).read_text()[:40]), "cannot be read"),
        (lambda folder: (folder / META).write_text("[]"), "has metadata that the harness did not write"),
        (lambda folder: (folder / META).write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda folder: edit(folder, document={"a": 2}), "has the metadata of another artefact"),
        (lambda folder: edit(folder, document={"a": float("nan")}), "cannot be read"),
        (lambda folder: edit(folder, sha256=None), "has metadata that the harness did not write"),
        (lambda folder: edit(folder, sha256="A" * 64), "has metadata that the harness did not write"),
        (lambda folder: edit(folder, seconds=True), "has metadata that the harness did not write"),
        (lambda folder: edit(folder, facts={"kept": 0.25}), "has metadata that do not match their checksum"),
        (lambda folder: edit(folder, seconds=3.0), "has metadata that do not match their checksum"),
        (lambda folder: edit(folder, checksum=None), "has metadata that do not match their checksum"),
        (lambda folder: edit(folder, another=1), "has metadata that do not match their checksum"),
        (lambda folder: (folder / META).write_bytes(b" " * (METADATA_LIMIT + 1)),
         "has 16,777,217 bytes of metadata, more than 16,777,216"),
        (lambda folder: in_place_of(folder / META, Path.mkdir), "has metadata that are not a file"),
        (lambda folder: in_place_of(folder / META, os.mkfifo), "has metadata that are not a file"),
        (lambda folder: in_place_of(folder / MODEL, Path.mkdir), "has a model that is not a file"),
        (lambda folder: in_place_of(folder / MODEL, os.mkfifo), "has a model that is not a file"),
    ],
)  # fmt: skip
def test_a_damaged_artefact_is_not_used_and_that_is_said(
    store: Store, said: list[str], harm: Callable[[Path], Any], reason: str
) -> None:
    assert reason in damaged(store, said, harm)


def flips(data: bytes) -> Iterator[bytes]:
    """Yield all copies of ``data`` with one other bit."""
    for bit in range(8 * len(data)):
        copy = bytearray(data)
        copy[bit // 8] ^= 1 << bit % 8
        yield bytes(copy)


def test_every_flipped_bit_of_the_metadata_is_noticed_or_harmless(store: Store) -> None:
    document = {"schema": 2, "step": "prune", "parameters": {"keep": 0.5, "names": ["a", None, True]}}
    facts = {"kept": 0.25, "history": [{"loss": 1.5e-7, "lr": 1, "note": "\u00e9"}], "ok": True, "none": None}
    artefact = store.put(document, content(), facts, 2.5)
    text = artefact.file.with_name(META).read_bytes()
    sound = parse_metadata(artefact.key, text)
    noticed = 0
    for other in flips(text):
        try:
            assert parse_metadata(artefact.key, other) == sound
        except Damaged:
            noticed += 1
    assert noticed > 0.95 * 8 * len(text), "a flip in the white space may be harmless"


def test_every_flipped_bit_of_a_model_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "model"
    data = safetensors.torch.save({"weight": torch.arange(4.0)}, {"harness": "{}"})
    file.write_bytes(data)
    sha256 = sha256_of(file)
    check_model(file, sha256)
    for other in flips(data):
        file.write_bytes(other)
        with pytest.raises(Damaged):
            check_model(file, sha256)


@pytest.mark.parametrize(("schema", "accepted"), [({}, True), ({"schema": 1}, True), ({"schema": 2}, False)])
def test_only_metadata_of_the_first_key_schema_may_lack_a_checksum(schema: dict[str, int], accepted: bool) -> None:
    document = schema | {"a": 1}
    old = {"document": document, "sha256": "0" * 64, "facts": {}, "seconds": 1.0}
    if accepted:
        assert parse_metadata(key_of(document), json.dumps(old).encode()).seconds == 1.0
    else:
        with pytest.raises(Damaged, match="has metadata without a checksum"):
            parse_metadata(key_of(document), json.dumps(old).encode())
    with pytest.raises(Damaged, match="has metadata without a checksum"):
        parse_metadata(key_of(document), json.dumps(old | {"chdcksum": "0" * 64}).encode())


def test_two_artefacts_that_were_swapped(store: Store, said: list[str]) -> None:
    one, two = put(store, {"a": 1}, b"one").file.parent, put(store, {"a": 2}, b"two").file.parent
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    assert store.get(key_of({"a": 1})) is None
    assert store.get(key_of({"a": 2})) is None
    assert ["has the metadata of another artefact" in line for line in said] == [True, True]


def test_only_the_models_of_two_artefacts_were_swapped(store: Store, said: list[str]) -> None:
    one, two = put(store, {"a": 1}, b"one").file, put(store, {"a": 2}, b"two").file
    one.write_bytes(b"two")
    assert store.get(key_of({"a": 1})) is None
    assert "does not match its hash" in said[0]
    assert store.get(key_of({"a": 2})) is not None
    assert two.exists()


# ----------------------------------------------------------------------------------------------------- two runs


def _build(root: Path, started: Any, log: Path) -> None:
    handler = logging.Handler()
    handler.emit = lambda record: _note(log, record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("harness.store").addHandler(handler)
    logging.getLogger("harness.store").setLevel(logging.INFO)
    store = Store(root)
    key = key_of({"a": 1})
    started.wait()
    with store.lock(key):
        if store.get(key) is None:
            _note(log, "builds")
            time.sleep(0.5)
            put(store, {"a": 1})
        else:
            _note(log, "finds")


def _note(log: Path, text: str) -> None:
    with log.open("a") as stream:
        stream.write(text + "\n")


def test_of_two_runs_on_one_store_one_builds_and_the_other_waits(store: Store, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, log = context.Barrier(2), tmp_path / "log"
    runs = [context.Process(target=_build, args=(store.root, barrier, log)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(timeout=30)
    assert [run.exitcode for run in runs] == [0, 0]
    assert log.read_text().splitlines() == [
        "builds",
        f"another run builds {key_of({'a': 1})[:12]} in this store; waiting for it",
        "finds",
    ]


def test_a_run_that_is_overtaken_while_it_writes_puts_its_own_in_place(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = put(Store(tmp_path / "other"), {"a": 1}, b"faster").file.parent
    rename, calls = Path.rename, []

    def overtaken(self: Path, target: Path) -> Path:
        calls.append(self.name)
        if self.name == key_of({"a": 1}) and calls.count(self.name) == 2:  # after it looked for an older one
            shutil.copytree(other, target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    assert put(store, {"a": 1}).file.read_bytes() == b"weights"
    assert len(calls) == 4
    assert list((store.root / "tmp").iterdir()) == []


def test_a_lock_is_free_again_after_an_error(store: Store, said: list[str]) -> None:
    with pytest.raises(RuntimeError), store.lock("k"):
        raise RuntimeError
    with store.lock("k"):
        pass
    assert said == []


# ------------------------------------------------------------------------------------------------------- lineage


def test_the_lineage_leads_from_the_fresh_network(store: Store) -> None:
    root = {"root": {"seed": 0}}
    child = {"parent": key_of(root), "step": "train"}
    grandchild = {"parent": key_of(child), "step": "halve"}
    for document in (root, child, grandchild):
        put(store, document)
    assert store.lineage(key_of(grandchild)[:8]) == [root, child, grandchild]


def test_a_key_that_is_unknown_or_ambiguous(store: Store) -> None:
    for number in range(17):
        put(store, {"a": number})
    first = [key[0] for key in artefact_folders(store)]
    twice = next(digit for digit in first if first.count(digit) > 1)
    with pytest.raises(UsageError, match=rf"{first.count(twice)} artefacts have keys that begin with '{twice}'"):
        store.lineage(twice)
    with pytest.raises(UsageError, match="no artefact has a key that begins with 'xyz'"):
        store.lineage("xyz")


# -------------------------------------------------------------------------------------------------------- layout


def test_a_store_uses_the_paths_of_its_layout(store: Store) -> None:
    artefact = put(store, {"a": 1})
    paths = LocalLayout(store.root)
    with store.lock(artefact.key):
        assert paths.lock(artefact.key).is_file()
    assert artefact.file == paths.artefact(artefact.key) / MODEL
    assert {path.name for path in paths.artefact(artefact.key).iterdir()} == {MODEL, META}
    assert store.progress(artefact.key) == paths.checkpoints(artefact.key)
    assert store.data("toy") == paths.cache("toy")
    named = {paths.artefacts, paths.progress, paths.locks, paths.temporary, paths.cache("toy").parent}
    assert {path for path in store.root.iterdir() if path.is_dir()} == named


def test_the_names_of_remote_files_are_recognized() -> None:
    key = key_of({"a": 1})
    for name in (layout.remote_metadata(key), layout.remote_model(key, key_of("content"))):
        assert layout.remote_key(name) == key
        assert layout.is_remote_metadata(name) == name.endswith(".json")
        assert not layout.is_partial(name)
    assert layout.is_partial(layout.new_partial())
    for strange in (f"{key}.txt", "README.json", f"{key[1:]}.json", layout.new_partial()):
        assert layout.remote_key(strange) is None


def test_metadata_that_could_not_be_read_back_are_refused_before_anything_is_stored(store: Store) -> None:
    document = {"a": "x" * METADATA_LIMIT}
    with pytest.raises(StoreError, match=r"artefact \w{12} have 16,777,\d+ bytes, more than 16,777,216"):
        put(store, document)
    assert store.get(key_of(document)) is None
    assert not store.entries()
