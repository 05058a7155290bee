"""Where steps are tried: worlds that differ in one thing each, and what was seen in them, each once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.api import Step
from harness.build.plan import describe
from harness.errors import UsageError
from harness.keys import canonical
from harness.testing.world import LABELS, NETWORKS, World

if TYPE_CHECKING:
    from harness.testing.observation import Observation

#: A reason shorter than this tells nobody anything.
REASON = 15


class Bench:
    """The worlds that steps are tried in, and what was seen there, each once."""

    def __init__(self, folder: Path) -> None:
        self.first = World(folder / "first")
        #: Where steps are put together. What is built there would be found, and not be watched, in the first world.
        self.together = World(folder / "together")
        self._second = World(folder / "second")
        self._other_test = World(folder / "other-test", test_seed=3)
        self._seen: dict[tuple[Any, ...], Observation] = {}

    def see(self, step: Step, network: str) -> Observation:
        """The step on the network."""
        return self._observe(self.first, step, network)

    def again(self, step: Step, network: str) -> Observation:
        """The same in another store, with the global random states otherwise."""
        return self._observe(self._second, step, network, disorder=1)

    def with_other_test_data(self, step: Step, network: str) -> Observation:
        """The same where the test split is another."""
        return self._observe(self._other_test, step, network)

    def with_other_seed(self, step: Step, network: str) -> Observation:
        """The same with another seed."""
        return self._observe(self.first, step, network, seed=1)

    def _observe(self, world: World, step: Step, network: str, seed: int = 0, disorder: int = 0) -> Observation:
        from harness.testing.observation import observe

        try:
            identity = (world, type(step), canonical(step.parameters()), network, seed)
        except UsageError:
            pytest.skip(f"{describe(step)}: its parameters make no key; test_step_parameters_make_the_key tells why")
        if identity not in self._seen:
            self._seen[identity] = observe(world, network, step, seed, disorder)
        return self._seen[identity]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The kit's worlds."""
    return Bench(tmp_path_factory.mktemp("conformance"))


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    """The name of the network that a step is tried on."""
    return str(request.param)


def unsound(answers: dict[int, Any]) -> str:
    """What is wrong with the answers, or ""."""
    import torch

    for size, answer in answers.items():
        if isinstance(answer, str):
            return f"for a batch of {size}: {answer}"
        if tuple(answer.shape) != (size, len(LABELS)) or answer.dtype != torch.float32:
            return f"for a batch of {size}: {answer.dtype} of shape {tuple(answer.shape)}"
        if not torch.isfinite(answer).all():
            return f"for a batch of {size}: NaN or infinity"
    return ""
