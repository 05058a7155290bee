"""Downloads from a server of our own that breaks off, knows no ranges, lies, or is not there."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.data import download
from harness.data.download import fetch, fetch_all, read_checksums
from harness.errors import DataError


class Server(ThreadingHTTPServer):
    """Serves ``files``; ends transfers after ``break_after`` bytes, one an entry; answers 503 ``busy`` times."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.break_after: list[int] = []
        self.busy = 0
        self.asked: list[tuple[str, str | None]] = []
        self.connections = 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data/"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        server, path, asked = self.server, self.path.removeprefix("/data/"), self.headers["Range"]
        server.asked.append((path, asked))
        if server.busy:
            server.busy -= 1
            return self.answer(503, b"later")
        if path.startswith("moved/"):
            return self.answer(302, b"elsewhere", Location=f"/data/{path.removeprefix('moved/')}")
        if path not in server.files:
            return self.answer(404, b"nothing here")
        content = server.files[path]
        if not asked or not server.ranges:
            return self.answer(200, content)
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            return self.answer(416, b"", **{"Content-Range": f"bytes */{len(content)}"})
        place = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.answer(206, content[start:], **{"Content-Range": place})

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status in (200, 206) and self.server.break_after:
            body = body[: self.server.break_after.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "*")
    running = Server()
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


CONTENT = bytes(range(256)) * 40
SUM = hashlib.sha256(CONTENT).hexdigest()


def files_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_arrives_whole_and_is_not_fetched_twice(server: Server, tmp_path: Path) -> None:
    server.files["a.dat"] = CONTENT
    for _ in range(2):
        fetch(f"{server.base}a.dat", tmp_path / "new" / "a.dat", SUM)
    assert (tmp_path / "new" / "a.dat").read_bytes() == CONTENT
    assert server.asked == [("a.dat", None)]
    assert files_under(tmp_path) == {"new/a.dat"}


def test_goes_on_where_it_was_interrupted(server: Server, tmp_path: Path) -> None:
    server.files["a.dat"], server.break_after = CONTENT, [1000, 500]
    fetch(f"{server.base}a.dat", tmp_path / "a.dat", SUM)
    assert (tmp_path / "a.dat").read_bytes() == CONTENT
    assert server.asked == [("a.dat", None), ("a.dat", "bytes=1000-"), ("a.dat", "bytes=1500-")]


def test_goes_on_with_what_an_earlier_run_left(server: Server, tmp_path: Path) -> None:
    server.files["a.dat"] = CONTENT
    (tmp_path / "a.dat.part").write_bytes(CONTENT[:77])
    fetch(f"{server.base}a.dat", tmp_path / "a.dat", SUM)
    assert server.asked == [("a.dat", "bytes=77-")]
    assert files_under(tmp_path) == {"a.dat"}


@pytest.mark.parametrize(
    "left", [CONTENT, CONTENT + b"more", b"wrong beginning"], ids=["complete", "too long", "of another file"]
)
def test_whatever_was_left_the_file_is_right(server: Server, tmp_path: Path, left: bytes) -> None:
    server.files["a.dat"] = CONTENT
    (tmp_path / "a.dat.part").write_bytes(left)
    fetch(f"{server.base}a.dat", tmp_path / "a.dat", SUM)
    assert (tmp_path / "a.dat").read_bytes() == CONTENT


def test_a_server_without_ranges_begins_again(server: Server, tmp_path: Path) -> None:
    server.files["a.dat"], server.ranges, server.break_after = CONTENT, False, [1000]
    fetch(f"{server.base}a.dat", tmp_path / "a.dat", SUM)
    assert (tmp_path / "a.dat").read_bytes() == CONTENT
    assert server.asked[1] == ("a.dat", "bytes=1000-")


def test_a_changed_file_is_replaced(server: Server, tmp_path: Path) -> None:
    server.files["a.dat"] = CONTENT
    (tmp_path / "a.dat").write_bytes(b"damaged")
    fetch(f"{server.base}a.dat", tmp_path / "a.dat", SUM)
    assert (tmp_path / "a.dat").read_bytes() == CONTENT


def test_redirects_and_busy_servers_are_followed(server: Server, tmp_path: Path) -> None:
    server.files["a.dat"], server.busy = CONTENT, 2
    fetch(f"{server.base}moved/a.dat", tmp_path / "a.dat", SUM)
    assert (tmp_path / "a.dat").read_bytes() == CONTENT


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files["a.dat"] = CONTENT + b"!"
    with pytest.raises(DataError, match=rf"a\.dat: the downloaded file has the SHA-256 .*, not {SUM}"):
        fetch(f"{server.base}a.dat", tmp_path / "a.dat", SUM)
    assert files_under(tmp_path) == set()


def test_a_missing_file_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.dat: the server answered 404"):
        fetch(f"{server.base}a.dat", tmp_path / "a.dat", SUM)
    assert len(server.asked) == 1


def test_a_server_that_stays_busy_is_given_up(server: Server, tmp_path: Path) -> None:
    server.busy = 99
    with pytest.raises(DataError, match=r"503 .*after 5 attempts; check the network"):
        fetch(f"{server.base}a.dat", tmp_path / "a.dat", SUM)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.dat"
    with pytest.raises(DataError, match=r"a\.dat: cannot be downloaded \(ConnectionRefusedError.*check the network"):
        fetch(url, tmp_path / "a.dat", SUM)
    with pytest.raises(DataError, match="not an http or https address"):
        fetch("file:///etc/hostname", tmp_path / "a.dat", SUM)


def test_a_full_disk_is_told_from_a_lost_network(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    server.files["a.dat"] = CONTENT
    monkeypatch.setattr(Path, "with_name", lambda self, name: full)
    with pytest.raises(DataError, match=r"cannot be written .*No space left on device"):
        fetch(f"{server.base}a.dat", Path("/dev/a.dat"))
    assert len(server.asked) == 1


def test_many_files_over_few_connections(server: Server, tmp_path: Path) -> None:
    contents = {f"records/{i:02d}/{i:03d} x.dat".replace(" ", "_"): b"%d" % i * i for i in range(1, 60)}
    server.files.update(contents)
    sums = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    told: list[tuple[int, int]] = []
    for _ in range(2):
        fetch_all(server.base, sums, tmp_path, lambda done, total, note="": told.append((done, total)))
    assert {path: (tmp_path / path).read_bytes() for path in contents} == contents
    assert len(server.asked) == len(contents), "the second call fetches nothing"
    assert server.connections <= download.THREADS
    assert told[len(contents) - 1] == told[-1] == (len(contents), len(contents))


def test_one_failure_ends_it_and_the_rest_comes_later(server: Server, tmp_path: Path) -> None:
    server.files = {"a": b"a", "b": b"b"}
    sums = {name: hashlib.sha256(name.encode()).hexdigest() for name in "abc"}
    with pytest.raises(DataError, match="/c: the server answered 404"):
        fetch_all(server.base, sums, tmp_path)
    server.files["c"] = b"c"
    fetch_all(server.base, sums, tmp_path)
    assert files_under(tmp_path) == {"a", "b", "c"}


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a//b", "a\\b", ""])
def test_a_list_cannot_write_outside_the_folder(server: Server, tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="no path inside the folder"):
        fetch_all(server.base, {"good": SUM, path: SUM}, tmp_path)
    assert not server.asked


def test_checksum_lists(server: Server, tmp_path: Path) -> None:
    server.files["SHA256SUMS.txt"] = f"{SUM} a/b.dat\n{SUM}  c\n\n{SUM} *d e\n".encode()
    assert read_checksums(server.base, tmp_path / "sums") == {"a/b.dat": SUM, "c": SUM, "d e": SUM}
    server.files["SHA256SUMS.txt"] = b"<html>Sign in to the network</html>"
    with pytest.raises(DataError, match=r"SHA256SUMS\.txt, line 1: '<html>.* is no checksum and path"):
        read_checksums(server.base, tmp_path / "sums")
