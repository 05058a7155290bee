"""Hash the files of a data set once: remember each SHA-256 by path, size and modification time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.files import atomic_write

#: Files per task of a thread.
BLOCK = 256
#: A file that changed less than this many nanoseconds ago is not remembered: its next change may keep the time.
SETTLED = 2 * 10**9

_memory: ContextVar[Path | None] = ContextVar("memory", default=None)


@contextlib.contextmanager
def remembered_in(folder: Path) -> Iterator[None]:
    """Let ``hash_files`` remember hashes in ``folder``; the harness sets it around the calls of a data set."""
    token = _memory.set(folder)
    try:
        yield
    finally:
        _memory.reset(token)


def hash_files(root: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of each file, by its name relative to ``root``.

    A file with a remembered size and modification time is not read again, so a change that preserves both is not
    noticed. Every file is read if there is no folder for the memory, or it cannot be written. Raises OSError
    for a file that cannot be read.
    """
    folder = _memory.get()
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    memory = None if folder is None else folder / f"hashes-{place}.json"
    entries = _read(memory)
    settled = time.time_ns() - SETTLED
    stem = os.path.join(root, "")

    states = {name: _state(stem + name) for name in names}
    changed = [name for name in names if not _is_remembered(entries.get(name), states[name])]

    def hash_block(block: Sequence[str]) -> list[str]:
        digests = []
        for name in block:
            with open(stem + name, "rb", buffering=0) as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        return digests

    with ThreadPoolExecutor() as pool:
        blocks = pool.map(hash_block, (changed[start : start + BLOCK] for start in range(0, len(changed), BLOCK)))
        new = dict(zip(changed, (digest for block in blocks for digest in block), strict=True))
    digests: dict[str, str] = {name: new[name] if name in new else entries[name][2] for name in names}
    remembered = {name: [*states[name], digests[name]] for name in names if states[name][1] < settled}
    if memory is not None and remembered != entries:
        with contextlib.suppress(StoreError), atomic_write(memory, "or choose another store", sync=False) as temporary:
            text = json.dumps(remembered)
            temporary.write_text(json.dumps({"checksum": _checksum(text), "files": text}))
    return digests


def _state(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _is_remembered(entry: Any, state: list[int]) -> bool:
    return isinstance(entry, list) and entry[:2] == state and len(entry) == 3 and isinstance(entry[2], str)


def _read(memory: Path | None) -> Mapping[str, Any]:
    """Return size, modification time and hash by file name; nothing for a memory that does not match its checksum."""
    if memory is None:
        return {}
    try:
        content = json.loads(memory.read_text())
        text = content["files"]
        entries = json.loads(text) if _checksum(text) == content["checksum"] else {}
    except (OSError, LookupError, TypeError, AttributeError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
