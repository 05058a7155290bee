"""What is told of an artefact beside its model, and whether both are sound: every store asks here before it gives."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import UsageError
from harness.keys import key_of

MODEL = "model.safetensors"
META = "artefact.json"
#: How files begin that torch.save writes: a ZIP archive, or a bare pickle.
PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
FIELDS = ("document", "sha256", "facts", "seconds")


class Damaged(Exception):
    """An artefact that is not used; the text goes on after its name."""


@dataclasses.dataclass(frozen=True)
class Description:
    """The key, the document behind the key, the hash of the model's file, and what the step reported."""

    key: str
    document: Mapping[str, Any]
    sha256: str
    facts: Mapping[str, Any]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Artefact(Description):
    """A verified artefact: its description and its file."""

    file: Path


@dataclasses.dataclass(frozen=True)
class Entry:
    """What lies under a name, unread: bytes, when it was last made or used (seconds since 1970, None: unknown), where.

    ``whole`` tells whether a description and a model are there; without one it is what an interruption left.
    """

    name: str
    size: int
    used: float | None
    files: tuple[str, ...]
    whole: bool = True


def parse(key: str, text: bytes) -> Description:
    """The description of the artefact ``key``. Raises Damaged for another one's, and for what is none."""
    try:
        found = json.loads(text, parse_constant=_refuse)
        if not isinstance(found, dict) or not set(FIELDS) <= found.keys() or not isinstance(found["facts"], dict):
            raise Damaged("has a description that is not ours")
        if not isinstance(found["document"], dict) or not isinstance(found["seconds"], (int, float)):
            raise Damaged("has a description that is not ours")
        if key_of(found["document"]) != key:
            raise Damaged("lies under the key of another one")
    except (ValueError, UsageError, RecursionError) as error:
        raise Damaged(f"cannot be read ({error})") from error
    return Description(key, *(found[name] for name in FIELDS))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def check_model(file: Path, sha256: str) -> None:
    """Raise Damaged when the file is not the model with that hash, or is a pickle; OSError when it cannot be read."""
    with file.open("rb") as stream:
        # A safetensors file begins with the length of its header, whose bytes may be those of any of these.
        start = stream.read(9)
        if start.startswith(PICKLES) and start[8:] != b"{":
            raise Damaged("is a pickle, which could run code and is never loaded")
    if sha256_of(file) != sha256:
        raise Damaged("does not match its hash")


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's content, 64 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
