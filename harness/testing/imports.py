"""Whether a plugin's module can be imported by a process that has nothing yet, quietly and without torch."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest

from harness.testing.blame import fail_check

SECONDS = 120
SCRIPT = """
import importlib, sys
importlib.import_module(sys.argv[1])
sys.stdout.flush()
print("torch" in sys.modules, file=sys.stderr)
"""


def imports_cleanly(thing: str, kind: type) -> None:
    """Fail unless the module of ``kind`` imports in a fresh process, prints nothing and loads no torch."""
    module = kind.__module__
    if module == "__main__":
        pytest.skip(f"{thing} is defined in a script, which nothing imports")
    status, printed, said = _import(module)
    if status:
        fail_check(
            thing,
            wanted=f"import {module} works in a fresh process",
            got=said.strip().rpartition("\n")[2] or f"the process ended with status {status}",
            fix=f"see python -c 'import {module}'",
        )
    if printed:
        fail_check(
            thing,
            wanted=f"import {module} prints nothing",
            got=repr(printed[:200]),
            fix="take the print out: the standard output belongs to tables and JSON",
        )
    if said.strip().rpartition("\n")[2] == "True":
        fail_check(
            thing,
            wanted=f"import {module} loads no torch, so that suites are collected at once",
            got="torch is loaded",
            fix="import torch, and modules that import it, inside the methods; python -X importtime tells where",
        )


@functools.cache
def _import(module: str) -> tuple[int, str, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, module], env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    return done.returncode, done.stdout, done.stderr
