"""Run scripts in forks of one process, which imports for all of them what takes seconds, such as torch."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

#: Runs one script after the other. It keeps what a preamble may remove from os.
SERVER = """
import json, os, sys
fork, wait = os.fork, os.waitpid
{preamble}
for request in sys.stdin:
    folder, code, arguments, *files = json.loads(request)
    if child := fork():
        print(os.waitstatus_to_exitcode(wait(child, 0)[1]), flush=True)
    else:
        for number, name in enumerate((os.devnull, *files)):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
        os.chdir(folder)
        sys.argv = ["-c", *arguments]
        exec(code)
        break
"""


class Forks:
    """A context of a process that has run ``preamble``, and runs scripts in forks of itself."""

    def __init__(self, preamble: str) -> None:
        command = [sys.executable, "-c", SERVER.format(preamble=preamble)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            pass

    def run(self, code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a script in a folder to its end. Its result has what ``subprocess.run`` returns for text."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as temporary:
            files = [Path(temporary) / name for name in ("output", "errors")]
            request = json.dumps([str(folder), code, arguments, *map(str, files)])
            print(request, file=self._process.stdin, flush=True)
            code_of_exit = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(code, code_of_exit, *(file.read_text() for file in files))
