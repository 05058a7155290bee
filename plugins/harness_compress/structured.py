"""Remove units from a network: group tied units, let one layer of each group decide, and shrink the layers.

Tied units (a residual addition ties two convolutions, channel by channel) can only be removed together: they form a
group with the other units of their layers. One layer of the group decides which units are removed. It is the deepest
layer (on the longest path from the network's input) among those that do not read the group's units themselves; ties
go to the first. So a shortcut with a convolution follows the last convolution of its block's main path, and blocks
after an identity shortcut follow the layer that opened the residual stream.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import CellError, Unsupported
from harness.nn.structure import PrunableLayer, rebuild
from harness_compress.criteria import Choice, Norm, Weights, largest
from harness_compress.labels import RECURRENT
from harness_compress.masked import Keep, compare, masked, replace_module
from harness_compress.tracing import evaluating, trace
from harness_compress.units import Trace, TracedLayer, UnitGroup


def groups(network: Trace) -> list[UnitGroup]:
    """Return the groups of a traced network, each after the groups that its deciding layer reads (input to output)."""
    makers = [cell for cell in network.cells.values() if cell.makes]
    classes = {cell.name: [root for root in network.roots(cell.outputs) if root > 0] for cell in makers}
    found = []
    for members in _connected(makers, classes):
        union = {root for cell in members for root in classes[cell.name]}
        names = {cell.name for cell in members}
        candidates = [cell for cell in members if not names & cell.upstream and union == set(classes[cell.name])]
        if not candidates:
            raise Unsupported(
                f"prune: the units of {', '.join(sorted(names))} are added to one another such that no single layer "
                "can decide which to remove"
            )
        decider = max(candidates, key=lambda cell: cell.depth)
        found.append(UnitGroup(decider, members, list(dict.fromkeys(classes[decider.name])), None))
    _find_what_stays(network, found)
    return _in_order(found)


def shrink(model: nn.Module, example: Tensor, norm: Norm, targets: Mapping[str, int]) -> dict[str, list[int]]:
    """Remove units of each group in place until ``targets`` (by the group's name; default all) of them remain.

    ``example`` is (1, *input_shape). Groups are pruned from the network's input to its output. A unit's score is the
    norm of its weights in the deciding layer over the remaining inputs, without the bias: L1 is the sum of magnitudes,
    L2 the root of the sum of squares. For a recurrent layer the weights are the unit's rows in all gates, of W_ih and
    W_hh together, before any column of W_hh is removed. Units with the lowest scores are removed; ties keep the lower
    index.

    Returns the indices kept, ascending, by layer that computes units ("lstm.l0" is a layer of a recurrent module).
    Raises Unsupported when the network cannot be traced, or would compute a different function afterwards.
    """
    return remove(model, example, largest(norm, targets), sequential=True)


def remove(model: nn.Module, example: Tensor, choose: Choice, sequential: bool) -> dict[str, list[int]]:
    """Keep, in place, the units of each group that ``choose`` selects, from the network's input to its output.

    ``choose`` gets the weights of the group's deciding layer: with ``sequential`` those of the remaining inputs,
    otherwise all. Returns and raises like ``shrink``.
    """
    _refuse_shared_weights(model)
    with torch.no_grad():
        before = trace(model, example)
        expected = _run(model, example)
        whole = copy.deepcopy(model)
        gone: set[int] = set()
        for group in groups(before):
            if not group.stays:
                kept = _chosen(before, group, choose, gone if sequential else set())
                gone |= set(group.classes) - {group.classes[index] for index in kept}

        def keep(labels: Tensor) -> Tensor:
            return _left(before, labels, gone)

        for path in dict.fromkeys(cell.path for cell in before.cells.values()):
            cells = [cell for cell in before.cells.values() if cell.path == path]
            if not all(bool(keep(labels).all()) for cell in cells for labels in (cell.inputs, cell.outputs)):
                replace_module(model, cells[0].module, _smaller(cells, keep))
        _verify(model, example, before, keep, expected)
        if gone:
            compare(model, masked(whole, model, before, keep), example)
    return {cell.name: keep(cell.outputs).nonzero().flatten().tolist() for cell in before.cells.values() if cell.makes}


def _connected(makers: list[TracedLayer], classes: Mapping[str, list[int]]) -> list[list[TracedLayer]]:
    """Sets of layers that share a class of units; a layer without removable units is in no set."""
    parts: list[tuple[set[int], list[TracedLayer]]] = []
    for cell in makers:
        roots, members = set(classes[cell.name]), [cell]
        if not roots:
            continue
        for part in [part for part in parts if part[0] & roots]:
            parts.remove(part)
            roots, members = roots | part[0], part[1] + members
        parts.append((roots, members))
    return [members for _, members in parts]


def _find_what_stays(network: Trace, found: list[UnitGroup]) -> None:
    pinned = {network.root(label): reason for label, reason in network.pinned.items()}
    foreign = {network.root(label): reason for label, reason in network.foreign.items()}
    for group in found:
        group.stays = next((pinned[root] for root in group.classes if root in pinned), None)
        touched = next((foreign[root] for root in group.classes if root in foreign), None)
        if touched and not group.stays:
            raise Unsupported(
                f"prune: {touched} joins the units of {group.name} to a parameter outside the stock layers, which "
                "cannot be shrunk with them"
            )
    # All layers and directions of a recurrent module have the same hidden size.
    changed = True
    while changed:
        still = {cell.path: group.stays for group in found if group.stays for cell in group.members if _recurrent(cell)}
        changed = False
        for group in found:
            if not group.stays and (path := next((c.path for c in group.members if c.path in still), None)):
                group.stays, changed = f"another layer of {path} stays whole: {still[path]}", True


def _in_order(found: list[UnitGroup]) -> list[UnitGroup]:
    home = {cell.name: group.name for group in found for cell in group.members}
    reads = {group.name: {home[name] for name in group.decider.upstream if name in home} for group in found}
    pending, done = list(found), []
    while pending:
        waiting = {group.name for group in pending}
        group = next((g for g in pending if not reads[g.name] & waiting), None)
        if group is None:
            raise Unsupported(f"prune: {' and '.join(sorted(waiting))} would each have to be pruned before the other")
        pending.remove(group)
        done.append(group)
    return done


def _chosen(network: Trace, group: UnitGroup, choose: Choice, gone: set[int]) -> list[int]:
    cell = group.decider
    weights = _weights(network, cell, gone)
    if not all(bool(part.values.isfinite().all()) for part in weights):
        raise CellError(f"prune: layer {cell.name} has weights that are NaN or infinite; its training diverged")
    place = {root: index for index, root in enumerate(group.classes)}
    index = torch.tensor([place[root] for root in network.roots(cell.outputs)], device=cell.outputs.device)

    def add(numbers: Tensor) -> Tensor:
        return numbers.new_zeros(len(group.classes)).index_add_(0, index, numbers)

    return choose(group, weights, add)


def _weights(network: Trace, cell: TracedLayer, gone: set[int]) -> list[Weights]:
    """The weights of a layer's units, by gate and source, without the removed inputs."""
    module: Any = cell.module
    part = cell.name.removeprefix(f"{cell.path}.")

    def of(weight: Tensor, inputs: Tensor, gate: int = 0, recurrent: bool = False) -> Weights:
        return Weights(weight[:, _left(network, inputs, gone)].flatten(1).double(), gate, recurrent)

    if isinstance(module, PrunableLayer):
        layers = list(module.incoming())
        later = layers[layers.index(part) :]
        return [of(read.weight, inputs, read.gate, read.source in later) for read, inputs in cell.reads()]
    if not _recurrent(cell):
        return [of(module.weight, cell.inputs)]
    given, state = (
        getattr(module, f"{name}_{part}").unflatten(0, (-1, module.hidden_size)).unbind()
        for name in ("weight_ih", "weight_hh")
    )
    return [
        weights
        for gate in range(len(given))
        for weights in (of(given[gate], cell.inputs, gate), of(state[gate], cell.outputs, gate, recurrent=True))
    ]


def _left(network: Trace, labels: Tensor, gone: set[int]) -> Tensor:
    """Mask (bool) of the labels that remain when the classes ``gone`` are removed."""
    return torch.tensor([root not in gone for root in network.roots(labels)], device=labels.device)


def _smaller(cells: list[TracedLayer], keep: Keep) -> nn.Module:
    """Build the layer that remains of a module when only the units selected by ``keep`` stay."""
    module: Any = cells[0].module
    inputs, outputs = keep(cells[0].inputs), keep(cells[0].outputs)
    n_in, n_out = int(inputs.sum()), int(outputs.sum())
    state = module.state_dict()
    if _recurrent(cells[0]):
        return _smaller_recurrent(cells, keep)
    if isinstance(module, PrunableLayer):
        return _smaller_prunable(cells, keep)
    if isinstance(module, nn.Linear):
        new = rebuild(module, in_features=n_in, out_features=n_out)
    elif isinstance(module, nn.Conv1d | nn.Conv2d):
        new = rebuild(module, in_channels=n_in, out_channels=n_out, groups=1 if module.groups == 1 else n_in)
    elif isinstance(module, nn.LayerNorm):
        new = rebuild(module, normalized_shape=[n_out])
    else:
        new = rebuild(module, num_features=n_out)
    for name, value in state.items():
        if value.ndim:  # BatchNorm's number of batches is a scalar
            state[name] = value[outputs]
    if cells[0].makes:
        state["weight"] = state["weight"][:, inputs]
    return _filled(new, state, module)


def _smaller_recurrent(cells: list[TracedLayer], keep: Keep) -> nn.Module:
    module: Any = cells[0].module
    sizes = {int(keep(cell.outputs).sum()) for cell in cells}
    if len(sizes) > 1:
        raise Unsupported(f"prune: the layers and directions of {cells[0].path} cannot keep different numbers of units")
    state = module.state_dict()
    for cell in cells:
        inputs, units = keep(cell.inputs), keep(cell.outputs)
        suffix = cell.name.removeprefix(f"{cell.path}.")
        for name in [name for name in state if name.split("_", 2)[2] == suffix]:
            gates = state[name].view(-1, module.hidden_size, *state[name].shape[1:])
            value = gates[:, units].flatten(0, 1)
            columns = {"weight_ih": inputs, "weight_hh": units}.get(name.removesuffix(f"_{suffix}"))
            state[name] = value if columns is None else value[:, columns]
    n_in = int(keep(cells[0].inputs).sum())
    return _filled(rebuild(module, input_size=n_in, hidden_size=sizes.pop()), state, module)


def _smaller_prunable(cells: list[TracedLayer], keep: Keep) -> nn.Module:
    old: Any = cells[0].module
    inputs = next(labels for cell in cells for read, labels in cell.reads() if read.source == "")
    units = {cell.name.removeprefix(f"{cell.path}."): keep(cell.outputs) for cell in cells}
    new: nn.Module = old.select_units(keep(inputs), units)
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(old.get_parameter(name).requires_grad)
    return new.train(old.training)


def _filled(new: nn.Module, state: Mapping[str, Tensor], old: nn.Module) -> nn.Module:
    new.load_state_dict({name: value.clone() for name, value in state.items()}, strict=True, assign=True)
    for name, parameter in old.named_parameters():
        new.get_parameter(name).requires_grad_(parameter.requires_grad)
    return new


def _refuse_shared_weights(model: nn.Module) -> None:
    owners: dict[int, tuple[int, str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            _, first = owners.setdefault(id(parameter), (id(module), f"{path}.{name}"))
            if first != f"{path}.{name}":
                raise Unsupported(f"prune: {first} and {path}.{name} are one tensor, and would not be any more")


def _verify(model: nn.Module, example: Tensor, before: Trace, keep: Keep, expected: Tensor) -> None:
    """Trace the smaller network too: every layer must read exactly the remaining units of those it read before."""
    advice = "its forward() probably contains a size or an index as a constant"
    try:
        after = trace(model, example, {name: cell.outputs[keep(cell.outputs)] for name, cell in before.cells.items()})
        output = _run(model, example)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise Unsupported(f"prune: {type(model).__name__} does not run with fewer units ({error}); {advice}") from error
    same = output.shape == expected.shape and after.cells.keys() == before.cells.keys()
    same = same and all(
        torch.equal(now, was[keep(was)])
        for name in before.cells
        for now, was in (
            (after.cells[name].inputs, before.cells[name].inputs),
            (after.cells[name].outputs, before.cells[name].outputs),
        )
    )
    if not (same and after.agrees(before)):
        raise Unsupported(f"prune: with fewer units, {type(model).__name__} mixes them in another way; {advice}")


def _run(model: nn.Module, example: Tensor) -> Tensor:
    with evaluating(model):
        output: Tensor = model(example)
    return output


def _recurrent(cell: TracedLayer) -> bool:
    return isinstance(cell.module, RECURRENT)
