"""Artefact metadata (artefact.json) and integrity checks, shared by the local and the remote store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import UsageError
from harness.keys import key_of

#: The first bytes of files that torch.save writes: a ZIP archive, or a bare pickle.
PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
FIELDS = ("document", "sha256", "facts", "seconds")


class Damaged(Exception):
    """An artefact cannot be used; the text completes a sentence that begins with its name."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The key, the document that the key hashes, the hash of the model file, and what the step reported."""

    key: str
    document: Mapping[str, Any]
    sha256: str
    facts: Mapping[str, Any]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Artefact(Metadata):
    """A verified artefact: its metadata and its model file."""

    file: Path


@dataclasses.dataclass(frozen=True)
class Entry:
    """An artefact or a leftover as a listing shows it, unread.

    ``size`` is in bytes, ``used`` is the time of the last use in seconds since 1970 (None if unknown), ``files`` are
    its paths. ``complete`` is false when the metadata or the model is missing, as after an interruption.
    """

    name: str
    size: int
    used: float | None
    files: tuple[str, ...]
    complete: bool = True


def parse_metadata(key: str, text: bytes) -> Metadata:
    """Read the metadata of the artefact ``key``. Raises Damaged if they are invalid or of another artefact."""
    try:
        content = json.loads(text, parse_constant=_refuse)
        if not isinstance(content, dict) or not set(FIELDS) <= content.keys() or not isinstance(content["facts"], dict):
            raise Damaged("has metadata that the harness did not write")
        if not isinstance(content["document"], dict) or not isinstance(content["seconds"], (int, float)):
            raise Damaged("has metadata that the harness did not write")
        if key_of(content["document"]) != key:
            raise Damaged("has the metadata of another artefact")
    except (ValueError, UsageError, RecursionError) as error:
        raise Damaged(f"cannot be read ({error})") from error
    return Metadata(key, *(content[name] for name in FIELDS))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def check_model(file: Path, sha256: str) -> None:
    """Raise Damaged if the file is a pickle or has another hash; OSError if it cannot be read."""
    with file.open("rb") as stream:
        # A safetensors file begins with the length of its header, which may look like the start of a pickle.
        start = stream.read(9)
        if start.startswith(PICKLES) and start[8:] != b"{":
            raise Damaged("is a pickle, which could run code and is never loaded")
    if sha256_of(file) != sha256:
        raise Damaged("does not match its hash")


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
