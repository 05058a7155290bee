"""The store: artefacts by key, written whole or not at all, verified on every reading, never a pickle."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.errors import StoreError, UsageError, explain_disk_errors
from harness.keys import key_of, plain
from harness.scratch import Scratch, prefix

MODEL = "model.safetensors"
META = "artefact.json"
CACHEDIR_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by harness; safe to delete.\n"


@dataclasses.dataclass(frozen=True)
class Artefact:
    """A verified artefact: its key, the document behind the key, its file, and what its step reported."""

    key: str
    document: Mapping[str, Any]
    file: Path
    sha256: str
    facts: Mapping[str, Any]
    seconds: float


class Store:
    """A folder of artefacts, with room for data caches and for the checkpoints of steps under way."""

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self.root = root
        self.say = say
        self._said: set[tuple[str, str]] = set()
        with self._told("create the store"):
            root.mkdir(parents=True, exist_ok=True)
            if not any(root.iterdir()):  # a folder with something in it is left as it is
                (root / "CACHEDIR.TAG").write_text(CACHEDIR_TAG)
                (root / ".gitignore").write_text("*\n")

    def data(self, dataset: str) -> Path:
        """The folder where a data set keeps what is slow to make."""
        return self._made(self.root / "data" / dataset)

    def progress(self, key: str) -> Path:
        """The folder for the checkpoints of the step that makes ``key``; gone once the artefact is there."""
        return self._made(self.root / "progress" / key)

    def scratch(self) -> Scratch:
        """A new folder for this process' temporary files; what killed processes left is removed."""
        home = self._made(self.root / "tmp")
        with self._told("create a folder"):
            return Scratch(home)

    def has(self, key: str) -> bool:
        """Whether a sound artefact lies under ``key``."""
        return self.get(key) is not None

    def get(self, key: str) -> Artefact | None:
        """The artefact, verified; None when there is none, or a damaged or swapped one, and that is said.

        What is damaged stays until ``put`` replaces it: another run may be about to do so.
        """
        folder = self._folder(key)
        try:
            meta = json.loads((folder / META).read_text())
            problem = self._problem(key, meta, folder / MODEL)
        except FileNotFoundError:
            if not folder.exists():
                return None
            problem = "is incomplete"
        except (ValueError, OSError, UsageError) as error:
            problem = f"cannot be read ({error})"
        if problem:
            if (key, problem) not in self._said:
                self.say(f"artefact {key[:12]} {problem}: it is not used, and built again when it is needed")
            self._said.add((key, problem))
            return None
        return Artefact(key, meta["document"], folder / MODEL, meta["sha256"], meta["facts"], meta["seconds"])

    def _problem(self, key: str, meta: Any, file: Path) -> str | None:
        if not isinstance(meta, dict) or not {"document", "sha256", "facts", "seconds"} <= meta.keys():
            return "has a description that is not ours"
        if key_of(meta["document"]) != key:
            return "lies under the key of another one"
        with file.open("rb") as stream:
            if stream.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
                return "is a pickle, which could run code and is never loaded"
        if sha256_of(file) != meta["sha256"]:
            return "does not match its hash"
        return None

    def put(
        self,
        document: Mapping[str, Any],
        write: Callable[[Path], None],
        facts: Mapping[str, Any],
        seconds: float,
    ) -> Artefact:
        """Store what ``write`` writes into the file it is given, under the key of ``document``."""
        key = key_of(document)
        folder = self._folder(key)
        with self._told("write an artefact"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._made(self.root / "tmp"), prefix=prefix()) as temporary:
                new = Path(temporary) / key
                new.mkdir()
                write(new / MODEL)
                meta = {
                    "document": plain(document),
                    "sha256": sha256_of(new / MODEL),
                    "facts": plain(facts),
                    "seconds": seconds,
                }
                (new / META).write_text(json.dumps(meta, indent=1))
                for file in (new / MODEL, new / META):
                    with file.open("rb") as stream:
                        os.fsync(stream.fileno())
                if folder.exists():
                    shutil.rmtree(folder)
                new.rename(folder)
            shutil.rmtree(self.root / "progress" / key, ignore_errors=True)
        artefact = self.get(key)
        if artefact is None:
            raise StoreError(f"the artefact just written to {folder} cannot be read back; is the disk sound?")
        return artefact

    def lineage(self, beginning: str) -> list[Mapping[str, Any]]:
        """The documents that lead to the one artefact whose key begins so, from the fresh network on.

        Raises UsageError when no key, or more than one, begins so.
        """
        found = sorted(folder.name for folder in (self.root / "artefacts").glob(f"{beginning[:2]}*/{beginning}*"))
        if len(found) != 1:
            what = f"{len(found)} artefacts have keys that begin" if found else "no artefact has a key that begins"
            raise UsageError(f"{what} with {beginning!r} in {self.root}; a record names its key in full")
        artefact = self.get(found[0])
        if artefact is None:
            raise UsageError(f"artefact {found[0]} was damaged; run its suite again")
        parent = artefact.document.get("parent")
        return [*(self.lineage(parent) if parent else []), artefact.document]

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the right to build ``key``; a second run on this store waits here, then finds the artefact."""
        lock = FileLock(self._made(self.root / "locks") / f"{key}.lock")
        try:
            lock.acquire(timeout=0.05)
        except Timeout:
            self.say(f"another run builds {key[:12]} in this store; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _folder(self, key: str) -> Path:
        return self.root / "artefacts" / key[:2] / key

    def _made(self, folder: Path) -> Path:
        with self._told("create a folder"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        with explain_disk_errors(f"cannot {what} in {self.root}", "or choose another store"):
            yield


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's content, 64 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
