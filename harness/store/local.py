"""Store artefacts by key in a local folder: written atomically, verified on every reading, never pickles."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from filelock import FileLock, Timeout

from harness.errors import StoreError, UsageError, explain_disk_errors
from harness.files import Scratch, flush, temporary_folder
from harness.keys import key_of
from harness.store.entry import (
    METADATA_LIMIT,
    Artefact,
    Damaged,
    Entry,
    Metadata,
    check_hash,
    check_model,
    metadata_text,
    parse_metadata,
    read_metadata,
    sha256_of,
)
from harness.store.layout import DEPLOYABLE, META, MODEL, LocalLayout, is_key

if TYPE_CHECKING:
    from harness.store.shared import SharedStore

T = TypeVar("T")

logger = logging.getLogger(__name__)
CACHEDIR_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by harness; safe to delete.\n"
#: Seconds for which a failed shared store is not asked again: each request to a dead network takes half a minute.
PAUSE = 300.0


class Store:
    """A local folder of artefacts, of caches of data sets, and of checkpoints of unfinished steps.

    With a ``shared`` store, an artefact that is missing here is fetched from there, and a new one is sent there. If the
    shared store fails during a run, the store logs that and the run continues without it: a network failure must not
    cost hours of training.
    """

    def __init__(self, root: Path, shared: SharedStore | None = None, create: bool = True) -> None:
        """``create`` creates the folder; pass False to read only."""
        self.root = root
        self.shared = shared
        self._layout = LocalLayout(root)
        self._fetched, self._sent = 0, 0
        self._logged: set[tuple[str, str]] = set()
        self._pauses: dict[str, float] = {}
        if create:
            self._create()

    def _create(self) -> None:
        with self._explained("create the store"):
            self.root.mkdir(parents=True, exist_ok=True)
            if not any(self.root.iterdir()):  # never add files to a folder that is in use
                (self.root / "CACHEDIR.TAG").write_text(CACHEDIR_TAG)
                (self.root / ".gitignore").write_text("*\n")

    @property
    def places(self) -> str:
        """Where the artefacts are, for messages."""
        return f"{self.root}" + ("" if self.shared is None else f" or {self.shared.url}")

    def data(self, dataset: str) -> Path:
        """Return the folder of a data set's caches; it exists."""
        return self._made(self._layout.cache(dataset))

    def progress(self, key: str) -> Path:
        """Return the folder of checkpoints of the step that makes ``key``; ``put`` removes it."""
        return self._made(self._layout.checkpoints(key))

    def runs(self) -> Path:
        """Return the folder of the journals of runs that write no run file; it exists."""
        return self._made(self._layout.runs)

    def scratch(self) -> Scratch:
        """Create a folder for temporary files of this process; those of killed processes are removed."""
        home = self._made(self._layout.temporary)
        with self._explained("create a folder"):
            return Scratch(home)

    # ------------------------------------------------------------------------------------------------------- reading

    def has(self, key: str) -> bool:
        """Return whether a valid artefact is here, or the shared store listed one; nothing is fetched."""
        return self.local(key) is not None or (self.shared is not None and key in self.shared.listed)

    def get(self, key: str) -> Artefact | None:
        """Return the verified artefact, fetched from the shared store if it is not here.

        Returns None if there is none, or, with a warning, if it is damaged. A damaged artefact stays until ``put``
        replaces it: another run may be replacing it now.
        """
        return _touched(self.local(key) or self._fetch(key))

    def local(self, key: str) -> Artefact | None:
        """Return the artefact like ``get``, without asking the shared store."""
        return self._verified(key, MODEL, check_model)

    def deployable(self, key: str) -> Artefact | None:
        """Return the verified deployable of this key; None if there is none, or, with a warning, if it is damaged."""
        return _touched(self._verified(key, DEPLOYABLE, check_hash))

    def _verified(self, key: str, name: str, check: Callable[[Path, str], None]) -> Artefact | None:
        folder = self._layout.artefact(key)
        try:
            metadata = parse_metadata(key, read_metadata(folder / META))
            check(folder / name, metadata.sha256)
        except FileNotFoundError:
            if folder.exists():
                self._warn(f"artefact {key[:12]}", "is incomplete")
            return None
        except Damaged as problem:
            self._warn(f"artefact {key[:12]}", str(problem))
            return None
        except OSError as error:
            self._warn(f"artefact {key[:12]}", f"cannot be read ({error})")
            return None
        return Artefact(**vars(metadata), file=folder / name)

    def describe(self, keys: Iterable[str]) -> dict[str, Metadata]:
        """Return the metadata of those of ``keys`` that are readable here or in the shared store."""
        metadata: dict[str, Metadata] = {}
        missing: list[str] = []
        for key in keys:
            try:
                metadata[key] = parse_metadata(key, read_metadata(self._layout.artefact(key) / META))
            except (OSError, Damaged):
                missing.append(key)
        if missing:
            metadata |= self._ask("read", lambda shared: shared.describe(missing), metadata)
        return metadata

    def metadata(self) -> dict[str, Metadata]:
        """Return the readable metadata of all artefacts of the folder, by key; the models are not read."""
        metadata = {}
        for file in self._layout.artefacts.glob(f"*/*/{META}"):
            key = file.parent.name
            if file.with_name(DEPLOYABLE).exists():
                continue
            with contextlib.suppress(OSError, Damaged):
                metadata[key] = parse_metadata(key, read_metadata(file))
        return metadata

    def lineage(self, beginning: str) -> list[Mapping[str, Any]]:
        """Return the documents of the artefact whose key begins so and of its ancestors, the oldest first.

        Raises UsageError unless exactly one key begins so.
        """
        here = {folder.name for folder in self._layout.artefacts.glob(f"{beginning[:2]}*/{beginning}*")}
        there = set() if self.shared is None else {key for key in self.shared.listed if key.startswith(beginning)}
        keys = sorted(here | there)
        if len(keys) != 1:
            what = f"{len(keys)} artefacts have keys that begin" if keys else "no artefact has a key that begins"
            raise UsageError(f"{what} with {beginning!r} in {self.places}; copy the full key from a record")
        (key,) = keys
        metadata = self.describe([key]).get(key)
        if metadata is None:
            raise UsageError(f"artefact {key} is damaged; run its suite again")
        parent = metadata.document.get("parent")
        return [*(self.lineage(parent) if parent else []), metadata.document]

    # ------------------------------------------------------------------------------------------------------- writing

    def put(
        self,
        document: Mapping[str, Any],
        write: Callable[[Path], None],
        facts: Mapping[str, Any],
        seconds: float,
    ) -> Artefact:
        """Store an artefact under the key of ``document``; ``write`` writes its model to the given path.

        Raises StoreError when the disk is full or the artefact cannot be read back, and whatever ``write`` raises; then
        nothing is stored.
        """
        key = key_of(document)
        self._write(key, MODEL, write, document, facts, seconds)
        shutil.rmtree(self._layout.checkpoints(key), ignore_errors=True)
        artefact = self._read_back(key, self.local(key))
        self._send(artefact)
        return artefact

    def put_deployable(
        self, document: Mapping[str, Any], file: Path, artefact: Artefact, facts: Mapping[str, Any], seconds: float
    ) -> Artefact:
        """Store a copy of ``file``, which a runtime wrote of ``artefact``, under the key of ``document``.

        A file that equals the artefact's takes no further space. Deployables stay in this store: none is sent to the
        shared one. Raises StoreError as ``put`` does.
        """
        key = key_of(document)

        def write(target: Path) -> None:
            if sha256_of(file) == artefact.sha256:
                with contextlib.suppress(OSError):  # a file system without links
                    os.link(artefact.file, target)
                    return
            shutil.copyfile(file, target)

        self._write(key, DEPLOYABLE, write, document, facts, seconds)
        return self._read_back(key, self.deployable(key))

    def _write(
        self,
        key: str,
        name: str,
        write: Callable[[Path], None],
        document: Mapping[str, Any],
        facts: Mapping[str, Any],
        seconds: float,
    ) -> None:
        with self._new(key) as new:
            write(new / name)
            metadata = metadata_text(document, sha256_of(new / name), facts, seconds)
            if len(metadata.encode()) > METADATA_LIMIT:
                raise StoreError(
                    f"the metadata of artefact {key[:12]} have {len(metadata.encode()):,} bytes, more than "
                    f"{METADATA_LIMIT:,}: let the step report less, and give it fewer parameters"
                )
            (new / META).write_text(metadata)
            self._install(key, new)

    def _read_back(self, key: str, artefact: Artefact | None) -> Artefact:
        if artefact is None:
            raise StoreError(
                f"the artefact just written to {self._layout.artefact(key)} cannot be read back; check the disk"
            )
        return artefact

    def share(self, keys: Collection[str]) -> None:
        """Update the shared store: send the artefacts of ``keys`` that it lacks, refresh the last use of the others."""
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
        """Hold the lock of ``key``: a second run on this store waits here, and then finds the artefact."""
        self._made(self._layout.locks)
        lock = FileLock(self._layout.lock(key))
        try:
            lock.acquire(timeout=0.05)
        except Timeout:
            logger.info(f"another run builds {key[:12]} in this store; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    # -------------------------------------------------------------------------------------------- garbage collection

    def entries(self) -> list[Entry]:
        """List all artefacts of the folder."""
        folders = [folder for half in _folders(self._layout.artefacts) for folder in _folders(half)]
        return [entry for folder in folders if is_key(folder.name) for entry in _look(folder)]

    def leftovers(self) -> list[Entry]:
        """List the checkpoints of unfinished steps."""
        return [entry for folder in _folders(self._layout.progress) for entry in _look(folder)]

    def remove(self, entry: Entry) -> bool:
        """Remove an entry of the folder; return False if it is in use, was used since it was listed, or is gone."""
        (folder,) = map(Path, entry.files)
        with explain_disk_errors(f"cannot remove from {self.root}", "then collect again"):
            for needed in (self._layout.temporary, self._layout.locks):
                needed.mkdir(exist_ok=True)
            try:
                with (
                    FileLock(self._layout.lock(entry.name), timeout=0),
                    temporary_folder(self._layout.temporary) as aside,
                ):
                    if [now.used for now in _look(folder)] != [entry.used]:
                        return False
                    folder.rename(Path(aside) / entry.name)  # so that a reader finds all of it or nothing
            except (Timeout, FileNotFoundError):  # a run holds it, or it is gone
                return False
        return True

    # ------------------------------------------------------------------------------------------------------ plumbing

    @contextlib.contextmanager
    def _new(self, key: str) -> Iterator[Path]:
        """Create a temporary folder, on the same file system, in which an artefact is written."""
        with (
            self._explained("write an artefact"),
            temporary_folder(self._made(self._layout.temporary)) as temporary,
        ):
            new = Path(temporary) / key
            new.mkdir()
            yield new

    def _install(self, key: str, new: Path) -> None:
        """Rename the complete folder ``new`` to that of ``key``; an older one is moved beside ``new``."""
        for file in new.iterdir():
            flush(file)
        folder = self._layout.artefact(key)
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
        """Copy an artefact from the shared store into this one; None when there is no valid one."""
        if self.shared is None or (key, "shared") in self._logged:
            return None
        with self._new(key) as new:
            try:
                if not self._ask("read", lambda shared: shared.fetch(key, new), False):
                    return None
            except Damaged as problem:
                self._logged.add((key, "shared"))
                self.shared.listed.discard(key)
                self._warn(f"artefact {key[:12]} of {self.shared.url}", str(problem))
                return None
            self._fetched += 1
            if self.local(key) is None:  # otherwise another run fetched it meanwhile, and may be using it
                self._install(key, new)
        return self.local(key)

    def _send(self, artefact: Artefact) -> None:
        def send(shared: SharedStore) -> int:
            try:
                shared.send(artefact)
            except Damaged as problem:
                name = f"artefact {artefact.key[:12]} of {shared.url}"
                if (name, str(problem)) not in self._logged:
                    logger.warning(f"{name} {problem}: it is not sent there; remove that folder")
                self._logged.add((name, str(problem)))
                return 0
            return 1

        self._sent += self._ask("write", send, 0)

    def _ask(self, what: str, question: Callable[[SharedStore], T], otherwise: T) -> T:
        """Return the answer of the shared store; ``otherwise`` if there is none, or it fails, which is logged once."""
        if self.shared is None or time.monotonic() < self._pauses.get(what, 0.0):
            return otherwise
        try:
            return question(self.shared)
        except StoreError as error:
            self._pauses[what] = time.monotonic() + PAUSE
            if (what, "failed") not in self._logged:
                logger.warning(f"{error}; the run goes on with {self.root} alone, and tries again later")
            self._logged.add((what, "failed"))
            return otherwise

    def _warn(self, name: str, problem: str) -> None:
        if (name, problem) not in self._logged:
            logger.warning(f"{name} {problem}: it is not used, and built again when it is needed")
        self._logged.add((name, problem))

    def _made(self, folder: Path) -> Path:
        with self._explained("create a folder"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        with explain_disk_errors(f"cannot {what} in {self.root}", "or choose another store"):
            yield


def _touched(artefact: Artefact | None) -> Artefact | None:
    """Renew the time of the last use, because garbage collection keeps what was used recently."""
    if artefact is not None:
        with contextlib.suppress(OSError):
            os.utime(artefact.file.with_name(META))
    return artefact


# No glob below: it skips folders that it may not read, and garbage collection would take them for missing.


def _folders(parent: Path) -> list[Path]:
    with explain_disk_errors(f"cannot look into {parent}", "then collect again"):
        try:
            return sorted(path for path in parent.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []


def _look(folder: Path) -> list[Entry]:
    """Return the folder's entry; an empty list if it is gone. Raises StoreError if it cannot be read."""

    def fail(error: OSError) -> NoReturn:
        raise error

    with explain_disk_errors(f"cannot look into {folder}", "then collect again"):
        for _ in range(3):  # a run may be replacing it
            with contextlib.suppress(FileNotFoundError):
                walked = list(os.walk(folder, onerror=fail))
                files = [Path(path, name) for path, _, names in walked for name in names]
                size = sum(file.stat().st_size for file in files)
                used = max(path.stat().st_mtime for path in (*(Path(path) for path, _, _ in walked), *files))
                complete = folder / META in files and bool({folder / MODEL, folder / DEPLOYABLE} & set(files))
                return [Entry(folder.name, size, used, (str(folder),), complete)]
            time.sleep(0.01)
    return []
