"""Bad plugins for the kit to find, and a way to see which of its checks fail."""

from __future__ import annotations

import inspect
import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from failures import Failures


@pytest.fixture
def failures(tmp_path: Path) -> Failures:
    """Runs all checks of a module of the kit with these fixtures: the text of each check that failed, by its name."""

    def run(module: ModuleType, **fixtures: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in module.__all__:
            if not name.startswith("test_"):
                continue
            check = getattr(module, name)
            ways = {mark.args[0]: mark.args[1] for mark in getattr(check, "pytestmark", [])}
            ways = {parameter: values for parameter, values in ways.items() if parameter not in fixtures}
            for index, values in enumerate(itertools.product(*ways.values())):
                given = {**fixtures, **dict(zip(ways, values, strict=True))}
                if "tmp_path" in (parameters := inspect.signature(check).parameters):
                    given["tmp_path"] = tmp_path / f"{name}-{index}"
                    given["tmp_path"].mkdir()
                try:
                    check(**{parameter: given[parameter] for parameter in parameters})
                except pytest.fail.Exception as failure:
                    found[name] = str(failure)
                except pytest.skip.Exception as skip:
                    if not str(skip):
                        found[name] = "skipped without a reason"
        return found

    return run
