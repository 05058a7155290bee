"""Report failed checks to authors, and check how a plugin's module imports."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

import pytest

SECONDS = 120
SCRIPT = """
import importlib, sys
importlib.import_module(sys.argv[1])
sys.stdout.flush()
print("torch" in sys.modules, file=sys.stderr)
"""


def fail_check(subject: object, *, wanted: str, got: str, fix: str) -> NoReturn:
    """Fail the running test with a message that tells the author of ``subject`` what to do."""
    __tracebackhide__ = True
    pytest.fail(f"{subject}\nwanted: {wanted}\ngot:    {got}\nfix:    {fix}", pytrace=False)


def listing(entries: Sequence[str], limit: int = 4) -> str:
    """At most ``limit`` of the entries, in one line."""
    more = f", and {len(entries) - limit} more" if len(entries) > limit else ""
    return "; ".join(entries[:limit]) + more


def imports_cleanly(subject: str, kind: type) -> None:
    """Fail unless the module of ``kind`` imports in a fresh process, prints nothing and does not load torch."""
    module = kind.__module__
    if module == "__main__":
        pytest.skip(f"{subject} is defined in a script, which cannot be imported")
    status, stdout, stderr = _import(module)
    last_line = stderr.strip().rpartition("\n")[2]
    if status:
        fail_check(
            subject,
            wanted=f"import {module} works in a fresh process",
            got=last_line or f"the process ended with status {status}",
            fix=f"run python -c 'import {module}' to see the error",
        )
    if stdout:
        fail_check(
            subject,
            wanted=f"import {module} prints nothing",
            got=repr(stdout[:200]),
            fix="remove the print: the standard output is for tables and JSON",
        )
    if last_line == "True":
        fail_check(
            subject,
            wanted=f"import {module} does not load torch, so that suites are collected quickly",
            got="torch is loaded",
            fix="import torch, and modules that import it, inside the methods; python -X importtime shows where it is "
            "imported",
        )


@functools.cache
def _import(module: str) -> tuple[int, str, str]:
    """Import a module in a fresh process; return its exit status, standard output and standard error."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, module], env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    return process.returncode, process.stdout, process.stderr
