"""Runs in processes of their own whose runtime hangs, to be ended from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

#: Seconds within which a run has begun to hang.
STARTED = 120.0
#: A runtime whose files cannot be loaded in a worker within the time of a test.
RUNTIME = """

class Hanging(Eager):
    name = "hanging"

    def load(self, file: Path) -> Predictor:
        import time

        file.with_name("hangs").touch()
        time.sleep(200)


@hookimpl
def harness_runtimes(register):
    register(Eager())
    register(Hanging())
"""


def suite_of(*runtimes: str) -> str:
    """The source of a suite with a cell for each of the runtimes."""
    return f"""
from harness import *
toys = Matrix(
    dataset="toy", architecture="conv", runtime={list(runtimes)}, steps={{"plain": [train(epochs=1)]}}
)
"""


def start(
    folder: Path, distribution: Path, suite: str, variables: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Run a suite in ``folder`` with the toy plugin of ``distribution``, which gets the runtime "hanging"."""
    with (distribution / "toy.py").open("a") as plugin:
        plugin.write(RUNTIME)
    (folder / "suite.py").write_text(suite)
    command = [sys.executable, "-m", "pytest", "suite.py", "-p", "no:cacheprovider", "--harness-preset=smoke"]
    environment = {"PYTHONPATH": str(distribution), "PATH": os.environ["PATH"], "HOME": str(folder)}
    return subprocess.Popen(
        [*command, "--benchmark-json=run.json"],
        env=environment | dict(variables or {}),
        cwd=folder,
        text=True,
        start_new_session=True,
        **options,
    )


def hangs(folder: Path) -> bool:
    """Whether a worker hangs. Not by rglob(), which fails when a folder disappears meanwhile."""
    return any("hangs" in files for _, _, files in os.walk(folder / ".harness" / "tmp"))


def soon(condition: Callable[[], bool], within: float = STARTED) -> bool:
    """Wait until the condition holds, at most so many seconds; return whether it does."""
    deadline = time.monotonic() + within
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()
