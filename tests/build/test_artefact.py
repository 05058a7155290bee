"""Artefact files: a model in, the same model out, and nothing else is ever loaded."""

from __future__ import annotations

import base64
import json
import math
import os
import pickle
import random
import resource
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from toy import file_size_limit

import harness
from harness import CellError, StoreError, train
from harness.build import artefact
from harness.plugin.manager import Origin, Plugins

TASK = toy.Toy.task
EXAMPLE = torch.linspace(-1, 1, 96).reshape(3, 2, 16)


def network(architecture: str = "conv", seed: int = 1) -> torch.nn.Module:
    torch.manual_seed(seed)
    kind = {"conv": toy.Conv, "lstm": toy.Recurrent}[architecture]
    model = kind().build(TASK)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("architecture", ["conv", "lstm"])
def test_a_model_comes_back_bit_for_bit(plugins: Plugins, tmp_path: Path, architecture: str) -> None:
    model = network(architecture)
    artefact.save(tmp_path / "m", model, [train(), toy.Halve()], architecture, TASK)
    back = artefact.load(tmp_path / "m", plugins)
    assert not back.training
    with torch.inference_mode():
        assert torch.equal(back(EXAMPLE), model(EXAMPLE))
    assert {name: tensor.dtype for name, tensor in back.state_dict().items()} == {
        name: tensor.dtype for name, tensor in model.state_dict().items()
    }


def test_a_runtime_loads_it_by_the_public_name(toy_installed: ModuleType, tmp_path: Path) -> None:
    model = network()
    artefact.save(tmp_path / "m", model, [], "conv", TASK)
    back = harness.load_artefact(tmp_path / "m")
    assert not back.training
    assert torch.equal(back(EXAMPLE), model(EXAMPLE))
    with pytest.raises(StoreError, match="there is no artefact at"):
        harness.load_artefact(tmp_path / "other")


def test_loading_leaves_the_global_random_state_alone(plugins: Plugins, tmp_path: Path) -> None:
    artefact.save(tmp_path / "m", network(), [], "conv", TASK)
    before = torch.random.get_rng_state()
    artefact.load(tmp_path / "m", plugins)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_shrunken_model_comes_back_in_its_shape(plugins: Plugins, tmp_path: Path) -> None:
    model = network()
    assert isinstance(model, torch.nn.Sequential)
    model[-1] = torch.nn.Linear(28, 1)
    artefact.save(tmp_path / "m", model, [train()], "conv", TASK)
    assert artefact.load(tmp_path / "m", plugins)(EXAMPLE).shape == (3, 1)


class Signed(toy.Halve):
    """A step with a form of its own: it keeps the signs of the weights alone, and a scale."""

    name: ClassVar[str] = "signed"

    def dump(self, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {name: tensor.sign().to(torch.int8) for name, tensor in model.state_dict().items()}, {"scale": 0.125}

    def restore(self, fresh: torch.nn.Module, tensors: Any, notes: Any) -> torch.nn.Module:
        fresh.load_state_dict({name: tensor.float() * notes["scale"] * self.factor for name, tensor in tensors.items()})
        return fresh


def test_the_last_step_with_a_form_of_its_own_dumps_and_restores(plugins: Plugins, tmp_path: Path) -> None:
    class Bring:
        harness_steps = staticmethod(toy.hookimpl(lambda register: register(Signed)))

    plugins.add(Bring, Origin("signed", "signed-dist", "1"))
    model = network("lstm")
    artefact.save(tmp_path / "m", model, [Signed(4.0), toy.Halve()], "lstm", TASK, plugins)
    back = artefact.load(tmp_path / "m", plugins)
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor.sign() * 0.5)


def test_a_form_from_before_a_step_that_teaches_does_not_count(plugins: Plugins, tmp_path: Path) -> None:
    model = network("lstm")
    artefact.save(tmp_path / "m", model, [Signed(4.0), toy.Mimic(), toy.Halve()], "lstm", TASK)
    back = artefact.load(tmp_path / "m", plugins)
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)


def test_the_file_is_safetensors_with_compressed_json(tmp_path: Path) -> None:
    artefact.save(tmp_path / "m", network(), [], "conv", TASK)
    with safe_open(tmp_path / "m", framework="pt") as stream:
        compressed = stream.metadata()["harness"]
        assert json.loads(zlib.decompress(base64.b85decode(compressed)))["architecture"] == "conv"
        assert len(compressed) < 1000
        assert set(stream.keys()) == set(network().state_dict())
    assert artefact.header(tmp_path / "m")["task"] == {"input_shape": [2, 16], "labels": ["high", "shaky"]}


def test_a_file_of_an_earlier_version_with_plain_json_is_read(plugins: Plugins, tmp_path: Path) -> None:
    model = network()
    artefact.save(tmp_path / "m", model, [], "conv", TASK)
    rewrite(tmp_path / "m", tmp_path / "n", artefact.header(tmp_path / "m"))
    back = artefact.load(tmp_path / "n", plugins).state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def compressed(content: bytes) -> str:
    return base64.b85encode(zlib.compress(content, 9)).decode()


@pytest.mark.parametrize(
    "header", ["c", compressed(b'{"architecture"')[:-5], compressed(b" " * (artefact.HEADER_BYTES + 1)), "c~~~~~"]
)
def test_a_compressed_header_is_bounded_and_checked(plugins: Plugins, tmp_path: Path, header: str) -> None:
    artefact.save(tmp_path / "m", network(), [], "conv", TASK)
    rewrite(tmp_path / "m", tmp_path / "n", header)
    with pytest.raises(StoreError, match="is not an artefact of this harness"):
        artefact.load(tmp_path / "n", plugins)


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("exploded"),)


def _pickle(file: Path) -> None:
    file.write_bytes(pickle.dumps(Bomb()))


def _torch_save(file: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, file)


def _foreign(file: Path) -> None:
    save_file({"weight": torch.zeros(2)}, file)


def _truncated(file: Path) -> None:
    artefact.save(file, network(), [], "conv", TASK)
    file.write_bytes(file.read_bytes()[:-10])


def _empty(file: Path) -> None:
    file.touch()


@pytest.mark.parametrize("write", [_pickle, _torch_save, _foreign, _truncated, _empty])
def test_any_other_file_is_refused(nowhere: None, plugins: Plugins, tmp_path: Path, write: Any) -> None:
    write(tmp_path / "m")
    with pytest.raises(StoreError, match="is not an artefact of this harness"):
        artefact.load(tmp_path / "m", plugins)
    assert not Path("exploded").exists()


def rewrite(file: Path, target: Path, content: Any) -> None:
    """Copy an artefact with another header."""
    with safe_open(file, framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
    save_file(tensors, target, {"harness": content if isinstance(content, str) else json.dumps(content)})


@pytest.mark.parametrize(
    "header",
    [
        "[" * 10**5,
        "[]",
        "7",
        "{}",
        {"task": []},
        {"task": {"input_shape": [2, -16], "labels": ["a"]}},
        {"task": {"input_shape": [2, "16"], "labels": ["a"]}},
        {"task": {"input_shape": [2, 16], "labels": 2}},
        {"architecture": ["conv"]},
        {"restore": {"step": "halve"}},
        {"restore": []},
        {"notes": None},
    ],
)
def test_a_malformed_header_is_no_artefact(plugins: Plugins, tmp_path: Path, header: Any) -> None:
    artefact.save(tmp_path / "m", network(), [], "conv", TASK)
    sound = artefact.header(tmp_path / "m")
    rewrite(tmp_path / "m", tmp_path / "n", header if isinstance(header, str) else sound | header)
    with pytest.raises(StoreError, match="is not an artefact of this harness"):
        artefact.load(tmp_path / "n", plugins)


def mutated(tree: Any, draw: random.Random) -> Any:
    """Return a JSON tree with one part replaced, removed or repeated."""
    odd = [None, True, -1, 0, 10**6, 10**9, 10**12, 1.5, "", "weight", "forward", "0.0", [], {}, [10**6] * 3, ["0"] * 3]
    if not isinstance(tree, (dict, list)) or not tree or draw.random() < 0.1:
        return draw.choice(odd)
    copy = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree))
    index = draw.randrange(len(copy))
    name, value = copy[index]
    action = draw.random()
    if action < 0.1:
        del copy[index]
    elif action < 0.2 and isinstance(tree, dict):
        copy[index] = (draw.choice([str(entry) for entry in odd]), value)
    elif action < 0.3:
        copy[index] = (name, draw.choice(copy)[1])
    else:
        copy[index] = (name, mutated(value, draw))
    return dict(copy) if isinstance(tree, dict) else [value for _, value in copy]


FUZZ = """
import json, random, resource, sys, time
from pathlib import Path
import test_artefact as t
import torch
from harness.errors import CellError, StoreError, UsageError
from harness.plugin.manager import Plugins

folder, plugins, draw = Path(sys.argv[1]), Plugins(), random.Random(5)
plugins.add(t.toy, t.Origin("toy", "toy-plugin", "1"))
torch.set_num_threads(1)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
files = sorted(folder.glob("sound-*"))
headers = [t.artefact.header(file) for file in files]
outcomes, longest = {}, 0.0
for trial in range(600):
    header = headers[trial % len(headers)]
    for _ in range(draw.choice([1, 1, 2, 4])):
        part = {"notes": t.mutated(header["notes"], draw)} if trial % 4 else {}
        header = header | part if part else t.mutated(header, draw)
        if not isinstance(header, dict) or "notes" not in header:
            break
    t.rewrite(files[trial % len(files)], folder / "other", header)
    began = time.process_time()
    try:
        t.artefact.load(folder / "other", plugins)
        name = "loaded"
    except (CellError, StoreError, UsageError) as error:
        name = type(error).__name__
    longest = max(longest, time.process_time() - began)
    outcomes[name] = outcomes.get(name, 0) + 1
print(json.dumps([outcomes, longest]))
"""


def test_any_change_of_a_header_is_an_error_of_the_harness_with_little_memory_and_time(tmp_path: Path) -> None:
    """The child may use 1 GiB more than its imports; any other exception ends it."""
    for architecture in ("conv", "lstm"):
        artefact.save(tmp_path / f"sound-{architecture}", network(architecture), [], architecture, TASK)
    command = [sys.executable, "-W", "ignore", "-c", FUZZ, str(tmp_path)]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    child = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=500)
    assert child.returncode == 0, child.stderr[-2000:]
    outcomes, longest = json.loads(child.stdout.splitlines()[-1])
    assert outcomes["CellError"] > 100
    assert outcomes["StoreError"] > 50
    assert sum(outcomes.values()) == 600
    assert longest < 30


def test_a_task_that_asks_for_a_huge_network_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    class Wide(toy.Conv):
        name: ClassVar[str] = "wide"

        def build(self, task: Any) -> torch.nn.Module:
            return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(task.input_shape), 64))

    class Bring:
        harness_architectures = staticmethod(toy.hookimpl(lambda register: register(Wide())))

    plugins = Plugins()
    plugins.add(Bring, Origin("wide", "wide-dist", "1"))
    artefact.save(tmp_path / "m", Wide().build(TASK), [], "wide", TASK)
    content = artefact.header(tmp_path / "m")
    assert artefact.load(tmp_path / "m", plugins)[1].in_features == 32
    content["task"]["input_shape"] = [2, 10**7]
    rewrite(tmp_path / "m", tmp_path / "n", content)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CellError, match=r"asks for a fresh wide network of more than 67,108,864 numbers, and has"):
        artefact.load(tmp_path / "n", plugins)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000, "kB"


def test_a_file_that_is_not_there(plugins: Plugins, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no artefact at"):
        artefact.load(tmp_path / "m", plugins)


def test_a_disk_that_takes_no_more_is_the_operating_systems_error(tmp_path: Path) -> None:
    """The store turns an OSError into a clear one; safetensors' own error would slip through."""
    with file_size_limit(256), pytest.raises(OSError, match="File too large"):
        artefact.save(tmp_path / "m", network(), [], "conv", TASK)


# -------------------------------------------------------------------------------------------------------- flatten

TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.builds(torch.tensor, st.integers(0, 9)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


def same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[name], two[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and (one == two or one != one)


@given(TREES)
def test_a_tree_survives_json_and_tensors(tree: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    through_json = json.loads(json.dumps(artefact.flatten(tree, tensors), allow_nan=False))
    assert same(artefact.unflatten(through_json, tensors), tree)


def test_what_is_flattened_is_a_copy() -> None:
    tensors: dict[str, torch.Tensor] = {}
    weight = torch.zeros(2)
    artefact.flatten({"weight": weight}, tensors)
    weight += 1
    assert tensors["/weight"].tolist() == [0, 0]
