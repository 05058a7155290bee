"""The kit sees the threads and files that a step leaves behind."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import careless
import pytest

from harness.testing._watch import ApplyCall, watch_process


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    careless.clean()


@pytest.fixture
def test_file(tmp_path: Path) -> Path:
    file = tmp_path / "test split"
    file.write_text("")
    return file


def test_a_thread_and_a_file_that_are_left_are_named(
    test_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call = ApplyCall()
    with watch_process(call, test_file):
        careless.leaks().apply(None, None)  # type: ignore[arg-type]
    wanted = ["the thread 'leaked' still runs"]
    if Path("/proc/self/fd").exists():
        wanted.append(f"the file {tmp_path / 'leaked.txt'} is still open")
    assert call.leftovers == wanted


def test_a_thread_for_which_the_process_waits_is_reported_so(test_file: Path) -> None:
    call, end = ApplyCall(), threading.Event()
    thread = threading.Thread(target=end.wait, name="stays")
    with watch_process(call, test_file):
        thread.start()
    end.set()
    thread.join()
    assert call.leftovers == ["the thread 'stays' still runs, and the process cannot end before it"]


def test_what_ends_or_is_collected_at_once_is_not_left(test_file: Path, tmp_path: Path) -> None:
    call = ApplyCall()

    class Holder:
        """Holds itself, so that only the collection of garbage frees it."""

    with warnings.catch_warnings(), watch_process(call, test_file):
        threading.Thread(target=time.sleep, args=(0.03,)).start()
        holder = Holder()
        holder.me, holder.file = holder, (tmp_path / "f").open("w")  # type: ignore[attr-defined]
        del holder
        warnings.simplefilter("ignore", ResourceWarning)
    assert call.leftovers == []
