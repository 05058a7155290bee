"""Write and load models as safetensors files whose header contains the JSON that rebuilds the network.

The JSON is compressed (zlib, base 85): as text it would be more than half of the smallest networks' files. `header`
returns it. Files of earlier versions, with plain JSON, are still read.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from harness.api import Architecture, Data, Deployment, Quantization, Step, Task
from harness.api.tasks import task_of
from harness.errors import CellError, StoreError, UsageError
from harness.keys import canonical, non_default_fields, to_jsonable
from harness.nn.structure import limit_registration
from harness.plugin.manager import Plugins, installed
from harness.plugin.program import program_code

HEADER = "harness"
#: The attribute of a network that holds the quantization which it requests.
REQUEST = "quantization"
#: The header's JSON has at most this many bytes: a few compressed ones could otherwise fill the memory.
HEADER_BYTES = 16 * 2**20
#: The fresh network that an artefact asks for has at most this many bytes, or this many times those of the file:
#: compression makes files small, yet hardly below a thousandth.
FRESH_BYTES, FRESH_FACTOR = 256 * 2**20, 1000


def save(
    file: Path,
    model: torch.nn.Module,
    steps: Sequence[Step],
    architecture: str,
    task: Task,
    plugins: Plugins | None = None,
) -> None:
    """Write ``model``, made by ``steps`` from a fresh ``architecture``, to ``file``, from which ``load`` restores it.

    The last step that overrides ``dump`` writes it, or else the default for plain torch modules. Only the steps from
    the last ``is_teacher`` step on are considered, because that one begins with a fresh network. A request that the
    network carries (``harness.Quantization``) is written beside it. Raises CellError when ``dump`` fails or returns
    something invalid, OSError when the file cannot be written.
    """
    begin = next((index for index in reversed(range(len(steps))) if steps[index].is_teacher), 0)
    dumper = next((step for step in reversed(steps[begin:]) if type(step).dump is not Step.dump), Step())
    dumped = dumper.dump(model) if type(dumper) is Step else (plugins or installed()).call(dumper, "dump", model)
    if not isinstance(dumped, tuple) or len(dumped) != 2 or not all(isinstance(entry, Mapping) for entry in dumped):
        raise CellError(f"dump() of step {dumper.name!r} returns {type(dumped).__name__}, not a pair (tensors, notes)")
    tensors, notes = dumped
    header = {
        "architecture": architecture,
        "task": non_default_fields(task),
        "restore": {"step": dumper.name, "parameters": dumper.parameters()} if type(dumper) is not Step else None,
        "notes": notes,
    }
    if (request := requested(model)) is not None:
        header["quantization"] = request
    # Not save_file(), which raises an error of its own for a full disk instead of OSError.
    file.write_bytes(safetensors.torch.save(dict(tensors), {HEADER: _compressed(canonical(header))}))


def header(file: Path) -> dict[str, Any]:
    """Return the JSON in the file's header. Raises StoreError for a file that is not an artefact."""
    with _reading(file):
        return _header(file)


def code_of(file: Path, deployed: Path, runtime: str, plugins: Plugins) -> dict[str, str]:
    """Return the digests of the code that runs what was ``deployed`` of an artefact; see `program_code`.

    A runtime may deploy another artefact, such as one that it quantized.
    """
    try:
        content = header(deployed)
    except StoreError:  # a format of its own
        content = header(file)
    restore = content["restore"]
    return program_code(plugins, runtime, content["architecture"], None if restore is None else restore["step"])


def load(file: Path, plugins: Plugins | None = None) -> torch.nn.Module:
    """Load the model, in evaluation mode.

    Raises StoreError for a file that is not an artefact, CellError when its content does not fit the code that
    restores it or asks for far more memory than the file holds, UsageError when a plugin is missing.
    """
    plugins = plugins or installed()
    with _reading(file):
        content = _header(file)
        size = file.stat().st_size
        with safe_open(file, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
    task = task_of(content)
    most = max(FRESH_BYTES, FRESH_FACTOR * size) // 4

    def limit(_count: int, elements: int) -> None:
        if elements > most:
            raise CellError(
                f"{file} asks for a fresh {content['architecture']} network of more than {most:,} numbers, and has "
                f"{size:,} bytes; it is damaged, or forged"
            )

    with torch.random.fork_rng(devices=[]), limit_registration(limit):
        fresh = build(content["architecture"], task, plugins)
    if content["restore"] is None:
        model = Step().restore(fresh, tensors, content["notes"])
    else:
        kind = plugins.steps.get(content["restore"]["step"])
        step = plugins.call(kind, kind, **content["restore"]["parameters"])
        model = _network(step, "restore", plugins, fresh, tensors, content["notes"])
    if (request := content.get("quantization")) is not None:
        setattr(model, REQUEST, Quantization(**{**request, "rows": tuple(request["rows"])}))
    return model.eval()


def requested(model: torch.nn.Module) -> Quantization | None:
    """Return the quantization that a network requests. Raises CellError for another object in its place."""
    request = getattr(model, REQUEST, None)
    if request is not None and not isinstance(request, Quantization):
        raise CellError(f"the network has the attribute {REQUEST} = {request!r}, which is not a harness.Quantization")
    return request


def deployment(file: Path, data: Data, plugins: Plugins | None = None) -> Deployment:
    """Return what a runtime gets of the artefact ``file``, trained on ``data``. Raises as ``load`` does."""
    model = load(file, plugins)
    request = requested(model)
    content = Deployment(model, data.validation.tensor(slice(0, 1)), data.task, file)
    if request is None:
        return content
    split = data.train if request.split == "train" else data.validation

    def calibration() -> torch.Tensor:
        return split.tensor(list(request.rows))

    return dataclasses.replace(content, quantization=request, calibration=calibration)


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Convert what the reading of a malformed file raises to StoreError."""
    try:
        yield
    except FileNotFoundError:
        raise StoreError(f"there is no artefact at {file}") from None
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise StoreError(
            f"{file} is not an artefact of this harness ({error}); pickles and other files are never loaded"
        ) from error


def _header(file: Path) -> dict[str, Any]:
    with safe_open(file, framework="pt") as stream:
        metadata: Mapping[str, str] = stream.metadata() or {}
    content = json.loads(_expanded(metadata[HEADER]))
    task, restore = content["task"], content["restore"]
    sound = (
        isinstance(content["architecture"], str)
        and isinstance(task["input_shape"], list)
        and all(type(length) is int and length > 0 for length in task["input_shape"])
        and isinstance(task["labels"], list)
        and all(isinstance(label, str) for label in task["labels"])
        and isinstance(content["notes"], dict)
        and (restore is None or (isinstance(restore["step"], str) and isinstance(restore["parameters"], dict)))
        and _is_request(content.get("quantization"))
    )
    if not sound:
        raise ValueError("its header has fields of other types")
    try:
        task_of(content)
    except UsageError as error:
        raise ValueError(f"its header has no valid task: {error}") from error
    return dict(content)


def _is_request(request: Any) -> bool:
    """Whether the header's ``quantization`` is None or has the fields of a request, with values of their types."""
    if request is None:
        return True
    kinds: dict[str, type | tuple[type, ...]] = {"dtype": str, "split": str, "seed": int, "rows": list}
    kinds |= dict.fromkeys(("coverage", "mean_difference", "changed"), (int, float))
    return (
        request.keys() == kinds.keys()
        and all(isinstance(request[name], kind) for name, kind in kinds.items())
        and all(type(row) is int and row >= 0 for row in request["rows"])
    )


def _compressed(text: str) -> str:
    return base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def _expanded(text: str) -> str:
    """Return the header's JSON. Raises ValueError when it is too long or not compressed as `_compressed` does."""
    if text.startswith("{"):  # version 0.1; zlib's first byte in base 85 is always "c"
        return text
    stream = zlib.decompressobj()
    try:
        expanded = stream.decompress(base64.b85decode(text), HEADER_BYTES)
    except zlib.error as error:
        raise ValueError(f"its header cannot be decompressed: {error}") from error
    if not stream.eof:
        raise ValueError(f"its header is cut off, or has more than {HEADER_BYTES:,} bytes")
    return expanded.decode()


def build(architecture: str, task: Task, plugins: Plugins) -> torch.nn.Module:
    """Build a fresh network of an architecture. Raises CellError when its plugin fails or returns something else."""
    return _network(plugins.architectures.get(architecture), "build", plugins, task)


def _network(thing: Architecture | Step, method: str, plugins: Plugins, *arguments: Any) -> torch.nn.Module:
    """Call a plugin's method that returns a network. Raises CellError when it fails or returns something else."""
    model = plugins.call(thing, method, *arguments)
    if not isinstance(model, torch.nn.Module):
        caller = f"plugin {plugins.origin(thing)}: {plugins.name_of(thing, method)}"
        raise CellError(f"{caller} returns {type(model).__name__}, not a network")
    return model


def flatten(tree: Any, tensors: dict[str, torch.Tensor], path: str = "") -> Any:
    """Convert ``tree`` to JSON and put its tensors into ``tensors`` by path; ``unflatten`` is the inverse.

    A mapping becomes a list of pairs, because an optimizer's state has integers as keys.
    """
    if isinstance(tree, torch.Tensor):
        tensors[path] = tree.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(tree, Mapping):
        return {"pairs": [[name, flatten(entry, tensors, f"{path}/{name}")] for name, entry in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {"list": [flatten(entry, tensors, f"{path}/{index}") for index, entry in enumerate(tree)]}
    if isinstance(tree, float) and not math.isfinite(tree):
        return {"float": repr(tree)}
    return {"value": tree if isinstance(tree, float) else to_jsonable(tree)}


def unflatten(tree: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    """Rebuild the tree that ``flatten`` converted; tuples come back as lists."""
    ((kind, content),) = tree.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "pairs":
            return {name: unflatten(entry, tensors) for name, entry in content}
        case "list":
            return [unflatten(entry, tensors) for entry in content]
        case "float":
            return float(content)
        case _:
            return content
