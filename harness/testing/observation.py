"""A step tried on a network as a run would: its recipe in the real executor, looked at from within and from without."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
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
from harness.errors import HarnessError, Unsupported
from harness.keys import canonical, differences
from harness.store.entry import Artefact
from harness.testing.watch import Sighting, Training, answers, watched
from harness.testing.world import World


@dataclasses.dataclass
class Observation:
    """What became of a recipe ``train, step`` on one network."""

    thing: str
    step: Step
    sighting: Sighting
    #: The artefact and what its model answers once loaded; or else what kept it from being built.
    artefact: Artefact | None = None
    loaded: dict[int, torch.Tensor | str] = dataclasses.field(default_factory=dict)
    problem: Exception | None = None
    #: Global random states that the run did not leave as they were.
    drawn: list[str] = dataclasses.field(default_factory=list)

    @property
    def refused(self) -> Unsupported | None:
        return self.problem if isinstance(self.problem, Unsupported) else None

    @property
    def undeclared(self) -> bool:
        """Whether something was trained or taught that the step does not tell (at which a run may stop)."""
        if self.sighting.taught and not self.step.is_teacher:
            return True
        return not matches(self.sighting.trainings, self.step.trainings(), self.sighting.raised is None)

    @property
    def failed(self) -> bool:
        """Whether ``apply`` gave no network, for whatever reason."""
        return self.sighting.raised is not None or not isinstance(self.sighting.returned, torch.nn.Module)

    def applied(self) -> Sighting:
        """What was seen of ``apply``; skips the check when it refused the network or failed, which others judge."""
        if self.refused is not None:
            pytest.skip(f"{self.thing}: refused: {self.refused}")
        if self.failed:
            pytest.skip(f"{self.thing}: apply failed; test_step_works_or_refuses tells how")
        return self.sighting

    def kept(self) -> Artefact:
        """The artefact; skips the check when there is none, which others judge."""
        self.applied()
        if self.artefact is None:
            pytest.skip(f"{self.thing}: the result was not kept; test_step_survives_saving tells why")
        return self.artefact


def observe(world: World, network: str, step: Step, seed: int = 0, disorder: int = 0) -> Observation:
    """Try ``step`` on a trained network. ``disorder`` seeds the global random states before the run."""
    thing = f"{describe(step)} on {network}"
    try:
        world.build(network, [Train()], seed)
    except HarnessError as error:
        pytest.fail(f"{thing}: the kit's own network could not be trained: {error}", pytrace=False)
    with _global_state(disorder), watched(type(step), world.test_file) as seen:
        found = Observation(thing, step, Sighting())
        before = _random_states()
        try:
            found.artefact = world.build(network, [Train(), step], seed)
        except Exception as error:
            found.problem = error
        found.drawn = [name for name, state in _random_states().items() if state != before[name]]
    if seen:
        found.sighting = seen[-1]
    if found.artefact is not None:
        try:
            found.loaded = answers(world.load(found.artefact, step))
        except Exception as error:
            found.artefact, found.problem = None, error
    return found


@contextlib.contextmanager
def _global_state(seed: int) -> Iterator[None]:
    """Other global random states for the block, and the old ones after it."""
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


def unlike(first: Path, second: Path) -> str:
    """In what two artefacts differ, in a line; "" when they are the same bits."""
    if first.read_bytes() == second.read_bytes():
        return ""
    with safe_open(first, "pt") as one, safe_open(second, "pt") as other:
        names = sorted({*one.keys(), *other.keys()})
        pairs = {
            name: (one.get_tensor(name), other.get_tensor(name))
            for name in names
            if name in one.keys() and name in other.keys()  # noqa: SIM118 (not a mapping)
        }
        differ = [name for name in names if name not in pairs or not _same(*pairs[name])]
    if not differ:
        return f"the notes differ: {next(differences(header(first), header(second)), 'in their order')}"
    size = ""
    if differ[0] in pairs and pairs[differ[0]][0].shape == pairs[differ[0]][1].shape:
        one, other = pairs[differ[0]]
        size = f" by up to {float((one.double() - other.double()).abs().max()):.3g}"
    return f"{len(differ)} of {len(names)} tensors differ, the first, {differ[0]},{size or ' in its shape'}"


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def matches(done: Sequence[Training], told: Sequence[Training] | None, whole: bool) -> bool:
    """Whether the trainings are those told, in any order, or (not ``whole``: it was cut short) some of them."""
    if told is None:
        return True
    promised = Counter(canonical([phase, dict(changes)]) for phase, changes in told)
    did = Counter(canonical([phase, dict(changes)]) for phase, changes in done)
    return did == promised if whole else did <= promised


def spelled(trainings: Sequence[Training]) -> str:
    """Trainings, for people."""
    texts = [
        f"{phase}({', '.join(f'{name}={value}' for name, value in changes.items())})" for phase, changes in trainings
    ]
    return json.dumps(texts) if texts else "none"
