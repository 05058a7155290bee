"""What the tests of the ECG plugin share: a tiny PTB-XL that a test may spoil, and the synthetic one."""

from __future__ import annotations

import hashlib
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny_ptbxl import database, write_record, write_tables

from harness_ecg import PTBXL


@pytest.fixture
def rows() -> list[dict[str, object]]:
    return database()


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ptbxl")
    random = np.random.default_rng(0)
    for row in database():
        write_record(folder, str(row["filename_lr"]), random.integers(-900, 900, (1000, 12)))
    write_tables(folder, database())
    return folder


@pytest.fixture
def tiny(tmp_path: Path, pristine: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "tiny")


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from harness_ecg import SyntheticPTBXL

    folder = tmp_path_factory.mktemp("synthetic") / "made"
    SyntheticPTBXL().make(folder)
    return folder


class Mirror:
    """PTB-XL's folder on a server of our own, but for the files that are ``missing``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: set[str] = set()
        mirror = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(folder))

            def do_GET(self) -> None:
                if self.path.removeprefix("/") in mirror.missing:
                    self.send_error(404)
                else:
                    super().do_GET()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.dataset = type("Mirrored", (PTBXL,), {"source": f"http://127.0.0.1:{self.server.server_port}/"})()
        self.list()

    def list(self) -> None:
        """Write SHA256SUMS.txt, as PhysioNet has it, of all that is not missing."""
        sums = ["0" * 64 + " records500/00000/00001_hr.dat"]
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            name = path.relative_to(self.folder).as_posix()
            if name not in self.missing | {"SHA256SUMS.txt"}:
                sums.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()} {name}")
        (self.folder / "SHA256SUMS.txt").write_text("\n".join(sums) + "\n")


@pytest.fixture
def mirror(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "*")
    running = Mirror(tiny)
    threading.Thread(target=running.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield running
    running.server.shutdown()
    running.server.server_close()
