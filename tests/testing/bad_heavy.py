"""A module of a plugin that loads torch when it is imported."""

import torch
from bad_steps import Good


class Heavy(Good):
    """Nothing but its module is wrong."""

    name = "heavy"
    kind = torch.nn.Linear
