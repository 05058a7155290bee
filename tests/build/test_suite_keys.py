"""The keys of the committed suites: stored models stay valid until somebody changes a key on purpose."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from harness.build import plan
from harness.keys import canonical
from harness.plugin.manager import installed
from harness.suite.collect import load
from harness.suite.presets import preset

ROOT = Path(__file__).parents[2]
#: By suite: one hash of the keys of all its cells, in the preset study. The code of plugins does not enter it, and
#: the fingerprints of the data sets are made up.
EXPECTED = json.loads(Path(__file__).with_suffix(".json").read_text())


def keys_digest(suite: Path) -> str:
    """Hash the keys of all cells of a suite."""
    study = preset("study")
    lines = []
    for name, matrix in load(suite).items():
        cells = list(matrix.cells(name, suite.name))
        artefacts = plan.make(cells, installed(), lambda dataset: dataset, study, "cpu").artefacts
        assert len(artefacts) == len(cells)
        lines += [f"{cell} {key}" for cell, key in artefacts.items()]
    return hashlib.sha256(canonical(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("suite", sorted(EXPECTED))
def test_a_suite_has_the_keys_that_it_had(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If you meant to change a key, say so in the changelog and write the new hash into the JSON file beside this."""
    monkeypatch.setattr(plan, "version", lambda distribution: "2.13.0")  # a part of every key, like the code
    monkeypatch.setattr(plan, "code_digest", lambda kind: "0123456789abcdef")
    assert keys_digest(ROOT / "suites" / suite) == EXPECTED[suite]


if __name__ == "__main__":
    plan.version, plan.code_digest = (lambda distribution: "2.13.0"), (lambda kind: "0123456789abcdef")
    digests = {file.name: keys_digest(file) for file in sorted((ROOT / "suites").glob("*.py"))}
    Path(__file__).with_suffix(".json").write_text(json.dumps(digests, indent=1) + "\n")
