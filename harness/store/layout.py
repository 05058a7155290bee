"""Describe where a store keeps what: the folders of a local store, the file names of a remote one.

A local store has one folder for each artefact; it is renamed as a whole::

    artefacts/KE/KEY/artefact.json, model.safetensors     an artefact; KE are the first two digits of its key
    artefacts/KE/KEY/artefact.json, deployable            a deployable: the file that a runtime wrote of an artefact
    progress/KEY/                                         checkpoints of the step that makes KEY
    data/DATASET/                                         caches of a data set
    runs/                                                 journals of runs without a run file
    locks/KEY.lock                                        held by the run that makes or removes KEY
    tmp/                                                  temporary files of running processes

A remote store has one folder, so that one listing shows everything, and file systems without folders can serve it::

    artefacts/KEY.json                     the metadata of an artefact
    artefacts/KEY.SHA256.safetensors       its model, written first: writers of one key never mix their files
    artefacts/harness-*.partial            an upload that runs, or was interrupted
"""

from __future__ import annotations

import dataclasses
import re
import uuid
from pathlib import Path

from harness.files import process_prefix

MODEL = "model.safetensors"
DEPLOYABLE = "deployable"
META = "artefact.json"
#: The folder of the artefacts, in a local and in a remote store.
ARTEFACTS = "artefacts"

_HASH = re.compile(r"[0-9a-f]{64}")
_REMOTE = re.compile(r"([0-9a-f]{64})\.(json|[0-9a-f]{64}\.safetensors)")
_PARTIAL = re.compile(r"harness-.*\.partial")


def is_hash(text: str) -> bool:
    """Return whether a text is a SHA-256: 64 hex digits in lower case."""
    return _HASH.fullmatch(text) is not None


#: Whether a name is the key of an artefact.
is_key = is_hash


@dataclasses.dataclass(frozen=True)
class LocalLayout:
    """The paths in a local store at ``root``."""

    root: Path

    @property
    def artefacts(self) -> Path:
        """The parent of the folders that hold the artefacts' folders."""
        return self.root / ARTEFACTS

    @property
    def progress(self) -> Path:
        """The parent of the folders of checkpoints."""
        return self.root / "progress"

    @property
    def runs(self) -> Path:
        """The folder of the journals of runs that write no run file."""
        return self.root / "runs"

    @property
    def locks(self) -> Path:
        """The folder of the lock files."""
        return self.root / "locks"

    @property
    def temporary(self) -> Path:
        """The folder of temporary files, on the same file system as the artefacts."""
        return self.root / "tmp"

    def artefact(self, key: str) -> Path:
        """The folder of an artefact."""
        return self.artefacts / key[:2] / key

    def checkpoints(self, key: str) -> Path:
        """The folder of the checkpoints of the step that makes ``key``."""
        return self.progress / key

    def cache(self, dataset: str) -> Path:
        """The folder of a data set's caches."""
        return self.root / "data" / dataset

    def lock(self, key: str) -> Path:
        """The lock file of ``key``."""
        return self.locks / f"{key}.lock"


def remote_metadata(key: str) -> str:
    """Return the name of an artefact's metadata file in a remote store."""
    return f"{key}.json"


def remote_model(key: str, sha256: str) -> str:
    """Return the name of an artefact's model file in a remote store."""
    return f"{key}.{sha256}.safetensors"


def is_remote_metadata(name: str) -> bool:
    """Return whether a file of a remote store is the metadata of an artefact."""
    return name.endswith(".json") and is_key(name.removesuffix(".json"))


def remote_key(name: str) -> str | None:
    """Return the key of the artefact to which a file of a remote store belongs; None for any other file."""
    match = _REMOTE.fullmatch(name)
    return None if match is None else match[1]


def new_partial() -> str:
    """Return a new name for a file of a remote store that is not complete yet."""
    return f"{process_prefix()}{uuid.uuid4().hex}.partial"


def is_partial(name: str) -> bool:
    """Return whether a file of a remote store is one that ``new_partial`` named."""
    return _PARTIAL.fullmatch(name) is not None
