"""Prepare networks for export to another runtime."""

from __future__ import annotations

import copy

from torch import nn

from harness import Unsupported


def for_export(network: nn.Module) -> nn.Module:
    """Return a copy of stock layers where a module has another form of itself, ``as_linears()``.

    Such modules are written for the speed of PyTorch's kernels. Their other form is also that which is quantized.

    Raises Unsupported for a network that PyTorch quantized: no other runtime reads its packed weights.
    """
    network = copy.deepcopy(network)
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if type(module).__module__.startswith("torch.ao.nn"):
            raise Unsupported(
                f"{path or 'the network'} ({type(module).__name__}) is an int8 layer of PyTorch, which no other "
                "runtime reads: deploy the float network, with a request to quantize it"
            )
        if callable(getattr(module, "as_linears", None)):
            network = replaced(network, path, module.as_linears().eval())
    return network


def replaced(network: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put ``module`` in place of the one at ``path``, and return the network."""
    if not path:
        return module
    network.set_submodule(path, module)
    return network
