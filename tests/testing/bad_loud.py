"""A plugin module that loads torch and prints on import."""

import torch
from bad_steps import Good

print("hello", torch.__version__)


class Loud(Good):
    """Has no fault but its module."""

    name = "loud"
