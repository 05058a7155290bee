"""A module of a plugin that loads torch and prints when it is imported."""

import torch
from bad_steps import Good

print("hello", torch.__version__)


class Loud(Good):
    """Nothing but its module is wrong."""

    name = "loud"
