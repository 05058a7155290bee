"""The training loop: the same weights whatever interrupts it, and the best epoch by validation data alone."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import toy
from fakes import logged
from sklearn.metrics import roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits

from harness import CellError, Split, StoreError, Training, UsageError
from harness.api.data import Augment, Prepare
from harness.api.tasks import MULTILABEL, TaskKind
from harness.build import training as loop
from harness.build.training import digest, predict, predict_split
from harness.stats.quality import macro_auroc

TRAIN, VALIDATION = toy.part(60, 0), toy.part(20, 1)
CONV = toy.Conv().training("train")
LSTM = toy.Recurrent().training("train")
fit = functools.partial(loop.fit, kind=MULTILABEL)


def network(architecture: str = "conv", seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = {"conv": toy.Conv, "lstm": toy.Recurrent}[architecture]
        return kind().build(toy.Toy.task)


def trained(training: Training = CONV, architecture: str = "conv", seed: int = 5, **options: Any) -> torch.nn.Module:
    model = network(architecture)
    fit(model, TRAIN, VALIDATION, training, seed=seed, **options)
    return model


# ------------------------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize(("architecture", "training"), [("conv", CONV), ("lstm", LSTM)])
def test_one_seed_one_result(architecture: str, training: Training) -> None:
    torch.rand(3)  # the global state plays no part
    one, two = trained(training, architecture), trained(training, architecture)
    assert digest(one) == digest(two) != digest(trained(training, architecture, seed=6))
    assert not one.training


def test_training_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    trained()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_it_learns() -> None:
    model = network()
    history = fit(model, TRAIN, VALIDATION, dataclasses.replace(CONV, epochs=12), seed=0)
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert max(row["auroc"] for row in history) > 0.9


def test_bfloat16_is_autocast_with_float32_weights() -> None:
    plan = dataclasses.replace(CONV, precision="bfloat16")
    one = trained(plan)
    assert {tensor.dtype for tensor in one.parameters()} == {torch.float32}
    assert digest(one) == digest(trained(plan)) != digest(trained())


# ------------------------------------------------------------------------------------------------------ resuming


class Killed(Exception):
    """Stands for a kill: nothing in the loop handles it."""


@pytest.mark.parametrize(("architecture", "training"), [("conv", CONV), ("lstm", LSTM)])
@pytest.mark.parametrize("at", [0, 2, 4, 7])
def test_a_killed_run_goes_on_to_the_same_weights(
    tmp_path: Path, architecture: str, training: Training, at: int
) -> None:
    training = dataclasses.replace(training, epochs=3)
    calls: list[tuple[int, int]] = []

    def kill(done: int, total: int, note: str = "") -> None:
        calls.append((done, total))
        if len(calls) == at + 1:
            raise Killed

    file = tmp_path / "checkpoint"
    with pytest.raises(Killed):
        trained(training, architecture, checkpoint=file, progress=kill)
    assert calls[-1] == (16 * (at % 4) + 16 + 60 * (at // 4) - (4 if at % 4 == 3 else 0), 180)
    resumed: list[int] = []
    model = trained(training, architecture, checkpoint=file, progress=lambda done, total, note="": resumed.append(done))
    assert len(resumed) == 4 * (3 - at // 4), "whole epochs are not repeated"
    assert digest(model) == digest(trained(training, architecture))


def test_a_process_killed_with_sigkill_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    code = """
        import dataclasses, sys, time
        from pathlib import Path
        folder = Path(sys.argv[1])
        sys.path[:0] = [str(folder), str(folder.parent)]
        import test_training as t
        def progress(done, total, note=""):
            if note == "epoch 3/4":
                print("now", flush=True); time.sleep(60)
        t.trained(checkpoint=Path(sys.argv[2]), progress=progress)
    """
    file = tmp_path / "checkpoint"
    command = [sys.executable, "-c", textwrap.dedent(code), str(Path(__file__).parent), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)
    notes: set[str] = set()
    model = trained(checkpoint=file, progress=lambda done, total, note="": notes.add(note))
    assert notes == {"epoch 3/4", "epoch 4/4"}
    assert digest(model) == digest(trained())


def test_a_finished_checkpoint_trains_no_more(tmp_path: Path) -> None:
    first = trained(checkpoint=tmp_path / "c")
    again = trained(checkpoint=tmp_path / "c", progress=lambda *_: pytest.fail("trains again"))
    assert digest(again) == digest(first)


def flipped(data: bytes, bit: int) -> bytes:
    """Return a copy with one other bit; bits are numbered from the start, a negative one from the end."""
    copy = bytearray(data)
    copy[bit // 8] ^= 1 << bit % 8
    return bytes(copy)


@pytest.mark.parametrize("harm", ["truncate", "garbage", "empty", "length", "header", "tensors", "checksum"])
def test_a_damaged_checkpoint_starts_over_and_says_so(tmp_path: Path, harm: str) -> None:
    file = tmp_path / "c"
    trained(dataclasses.replace(CONV, epochs=2), checkpoint=file)
    data = file.read_bytes()
    damaged = {
        "truncate": data[:-20],
        "garbage": b"not ours",
        "empty": b"",
        "length": b"\xff" + data[1:],
        "header": flipped(data, 8 * 40),
        "tensors": flipped(data, -8 * 1000),
        "checksum": flipped(data, -1),
    }
    file.write_bytes(damaged[harm])
    with logged("harness.build.training") as lines:
        assert digest(trained(checkpoint=file)) == digest(trained())
    (line,) = lines
    assert line.startswith(f"checkpoint {file} does not match its checksum")
    assert line.endswith("training starts again from the first epoch")


def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    file, initial = tmp_path / "c", digest(network())
    trained(dataclasses.replace(CONV, epochs=1), checkpoint=file)
    data = file.read_bytes()
    assert loop._read_checkpoint(file, initial) is not None
    for bit in np.random.default_rng(0).choice(len(data) * 8, 500, replace=False):
        file.write_bytes(flipped(data, int(bit)))
        assert loop._read_checkpoint(file, initial) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("make", [os.mkfifo, lambda file: file.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_a_checkpoint_that_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "c")
    with logged("harness.build.training") as lines:
        assert loop._read_checkpoint(tmp_path / "c", "") is None
    (line,) = lines
    assert line.startswith(f"checkpoint {tmp_path / 'c'} cannot be read (it is no regular file)")


@pytest.mark.parametrize("tree", ["[]", "{", '{"pairs": [["model", {"tensor": "/none"}]]}', "[" * 10**5, "7"])
def test_a_checkpoint_with_content_that_the_harness_did_not_write_starts_over(tmp_path: Path, tree: str) -> None:
    file = tmp_path / "c"
    content = safetensors.torch.save({}, {"started": digest(network()), "tree": tree})
    file.write_bytes(content + hashlib.sha256(content).digest())
    with logged("harness.build.training") as lines:
        assert digest(trained(checkpoint=file)) == digest(trained())
    assert len(lines) == 1
    assert lines[0].startswith(f"checkpoint {file} cannot be read (")


def test_a_checkpoint_of_other_weights_starts_over_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "c"
    fit(network(seed=9), TRAIN, VALIDATION, CONV, seed=5, checkpoint=file)
    with logged("harness.build.training") as lines:
        assert digest(trained(checkpoint=file)) == digest(trained())
    assert "belongs to a training from other initial weights: training starts again from the first epoch" in lines[0]


def test_a_checkpoint_on_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    with toy.file_size_limit(1000), pytest.raises(StoreError, match=r"cannot write .*/c: "):
        trained(checkpoint=tmp_path / "c")
    assert not (tmp_path / "c").exists()


# ------------------------------------------------------------------------------------------------- hooks of a step


def masked() -> tuple[torch.nn.Module, Callable[[torch.nn.Module], None]]:
    """A network with half of its weights at zero, and the hook that keeps them there."""
    model = network()
    masks = {name: w.abs() > w.abs().median() for name, w in model.named_parameters() if w.dim() > 1}

    def keep_masks(model: torch.nn.Module) -> None:
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)

    with torch.no_grad():
        keep_masks(model)
    return model, keep_masks


def test_masks_that_after_step_applies_again_stay_and_everything_else_trains() -> None:
    model, hook = masked()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    fit(model, TRAIN, VALIDATION, CONV, seed=5, after_step=hook)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            assert torch.equal(weight == 0, before[name] == 0)
            assert 0 < (weight == 0).sum() < weight.numel()
        assert not torch.equal(weight, before[name])


def test_before_step_changes_the_gradients_before_they_are_clipped() -> None:
    """One full-batch step of SGD: with gradients of the other sign the weights move the other way, as far."""
    plan = Training(1, 60, "SGD", {"lr": 1.0}, clip=0.01)
    start, plain, turned = network("lstm"), network("lstm"), network("lstm")

    def turn(model: torch.nn.Module) -> None:
        for weight in model.parameters():
            assert weight.grad is not None
            weight.grad.mul_(-1000)

    fit(plain, TRAIN, VALIDATION, plan, seed=0)
    fit(turned, TRAIN, VALIDATION, plan, seed=0, before_step=turn)
    for before, one, other in zip(start.parameters(), plain.parameters(), turned.parameters(), strict=True):
        assert torch.allclose(one - before, before - other, atol=1e-6)


def test_hooks_are_called_once_a_step_in_their_order_without_gradients() -> None:
    calls: list[str] = []

    def note(name: str) -> Callable[[torch.nn.Module], None]:
        def hook(model: torch.nn.Module) -> None:
            assert not torch.is_grad_enabled()
            calls.append(name)

        return hook

    fit(network(), TRAIN, VALIDATION, CONV, seed=5, before_step=note("before"), after_step=note("after"))
    assert calls == ["before", "after"] * 4 * 4


@pytest.mark.parametrize("at", [3, 6])
def test_a_killed_training_with_hooks_goes_on_to_the_same_weights(tmp_path: Path, at: int) -> None:
    """They may draw random numbers: those of the epoch, however the training came to it."""

    def noise(model: torch.nn.Module) -> None:
        for weight in model.parameters():
            assert weight.grad is not None
            weight.grad.add_(torch.randn_like(weight), alpha=0.01)

    def run(**options: Any) -> torch.nn.Module:
        model, keep_masks = masked()
        fit(model, TRAIN, VALIDATION, CONV, seed=5, before_step=noise, after_step=keep_masks, **options)
        return model

    steps: list[int] = []

    def kill(done: int, total: int, note: str = "") -> None:
        steps.append(done)
        if len(steps) == at:
            raise Killed

    with pytest.raises(Killed):
        run(checkpoint=tmp_path / "c", progress=kill)
    resumed: list[int] = []
    model = run(checkpoint=tmp_path / "c", progress=lambda done, total, note="": resumed.append(done))
    assert len(resumed) == 16 - at // 4 * 4
    assert digest(model) == digest(run()) != digest(trained())


# ---------------------------------------------------------------------------------------------------- best epoch


def test_the_best_epoch_is_kept_not_the_last() -> None:
    """A training split whose labels are the opposite of the validation split's: each epoch makes it worse."""
    opposite = Split(TRAIN.inputs, 1 - TRAIN.targets, TRAIN.patients)
    plan = Training(4, 60, "SGD", {"lr": 0.1})
    model, first = trained(), trained()
    aurocs = [row["auroc"] for row in fit(model, opposite, VALIDATION, plan, seed=0)]
    assert aurocs[0] > max(aurocs[1:])
    fit(first, opposite, VALIDATION, dataclasses.replace(plan, epochs=1), seed=0)
    assert digest(model) == digest(first)


def test_the_best_epoch_survives_a_kill_after_it(tmp_path: Path) -> None:
    opposite = Split(TRAIN.inputs, 1 - TRAIN.targets, TRAIN.patients)
    plan = Training(4, 60, "SGD", {"lr": 0.1})
    whole, killed, resumed = trained(), trained(), trained()
    fit(whole, opposite, VALIDATION, plan, seed=0)

    def kill(done: int, total: int, note: str = "") -> None:
        if note == "epoch 3/4":
            raise Killed

    with pytest.raises(Killed):
        fit(killed, opposite, VALIDATION, plan, seed=0, checkpoint=tmp_path / "c", progress=kill)
    fit(resumed, opposite, VALIDATION, plan, seed=0, checkpoint=tmp_path / "c")
    assert digest(resumed) == digest(whole)


def test_the_history_is_the_macro_auroc_of_the_validation_part() -> None:
    model = network()
    history = fit(model, TRAIN, VALIDATION, dataclasses.replace(CONV, epochs=1), seed=0)
    logits = predict_split(model, VALIDATION, 7, "cpu")
    assert history[0]["auroc"] == pytest.approx(roc_auc_score(VALIDATION.targets, logits, average="macro"))
    with torch.inference_mode():
        assert np.allclose(model(torch.from_numpy(VALIDATION.inputs)).numpy(), logits, atol=1e-6)


# ---------------------------------------------------------------------------------------------- loss, optimizer


def test_the_task_loss_is_summed_over_labels_and_averaged_over_examples() -> None:
    logits, targets = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    by_hand = sum(binary_cross_entropy_with_logits(logits[:, i], targets[:, i]) for i in range(3))
    assert torch.allclose(MULTILABEL.loss(logits, targets, None), torch.as_tensor(by_hand))


def test_the_kind_of_task_brings_loss_and_score_and_the_loop_has_none_of_its_own() -> None:
    """With version 0.1's loss and AUROC, spelled out, the weights and the curve are the same bit for bit."""
    former = TaskKind(
        loss=lambda logits, targets, teacher: (
            binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)
        ),
        activation=torch.nn.Sigmoid,
        selector="auroc",
        score=lambda logits, targets: macro_auroc(logits, targets),
    )
    models, curves = [network(), network()], []
    for model, kind in zip(models, (MULTILABEL, former), strict=True):
        history = loop.fit(model, TRAIN, VALIDATION, CONV, seed=5, kind=kind)
        curves.append([{name: value for name, value in row.items() if name != "seconds"} for row in history])
    assert digest(models[0]) == digest(models[1])
    assert curves[0] == curves[1]
    assert set(curves[0][0]) == {"loss", "auroc", "lr"}


def test_another_kind_selects_by_its_own_score() -> None:
    """The worst epoch by the loop's former measure is the best by one of the opposite sign."""
    opposite = dataclasses.replace(
        MULTILABEL, selector="negative", score=lambda logits, targets: -macro_auroc(logits, targets)
    )
    model = network()
    history = loop.fit(model, TRAIN, VALIDATION, CONV, seed=5, kind=opposite)
    logits = predict_split(model, VALIDATION, 7, "cpu")
    assert -macro_auroc(logits, VALIDATION.targets) == max(row["negative"] for row in history)


def test_the_activation_of_a_multi_label_task_is_a_sigmoid() -> None:
    logits = torch.randn(5, 3)
    assert torch.equal(MULTILABEL.activation()(logits), logits.sigmoid())


def test_one_epoch_of_full_batch_sgd_is_a_gradient_step() -> None:
    model, rate = network("lstm"), 0.5
    expected = network("lstm")
    loss = MULTILABEL.loss(expected(torch.from_numpy(TRAIN.inputs)), torch.from_numpy(TRAIN.targets), None)
    loss.backward()
    history = fit(model, TRAIN, VALIDATION, Training(1, 60, "SGD", {"lr": rate}), seed=0)
    assert history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for weight, start in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(weight, start - rate * start.grad, atol=1e-6)  # type: ignore[operator]


def test_gradients_are_clipped() -> None:
    model, start = network("lstm"), network("lstm")
    fit(model, TRAIN, VALIDATION, Training(1, 60, "SGD", {"lr": 1.0}, clip=0.01), seed=0)
    moved = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), start.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_loss_is_given_the_teachers_logits_of_the_same_examples() -> None:
    teacher, seen = network(seed=3).eval(), list[tuple[torch.Tensor, torch.Tensor]]()

    def loss(logits: torch.Tensor, targets: torch.Tensor, taught: torch.Tensor | None) -> torch.Tensor:
        assert taught is not None
        seen.append((targets, taught))
        return MULTILABEL.loss(logits, targets, None)

    trained(loss=loss, teacher=teacher)
    answers = predict(teacher, torch.from_numpy(TRAIN.inputs), 60)
    for targets, taught in seen:
        for row, target in zip(taught, targets, strict=True):
            index = int((answers - row).abs().sum(1).argmin())
            assert torch.allclose(answers[index], row, atol=1e-5)
            assert target.tolist() == TRAIN.targets[index].tolist()
    assert len(seen) == 4 * 4


def test_fewer_examples_are_a_seeded_choice() -> None:
    seen: list[int] = []
    plan = dataclasses.replace(CONV, epochs=1, examples=20)
    one = trained(plan, progress=lambda done, total, note="": seen.append(total))
    assert set(seen) == {20}
    assert digest(one) == digest(trained(plan)) != digest(trained(plan, seed=6))


def test_groups_of_parameters_get_their_own_arguments_of_the_optimizer() -> None:
    """The toy network: Conv1d without bias, BatchNorm1d, ..., Linear."""
    plan = {"*.bias": {"weight_decay": 0.0}, "BatchNorm*.weight": {"weight_decay": 0.0, "lr": 0.5}}
    model = network()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [
        (sorted(names[id(parameter)] for parameter in group.pop("params")), group)
        for group in loop._parameter_groups(model, plan)
    ]
    assert groups == [
        (["0.weight", "6.weight"], {}),
        (["1.bias", "6.bias"], {"weight_decay": 0.0}),
        (["1.weight"], {"weight_decay": 0.0, "lr": 0.5}),
    ]


def test_a_training_without_groups_has_the_one_group_that_torch_makes_of_all_parameters() -> None:
    model = network("lstm")
    (group,) = loop._parameter_groups(model, {})
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in model.parameters()]


def test_decay_of_some_weights_alone_is_the_step_computed_by_hand() -> None:
    plan = Training(1, 60, "SGD", {"lr": 0.5, "weight_decay": 0.1}, parameter_groups={"*bias*": {"weight_decay": 0.0}})
    model, start = network("lstm"), network("lstm")
    loss = MULTILABEL.loss(start(torch.from_numpy(TRAIN.inputs)), torch.from_numpy(TRAIN.targets), None)
    loss.backward()
    fit(model, TRAIN, VALIDATION, plan, seed=0)
    for (name, weight), before in zip(model.named_parameters(), start.parameters(), strict=True):
        assert before.grad is not None
        decay = 0.0 if "bias" in name else 0.1
        assert torch.allclose(weight, before - 0.5 * (before.grad + decay * before), atol=1e-6), name


def test_a_pattern_that_no_parameter_matches_is_named() -> None:
    with logged("harness.build.training") as lines:
        assert len(loop._parameter_groups(network(), {"*.biass": {"weight_decay": 0}})) == 1
    assert lines == ["Training.parameter_groups: no parameter of Sequential is left for '*.biass'"]


def test_a_last_batch_of_one_example_is_left_out() -> None:
    """Batch normalization cannot train on it when nothing else is averaged over."""
    norm = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(32), torch.nn.Linear(32, 2))
    history = fit(norm, TRAIN, VALIDATION, Training(1, 59, "SGD", {"lr": 0.1}), seed=0)
    assert np.isfinite(history[0]["loss"])


# ---------------------------------------------------------------------------------------------------- schedulers


def test_the_scheduler_steps_once_an_epoch() -> None:
    history = fit(network(), TRAIN, VALIDATION, CONV, seed=0)
    cosine = [0.05 * (1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert [row["lr"] for row in history] == pytest.approx(cosine)


def test_reduce_on_plateau_is_given_the_auroc(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(torch.optim.lr_scheduler.ReduceLROnPlateau, "step", lambda self, metric: given.append(metric))
    history = fit(network("lstm"), TRAIN, VALIDATION, LSTM, seed=0)
    assert given == [row["auroc"] for row in history]


WARM_UP = {
    "schedulers": [{"LinearLR": {"start_factor": 0.25, "total_iters": 2}}, {"CosineAnnealingLR": {"T_max": 4}}],
    "milestones": [2],
}


def test_a_warm_up_is_a_sequence_of_torch_s_own_schedulers() -> None:
    plan = dataclasses.replace(CONV, epochs=5, scheduler="SequentialLR", scheduler_args=WARM_UP)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.05)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    expected, scheduler = [], torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], [2])
    for _ in range(5):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    history = fit(network(), TRAIN, VALIDATION, plan, seed=0)
    assert [row["lr"] for row in history] == expected
    assert expected[0] < expected[1] < expected[2] == 0.05 > expected[4]


@pytest.mark.parametrize("scheduler", ["SequentialLR", "ChainedScheduler"])
def test_a_killed_training_with_several_schedulers_goes_on_to_the_same_weights(tmp_path: Path, scheduler: str) -> None:
    arguments = {name: value for name, value in WARM_UP.items() if scheduler == "SequentialLR" or name != "milestones"}
    plan = dataclasses.replace(CONV, scheduler=scheduler, scheduler_args=arguments)

    def kill(done: int, total: int, note: str = "") -> None:
        if note == "epoch 4/4":
            raise Killed

    with pytest.raises(Killed):
        trained(plan, checkpoint=tmp_path / "c", progress=kill)
    assert digest(trained(plan, checkpoint=tmp_path / "c")) == digest(trained(plan))


# -------------------------------------------------------------------------------------------------------- errors


def test_a_loss_that_is_no_number_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(CellError, match=r"loss became (nan|inf) in epoch \d/4: lower the learning rate, or set clip"):
        trained(dataclasses.replace(CONV, optimizer_args={"lr": 1e30}))


def test_weights_that_blow_up_in_validation_alone_are_never_the_best() -> None:
    """The loss of the one full batch is finite; the weights after it are not."""
    with pytest.raises(CellError, match="the logits on the validation split became NaN or infinite in epoch 1/1"):
        trained(Training(1, 60, "SGD", {"lr": 1e38}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "Adamm"}, "torch.optim has no class 'Adamm'; did you mean 'Adam"),
        (
            {"scheduler": "CosineAnealingLR"},
            "lr_scheduler has no class 'CosineAnealingLR'; did you mean 'CosineAnnealingLR'",
        ),
        ({"optimizer_args": {"learning_rate": 1}}, r"torch.optim.SGD refuses the arguments .*learning_rate"),
        ({"optimizer_args": {"lr": -1}}, "refuses the arguments .*Invalid learning rate"),
        (
            {"parameter_groups": {"*": {"weight_decy": 0}}},
            r"Training.parameter_groups\['\*'\]: SGD has no argument 'weight_decy'; did you mean 'weight_decay'",
        ),
        (
            {"scheduler": "SequentialLR", "scheduler_args": {"schedulers": ["LinearLR"], "milestones": [1]}},
            r"scheduler SequentialLR: schedulers=\['LinearLR'\]; write a list of \{class: arguments\}",
        ),
        (
            {"scheduler": "SequentialLR", "scheduler_args": {"schedulers": [{"LinearRL": {}}], "milestones": []}},
            "lr_scheduler has no class 'LinearRL'; did you mean 'LinearLR'",
        ),
    ],
)
def test_a_wrong_training_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trained(dataclasses.replace(CONV, **changes))


def test_the_digest_sees_names_shapes_and_values() -> None:
    linear = torch.nn.Linear(2, 2)
    before = digest(linear)
    assert digest(torch.nn.Sequential(linear)) != before
    with torch.no_grad():
        linear.bias[0] += 1e-6
    assert digest(linear) != before
    assert loop.digest is digest


# ------------------------------------------------------------------------------------ stored inputs, augmentation


def stored(augment: Augment | None = None, prepare: Prepare | None = None) -> Split:
    """The training examples as uint8, eight levels a unit."""
    inputs = np.clip(np.round(8 * TRAIN.inputs + 128), 0, 255).astype(np.uint8)
    return dataclasses.replace(TRAIN, inputs=inputs, prepare=prepare or unpacked, augment=augment)


def unpacked(inputs: torch.Tensor) -> torch.Tensor:
    return (inputs.float() - 128) / 8


def noisy(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return batch + 0.1 * torch.randn(batch.shape, generator=generator)


def fitted(train: Split, training: Training = CONV, **more: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    model = toy.Conv().build(toy.Toy.task)
    fit(model, train, VALIDATION, training, seed=1, **more)
    return model


def test_uint8_trains_as_the_floats_that_prepare_makes_of_it() -> None:
    floats = dataclasses.replace(TRAIN, inputs=stored().tensor(slice(None)).numpy())
    assert digest(fitted(stored())) == digest(fitted(floats))
    teacher = toy.Conv().build(toy.Toy.task)
    assert torch.equal(
        predict(teacher, torch.from_numpy(stored().inputs), 7, unpacked),
        predict(teacher, torch.from_numpy(floats.inputs), 7),
    )


def test_a_mapped_file_trains_as_the_array_in_memory_without_being_read_at_once(tmp_path: Path) -> None:
    np.save(tmp_path / "inputs.npy", stored().inputs)
    mapped = np.load(tmp_path / "inputs.npy", mmap_mode="r")
    sizes = []

    def prepare(inputs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(inputs))
        return unpacked(inputs)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fitted(dataclasses.replace(stored(prepare=prepare), inputs=mapped))
    assert digest(model) == digest(fitted(stored()))
    assert max(sizes) == CONV.batch


def test_augmentation_changes_training_batches_alone_and_each_epoch_anew() -> None:
    batches: list[torch.Tensor] = []

    def recorded(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        batches.append(noisy(batch, generator) - batch)
        return noisy(batch, generator)

    model = fitted(dataclasses.replace(TRAIN, augment=recorded))
    assert digest(model) == digest(fitted(dataclasses.replace(TRAIN, augment=recorded)))
    assert digest(model) != digest(fitted(TRAIN))
    steps = math.ceil(len(TRAIN) / CONV.batch)
    assert len(batches) == 2 * steps * CONV.epochs  # no call for the validation split
    assert not torch.equal(batches[0], batches[steps])


@pytest.mark.parametrize("at", [1, 3])
def test_a_killed_training_with_augmentation_goes_on_to_the_same_weights(tmp_path: Path, at: int) -> None:
    class Killed(Exception):
        pass

    def progress(done: int, total: int, note: str = "") -> None:
        if done > at * len(TRAIN):
            raise Killed

    file = tmp_path / "checkpoint"
    with pytest.raises(Killed):
        fitted(stored(noisy), checkpoint=file, progress=progress)
    assert file.exists()
    assert digest(fitted(stored(noisy), checkpoint=file)) == digest(fitted(stored(noisy)))


def test_the_teacher_answers_the_augmented_examples() -> None:
    teacher = toy.Conv().build(toy.Toy.task).eval()
    seen: list[torch.Tensor] = []
    inputs: list[torch.Tensor] = []

    def recorded(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        inputs.append(noisy(batch, generator))
        return inputs[-1]

    def loss(logits: torch.Tensor, targets: torch.Tensor, teacher_logits: torch.Tensor | None) -> torch.Tensor:
        assert teacher_logits is not None
        seen.append(teacher_logits)
        return (logits - teacher_logits).square().mean()

    fitted(dataclasses.replace(TRAIN, augment=recorded), loss=loss, teacher=teacher)
    with torch.no_grad():
        assert all(torch.equal(teacher(batch), logits) for batch, logits in zip(inputs, seen, strict=True))


def test_an_augmentation_that_changes_the_shape_is_named() -> None:
    with pytest.raises(CellError, match=r"augment\(\) of the data set gives .* it must keep both"):
        fitted(dataclasses.replace(TRAIN, augment=lambda batch, generator: batch[:, :, 1:]))


@pytest.mark.slow
def test_a_hundred_thousand_images_train_within_four_gibibytes(tmp_path: Path) -> None:
    """ChestX-ray14 at 64 x 64: 112,120 images, 1.8 GB as float32 and 0.5 GB as uint8."""
    code = """
        import resource, sys
        import numpy as np, torch
        from harness import Split, Task, Training
        from harness.api.tasks import kind_of
        from harness.build.training import fit
        inputs = np.random.default_rng(0).integers(0, 256, (112_120, 1, 64, 64), dtype=np.uint8)
        targets = np.tile(np.eye(14, dtype=np.float32), (8009, 1))[:112_120]
        split = Split(inputs, targets, prepare=lambda batch: batch.float() / 255)
        model = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(64, 14))
        training = Training(1, 256, "SGD", {"lr": 0.01})
        kind = kind_of(Task((1, 64, 64), tuple("abcdefghijklmn")))
        fit(model, split, split.take(slice(2000)), training, seed=0, kind=kind)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2 * 2**20  # KiB: half of what is allowed
