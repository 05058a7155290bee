"""A plugin module that loads torch on import."""

import torch
from bad_steps import Good


class Heavy(Good):
    """Has no fault but its module."""

    name = "heavy"
    kind = torch.nn.Linear
