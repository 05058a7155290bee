"""The shared store: artefacts that machines exchange, at any URL that fsspec knows; nothing there is trusted.

``artefacts/KEY.json`` describes an artefact and names its model, ``artefacts/KEY.SHA256.safetensors``, which is written
first: two writers of one key never mix, and a reader sees an artefact whole or not at all. One folder is one listing.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import posixpath
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, StoreError, UsageError, nearest
from harness.files import process_prefix
from harness.store.entry import META, MODEL, Artefact, Damaged, Description, Entry, check_model, parse

VARIABLE = "HARNESS_SHARED"
#: What writes a file whole or not at all by itself, and has no folders. Elsewhere a file is written aside and renamed.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"}
#: How old (seconds) an artefact is before its use is noted again: well below any sensible age of garbage.
REFRESH = 6 * 3600.0
#: Where listings of different file systems have the time of the last change.
TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
FILE = re.compile(r"([0-9a-f]{64})\.(json|[0-9a-f]{64}\.safetensors)")
PARTIAL = re.compile(r"harness-.*\.partial")


def shared_url(option: str | None) -> str | None:
    """The URL in force: the option, else the environment's HARNESS_SHARED. An empty one means none."""
    return (os.environ.get(VARIABLE) if option is None else option) or None


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"//[^/@]*@", "//***@", url)


class SharedStore:
    """Artefacts at a URL. Raises UsageError for a URL that cannot work, and StoreError for whatever else fails.

    It is looked at when it is made, so that a wrong URL ends a run before it has begun.
    """

    def __init__(self, url: str) -> None:
        #: For people.
        self.url = without_password(url)
        self._fs, root = _open(url, self.url)
        self._folder = f"{root}/artefacts"
        self._objects = not OBJECT_STORES.isdisjoint(_protocols(self._fs))
        with self._explained("read"):
            if not self._objects and not (self._fs.isdir(root) or self._fs.isdir(posixpath.dirname(root))):
                raise FileNotFoundError(f"there is neither a folder {root} nor one to make it in")
        #: The keys of all artefacts when it was last looked at.
        self.listed: set[str] = set()
        self.entries()

    def entries(self) -> list[Entry]:
        """Look anew: all artefacts, and what interrupted uploads left of some."""
        files: dict[str, list[Mapping[str, Any]]] = {}
        for info in self._ls():
            match = FILE.fullmatch(_name(info))
            if match:
                files.setdefault(match[1], []).append(info)
        entries = [_entry(key, sorted(files[key], key=_name)) for key in sorted(files)]
        self.listed = {entry.name for entry in entries if entry.whole}
        return entries

    def fetch(self, key: str, folder: Path) -> bool:
        """Bring the artefact into ``folder``; False when there is none. Raises Damaged for one that is not sound."""
        with self._explained("read"):
            try:
                text = self._fs.cat_file(self._path(f"{key}.json"))
            except FileNotFoundError:
                return False
            description = parse(key, text)
            try:
                self._fs.get_file(self._path(_model(description)), str(folder / MODEL))
            except FileNotFoundError:
                raise Damaged("is incomplete") from None
            check_model(folder / MODEL, description.sha256)
            (folder / META).write_bytes(text)
            return True

    def send(self, artefact: Artefact) -> None:
        """Write an artefact; of two machines that write one key, one wins whole."""
        with self._explained("write to"):
            self._write(_model(artefact), artefact.file)
            self._write(f"{artefact.key}.json", artefact.file.with_name(META).read_bytes())

    def refresh(self, entries: Iterable[Entry]) -> None:
        """Note that these are in use, by writing their descriptions anew as they are."""
        now = time.time()
        old = [entry.name for entry in entries if entry.used is not None and entry.used < now - REFRESH]
        texts = self._texts(old)
        with self._explained("write to"):
            for key, text in texts.items():
                self._write(f"{key}.json", text)

    def describe(self, keys: Iterable[str]) -> dict[str, Description]:
        """The descriptions that are there and can be read; asked for together."""
        found = {}
        for key, text in self._texts(keys).items():
            with contextlib.suppress(Damaged):
                found[key] = parse(key, text)
        return found

    def leftovers(self) -> list[Entry]:
        """The files that killed writers left."""
        return [_entry(_name(info), [info]) for info in self._ls() if PARTIAL.fullmatch(_name(info))]

    def remove(self, entry: Entry) -> bool:
        """Remove an artefact or a leftover, unless it was used or removed meanwhile; whether it was done."""
        with self._explained("remove from"):
            try:
                used = _time(self._fs.info(entry.files[0]))
                if used is None or entry.used is None or used > entry.used:
                    return False
                for path in entry.files:  # the description first
                    self._fs.rm_file(path)
            except FileNotFoundError:
                return False
        return True

    # ------------------------------------------------------------------------------------------------------ plumbing

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _ls(self) -> list[Mapping[str, Any]]:
        with self._explained("read"):
            if self._objects:  # find, since ls does not tell an empty prefix from a bucket that is not there
                return list(self._fs.find(self._folder, detail=True).values())
            try:
                return list(self._fs.ls(self._folder, detail=True))
            except FileNotFoundError:
                return []

    def _texts(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The descriptions as they are, asked for together."""
        paths = [self._path(f"{key}.json") for key in keys]
        texts = {}
        with self._explained("read"):
            for path, text in (self._fs.cat(paths, on_error="return") if paths else {}).items():
                if isinstance(text, bytes):
                    texts[posixpath.basename(path).removesuffix(".json")] = text
                elif not isinstance(text, FileNotFoundError):
                    raise text
        return texts

    def _write(self, name: str, content: Path | bytes) -> None:
        """Write a file whole or not at all."""
        if self._objects:
            self._put(self._path(name), content)
            return
        self._fs.makedirs(self._folder, exist_ok=True)
        partial = self._path(f"{process_prefix()}{uuid.uuid4().hex}.partial")
        try:
            self._put(partial, content)
            self._fs.mv(partial, self._path(name))
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(partial)
            raise

    def _put(self, path: str, content: Path | bytes) -> None:
        if isinstance(content, bytes):
            self._fs.pipe_file(path, content)
        else:
            self._fs.put_file(str(content), path)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Whatever a file system raises becomes one line that says how to put it right."""
        try:
            self._fs.invalidate_cache()  # other machines write there
            yield
        except (HarnessError, Damaged):
            raise
        except Exception as error:
            raise StoreError(f"cannot {what} the shared store {self.url}: {_reason(error)}") from error


def _open(url: str, shown: str) -> tuple[Any, str]:
    """The file system and the path in it."""
    import fsspec

    protocol, separator, rest = url.rpartition("://")
    if "::" in url or re.search(r"[*?[\]]", url):
        raise UsageError(f"the shared store {shown}: a plain URL, without '::' and wildcards, is needed")
    if not url.strip():
        raise UsageError("the URL of the shared store is empty")
    if separator and protocol != "memory" and (not rest.strip("/") or (protocol in OBJECT_STORES and rest[0] == "/")):
        raise UsageError(f"the shared store {shown} names no place; write it as s3://BUCKET/FOLDER or file:///FOLDER")
    if separator and protocol not in (known := fsspec.available_protocols()):
        raise UsageError(f"the shared store {shown}: fsspec knows no protocol {protocol!r}{nearest(protocol, known)}")
    try:
        files, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or "?"
        remedy = f"pip install {package}" if package in str(error) else "install it"
        raise UsageError(f"the shared store {shown} needs a package that is not there ({error}): {remedy}") from error
    except Exception as error:
        raise StoreError(f"cannot reach the shared store {shown}: {_reason(error)}") from error
    return files, root.rstrip("/")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, PermissionError):
        return f"no permission ({text}); check the credentials and what they allow"
    if type(error).__name__ == "NoCredentialsError":  # of botocore, which need not be installed
        return "no credentials were found; for S3 set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full, here or there; free some space"
    if isinstance(error, FileNotFoundError):
        return f"{text}; make the bucket or the folder, or correct the URL"
    return f"{type(error).__name__}: {text}; check the URL, the network and the service"


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _model(description: Description) -> str:
    return f"{description.key}.{description.sha256}.safetensors"


def _name(info: Mapping[str, Any]) -> str:
    return posixpath.basename(str(info["name"]).rstrip("/"))


def _entry(name: str, files: list[Mapping[str, Any]]) -> Entry:
    """The entry of an artefact or a leftover; ``files`` has the description last: it is removed first."""
    times = [_time(info) for info in files]
    return Entry(
        name,
        sum(info["size"] or 0 for info in files),
        None if None in times else max(time for time in times if time is not None),
        tuple(info["name"] for info in reversed(files)),
        len(files) > 1 and _name(files[-1]).endswith(".json"),
    )


def _time(info: Mapping[str, Any]) -> float | None:
    """When a file was last changed, in seconds since 1970; None when the file system does not tell."""
    found = next((info[name] for name in TIMES if info.get(name) is not None), None)
    if isinstance(found, str):
        with contextlib.suppress(ValueError):
            found = datetime.datetime.fromisoformat(found)
    if isinstance(found, datetime.datetime):
        return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()
    return float(found) if isinstance(found, (int, float)) else None
