"""Artefact metadata (artefact.json) and integrity checks, shared by the local and the remote store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import UsageError
from harness.keys import key_of, to_jsonable
from harness.store.layout import is_hash

#: The first bytes of files that torch.save writes: a ZIP archive, or a bare pickle.
PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
FIELDS = ("document", "sha256", "facts", "seconds")
#: The field with the hash of all other fields. Only artefacts of key schema 1 lack it.
CHECKSUM = "checksum"
#: The size in bytes above which metadata are refused unread.
METADATA_LIMIT = 16 * 2**20


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


def metadata_text(document: Mapping[str, Any], sha256: str, facts: Mapping[str, Any], seconds: float) -> str:
    """Return the content of artefact.json, which ``parse_metadata`` reads. Raises UsageError if it is not JSON."""
    content = to_jsonable(dict(zip(FIELDS, (document, sha256, facts, seconds), strict=True)))
    return json.dumps(content | {CHECKSUM: key_of(content)}, indent=1)


def parse_metadata(key: str, text: bytes) -> Metadata:
    """Read the metadata of the artefact ``key``.

    Raises Damaged unless the document has this key and the checksum is that of all other fields: it covers what their
    values are, not how they are spelled. Metadata without a checksum, of key schema 1, must have no other fields.
    """
    try:
        content = json.loads(text, parse_constant=_refuse)
        if not _has_fields(content):
            raise Damaged("has metadata that the harness did not write")
        if key_of(content["document"]) != key:
            raise Damaged("has the metadata of another artefact")
        if CHECKSUM in content:
            if key_of({name: value for name, value in content.items() if name != CHECKSUM}) != content[CHECKSUM]:
                raise Damaged("has metadata that do not match their checksum")
        elif content.keys() != set(FIELDS) or content["document"].get("schema", 1) != 1:
            raise Damaged("has metadata without a checksum")
    except (ValueError, UsageError, RecursionError) as error:
        raise Damaged(f"cannot be read ({error})") from error
    return Metadata(key, *(content[name] for name in FIELDS))


def _has_fields(content: Any) -> bool:
    """Return whether the fields of the metadata are there and have their types."""
    return (
        isinstance(content, dict)
        and set(FIELDS) <= content.keys()
        and isinstance(content["document"], dict)
        and isinstance(content["sha256"], str)
        and is_hash(content["sha256"])  # it becomes part of a path
        and isinstance(content["facts"], dict)
        and isinstance(content["seconds"], (int, float))
        and not isinstance(content["seconds"], bool)
    )


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def read_metadata(file: Path) -> bytes:
    """Return the content of a metadata file. Raises Damaged for a large or no regular file, OSError."""
    status = file.stat()
    check_file(stat.S_ISREG(status.st_mode), status.st_size)
    return file.read_bytes()


def check_file(is_file: bool, size: int | None) -> None:
    """Raise Damaged if a metadata file of ``size`` bytes must not be read."""
    if not is_file:
        raise Damaged("has metadata that are not a file")
    if size is not None and size > METADATA_LIMIT:
        raise Damaged(f"has {size:,} bytes of metadata, more than {METADATA_LIMIT:,}")


def check_model(file: Path, sha256: str) -> None:
    """Raise Damaged if it is a pickle, no regular file, or has another hash; OSError if it cannot be read."""
    _check_regular(file)
    with file.open("rb") as stream:
        # A safetensors file begins with the length of its header, which may look like the start of a pickle.
        start = stream.read(9)
        if start.startswith(PICKLES) and start[8:] != b"{":
            raise Damaged("is a pickle, which could run code and is never loaded")
    check_hash(file, sha256)


def check_hash(file: Path, sha256: str) -> None:
    """Raise Damaged if it is no regular file, or has another hash; OSError if it cannot be read."""
    _check_regular(file)
    if sha256_of(file) != sha256:
        raise Damaged("does not match its hash")


def _check_regular(file: Path) -> None:
    if not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would wait for a writer
        raise Damaged("has a model that is not a file")


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
