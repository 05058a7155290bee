"""The store: artefacts by key, written whole or not at all, verified on every reading, never a pickle."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from harness.errors import StoreError, UsageError, explain_disk_errors
from harness.files import Scratch, process_prefix
from harness.keys import key_of, to_jsonable
from harness.store.entry import META, MODEL, Artefact, Damaged, Description, check_model, parse, sha256_of

if TYPE_CHECKING:
    from harness.store.shared import SharedStore

T = TypeVar("T")

CACHEDIR_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by harness; safe to delete.\n"
logger = logging.getLogger(__name__)
#: Seconds for which a shared store that failed is left alone: asking a dead network costs half a minute each time.
PAUSE = 300.0


class Store:
    """A folder of artefacts, with room for data caches and for the checkpoints of steps under way.

    With a ``shared`` store it reads through to that and writes through. When that one fails in the midst of a run, this
    is said and the run goes on without it: hours of training must not be lost to a network.
    """

    def __init__(self, root: Path, shared: SharedStore | None = None, create: bool = True) -> None:
        """``create`` makes the folder; who only reads needs none."""
        self.root = root
        self.shared = shared
        self._fetched, self._sent = 0, 0
        self._said: set[tuple[str, str]] = set()
        self._pauses: dict[str, float] = {}
        if create:
            self._create()

    def _create(self) -> None:
        with self._told("create the store"):
            self.root.mkdir(parents=True, exist_ok=True)
            if not any(self.root.iterdir()):  # a folder with something in it is left as it is
                (self.root / "CACHEDIR.TAG").write_text(CACHEDIR_TAG)
                (self.root / ".gitignore").write_text("*\n")

    @property
    def places(self) -> str:
        """Where artefacts are, for people."""
        return f"{self.root}" + ("" if self.shared is None else f" or {self.shared.url}")

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

    # ------------------------------------------------------------------------------------------------------- reading

    def has(self, key: str) -> bool:
        """Whether a sound artefact lies under ``key``, or the shared store lists one; nothing is fetched."""
        return self.local(key) is not None or (self.shared is not None and key in self.shared.listed)

    def get(self, key: str) -> Artefact | None:
        """The artefact, verified, from here or else fetched from the shared store.

        None when there is none, or a damaged or swapped one, and that is said. What is damaged stays until ``put``
        replaces it: another run may be about to do so.
        """
        found = self.local(key) or self._fetch(key)
        if found is not None:
            with contextlib.suppress(OSError):
                os.utime(found.file.with_name(META))  # garbage collection spares what was used
        return found

    def local(self, key: str) -> Artefact | None:
        """As ``get``, without the shared store."""
        folder = self._folder(key)
        try:
            description = parse(key, (folder / META).read_bytes())
            check_model(folder / MODEL, description.sha256)
        except FileNotFoundError:
            if folder.exists():
                self._complain(f"artefact {key[:12]}", "is incomplete")
            return None
        except Damaged as problem:
            self._complain(f"artefact {key[:12]}", str(problem))
            return None
        except OSError as error:
            self._complain(f"artefact {key[:12]}", f"cannot be read ({error})")
            return None
        return Artefact(**vars(description), file=folder / MODEL)

    def describe(self, keys: Iterable[str]) -> dict[str, Description]:
        """The descriptions that this store or the shared one has of ``keys``; the models are not read."""
        found: dict[str, Description] = {}
        lacking: list[str] = []
        for key in keys:
            try:
                found[key] = parse(key, (self._folder(key) / META).read_bytes())
            except (OSError, Damaged):
                lacking.append(key)
        if lacking:
            found |= self._ask("read", lambda shared: shared.describe(lacking), found)
        return found

    def lineage(self, beginning: str) -> list[Mapping[str, Any]]:
        """The documents that lead to the one artefact whose key begins so, from the fresh network on.

        Raises UsageError when no key, or more than one, begins so.
        """
        here = {folder.name for folder in (self.root / "artefacts").glob(f"{beginning[:2]}*/{beginning}*")}
        there = set() if self.shared is None else {key for key in self.shared.listed if key.startswith(beginning)}
        found = sorted(here | there)
        if len(found) != 1:
            what = f"{len(found)} artefacts have keys that begin" if found else "no artefact has a key that begins"
            raise UsageError(f"{what} with {beginning!r} in {self.places}; a record names its key in full")
        (key,) = found
        description = self.describe([key]).get(key)
        if description is None:
            raise UsageError(f"artefact {key} was damaged; run its suite again")
        parent = description.document.get("parent")
        return [*(self.lineage(parent) if parent else []), description.document]

    # ------------------------------------------------------------------------------------------------------- writing

    def put(
        self,
        document: Mapping[str, Any],
        write: Callable[[Path], None],
        facts: Mapping[str, Any],
        seconds: float,
    ) -> Artefact:
        """Store what ``write`` writes into the file it is given, under the key of ``document``."""
        key = key_of(document)
        with self._new(key) as new:
            write(new / MODEL)
            meta = {
                "document": to_jsonable(document),
                "sha256": sha256_of(new / MODEL),
                "facts": to_jsonable(facts),
                "seconds": seconds,
            }
            (new / META).write_text(json.dumps(meta, indent=1))
            self._install(key, new)
            shutil.rmtree(self.root / "progress" / key, ignore_errors=True)
        artefact = self.local(key)
        if artefact is None:
            raise StoreError(
                f"the artefact just written to {self._folder(key)} cannot be read back; is the disk sound?"
            )
        self._send(artefact)
        return artefact

    def share(self, keys: Collection[str]) -> None:
        """Bring the shared store up to date: it gets what it lacks of ``keys``, and learns that the others are used."""
        self._pauses.clear()  # it may be back
        entries = self._ask("read", lambda shared: shared.entries(), None)
        if entries is None or self.shared is None:
            return
        for key in keys:
            artefact = None if key in self.shared.listed else self.local(key)
            if artefact is not None:
                self._send(artefact)
        used = [entry for entry in entries if entry.name in keys]
        self._ask("write", lambda shared: shared.refresh(used), None)
        if self._fetched or self._sent:
            logger.info(f"{self._fetched} artefacts came from {self.shared.url}, {self._sent} went there")

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the right to build ``key``; a second run on this store waits here, then finds the artefact."""
        lock = FileLock(self._made(self.root / "locks") / f"{key}.lock")
        try:
            lock.acquire(timeout=0.05)
        except Timeout:
            logger.info(f"another run builds {key[:12]} in this store; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    # ------------------------------------------------------------------------------------------------------ plumbing

    @contextlib.contextmanager
    def _new(self, key: str) -> Iterator[Path]:
        """A folder beside the artefacts, in which one is made."""
        with (
            self._told("write an artefact"),
            tempfile.TemporaryDirectory(dir=self._made(self.root / "tmp"), prefix=process_prefix()) as temporary,
        ):
            new = Path(temporary) / key
            new.mkdir()
            yield new

    def _install(self, key: str, new: Path) -> None:
        """Move the finished folder under its key; what lay there is moved beside ``new`` as a whole."""
        for file in (new / MODEL, new / META):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        folder = self._folder(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        for attempt in itertools.count():
            with contextlib.suppress(FileNotFoundError):
                folder.rename(new.with_name(f"old-{attempt}"))
            try:
                new.rename(folder)
                return
            except OSError as error:  # another process was faster
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise

    def _fetch(self, key: str) -> Artefact | None:
        """Bring an artefact from the shared store into this one; None when that has no sound one."""
        if self.shared is None or (key, "shared") in self._said:
            return None
        with self._new(key) as new:
            try:
                if not self._ask("read", lambda shared: shared.fetch(key, new), False):
                    return None
            except Damaged as problem:
                self._said.add((key, "shared"))
                self.shared.listed.discard(key)
                self._complain(f"artefact {key[:12]} of {self.shared.url}", str(problem))
                return None
            self._fetched += 1
            found = self.local(key)  # another run may have brought it meanwhile, and use it already
            if found is None:
                self._install(key, new)
        return self.local(key)

    def _send(self, artefact: Artefact) -> None:
        def send(shared: SharedStore) -> int:
            shared.send(artefact)
            return 1

        self._sent += self._ask("write", send, 0)

    def _ask(self, what: str, question: Callable[[SharedStore], T], otherwise: T) -> T:
        """What the shared store answers; ``otherwise`` when there is none, or it fails, which is said once."""
        if self.shared is None or time.monotonic() < self._pauses.get(what, 0.0):
            return otherwise
        try:
            return question(self.shared)
        except StoreError as error:
            self._pauses[what] = time.monotonic() + PAUSE
            if (what, "failed") not in self._said:
                logger.warning(f"{error}; the run goes on with {self.root} alone, and tries again later")
            self._said.add((what, "failed"))
            return otherwise

    def _complain(self, name: str, problem: str) -> None:
        if (name, problem) not in self._said:
            logger.warning(f"{name} {problem}: it is not used, and built again when it is needed")
        self._said.add((name, problem))

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
