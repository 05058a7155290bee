"""Run the code of an earlier commit: its files in a git worktree, and workers that import them."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import CellError
from harness.keys import SITE_FOLDERS
from harness.records.runs import Commit

if TYPE_CHECKING:
    from harness.measure.pool import Workers

#: -P: do not look for modules in the working folder, which has the present code.
COMMAND = (sys.executable, "-P", "-m", "harness.measure.worker")
TIMEOUT = 300.0


class EarlierCode:
    """The code of the commit that an earlier run was made from; ``close`` removes its files."""

    def __init__(self, commit: Commit, folder: Path, here: Path) -> None:
        """Check the commit out into ``folder``, which must not exist, from the repository that holds ``here``.

        Raises CellError with the reason if it cannot be had: the run names no commit or had uncommitted changes, git
        or the repository is missing, or the clone lacks the commit.
        """
        if commit.id is None:
            raise CellError("the earlier run names no commit")
        if commit.dirty:
            raise CellError(f"the earlier run was made with uncommitted changes to commit {commit.id[:7]}")
        self.commit = commit.id
        self._root = Path(_git(here, "rev-parse", "--show-toplevel"))
        try:
            _git(here, "cat-file", "-e", f"{commit.id}^{{commit}}")
        except CellError:
            shallow = _git(here, "rev-parse", "--is-shallow-repository") == "true"
            remedy = "; fetch it: git fetch --unshallow" if shallow else ""
            raise CellError(f"this clone has no commit {commit.id[:7]}{remedy}") from None
        # Hooks of the user have nothing to do here.
        _git(self._root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", str(folder), commit.id)
        self.folder = folder
        #: The folders of the worktree that stand for those from which this process imports the present code.
        self.python_path = list(self._earlier_folders())

    @functools.cached_property
    def workers(self) -> Workers:
        """Workers that import the earlier code."""
        from harness.measure.pool import Workers

        return Workers(COMMAND, python_path=self.python_path)

    def _earlier_folders(self) -> Iterator[Path]:
        for entry in dict.fromkeys(Path(entry).resolve() for entry in sys.path):
            if entry.is_relative_to(self._root) and not set(SITE_FOLDERS) & set(entry.parts):
                folder = self.folder / entry.relative_to(self._root)
                if folder.is_dir():
                    yield folder

    def close(self) -> None:
        """End the workers, and remove the worktree."""
        self.workers.close()
        _git(self._root, "worktree", "remove", "--force", str(self.folder))


def _git(folder: Path, *arguments: str) -> str:
    """Run git in ``folder`` and return its output. Raises CellError with its message if it fails."""
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CellError(f"git cannot be run: {error}") from None
    if result.returncode:
        message = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise CellError(f"git {arguments[0]}: {message}")
    return result.stdout.strip()
