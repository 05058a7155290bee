"""Put plugins with faults on the import path, and collect the failures of the kit's checks."""

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
    """Runs all checks of a module of the kit with these fixtures; returns the messages of the failed ones by name."""

    def run(module: ModuleType, **fixtures: Any) -> dict[str, str]:
        messages: dict[str, str] = {}
        for name in module.__all__:
            if not name.startswith("test_"):
                continue
            check = getattr(module, name)
            options = {mark.args[0]: mark.args[1] for mark in getattr(check, "pytestmark", [])}
            options = {parameter: values for parameter, values in options.items() if parameter not in fixtures}
            for index, values in enumerate(itertools.product(*options.values())):
                arguments = {**fixtures, **dict(zip(options, values, strict=True))}
                if "tmp_path" in (parameters := inspect.signature(check).parameters):
                    arguments["tmp_path"] = tmp_path / f"{name}-{index}"
                    arguments["tmp_path"].mkdir()
                try:
                    check(**{parameter: arguments[parameter] for parameter in parameters})
                except pytest.fail.Exception as failure:
                    messages[name] = str(failure)
                except pytest.skip.Exception as skip:
                    if not str(skip):
                        messages[name] = "skipped without a reason"
        return messages

    return run
