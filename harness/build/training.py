"""The training loop: data in memory, seeded, resumable at any moment, and no more than it needs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn import functional

from harness.build.artefact import flatten, unflatten
from harness.api import Loss, Split, Progress, Training, silent
from harness.errors import CellError, UsageError, nearest
from harness.files import atomic_write
from harness.stats.quality import macro_auroc


logger = logging.getLogger(__name__)
def task_loss(logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None = None) -> torch.Tensor:
    """Binary cross-entropy summed over the labels, averaged over the batch (studies A and B)."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)


def fit(
    model: torch.nn.Module,
    train: Split,
    validation: Split,
    training: Training,
    *,
    seed: int,
    loss: Loss = task_loss,
    teacher: torch.nn.Module | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> list[dict[str, float]]:
    """Train ``model`` in place and leave it with the weights of its best epoch, by validation AUROC alone.

    Returns a row an epoch: loss, validation AUROC, learning rate, seconds. With ``checkpoint`` (a file that need not
    exist) a run that was killed goes on after its last whole epoch and ends with the same weights, bit for bit:
    every epoch draws its order and its dropout from ``seed`` and its own number alone.
    """
    model.to(device)
    chosen = _chosen(len(train), training.examples, seed)
    inputs = torch.from_numpy(np.ascontiguousarray(train.inputs[chosen])).to(device)
    targets = torch.from_numpy(np.ascontiguousarray(train.targets[chosen])).to(device)
    taught = None if teacher is None else predict(teacher.to(device), inputs, training.batch)
    optimizer = _make(torch.optim, training.optimizer, model.parameters(), training.optimizer_args)
    scheduler = None
    if training.scheduler:
        scheduler = _make(torch.optim.lr_scheduler, training.scheduler, optimizer, training.scheduler_args)
    started = digest(model)
    best = _copy(model)
    history: list[dict[str, float]] = []
    if checkpoint is not None and (saved := _read_checkpoint(checkpoint, started)) is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        if scheduler is not None:
            scheduler.load_state_dict(saved["scheduler"])
        best, history = saved["best"], saved["history"]
        logger.info(f"going on after epoch {len(history)} of {training.epochs}, from {checkpoint}")

    total = training.epochs * len(inputs)
    for epoch in range(len(history), training.epochs):
        began = time.perf_counter()
        note = f"epoch {epoch + 1}/{training.epochs}"
        told = functools.partial(_tell, progress, epoch * len(inputs), total, note)
        mean_loss = _epoch(model, inputs, targets, taught, training, loss, optimizer, _derive(seed, epoch), told)
        if not math.isfinite(mean_loss):
            raise CellError(f"the training loss became {mean_loss} in {note}: lower the learning rate, or clip")
        auroc = macro_auroc(score(model, validation.inputs, training.batch, device), validation.targets)
        if not math.isfinite(auroc):
            raise CellError(
                f"answers on the validation split became NaN or infinite in {note}: lower the learning rate, or clip"
            )
        rate = optimizer.param_groups[0]["lr"]
        history.append({"loss": mean_loss, "auroc": auroc, "lr": rate, "seconds": time.perf_counter() - began})
        if auroc >= max(row["auroc"] for row in history):
            best = _copy(model)
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(auroc)
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
            _write_checkpoint(checkpoint, started, state)
    model.load_state_dict(best)
    model.to("cpu").eval()
    return history


def _epoch(
    model: torch.nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    taught: torch.Tensor | None,
    training: Training,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    seed: int,
    progress: Callable[[int], None],
) -> float:
    model.train()
    autocast = torch.autocast(inputs.device.type, torch.bfloat16, enabled=training.precision == "bfloat16")
    sum_loss, trained = torch.zeros((), device=inputs.device), 0
    with _seeded(seed, inputs.device):
        order = torch.randperm(len(inputs)).to(inputs.device)
        for start in range(0, len(order), training.batch):
            batch = order[start : start + training.batch]
            if len(batch) == 1 < min(training.batch, len(order)):
                continue  # batch normalization cannot train on the single example that is left over
            with autocast:
                logits = model(inputs[batch])
            value = loss(logits.float(), targets[batch], None if taught is None else taught[batch])
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            if training.clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
            optimizer.step()
            sum_loss += value.detach() * len(batch)
            trained += len(batch)
            progress(min(start + training.batch, len(order)))
    return float(sum_loss) / trained


def predict(model: torch.nn.Module, inputs: torch.Tensor, batch: int) -> torch.Tensor:
    """What ``model`` answers in evaluation mode, (n, labels)."""
    model.eval()
    with torch.inference_mode():
        answers = torch.cat([model(part).float() for part in torch.split(inputs, batch)])
    return answers.clone()


def score(model: torch.nn.Module, inputs: np.ndarray[Any, Any], batch: int, device: str) -> np.ndarray[Any, Any]:
    """The logits for ``inputs`` as an array (n, labels); the inputs go to the device batch by batch."""
    parts = (torch.from_numpy(np.ascontiguousarray(inputs[i : i + batch])) for i in range(0, len(inputs), batch))
    return torch.cat([predict(model, part.to(device), batch).cpu() for part in parts]).numpy()


def digest(model: torch.nn.Module) -> str:
    """A hash of all weights: names, shapes and bytes."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _tell(progress: Progress, before: int, total: int, note: str, done: int) -> None:
    progress(before + done, total, note)


def _chosen(available: int, wanted: int | None, seed: int) -> np.ndarray[Any, Any] | slice:
    if wanted is None or wanted >= available:
        return slice(None)
    return np.sort(np.random.default_rng(seed).choice(available, wanted, replace=False))


def _derive(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def _copy(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _make(home: Any, name: str, first: Any, arguments: Mapping[str, Any]) -> Any:
    kind: Any = getattr(home, name, None)
    if not isinstance(kind, type):
        known = [entry for entry in dir(home) if inspect.isclass(getattr(home, entry)) and not entry.startswith("_")]
        raise UsageError(f"{home.__name__} has no class {name!r}{nearest(name, known)}")
    try:
        return kind(first, **arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{home.__name__}.{name} refuses the arguments {dict(arguments)}: {error}") from error


def _write_checkpoint(file: Path, started: str, state: Mapping[str, Any]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    tree = flatten(state, tensors)
    with atomic_write(file, "or choose another store") as temporary:
        temporary.write_bytes(save(tensors, {"started": started, "tree": json.dumps(tree)}))


def _read_checkpoint(file: Path, started: str) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as stream:
            metadata = stream.metadata()
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
        if metadata["started"] == started:
            return dict(unflatten(json.loads(metadata["tree"]), tensors))
        reason = "began from other weights"
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        reason = f"cannot be read ({error})"
    logger.warning(f"checkpoint {file} {reason}: training starts over")
    return None
