"""Keys: one spelling for each value, defaults that are left out, differences, and what a code digest covers."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from harness import keys, train
from harness.errors import UsageError
from harness.keys import (
    canonical,
    code_digest,
    differences,
    key_of,
    non_default_fields,
    schema_change,
    to_jsonable,
)
from harness.plugin.manager import installed

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


def shuffled(document: object) -> object:
    """The same document with every mapping's names in the opposite order."""
    if isinstance(document, dict):
        return {name: shuffled(document[name]) for name in reversed(document)}
    return [shuffled(entry) for entry in document] if isinstance(document, list) else document


@given(DOCUMENTS)
def test_order_of_names_does_not_matter(document: object) -> None:
    assert key_of(document) == key_of(shuffled(document))


@given(DOCUMENTS)
def test_a_document_and_its_json_have_one_key(document: object) -> None:
    assert key_of(json.loads(canonical(document))) == key_of(document)


@given(DOCUMENTS, DOCUMENTS)
def test_differences_are_empty_exactly_when_the_keys_agree(old: object, new: object) -> None:
    lines = list(differences(to_jsonable(old), to_jsonable(new)))
    assert (lines == []) == (key_of(old) == key_of(new))


def test_a_key_is_the_sha256_of_the_sorted_json() -> None:
    import hashlib

    assert key_of({"b": [1.5, None], "a": "é"}) == hashlib.sha256(b'{"a":"\\u00e9","b":[1.5,null]}').hexdigest()
    assert len(key_of(0)) == 64


def test_whole_floats_are_integers_but_other_kinds_stay_apart() -> None:
    assert (
        key_of({"keep": 1}) == key_of({"keep": 1.0}) == key_of({"keep": np.float32(1)}) == key_of({"keep": np.int64(1)})
    )
    assert len({key_of(value) for value in (1, True, "1", [1], None, 1.5)}) == 6
    assert key_of(0.0) == key_of(-0.0)


def test_values_of_python_that_json_lacks() -> None:
    @dataclasses.dataclass
    class Point:
        x: int
        where: PurePosixPath

    assert to_jsonable(Point(1, PurePosixPath("a/b"))) == {"x": 1, "where": "a/b"}
    assert to_jsonable({3, 1, 2}) == to_jsonable(range(1, 4)) == to_jsonable((1, 2, 3)) == [1, 2, 3]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_only_finite_numbers_have_a_key(value: float) -> None:
    with pytest.raises(UsageError, match="finite"):
        key_of({"deep": [value]})


@pytest.mark.parametrize("value", [object(), {1: "a"}, np.zeros(2), int, b"bytes"])
def test_what_has_no_json_form_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"has no JSON form|needs strings as names"):
        key_of(value)


def test_differences_name_the_path_and_both_values() -> None:
    old = {"step": "prune", "parameters": {"keep": 0.5, "gone": 1}, "trainings": [{"lr": 1}, {"lr": 2}]}
    new = {"step": "prune", "parameters": {"keep": 0.25, "new": "a"}, "trainings": [{"lr": 1}, {"lr": 3}]}
    assert list(differences(old, new)) == [
        "parameters.gone: 1 -> not given",
        "parameters.keep: 0.5 -> 0.25",
        'parameters.new: not given -> "a"',
        "trainings.1.lr: 2 -> 3",
    ]


# -------------------------------------------------------------------------------------------------------- defaults


@dataclasses.dataclass(frozen=True)
class Small:
    keep: float = 0.5


@dataclasses.dataclass(frozen=True)
class Large:
    """As ``Small``, with a field more and another default."""

    keep: float = 0.25
    layers: tuple[str, ...] = ()
    options: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Given:
    """Fields without a constant default."""

    needed: int
    counted: int = dataclasses.field(default_factory=lambda: 3)
    schedule: Any = Small()
    sentinel: Any = object


def test_fields_at_their_default_are_left_out() -> None:
    assert non_default_fields(Small()) == non_default_fields(Large()) == {}
    assert non_default_fields(Large(0.5, (), {})) == {"keep": 0.5}
    assert non_default_fields(Large(0.25, ("a",), {"x": 1.0})) == {"layers": ["a"], "options": {"x": 1}}


def test_a_new_field_with_a_default_changes_no_key() -> None:
    assert key_of(non_default_fields(Small(0.1))) == key_of(non_default_fields(Large(0.1)))


def test_what_has_no_constant_default_is_always_written() -> None:
    assert non_default_fields(Given(1, sentinel=2)) == {"needed": 1, "counted": 3, "sentinel": 2}


def test_dataclasses_inside_a_field_are_written_in_full() -> None:
    """Two classes with other defaults must not become one."""
    documents = [non_default_fields(Given(1, 3, schedule, 2))["schedule"] for schedule in (Large(), Large(0.5))]
    assert documents == [to_jsonable(Large()), to_jsonable(Large(0.5))]


def test_a_value_equal_to_the_default_but_of_another_kind_is_written() -> None:
    assert non_default_fields(Large(layers=(), keep=True)) == {"keep": True}
    assert non_default_fields(Small(keep=np.float64(0.5))) == {}  # type: ignore[arg-type]


def test_a_change_of_schema_is_told_apart_from_a_change_of_the_documents() -> None:
    assert schema_change([{"schema": 2, "step": "a"}], [{"schema": 2, "step": "b"}]) is None
    assert schema_change([{"step": "a"}], [{"schema": 1, "step": "a"}]) is None
    line = schema_change([{"schema": 1}, {"schema": 1}], [{"schema": 2}])
    assert line == "the keys have different schemas (1 -> 2), so the cause of a difference cannot be named"


# ---------------------------------------------------------------------------------------------------- code digests

#: A plugin's project: files by path. The step is ``Lion`` in zoo/steps.py.
ZOO = {
    "zoo/__init__.py": "from zoo.other import Unused\n",
    "zoo/steps.py": (
        '"""Steps."""\n'
        "import json\n"
        "from zoo.weights import scale\n"
        "class Lion:\n"
        '    """A step."""\n'
        "    def apply(self):\n"
        "        from . import lazily\n"
        "        return scale(2) + lazily.more\n"
    ),
    "zoo/weights.py": "# how much\ndef scale(x):\n    return 3 * x\n",
    "zoo/lazily.py": "more = 1\n",
    "zoo/other.py": "class Unused: pass\n",
}
Digest = Callable[..., str | None]


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Digest]:
    """Write a project's files into a new folder, import its class ``zoo.steps.Lion``, and return the digest."""
    folders = (tmp_path / f"site{number}" for number in range(99))

    def write(files: Mapping[str, str], module: str = "zoo.steps") -> str | None:
        forget()
        folder = next(folders)
        for name, text in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            return code_digest(importlib.import_module(module).Lion)

    yield write
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("zoo", "helper", "den")]:
        del sys.modules[name]
    for cached in (code_digest, keys._spec, keys._same_project, keys._owner, keys._installed):
        cached.cache_clear()


def replaced(name: str, old: str, new: str) -> dict[str, str]:
    assert old in ZOO[name]
    return ZOO | {name: ZOO[name].replace(old, new)}


@pytest.mark.parametrize(
    "changed",
    [
        replaced("zoo/steps.py", "scale(2)", "scale(3)"),
        replaced("zoo/weights.py", "3 * x", "4 * x"),
        replaced("zoo/lazily.py", "1", "2"),
        replaced("zoo/lazily.py", "more = 1", "more ="),
        replaced("zoo/__init__.py", "from", "print(end='')\nfrom"),
    ],
)
def test_code_that_the_step_runs_counts(digest: Digest, changed: dict[str, str]) -> None:
    assert digest(ZOO) != digest(changed)


@pytest.mark.parametrize(
    "changed",
    [
        replaced("zoo/steps.py", "A step.", "Another word for it."),
        ZOO | {"zoo/weights.py": "# how much, in other words\n\n\ndef scale( x ):\n    return (3 * x)\n"},
        replaced("zoo/other.py", "pass", "x = 1"),
        ZOO | {"zoo/__init__.py": ""},
        replaced("zoo/__init__.py", "from", "def more():\n    return 1\nNAMES = []\nfrom"),
        replaced(
            "zoo/steps.py", "import json\nfrom zoo.weights import scale", "from .weights import scale\nimport json"
        ),
    ],
)
def test_words_layout_and_code_that_it_does_not_reach_do_not_count(digest: Digest, changed: dict[str, str]) -> None:
    first = digest(ZOO)
    assert first is not None
    assert len(first) == 16
    assert first == digest(changed)


#: How zoo/steps.py reaches a value of another file: its statements, the expression, and that file.
REACHED = {
    "a name of the package": ("from . import value, lazily", "value", "zoo/__init__.py"),
    "a name of the package alone": ("from zoo import value", "value", "zoo/__init__.py"),
    "the package": ("import zoo", "zoo.value", "zoo/__init__.py"),
    "the package, by a module's path": ("import zoo.lazily", "zoo.value", "zoo/__init__.py"),
    "a module's path": ("import zoo.den", "zoo.den.value", "zoo/den.py"),
    "a module under another name": ("import zoo.den as d", "d.value", "zoo/den.py"),
    "a module out of a package": ("from .cave import den", "den.value", "zoo/cave/den.py"),
    "a module out of a folder": ("from .hole import den", "den.value", "zoo/hole/den.py"),
    "a star": ("from .den import *", "value", "zoo/den.py"),
    "a star of a package": ("from .all import *", "den.value", "zoo/all/den.py"),
    "a function's import": ("def value():\n    from .den import value\n    return value", "value()", "zoo/den.py"),
    "a condition": ("try:\n    import nowhere\nexcept ImportError:\n    from .den import value", "value", "zoo/den.py"),
    "a call": ("import importlib\nden = importlib.import_module('.den', __package__)", "den.value", "zoo/den.py"),
    "a call with a path": ("import importlib as i\nden = i.import_module('zoo.den')", "den.value", "zoo/den.py"),
    "a module beside the package": ("import helper", "helper.value", "helper.py"),
    "a name that hides a module": ("from .hides import den", "den", "zoo/hides/__init__.py"),
    "two levels up": ("from .cave.deep import up", "up.value", "zoo/den.py"),
    "a name that a package brings": ("from .cave import brought", "brought", "zoo/cave/inner.py"),
}  # fmt: skip
HOLDERS = {
    "zoo/__init__.py": "value = 1\n",
    "zoo/den.py": "value = 1\n",
    "zoo/lazily.py": "",
    "zoo/cave/__init__.py": "from zoo.cave.inner import value as brought\n",
    "zoo/cave/inner.py": "value = 1\n",
    "zoo/cave/den.py": "value = 1\n",
    "zoo/cave/deep.py": "from .. import den as up\n",
    "zoo/hole/den.py": "value = 1\n",
    "zoo/all/__init__.py": "__all__ = ['den']\n",
    "zoo/all/den.py": "value = 1\n",
    "zoo/hides/__init__.py": "value = 1\nden = value\n",
    "zoo/hides/den.py": "",
    "helper.py": "value = 1\n",
}


@pytest.mark.parametrize("reached", REACHED)
def test_every_way_to_import_from_the_own_project_is_followed(digest: Digest, reached: str) -> None:
    statements, used, file = REACHED[reached]
    steps = f"{statements}\nclass Lion:\n    def apply(self):\n        return {used}\nRESULT = Lion().apply()\n"
    files = HOLDERS | {"zoo/steps.py": steps}
    first = digest(files)
    assert sys.modules["zoo.steps"].RESULT == 1
    assert first != digest(files | {file: HOLDERS[file].replace("value = 1", "value = 2")})
    assert sys.modules["zoo.steps"].RESULT == 2


def test_a_package_without_init_is_followed(digest: Digest) -> None:
    files = {"zoo/steps.py": "from . import den\nclass Lion: x = den.value\n", "zoo/den.py": "value = 1\n"}
    assert digest(files) != digest(files | {"zoo/den.py": "value = 2\n"})


def test_imports_for_type_checkers_do_not_count(digest: Digest) -> None:
    """They never run."""
    steps = (
        "from __future__ import annotations\nimport typing\n"
        "if typing.TYPE_CHECKING:\n    from .den import value\nelse:\n    from .real import value\n"
        "class Lion: x = value\n"
    )
    files = {"zoo/__init__.py": "", "zoo/steps.py": steps, "zoo/den.py": "value = 1\n", "zoo/real.py": "value = 1\n"}
    assert digest(files) == digest(files | {"zoo/den.py": "value = 2\n"})
    assert digest(files) != digest(files | {"zoo/real.py": "value = 2\n"})


def test_a_base_class_of_another_project_counts_when_it_is_of_the_harness(digest: Digest) -> None:
    files = {
        "zoo/__init__.py": "",
        "zoo/steps.py": (
            "import os, sys\nsys.path.insert(0, os.path.dirname(__file__) + '/../others')\n"
            "import den\nclass Lion(den.Cat): pass\n"
        ),
        "others/den.py": "from harness import Step\nclass Cat(Step):\n    name = 'cat'\n    x = 1\n",
    }
    path = list(sys.path)
    try:
        assert digest(files) != digest(files | {"others/den.py": files["others/den.py"].replace("x = 1", "x = 2")})
    finally:
        sys.path[:] = path


@pytest.mark.parametrize(("owner", "counts"), [("zoo", True), ("other", False)])
def test_a_module_beside_counts_when_the_same_distribution_installs_it(
    digest: Digest, owner: str, counts: bool
) -> None:
    """So does an installed plugin of two single files; the other distributions of that folder do not count."""
    recorded = {"zoo": ["zoo.py"], "other": ["torchlike.py"]}
    recorded[owner].append("helper.py")
    files = {"zoo.py": "import helper\nclass Lion: x = helper.value\n", "helper.py": "value = 1\n", "torchlike.py": ""}
    for name, lines in recorded.items():
        files[f"{name}-1.0.dist-info/METADATA"] = f"Name: {name}\nVersion: 1.0\n"
        files[f"{name}-1.0.dist-info/RECORD"] = "".join(f"{line},,\n" for line in lines)
    assert (digest(files, "zoo") != digest(files | {"helper.py": "value = 2\n"}, "zoo")) == counts


def test_a_compiled_helper_counts_by_its_bytes(digest: Digest) -> None:
    files = ZOO | {"zoo/lazily.py": "def load():\n    from . import fast\nmore = 1\n", "zoo/fast.abi3.so": "1"}
    assert digest(files) != digest(files | {"zoo/fast.abi3.so": "2"})


#: A module that imports from the kernel in many ways, raises and logs.
SPEAKING = """\
import logging
import warnings
from harness import Step, Unsupported
from harness.nn.operations import count as counted
import harness.errors
log = logging.getLogger(__name__)

class Lion:
    def apply(self, model, n):
        from harness.nn import structure
        if n < 0:
            raise Unsupported("the lion wants more than " + f"{n} of {model!r}")
        log.warning("only %d", n)
        logging.getLogger("zoo").info(f"counted {counted(model):.2f}")
        warnings.warn("beware of the lion", stacklevel=2)
        return structure.dump(model), harness.errors.describe_error(None), "text"
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "from harness import Step, Unsupported",
            "from harness.api import Step\nfrom harness.errors import Unsupported",
        ),
        ("harness.nn.operations", "harness.layers.counting"),
        ("from harness.nn import structure", "from harness.networks import structure"),
        ("harness.errors", "harness.problems"),
        (
            '"the lion wants more than " + f"{n} of {model!r}"',
            '"lions need more than " + f"{n}; the network is {model}"',
        ),
        ('"only %d"', '"that is only %d"'),
        ('f"counted {counted(model):.2f}"', 'f"{counted(model)} were counted"'),
        ("beware of the lion", "the lion bites"),
    ],
)
def test_moves_of_the_kernel_s_modules_and_other_words_keep_the_digest(digest: Digest, old: str, new: str) -> None:
    assert old in SPEAKING
    codes = (SPEAKING, SPEAKING.replace(old, new))
    first, second = (digest(zoo_of(code)) for code in codes)
    assert first == second


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from harness.nn.operations import count as", "from harness.nn.operations import parameters as"),
        ("import Step, Unsupported", "import Architecture, Unsupported"),
        ('f"counted {counted(model)', 'f"counted {counted(log)'),
        ("n < 0", "n < 1"),
        ("raise Unsupported", "raise ValueError"),
        ("of {model!r}", "of {n!r}"),
        ('"text"', '"other text"'),
        ("describe_error", "nearest"),
        ('log.warning("only %d", n)', "pass"),
    ],
)
def test_names_and_code_beside_messages_count(digest: Digest, old: str, new: str) -> None:
    assert old in SPEAKING
    assert digest(zoo_of(SPEAKING)) != digest(zoo_of(SPEAKING.replace(old, new)))


def zoo_of(code: str) -> dict[str, str]:
    """A project whose code is read and never run."""
    steps = "class Lion:\n    def apply(self):\n        from . import code\n"
    return {"zoo/__init__.py": "", "zoo/steps.py": steps, "zoo/code.py": code}


def test_a_moved_file_keeps_the_digest(digest: Digest) -> None:
    steps = "from {} import scale\nfrom zoo.b import shift\nclass Lion: x = scale(shift)\n"
    common = {"zoo/__init__.py": "", "zoo/b.py": "def shift(): pass\n"}
    scale = "def scale(x): return x\n"
    first = digest(common | {"zoo/steps.py": steps.format("zoo.a"), "zoo/a.py": scale})
    moved = common | {"zoo/steps.py": steps.format("zoo.sub.z"), "zoo/sub/z.py": scale, "zoo/sub/__init__.py": ""}
    assert first == digest(moved)


def test_two_modules_that_change_places_change_the_digest(digest: Digest) -> None:
    files = {"zoo/steps.py": "from . import a, b\nclass Lion: x = a.f(b.f())\n"}
    one, other = "def f(x=0): return x + 1\n", "def f(x=0): return x * 2\n"
    assert digest(files | {"zoo/a.py": one, "zoo/b.py": other}) != digest(files | {"zoo/a.py": other, "zoo/b.py": one})


def test_a_circle_of_imports_ends(digest: Digest) -> None:
    files = {
        "zoo/__init__.py": "",
        "zoo/steps.py": "class Lion: pass\nfrom zoo import a\n",
        "zoo/a.py": "from zoo import steps\n",
    }
    assert digest(files) is not None


def test_the_kernel_s_own_steps_have_versions_alone() -> None:
    assert code_digest(train) is None


def test_a_class_without_source_has_none() -> None:
    assert code_digest(type("Made", (), {"__module__": "nowhere_at_all"})) is None


def test_plugins_of_one_file_have_one() -> None:
    assert code_digest(toy.Halve) is not None
    assert code_digest(toy.Halve) == code_digest(toy.Conv)


def test_no_built_in_plugin_reaches_into_another_s_key() -> None:
    """The code of one package must not enter the keys of another."""
    plugins = installed()
    kinds = [plugins.steps.get(name) for name in plugins.steps]
    kinds += [type(plugins.architectures.get(name)) for name in plugins.architectures]
    kinds = [kind for kind in kinds if not kind.__module__.startswith("harness.")]
    assert all(code_digest(kind) for kind in kinds)
    for kind in kinds:
        package = kind.__module__.partition(".")[0]
        assert {name.partition(".")[0] for name in _followed(kind.__module__)} == {package}
        assert package not in _followed(kind.__module__), "a new step in __init__ would rebuild everything"


def _followed(module: str) -> set[str]:
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        if name not in seen and (code := keys._code(name)) is not None:
            seen.add(name)
            waiting += code.imported
    return seen
