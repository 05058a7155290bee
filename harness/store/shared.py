"""Exchange artefacts between machines through any URL that fsspec supports; every file is verified on reading.

The model of an artefact is written before its metadata, which contain the model's hash: a reader sees a complete
artefact or none.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import posixpath
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, StoreError, UsageError, nearest
from harness.records.runs import load
from harness.store.entry import (
    METADATA_LIMIT,
    Artefact,
    Damaged,
    Entry,
    Metadata,
    check_file,
    check_model,
    parse_metadata,
)
from harness.store.layout import (
    ARTEFACTS,
    META,
    MODEL,
    is_partial,
    is_remote_metadata,
    new_partial,
    remote_key,
    remote_metadata,
    remote_model,
)

VARIABLE = "HARNESS_SHARED"
#: Services that write a file atomically and have no folders. Elsewhere a file is written under a temporary name.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"}
#: The age in seconds from which the use of an artefact is noted again: well below any sensible age of garbage.
REFRESH = 6 * 3600.0
#: The fields in which the listings of different file systems have the time of the last change.
TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


def shared_url(option: str | None) -> str | None:
    """Return the option, or else the environment variable HARNESS_SHARED; None if it is empty."""
    return (os.environ.get(VARIABLE) if option is None else option) or None


def without_password(url: str) -> str:
    """Return the URL for messages, without user name and password."""
    return re.sub(r"//[^/@]*@", "//***@", url)


def models_of(run: Path) -> dict[str, set[str]]:
    """Return the SHA-256 of the deployed files that a run file names, by the keys of their artefacts.

    The runtime ``torch`` deploys the artefact's own model file. Raises UsageError for a file that cannot be read.
    """
    models: dict[str, set[str]] = {}
    for record in load(run)[1]:
        against = () if record.against is None else (record.against.artefact,)
        for artefact in (record.artefact, record.reference_artefact, *against):
            models.setdefault(artefact.key, set()).add(artefact.sha256)
    return models


class SharedStore:
    """The artefacts at a URL. Raises UsageError for an invalid URL, and StoreError for all other failures.

    The constructor lists the store, so that a wrong URL ends a run before it begins.
    """

    def __init__(self, url: str, trusted: Mapping[str, Collection[str]] | None = None) -> None:
        """``trusted`` maps keys to the SHA-256 of their model files; the store then gives these models alone."""
        #: For messages: without a password.
        self.url = without_password(url)
        self._trusted = trusted
        self._fs, root = _open(url, self.url)
        self._folder = f"{root}/{ARTEFACTS}"
        self._objects = not OBJECT_STORES.isdisjoint(_protocols(self._fs))
        with self._explained("read"):
            if not self._objects and not (self._fs.isdir(root) or self._fs.isdir(posixpath.dirname(root))):
                raise FileNotFoundError(f"there is neither a folder {root} nor one to create it in")
        #: The keys of all complete artefacts in the last listing.
        self.listed: set[str] = set()
        self.entries()

    def entries(self) -> list[Entry]:
        """List all artefacts, and what interrupted uploads left of some."""
        files: dict[str, list[Mapping[str, Any]]] = {}
        for info in self._ls():
            if (key := remote_key(_name(info))) is not None:
                files.setdefault(key, []).append(info)
        entries = [_entry(key, sorted(files[key], key=_name)) for key in sorted(files)]
        self.listed = {entry.name for entry in entries if entry.complete and self._is_trusted(entry.name)}
        return entries

    def fetch(self, key: str, folder: Path) -> bool:
        """Copy an artefact into ``folder``; return False if there is none.

        Raises Damaged if it fails verification, is not trusted, or cannot be read although the store can be listed.
        """
        if not self._is_trusted(key):
            return False
        with self._explained("read"), self._blaming_the_artefact():
            path = self._path(remote_metadata(key))
            try:
                info = self._fs.info(path)
                check_file(_is_file(info), info["size"])
                text = self._fs.cat_file(path)
            except FileNotFoundError:
                return False
            metadata = parse_metadata(key, text)
            if self._trusted is not None and metadata.sha256 not in self._trusted[key]:
                raise Damaged("has a model that the trusted run does not name")
            model = self._path(remote_model(key, metadata.sha256))
            try:
                if not _is_file(self._fs.info(model)):
                    raise Damaged("has a model that is not a file")
                self._fs.get_file(model, str(folder / MODEL))
            except FileNotFoundError:
                raise Damaged("is incomplete") from None
            check_model(folder / MODEL, metadata.sha256)
            (folder / META).write_bytes(text)
            return True

    def send(self, artefact: Artefact) -> None:
        """Write an artefact; when two machines write one key, a reader sees that of one of them.

        Raises Damaged if a folder is in the place of one of its files.
        """
        with self._explained("write to"):
            self._write(remote_model(artefact.key, artefact.sha256), artefact.file)
            self._write(remote_metadata(artefact.key), artefact.file.with_name(META).read_bytes())

    def refresh(self, entries: Iterable[Entry]) -> None:
        """Mark artefacts as used, by writing their unchanged metadata again."""
        now = time.time()
        old = [entry.name for entry in entries if entry.used is not None and entry.used < now - REFRESH]
        texts = self._texts(old)
        with self._explained("write to"):
            for key, text in texts.items():
                self._write(remote_metadata(key), text)

    def describe(self, keys: Iterable[str]) -> dict[str, Metadata]:
        """Return the metadata of those of ``keys`` that are readable, in one request."""
        metadata = {}
        for key, text in self._texts(keys).items():
            with contextlib.suppress(Damaged):
                metadata[key] = parse_metadata(key, text)
        return metadata

    def leftovers(self) -> list[Entry]:
        """List the incomplete files of killed writers."""
        return [_entry(_name(info), [info]) for info in self._ls() if is_partial(_name(info))]

    def remove(self, entry: Entry) -> bool:
        """Remove an entry; return False if it was used or removed since it was listed."""
        with self._explained("remove from"):
            try:
                used = _time(self._fs.info(entry.files[0]))
                if used is None or entry.used is None or used > entry.used:
                    return False
                for path in entry.files:  # the metadata first
                    self._fs.rm_file(path)
            except FileNotFoundError:
                return False
        return True

    # ------------------------------------------------------------------------------------------------------ plumbing

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _ls(self) -> list[Mapping[str, Any]]:
        with self._explained("read"):
            if self._objects:  # ls does not distinguish an empty prefix from a missing bucket
                infos = self._fs.find(self._folder, detail=True).values()
            else:
                try:
                    infos = self._fs.ls(self._folder, detail=True)
                except FileNotFoundError:
                    return []
            return [info for info in map(self._followed, infos) if _is_file(info)]

    def _followed(self, info: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a symbolic link leads to; other entries, and broken links, as they are."""
        if info.get("islink"):
            with contextlib.suppress(OSError):
                return dict(self._fs.info(info["name"]))
        return info

    def _is_trusted(self, key: str) -> bool:
        return self._trusted is None or key in self._trusted

    @contextlib.contextmanager
    def _blaming_the_artefact(self) -> Iterator[None]:
        """Raise Damaged for what a file system raises if the store can still be listed: its other artefacts are read.

        For example a file without read permission.
        """
        try:
            yield
        except (HarnessError, Damaged):
            raise
        except Exception as error:
            self._ls()
            raise Damaged(f"cannot be read ({_reason(error)})") from error

    def _texts(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the texts of the readable metadata files by key, in one request."""
        names = {remote_metadata(key): key for key in keys}
        if not names:
            return {}
        infos = [info for info in self._ls() if _name(info) in names]
        paths = [info["name"] for info in infos if info["size"] is None or info["size"] <= METADATA_LIMIT]
        with self._explained("read"):
            found = self._fs.cat(paths, on_error="return") if paths else {}
            if any(not isinstance(text, (bytes, FileNotFoundError)) for text in found.values()):
                self._ls()  # raises if the store failed, not some of its files
        return {names[posixpath.basename(path)]: text for path, text in found.items() if isinstance(text, bytes)}

    def _write(self, name: str, content: Path | bytes) -> None:
        """Write a file atomically."""
        if self._objects:
            self._put(self._path(name), content)
            return
        self._fs.makedirs(self._folder, exist_ok=True)
        if self._fs.isdir(self._path(name)):  # mv would move the file into it
            raise Damaged(f"has a folder in the place of {name}")
        partial = self._path(new_partial())
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
        """Convert what a file system raises into a StoreError that says what to do."""
        try:
            self._fs.invalidate_cache()  # other machines write there
            yield
        except (HarnessError, Damaged):
            raise
        except Exception as error:
            raise StoreError(f"cannot {what} the shared store {self.url}: {_reason(error)}") from error


def _open(url: str, shown: str) -> tuple[Any, str]:
    """Return the file system and the path in it."""
    import fsspec

    protocol, separator, rest = url.rpartition("://")
    if "::" in url or re.search(r"[*?[\]]", url):
        raise UsageError(f"the shared store {shown}: write a plain URL, without '::' and wildcards")
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
        raise UsageError(
            f"the shared store {shown} needs a package that is not installed ({error}): {remedy}"
        ) from error
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
        return f"{text}; create the bucket or the folder, or correct the URL"
    return f"{type(error).__name__}: {text}; check the URL, the network and the service"


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _is_file(info: Mapping[str, Any]) -> bool:
    return bool(info["type"] == "file")


def _name(info: Mapping[str, Any]) -> str:
    return posixpath.basename(str(info["name"]).rstrip("/"))


def _entry(name: str, files: list[Mapping[str, Any]]) -> Entry:
    """Make the entry of an artefact or a leftover; ``files`` has the metadata last: they are removed first."""
    times = [_time(info) for info in files]
    return Entry(
        name,
        sum(info["size"] or 0 for info in files),
        None if None in times else max(time for time in times if time is not None),
        tuple(info["name"] for info in reversed(files)),
        len(files) > 1 and is_remote_metadata(_name(files[-1])),
    )


def _time(info: Mapping[str, Any]) -> float | None:
    """Return when a file was last changed, in seconds since 1970; None if the file system does not tell."""
    changed = next((info[name] for name in TIMES if info.get(name) is not None), None)
    if isinstance(changed, str):
        with contextlib.suppress(ValueError):
            changed = datetime.datetime.fromisoformat(changed)
    if isinstance(changed, datetime.datetime):
        return (changed if changed.tzinfo else changed.replace(tzinfo=datetime.UTC)).timestamp()
    return float(changed) if isinstance(changed, (int, float)) else None
