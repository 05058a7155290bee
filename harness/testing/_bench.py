"""Try steps on the kit's networks with the real executor, each combination once, and keep what was observed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from harness.api import Step
from harness.api.train import Train
from harness.build.artefact import header
from harness.build.plan import describe
from harness.errors import HarnessError, Unsupported, UsageError
from harness.keys import canonical, differences
from harness.store.entry import Artefact
from harness.testing._watch import ApplyCall, Training, outputs_of, watch_apply
from harness.testing._world import LABELS, World


class Bench:
    """The worlds in which steps are tried; they differ in one thing each. Every trial runs once."""

    def __init__(self, folder: Path) -> None:
        self.first = World(folder / "first")
        #: For recipes of several steps. It is separate because ``first`` would reuse what was built here, unwatched.
        self.together = World(folder / "together")
        self._second = World(folder / "second")
        self._other_test = World(folder / "other-test", test_seed=3)
        self._trials: dict[tuple[Any, ...], Trial] = {}

    def trial(self, step: Step, network: str) -> Trial:
        """Return the trial of a step on a network."""
        return self._trial(self.first, step, network)

    def repeat(self, step: Step, network: str) -> Trial:
        """Return the same trial in another store, with other global random states."""
        return self._trial(self._second, step, network, global_seed=1)

    def with_other_test_data(self, step: Step, network: str) -> Trial:
        """Return the same trial with another test split."""
        return self._trial(self._other_test, step, network)

    def with_other_seed(self, step: Step, network: str) -> Trial:
        """Return the same trial with another seed."""
        return self._trial(self.first, step, network, seed=1)

    def _trial(self, world: World, step: Step, network: str, seed: int = 0, global_seed: int = 0) -> Trial:
        if step.kinds and "multilabel" not in step.kinds:
            pytest.skip(f"{describe(step)} is for {' and '.join(step.kinds)} tasks, and the kit's data are multi-label")
        try:
            identity = (world, type(step), canonical(step.parameters()), network, seed)
        except UsageError:
            pytest.skip(f"{describe(step)}: its parameters make no key; see test_step_parameters_make_the_key")
        if identity not in self._trials:
            self._trials[identity] = run_trial(world, network, step, seed, global_seed)
        return self._trials[identity]


@dataclasses.dataclass
class Trial:
    """The outcome of the recipe ``train, step`` on one network."""

    subject: str
    step: Step
    call: ApplyCall
    artefact: Artefact | None = None
    #: The outputs of the model that was loaded from the artefact, by batch size.
    loaded_outputs: dict[int, torch.Tensor | str] = dataclasses.field(default_factory=dict)
    #: What stopped the build or the load of the artefact.
    problem: Exception | None = None
    #: The global random generators whose state the run changed.
    changed_generators: list[str] = dataclasses.field(default_factory=list)

    @property
    def refusal(self) -> Unsupported | None:
        return self.problem if isinstance(self.problem, Unsupported) else None

    @property
    def is_undeclared(self) -> bool:
        """Whether the step trained or taught without declaring it, at which a run may stop."""
        if self.call.called_teach and not self.step.is_teacher:
            return True
        return not as_declared(self.call.trainings, self.step.trainings(), complete=self.call.raised is None)

    @property
    def failed(self) -> bool:
        """Whether ``apply`` returned no network, for whatever reason."""
        return self.call.raised is not None or not isinstance(self.call.returned, torch.nn.Module)

    def successful_call(self) -> ApplyCall:
        """Return the call of ``apply``. Skip the check if it refused or failed, which other checks report."""
        if self.refusal is not None:
            pytest.skip(f"{self.subject}: refused: {self.refusal}")
        if self.failed:
            pytest.skip(f"{self.subject}: apply failed; see test_step_works_or_refuses")
        return self.call

    def stored_artefact(self) -> Artefact:
        """Return the artefact. Skip the check if there is none, which other checks report."""
        self.successful_call()
        if self.artefact is None:
            pytest.skip(f"{self.subject}: the result was not stored; see test_step_survives_saving")
        return self.artefact


def run_trial(world: World, network: str, step: Step, seed: int = 0, global_seed: int = 0) -> Trial:
    """Try ``step`` on a trained network. ``global_seed`` seeds the global random generators before the run."""
    subject = f"{describe(step)} on {network}"
    try:
        world.build(network, [Train()], seed)
    except HarnessError as error:
        pytest.fail(f"{subject}: the kit's own network could not be trained: {error}", pytrace=False)
    with _global_random_states(global_seed), watch_apply(type(step), world.test_file) as calls:
        trial = Trial(subject, step, ApplyCall())
        before = _random_states()
        try:
            trial.artefact = world.build(network, [Train(), step], seed)
        except Exception as error:
            trial.problem = error
        trial.changed_generators = [name for name, state in _random_states().items() if state != before[name]]
    if calls:
        trial.call = calls[-1]
    if trial.artefact is not None:
        try:
            trial.loaded_outputs = outputs_of(world.load(trial.artefact, step))
        except Exception as error:
            trial.artefact, trial.problem = None, error
    return trial


@contextlib.contextmanager
def _global_random_states(seed: int) -> Iterator[None]:
    """Seed the global random generators for the block; restore their states after it."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _random_states() -> dict[str, Any]:
    return {
        "torch's": torch.get_rng_state().numpy().tobytes(),
        "NumPy's": [getattr(entry, "tolist", lambda entry=entry: entry)() for entry in np.random.get_state()],
        "random's": random.getstate(),
    }


def invalid_outputs(outputs: Mapping[int, Any]) -> str:
    """Describe what is wrong with a model's outputs, by batch size; "" if nothing is."""
    for size, output in outputs.items():
        if isinstance(output, str):
            return f"for a batch of {size}: {output}"
        if tuple(output.shape) != (size, len(LABELS)) or output.dtype != torch.float32:
            return f"for a batch of {size}: {output.dtype} of shape {tuple(output.shape)}"
        if not torch.isfinite(output).all():
            return f"for a batch of {size}: NaN or infinity"
    return ""


def artefact_difference(first: Path, second: Path) -> str:
    """Describe in one line how two artefacts differ; "" if they are the same bits."""
    if first.read_bytes() == second.read_bytes():
        return ""
    with safe_open(first, "pt") as one, safe_open(second, "pt") as other:
        names = sorted({*one.keys(), *other.keys()})
        pairs = {
            name: (one.get_tensor(name), other.get_tensor(name))
            for name in names
            if name in one.keys() and name in other.keys()  # noqa: SIM118 (not a mapping)
        }
        differing = [name for name in names if name not in pairs or not _same(*pairs[name])]
    if not differing:
        return f"the notes differ: {next(differences(header(first), header(second)), 'in their order')}"
    size = " in its shape"
    if differing[0] in pairs and pairs[differing[0]][0].shape == pairs[differing[0]][1].shape:
        one, other = pairs[differing[0]]
        size = f" by up to {float((one.double() - other.double()).abs().max()):.3g}"
    return f"{len(differing)} of {len(names)} tensors differ, the first, {differing[0]},{size}"


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def as_declared(ran: Sequence[Training], declared: Sequence[Training] | None, complete: bool) -> bool:
    """Whether the trainings that ran are those declared, in any order; only some of them if not ``complete``."""
    if declared is None:
        return True
    expected = Counter(canonical([phase, dict(changes)]) for phase, changes in declared)
    actual = Counter(canonical([phase, dict(changes)]) for phase, changes in ran)
    return actual == expected if complete else actual <= expected


def format_trainings(trainings: Sequence[Training]) -> str:
    """Format trainings for a message."""
    texts = [
        f"{phase}({', '.join(f'{name}={value}' for name, value in changes.items())})" for phase, changes in trainings
    ]
    return json.dumps(texts) if texts else "none"
