"""Export networks of PyTorch as ONNX models that map a batch of any size to probabilities."""

from __future__ import annotations

import logging
import re
import warnings
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from harness import Unsupported
from harness_runtimes.onnx_runtime import INPUT, OUTPUT
from harness_runtimes.preparation import for_export, replaced

if TYPE_CHECKING:
    import onnx

OPSET = 20


def export(network: nn.Module, example: Tensor) -> onnx.ModelProto:
    """Return the ONNX model of a network in evaluation mode; ``example`` is (1, *input_shape) float32.

    Raises Unsupported for a network that PyTorch cannot trace, or that has an operator without an ONNX form.
    """
    network = _with_onnx_recurrence(for_export(network))
    examples = example.repeat(2, *[1] * (example.dim() - 1))  # a batch of one would become a constant
    log = logging.getLogger("torch.onnx")
    level = log.level
    try:
        log.setLevel(logging.ERROR)  # it warns that torchvision is not installed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (examples,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise Unsupported(f"the network cannot be exported to ONNX: {_reason(error)}") from error
    finally:
        log.setLevel(level)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _strip(model)
    return model


def _reason(error: BaseException) -> str:
    """What the exporter cannot do: the operator that it does not know, or else its innermost message."""
    while error.__cause__ is not None:
        error = error.__cause__
        if operator := re.search(
            r"No ONNX function found for <OpOverload\(op='([^']+)', overload='([^']+)'", str(error)
        ):
            return f"the operator {'.'.join(operator.groups())} has no ONNX form"
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes: they hold paths of this machine, and would count in the size."""
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _stable_sort(values: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Translate aten.sort.stable: by its specification, TopK keeps the order of equal values."""
    from onnxscript import opset20 as op

    if values.dtype.is_integer() or values.dtype.name == "BOOL":  # TopK has no kernel for small integers
        values = op.Cast(values, to=7)
    shape = op.Shape(values)
    size = op.Gather(shape, op.Constant(value_ints=[dim]))
    return op.TopK(values, size, axis=dim, largest=int(descending), sorted=1)


# ---------------------------------------------------------------------------------------------------- recurrent layers


def _with_onnx_recurrence(network: nn.Module) -> nn.Module:
    """Replace each LSTM and GRU by ONNX's operator. PyTorch would trace one thousand time steps one by one."""
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if isinstance(module, (nn.LSTM, nn.GRU)):
            if module.proj_size:
                raise Unsupported(f"{path} (LSTM with proj_size) has no ONNX form")
            network = replaced(network, path, _Recurrence(module))
    return network


class _Recurrence(nn.Module):
    """An nn.LSTM or nn.GRU as ONNX operators, one a layer, from initial states of zeros."""

    #: The gates in ONNX's order, as places in PyTorch's.
    GATES: ClassVar = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}

    def __init__(self, layer: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.kind = type(layer).__name__
        self.hidden, self.layers, self.batch_first = layer.hidden_size, layer.num_layers, layer.batch_first
        self.directions = 2 if layer.bidirectional else 1
        for index in range(layer.num_layers):
            for name in ("weight_ih", "weight_hh"):
                self.register_buffer(f"{name}_{index}", torch.stack(self._tensors(layer, name, index)))
            biases = [self._tensors(layer, name, index) for name in ("bias_ih", "bias_hh")]
            self.register_buffer(f"bias_{index}", torch.cat([torch.stack(bias) for bias in biases], dim=1))

    def _tensors(self, layer: nn.Module, name: str, index: int) -> list[Tensor]:
        """One kind of parameter of a layer for each direction, with the gates in ONNX's order; zeros if it has none."""
        gates = self.GATES[self.kind]
        tensors = []
        for suffix in ("", "_reverse")[: self.directions]:
            tensor = getattr(layer, f"{name}_l{index}{suffix}", None)
            if tensor is None:
                tensor = torch.zeros(len(gates) * self.hidden)
            parts = tensor.detach().chunk(len(gates))
            tensors.append(torch.cat([parts[gate] for gate in gates]))
        return tensors

    def forward(self, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        if state is not None:
            raise Unsupported(f"{self.kind} with an initial state")
        states = inputs.transpose(0, 1) if self.batch_first else inputs
        ends: list[tuple[Tensor, ...]] = []
        for index in range(self.layers):
            steps, batch, _ = states.shape
            attributes: dict[str, Any] = {"hidden_size": self.hidden}
            if self.directions == 2:
                attributes["direction"] = "bidirectional"
            if self.kind == "GRU":
                attributes["linear_before_reset"] = 1
            end = [self.directions, batch, self.hidden]
            outputs = torch.onnx.ops.symbolic_multi_out(
                self.kind,
                (
                    states,
                    self.get_buffer(f"weight_ih_{index}"),
                    self.get_buffer(f"weight_hh_{index}"),
                    self.get_buffer(f"bias_{index}"),
                ),
                attributes,
                dtypes=[inputs.dtype] * (3 if self.kind == "LSTM" else 2),
                shapes=[[steps, self.directions, batch, self.hidden], *[end] * (2 if self.kind == "LSTM" else 1)],
                version=OPSET,
            )
            states = outputs[0].transpose(1, 2).flatten(2) if self.directions == 2 else outputs[0].squeeze(1)
            ends.append(tuple(outputs[1:]))
        last = tuple(torch.cat(parts) for parts in zip(*ends, strict=True))
        return states.transpose(0, 1) if self.batch_first else states, last if self.kind == "LSTM" else last[0]
