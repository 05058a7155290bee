"""A fresh Python environment beside the running one, into which a test installs a plugin as its users would."""

from __future__ import annotations

import dataclasses
import os
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

#: The commands of the running environment that are commands in a fresh one too.
COMMANDS = ("harness", "pytest")

#: Runs a command of a distribution that is installed elsewhere. The first line is for sh, whose ``#!`` may hold no
#: space and is bounded in length; to Python it is a text.
SCRIPT = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys
from importlib.metadata import entry_points
(command,) = entry_points(group="console_scripts", name={name!r})
sys.exit(command.load()())
"""


@dataclasses.dataclass(frozen=True)
class Environment:
    """A virtual environment that sees what the running one has, and alone sees what is installed into it.

    ``folder`` holds it.
    """

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def variables(self) -> dict[str, str]:
        """The variables of a command there: this process', without what would lead it to other data or options."""
        dropped = ("PYTHONHOME", "PYTEST_ADDOPTS", "HARNESS_DATA", "HARNESS_SHARED")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        path = os.pathsep.join([str(self.python.parent), os.environ.get("PATH", os.defpath)])
        same = [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        found = {"PYTHONPATH": os.pathsep.join(same)} if same else {}
        return kept | {"VIRTUAL_ENV": str(self.folder), "PATH": path} | found

    def run(
        self, *command: str | Path, cwd: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with this environment's ``bin`` first in PATH, in ``cwd`` (default: the environment's folder).

        Fails the test with all that it printed when it ends with another code than 0, unless ``check`` is False.
        """
        program = self.python.parent / command[0]  # the environment is searched by its PATH only once it runs
        found = subprocess.run(
            [program if program.exists() else command[0], *command[1:]],
            cwd=cwd or self.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and found.returncode != 0:
            printed = f"{found.stdout}{found.stderr}"
            raise AssertionError(f"{' '.join(map(str, command))} ended with {found.returncode}:\n{printed}")
        return found

    def install(self, path: Path, *options: str) -> None:
        """Install the project in ``path`` with pip, by the build backend that it names, without any network.

        pip is the running environment's, and runs by this one's Python. What the project needs must be there already.
        """
        pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--python", str(self.python)]
        self.run(*pip, "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", *options, str(path))


def make(folder: Path) -> Environment:
    """A fresh environment in ``folder``. Nothing is installed anew, neither torch nor pip, so it takes no time."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    environment = Environment(folder)
    base = {"base": str(folder), "platbase": str(folder)}
    here = Path(sysconfig.get_path("purelib", "venv", base))
    # Not the folders themselves: that of an editable install holds another .pth, which only addsitedir reads.
    shared = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    lines = [f"import site; site.addsitedir({entry!r})\n" for entry in shared if Path(entry).is_dir()]
    (here / "running_environment.pth").write_text("".join(lines))
    for name in COMMANDS:
        script = environment.python.parent / name
        script.write_text(SCRIPT.format(python=environment.python, name=name))
        script.chmod(0o755)
    return environment
