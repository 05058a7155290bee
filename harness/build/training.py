"""Train a network on arrays in memory or mapped from files: seeded, and resumable with the same weights."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from harness.api import FitHook, Loss, Progress, Split, Training, silent
from harness.api.data import Augment, Prepare
from harness.api.tasks import TaskKind
from harness.build.artefact import flatten, unflatten
from harness.errors import CellError, UsageError, nearest
from harness.files import atomic_write

logger = logging.getLogger(__name__)
CHECKSUM_BYTES = hashlib.sha256().digest_size


def fit(
    model: torch.nn.Module,
    train: Split,
    validation: Split,
    training: Training,
    *,
    seed: int,
    kind: TaskKind,
    loss: Loss | None = None,
    teacher: torch.nn.Module | None = None,
    before_step: FitHook | None = None,
    after_step: FitHook | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> list[dict[str, float]]:
    """Train ``model`` in place and leave it with the weights of its best epoch, by ``kind.score`` on validation data.

    ``loss`` replaces that of the kind of task; it gets the logits of ``teacher`` for the same examples. Returns one row
    per epoch: loss, score (under the name ``kind.selector``), learning rate ``lr``, seconds.

    ``train.prepare`` and ``train.augment`` are called for each batch, so that inputs stay as they are stored: as uint8,
    or in a file that is larger than the memory. Where examples are augmented, the teacher answers the augmented ones.

    ``checkpoint`` is a file, which need not exist. A run that was killed continues from it after the last complete
    epoch and ends with the same weights, bit for bit: each epoch draws its order, dropout and augmentation from
    ``seed`` and the epoch's number alone. A checkpoint that does not match its checksum, or cannot be read, is ignored
    with a warning.

    ``before_step`` is called with the model after each backward pass, before gradients are clipped; ``after_step``
    after each step of the optimizer. Both run without gradient tracking.

    Raises CellError when the loss or the answers become NaN or infinite, UsageError for an unknown optimizer.
    """
    loss = kind.loss if loss is None else loss
    model.to(device)
    rows = _sample_rows(len(train), training.examples, seed)
    inputs = _tensor(train.inputs[rows])
    if _fits(inputs, device):
        inputs = inputs.to(device)
    targets = _tensor(train.targets[rows]).to(device)
    source = _Source(inputs, targets, train.prepare, train.augment, torch.device(device))
    if teacher is not None:
        source.teacher = teacher.to(device).eval()
        if train.augment is None:
            source.teacher_logits = predict(teacher, inputs, training.batch, train.prepare, device)
    optimizer = _make(
        torch.optim, training.optimizer, _parameter_groups(model, training.parameter_groups), **training.optimizer_args
    )
    for pattern, arguments in training.parameter_groups.items():
        for name in arguments.keys() - optimizer.defaults.keys():  # torch ignores it
            raise UsageError(
                f"Training.parameter_groups[{pattern!r}]: {training.optimizer} has no argument {name!r}"
                f"{nearest(name, optimizer.defaults)}"
            )
    scheduler = None
    if training.scheduler:
        scheduler = _scheduler(training.scheduler, training.scheduler_args, optimizer)
    initial_digest = digest(model)
    best = _copy(model)
    history: list[dict[str, float]] = []
    if checkpoint is not None and (saved := _read_checkpoint(checkpoint, initial_digest)) is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        if scheduler is not None:
            scheduler.load_state_dict(saved["scheduler"])
        best, history = saved["best"], saved["history"]
        logger.info(f"training continues after epoch {len(history)} of {training.epochs}, from checkpoint {checkpoint}")

    total = training.epochs * len(inputs)
    for epoch in range(len(history), training.epochs):
        began = time.perf_counter()
        note = f"epoch {epoch + 1}/{training.epochs}"
        report = functools.partial(_report, progress, epoch * len(inputs), total, note)
        epoch_seed = _derive_seed(seed, epoch)
        mean_loss = _epoch(
            model,
            source,
            training,
            loss,
            optimizer,
            epoch_seed,
            report,
            before_step,
            after_step,
        )
        if not math.isfinite(mean_loss):
            raise CellError(f"the training loss became {mean_loss} in {note}: lower the learning rate, or set clip")
        score = kind.score(predict_split(model, validation, training.batch, device), validation.targets)
        if not math.isfinite(score):
            raise CellError(
                f"the logits on the validation split became NaN or infinite in {note}: lower the learning rate, or set "
                "clip"
            )
        rate = optimizer.param_groups[0]["lr"]
        history.append({"loss": mean_loss, kind.selector: score, "lr": rate, "seconds": time.perf_counter() - began})
        if score >= max(row[kind.selector] for row in history):
            best = _copy(model)
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(score)
        elif scheduler is not None:
            scheduler.step()
        if checkpoint is not None:
            state = {
                "model": _copy(model),
                "best": best,
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict() if scheduler is not None else None,
                "history": history,
            }
            _write_checkpoint(checkpoint, initial_digest, state)
    model.load_state_dict(best)
    model.to("cpu").eval()
    return history


def _epoch(
    model: torch.nn.Module,
    source: _Source,
    training: Training,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    seed: int,
    progress: Callable[[int], None],
    before_step: FitHook | None,
    after_step: FitHook | None,
) -> float:
    """Train for one epoch; return the mean loss of its examples."""
    model.train()
    device = source.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bfloat16")
    sum_loss, trained = torch.zeros((), device=device), 0
    augmentation = torch.Generator().manual_seed(_derive_seed(seed, 1))
    with _seeded(seed, device):
        order = torch.randperm(len(source.inputs)).to(device)
        for start in range(0, len(order), training.batch):
            batch = order[start : start + training.batch]
            if len(batch) == 1 < min(training.batch, len(order)):
                continue  # batch normalization cannot train on a last batch of one example
            inputs, teacher_logits = source.batch(batch, augmentation)
            with autocast:
                logits = model(inputs)
            value = loss(logits.float(), source.targets[batch], teacher_logits)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            _call(before_step, model)
            if training.clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
            optimizer.step()
            _call(after_step, model)
            sum_loss += value.detach() * len(batch)
            trained += len(batch)
            progress(min(start + training.batch, len(order)))
    return float(sum_loss) / trained


@dataclasses.dataclass
class _Source:
    """The training examples: inputs as they are stored, and what a batch of them becomes."""

    inputs: torch.Tensor
    targets: torch.Tensor
    prepare: Prepare | None
    augment: Augment | None
    device: torch.device
    teacher: torch.nn.Module | None = None
    #: The teacher's logits for all examples; None where each batch is augmented.
    teacher_logits: torch.Tensor | None = None

    def batch(self, rows: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the inputs of these rows, prepared and augmented, and the teacher's logits for them."""
        inputs = _prepared(self.inputs[rows.to(self.inputs.device)].to(self.device), self.prepare)
        if self.augment is None:
            return inputs, None if self.teacher_logits is None else self.teacher_logits[rows]
        augmented = self.augment(inputs, generator)
        if augmented.shape != inputs.shape or augmented.dtype != inputs.dtype:
            raise CellError(
                f"augment() of the data set gives {augmented.dtype} {tuple(augmented.shape)} for a batch of "
                f"{inputs.dtype} {tuple(inputs.shape)}; it must keep both"
            )
        if self.teacher is None:
            return augmented, None
        with torch.no_grad():
            return augmented, self.teacher(augmented).float()


def _prepared(inputs: torch.Tensor, prepare: Prepare | None) -> torch.Tensor:
    return inputs if prepare is None else prepare(inputs)


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """The array as a tensor, without a copy where it is contiguous: a mapped file is read batch by batch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes to it
        return torch.from_numpy(np.ascontiguousarray(array))


def _fits(inputs: torch.Tensor, device: str) -> bool:
    """Whether all inputs may stay on the device: they take at most half of a GPU's free memory."""
    if torch.device(device).type != "cuda":
        return True
    return inputs.nbytes <= torch.cuda.mem_get_info(device)[0] / 2


def _call(hook: FitHook | None, model: torch.nn.Module) -> None:
    if hook is not None:
        with torch.no_grad():
            hook(model)


def _parameter_groups(model: torch.nn.Module, groups: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Divide the parameters of ``model`` into groups for torch.optim, by ``Training.parameter_groups``.

    The first group has the parameters that no pattern matches. Logs a warning for a pattern that matches none.
    """
    chosen: dict[str | None, list[torch.nn.Parameter]] = {pattern: [] for pattern in (None, *groups)}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                names = (f"{path}.{name}".removeprefix("."), f"{type(module).__name__}.{name}")
                matches = (pattern for pattern in groups if any(fnmatchcase(entry, pattern) for entry in names))
                chosen[next(matches, None)].append(parameter)
    for pattern in groups:
        if not chosen[pattern]:
            logger.warning(f"Training.parameter_groups: no parameter of {type(model).__name__} is left for {pattern!r}")
    return [
        {"params": parameters, **(groups[pattern] if pattern is not None else {})}
        for pattern, parameters in chosen.items()
        if parameters
    ]


def predict(
    model: torch.nn.Module, inputs: torch.Tensor, batch: int, prepare: Prepare | None = None, device: str | None = None
) -> torch.Tensor:
    """Return the float32 outputs of ``model`` in evaluation mode, (n, labels), computed batch by batch.

    The inputs go to ``device`` (by default they stay where they are) and through ``prepare`` batch by batch.
    """
    model.eval()
    with torch.inference_mode():
        blocks = (_prepared(block.to(device or block.device), prepare) for block in torch.split(inputs, batch))
        outputs = torch.cat([model(block).float() for block in blocks])
    return outputs.clone()


def predict_split(model: torch.nn.Module, split: Split, batch: int, device: str) -> np.ndarray[Any, Any]:
    """Like ``predict``, for all examples of a split."""
    return predict(model, _tensor(split.inputs), batch, split.prepare, device).cpu().numpy()


def digest(model: torch.nn.Module) -> str:
    """Hash the names, shapes and bytes of all parameters and buffers."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _report(progress: Progress, before: int, total: int, note: str, done: int) -> None:
    progress(before + done, total, note)


def _sample_rows(available: int, count: int | None, seed: int) -> np.ndarray[Any, Any] | slice:
    """The rows of a seeded sample of ``count`` examples, in order; all rows if there are fewer."""
    if count is None or count >= available:
        return slice(None)
    return np.sort(np.random.default_rng(seed).choice(available, count, replace=False))


def _derive_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def _copy(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _scheduler(name: str, arguments: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> Any:
    """Make a scheduler. Its argument ``schedulers`` has those that it combines, each as {class: arguments}."""
    arguments = dict(arguments)
    if "schedulers" in arguments:
        parts = arguments["schedulers"]
        if not isinstance(parts, list | tuple) or not all(
            isinstance(part, Mapping) and all(isinstance(entry, Mapping) for entry in part.values()) for part in parts
        ):
            raise UsageError(
                f"scheduler {name}: schedulers={parts!r}; write a list of {{class: arguments}}, such as "
                "[{'LinearLR': {'total_iters': 5}}, {'CosineAnnealingLR': {'T_max': 45}}]"
            )
        arguments["schedulers"] = [
            _scheduler(kind, values, optimizer) for part in parts for kind, values in part.items()
        ]
    return _make(torch.optim.lr_scheduler, name, optimizer=optimizer, **arguments)


def _make(module: Any, name: str, *first: Any, **arguments: Any) -> Any:
    """Instantiate the class ``name`` of a module of torch.optim."""
    class_: Any = getattr(module, name, None)
    if not isinstance(class_, type):
        class_names = [entry for entry in dir(module) if inspect.isclass(getattr(module, entry)) and entry[0] != "_"]
        raise UsageError(f"{module.__name__} has no class {name!r}{nearest(name, class_names)}")
    try:
        return class_(*first, **arguments)
    except (TypeError, ValueError) as error:
        shown = {key: value for key, value in arguments.items() if key != "optimizer"}
        raise UsageError(f"{module.__name__}.{name} refuses the arguments {shown}: {error}") from error


def _write_checkpoint(file: Path, initial_digest: str, state: Mapping[str, Any]) -> None:
    """Write a safetensors file followed by the SHA-256 of its content (32 bytes)."""
    tensors: dict[str, torch.Tensor] = {}
    tree = flatten(state, tensors)
    content = save(tensors, {"started": initial_digest, "tree": json.dumps(tree)})
    with atomic_write(file, "or choose another store") as temporary:
        temporary.write_bytes(content + hashlib.sha256(content).digest())


def _read_checkpoint(file: Path, initial_digest: str) -> dict[str, Any] | None:
    """Return the saved state; None, with a logged reason, if the file cannot be used."""
    try:
        if not file.exists():
            return None
        if not file.is_file():  # reading a pipe or a device never ends
            raise ValueError("it is no regular file")
        data = file.read_bytes()
        content, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        if hashlib.sha256(content).digest() != checksum:
            reason = "does not match its checksum"
        else:
            metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            if metadata["started"] == initial_digest:
                return dict(unflatten(json.loads(metadata["tree"]), load(content)))
            reason = "belongs to a training from other initial weights"
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        reason = f"cannot be read ({error})"
    logger.warning(f"checkpoint {file} {reason}: training starts again from the first epoch")
    return None
