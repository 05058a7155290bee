"""The digest of code: what changes it, what does not, and whose code it is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toy

from harness import keys as source
from harness import train
from harness.keys import code_digest
from harness.plugin.manager import installed

FILES = {
    "__init__.py": "from zoo.other import Unused\n",
    "steps.py": (
        '"""Steps."""\n'
        "import json\n"
        "from zoo.weights import scale\n"
        "class Lion:\n"
        '    """A step."""\n'
        "    def apply(self):\n"
        "        from . import lazily\n"
        "        return scale(2) + lazily.more\n"
    ),
    "weights.py": "# how much\ndef scale(x):\n    return 3 * x\n",
    "lazily.py": "more = 1\n",
    "other.py": "class Unused: pass\n",
}
Write = Callable[..., str | None]


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a package with some files changed, imports it, and gives the digest of its step."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(**changed: str) -> str | None:
        forget()
        (tmp_path / "zoo").mkdir(exist_ok=True)
        for name, text in {**FILES, **{f"{name}.py": text for name, text in changed.items()}}.items():
            (tmp_path / "zoo" / name).write_text(text)
        importlib.invalidate_caches()
        return code_digest(importlib.import_module("zoo.steps").Lion)

    yield write
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "zoo"]:
        del sys.modules[name]
    for cached in (code_digest, source._module, source._file):
        cached.cache_clear()


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": FILES["steps.py"].replace("scale(2)", "scale(3)")},
        {"weights": "def scale(x):\n    return 4 * x\n"},
        {"lazily": "more = 2\n"},
    ],
)
def test_code_that_the_step_runs_counts(zoo: Write, changed: dict[str, str]) -> None:
    assert zoo() != zoo(**changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": FILES["steps.py"].replace("A step.", "Another word for it.")},
        {"weights": "# how much, in other words\n\n\ndef scale( x ):\n    return (3 * x)\n"},
        {"other": "class Unused: x = 1\n"},
        {"__init__": ""},
    ],
)
def test_words_layout_and_code_that_it_does_not_import_do_not(zoo: Write, changed: dict[str, str]) -> None:
    digest = zoo()
    assert digest is not None
    assert len(digest) == 16
    assert digest == zoo(**changed)


def test_a_file_that_cannot_be_parsed_is_left_out(zoo: Write) -> None:
    assert zoo() != zoo(lazily="more =")


def test_the_kernel_s_own_steps_have_versions_alone() -> None:
    assert code_digest(train) is None


def test_a_class_without_source_has_none() -> None:
    assert code_digest(type("Made", (), {"__module__": "nowhere_at_all"})) is None


def test_plugins_of_one_file_have_one() -> None:
    digest = code_digest(toy.Halve)
    assert digest is not None
    assert digest == code_digest(toy.Conv)


def test_no_built_in_plugin_reaches_into_another_s_key() -> None:
    """One package's code must not enter the keys of another: its version does that."""
    plugins = installed()
    kinds = [plugins.steps.get(name) for name in plugins.steps]
    kinds += [type(plugins.architectures.get(name)) for name in plugins.architectures]
    assert all(code_digest(kind) for kind in kinds if not kind.__module__.startswith("harness."))
    packages = {name.partition(".")[0] for kind in kinds for name in _followed(kind)}
    assert "torch" not in packages


def _followed(kind: type) -> set[str]:
    package, waiting, seen = kind.__module__.partition(".")[0], [kind.__module__], set()
    while waiting:
        name = waiting.pop()
        if name not in seen and (found := source._module(name, package)) is not None:
            seen.add(name)
            waiting += found[1]
    return seen
