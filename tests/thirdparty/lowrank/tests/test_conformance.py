"""The harness' conformance kit, on this step."""

from __future__ import annotations

import pytest
from harness_lowrank import lowrank

from harness import Step
from harness.testing.steps import *  # noqa: F403


@pytest.fixture(params=lowrank.examples(), ids=str, scope="module")
def step(request: pytest.FixtureRequest) -> Step:
    return request.param
