"""What every step must hold to. An author's module imports all of it and defines the fixture ``step``.

A step is tried, by the real executor, on three small networks of stock layers (convolutions with BatchNorm, an LSTM,
linear layers) and on an odd one. A step that is made for other networks overrides the fixture ``network`` with names of
registered architectures for inputs (3, 32) and two labels. What one check reports, the others leave out.
"""

from harness.testing import step_behaviour, step_declarations, step_results
from harness.testing.bench import bench, network
from harness.testing.step_behaviour import *  # noqa: F403
from harness.testing.step_declarations import *  # noqa: F403
from harness.testing.step_results import *  # noqa: F403

#: What an author imports: the checks and their fixtures.
__all__ = ["bench", "network", *step_declarations.__all__, *step_behaviour.__all__, *step_results.__all__]
