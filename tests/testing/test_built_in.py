"""The built-in plugins pass the same conformance kit as third-party plugins."""

from __future__ import annotations

import pytest

from harness.api.train import Train
from harness.build.plan import describe
from harness.errors import Unsupported
from harness.plugin.manager import installed
from harness.testing._bench import Bench
from harness.testing._world import MLP, NETWORKS
from harness.testing.architectures import *  # noqa: F403
from harness.testing.datasets import *  # noqa: F403
from harness.testing.metrics import *  # noqa: F403
from harness.testing.runtimes import *  # noqa: F403
from harness.testing.steps import *  # noqa: F403
from harness_compress import (
    distill,
    distill_kd,
    distill_mse,
    factorize,
    half,
    prune,
    prune_nm,
    prune_quantile,
    prune_weights,
    quantize,
    quantize_weights,
)
from harness_compress.quantize import Quantize
from harness_compress.request import QuantizeInt8

COMPRESSORS = (
    *(prune, prune_quantile, prune_weights, prune_nm, Quantize, QuantizeInt8),
    *(quantize_weights, half, factorize, distill, distill_kd, distill_mse),
)
STEPS = [step for kind in (Train, *COMPRESSORS) for step in kind.examples()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try every check on everything that is built in, which takes minutes and so is slow."""
    slow = pytest.mark.slow
    for kind in ("architecture", "dataset", "metric", "runtime"):
        if kind in metafunc.fixturenames:
            registry = getattr(installed(), f"{kind}s")
            metafunc.parametrize(kind, [pytest.param(registry.get(name), id=name, marks=slow) for name in registry])
    if "network" in metafunc.fixturenames:
        ways = [
            pytest.param(step, network, id=f"{describe(step)}-{network}", marks=slow)
            for step in STEPS
            for network in NETWORKS
        ]
        metafunc.parametrize(("step", "network"), ways)
    elif "step" in metafunc.fixturenames:
        metafunc.parametrize("step", [pytest.param(step, id=describe(step), marks=slow) for step in STEPS])


@pytest.mark.parametrize("scheme", ["ptq-int8", "uniform8"])
def test_int8_weights_are_not_trained(bench: Bench, scheme: str) -> None:
    with pytest.raises(Unsupported, match="int8 weights"):
        bench.together.build(MLP.name, [Train(), quantize(scheme), Train()])


def test_a_network_distilled_from_an_int8_one_stays_float(bench: Bench) -> None:
    student = bench.together.load(bench.together.build(MLP.name, [Train(), quantize("uniform8"), distill()]))
    assert all(value.is_floating_point() for value in student.state_dict().values())


def test_all_steps_are_checked() -> None:
    registered = {installed().steps.get(name) for name in installed().steps}
    assert {type(step) for step in STEPS} >= {kind for kind in registered if kind.__module__.startswith("harness")}
