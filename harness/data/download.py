"""Download files: resume interrupted transfers, verify checksums, and write each target file atomically."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import re
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from harness.api import Progress, silent
from harness.errors import DataError
from harness.files import publish

BLOCK = 1 << 20
THREADS = 8
#: The number of attempts for a transfer, and the seconds before the second one; they double each time.
ATTEMPTS = 5
PAUSE = 0.5
#: Seconds without any data after which a connection counts as lost.
TIMEOUT = 60.0


class Interrupted(Exception):
    """A transfer failed and may succeed when it is repeated."""


class Connection:
    """An HTTP connection that stays open between files, since opening one costs more than a small file.

    Uses the proxy settings of the environment as urllib does, and follows redirects. Not thread-safe.
    """

    def __init__(self) -> None:
        self._origin: tuple[str, str] | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._absolute = False
        self._proxy_headers: dict[str, str] = {}

    def get(self, url: str, offset: int = 0) -> http.client.HTTPResponse:
        """Send a GET for the bytes from ``offset`` on; read the response to its end before the next call."""
        for _ in range(6):
            address = urllib.parse.urlsplit(url)
            connection = self._connect(address.scheme, address.netloc)
            path = urllib.parse.urlunsplit(("", "", address.path or "/", address.query, ""))
            # identity: offset and checksum refer to the file, not to a compressed form of it
            headers = {"Accept-Encoding": "identity", "User-Agent": "harness", **self._proxy_headers}
            if offset:
                headers["Range"] = f"bytes={offset}-"
            connection.request("GET", url if self._absolute else path, headers=headers)
            response = connection.getresponse()
            location = response.getheader("Location")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                return response
            response.read()
            url = urllib.parse.urljoin(url, location)
        raise DataError(f"{url}: too many redirects; check the address")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._origin = None

    def _connect(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        if self._connection is not None and self._origin == (scheme, netloc):
            return self._connection
        self.close()
        if scheme not in ("http", "https") or not netloc:
            raise DataError(f"{scheme}://{netloc}: not an http or https address")
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        host = urllib.parse.urlsplit(f"//{netloc}").hostname or ""
        proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(scheme)
        self._absolute, self._proxy_headers = False, {}
        if proxy is None:
            self._connection = kind(netloc, timeout=TIMEOUT)
        else:
            address = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
            login = {}
            if address.username:
                secret = f"{urllib.parse.unquote(address.username)}:{urllib.parse.unquote(address.password or '')}"
                login = {"Proxy-Authorization": "Basic " + base64.b64encode(secret.encode()).decode()}
            self._connection = kind(address.hostname or "", address.port or 80, timeout=TIMEOUT)
            if scheme == "https":
                self._connection.set_tunnel(netloc, headers=login)
            else:
                self._absolute, self._proxy_headers = True, login
        self._origin = (scheme, netloc)
        return self._connection


def fetch(
    url: str,
    target: Path,
    sha256: str | None = None,
    connection: Connection | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Download ``url`` to ``target``, unless a file with this checksum exists.

    An incomplete file stays as ``target``.part; the next call resumes it if the server supports ranges. Raises
    DataError when the server cannot be reached or lacks the file, for a wrong checksum, and for a full disk. Once
    ``stop`` is set, a failed transfer is not repeated.
    """
    stop = stop or threading.Event()
    with _writing(target):
        if sha256 is not None and target.is_file() and _sha256(target) == sha256:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
    link = connection or Connection()
    partial = target.with_name(f"{target.name}.part")
    try:
        for attempt in range(1, ATTEMPTS + 1):
            resumed = partial.exists()
            try:
                _transfer(url, partial, link)
            except (Interrupted, http.client.HTTPException, OSError) as error:
                link.close()
                if attempt == ATTEMPTS or stop.wait(PAUSE * 2 ** (attempt - 1)):
                    raise DataError(
                        f"{url}: cannot be downloaded ({type(error).__name__}: {error}), after {attempt} attempts; "
                        "check the network and run it again: it resumes where it stopped"
                    ) from error
                continue
            with _writing(target):
                checksum = _sha256(partial)
                if sha256 in (None, checksum):
                    publish(partial, target, sync=False)  # the next call verifies the checksum again
                    return
                partial.unlink()
            if (
                not resumed
            ):  # otherwise the partial file of an earlier call may be wrong: download the whole file once more
                break
    finally:
        if connection is None:
            link.close()
    raise DataError(
        f"{url}: the downloaded file has the SHA-256 checksum {checksum}, not {sha256}: it was changed at its source "
        "or during the transfer; run it again, or try another network"
    )


def fetch_all(base: str, files: Mapping[str, str], folder: Path, progress: Progress = silent) -> None:
    """Download ``base`` + path to ``folder``/path for each path in ``files``, which maps to SHA-256 checksums.

    Files are downloaded in parallel. The first error stops the download; the same call fetches the missing files later.
    Raises like ``fetch``.
    """
    for path in files:
        if not _SAFE_PATH.fullmatch(path) or ".." in path.split("/"):
            raise DataError(
                f"{base}: lists {path!r}, which is no path inside the folder; nothing was downloaded, check the address"
            )
    local = threading.local()
    connections: list[Connection] = []
    stop = threading.Event()

    def one(path: str, sha256: str) -> None:
        if stop.is_set():
            return
        if not hasattr(local, "connection"):
            local.connection = Connection()
            connections.append(local.connection)
        fetch(base + urllib.parse.quote(path), folder / path, sha256, local.connection, stop)

    pool = ThreadPoolExecutor(THREADS)
    try:
        jobs = [pool.submit(one, path, sha256) for path, sha256 in files.items()]
        for done, job in enumerate(as_completed(jobs), 1):
            job.result()
            progress(done, len(files), "downloading")
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        for connection in connections:
            connection.close()


def read_checksums(base: str, target: Path) -> dict[str, str]:
    """Download ``base``SHA256SUMS.txt to ``target`` and return the checksum of each listed path."""
    fetch(f"{base}SHA256SUMS.txt", target)
    sums = {}
    for number, line in enumerate(target.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        match = _SUM.fullmatch(line)
        if match:
            sums[match[2]] = match[1]
        elif line.strip():
            raise DataError(
                f"{base}SHA256SUMS.txt, line {number}: {line[:80]!r} is no checksum and path; check the address"
            )
    return sums


_SUM = re.compile(r"([0-9a-f]{64})[ \t]+\*?(\S.*)")
_SAFE_PATH = re.compile(r"[\w.+-]+(?:/[\w.+-]+)*")


def _transfer(url: str, partial: Path, connection: Connection) -> None:
    """Append to ``partial`` until the file is complete; raises Interrupted when the connection ends earlier."""
    offset = partial.stat().st_size if partial.exists() else 0
    response = connection.get(url, offset)
    if response.status == 416:  # no bytes after the offset: the partial file is complete, or of another file
        response.read()
        total = response.getheader("Content-Range", "").rpartition("/")[2]
        if total == str(offset):
            return
        partial.unlink()
        raise Interrupted(f"the server has {total or 'fewer'} bytes, the partial file has {offset}")
    if response.status >= 500 or response.status in (408, 429):
        response.read()
        raise Interrupted(f"the server answered {response.status} {response.reason}")
    if response.status not in (200, 206):
        response.read()
        raise DataError(f"{url}: the server answered {response.status} {response.reason}; check the address")
    if response.status == 206 and not response.getheader("Content-Range", "").startswith(f"bytes {offset}-"):
        partial.unlink()
        raise Interrupted("the server sent another range than the requested one")
    expected = response.length
    received = 0
    with _writing(partial), partial.open("ab" if response.status == 206 else "wb") as file:
        while block := _receive(response):
            file.write(block)
            received += len(block)
    if expected is not None and received < expected:
        raise Interrupted(f"the connection ended after {received} of {expected} bytes")


def _receive(response: http.client.HTTPResponse) -> bytes:
    """Return the next block; raises Interrupted for a lost connection, to tell it from an OSError of the disk."""
    try:
        return response.read(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"the connection was lost ({type(error).__name__}: {error})") from error


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written or read back ({error.strerror or error}); free some space or choose another "
            "folder"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
