"""How fast the training loop is beside a plain DataLoader loop: same network, same batches, in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from harness.api import Split, Task
from harness.api.tasks import MULTILABEL
from harness.build.training import fit
from harness.plugin.manager import installed

pytestmark = pytest.mark.timing
EXAMPLES, ROUNDS = 1024, 9
TASK = Task((12, 1000), ("a", "b", "c", "d", "e"))


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def test_one_epoch_is_no_slower_than_a_plain_dataloader_loop() -> None:
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((EXAMPLES, *TASK.input_shape), dtype=np.float32)
    targets = generator.integers(0, 2, (EXAMPLES, len(TASK.labels))).astype(np.float32)
    train = Split(inputs, targets, np.arange(EXAMPLES))
    validation = Split(inputs[:64], targets[:64], np.arange(64))
    architecture = installed().architectures.get("cnn")
    training = architecture.training("train")
    training = type(training)(1, training.batch, training.optimizer, training.optimizer_args)

    def ours() -> None:
        fit(architecture.build(TASK), train, validation, training, seed=0, kind=MULTILABEL)

    def plain() -> None:
        model = architecture.build(TASK)
        optimizer = getattr(torch.optim, training.optimizer)(model.parameters(), **training.optimizer_args)
        data = TensorDataset(torch.from_numpy(inputs), torch.from_numpy(targets))
        for batch, wanted in DataLoader(data, training.batch, shuffle=True):
            loss = MULTILABEL.loss(model(batch), wanted, None)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            model(torch.from_numpy(inputs[:64]))

    ours(), plain()
    ratios = [seconds(ours) / seconds(plain) for _ in range(ROUNDS)]
    median = statistics.median(ratios)
    print(f"\nour loop / plain DataLoader loop, one epoch of {EXAMPLES} ECGs: {median:.3f} (all: {ratios})")
    assert median < 1.05
