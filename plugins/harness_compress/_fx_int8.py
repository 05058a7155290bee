"""Adapt PyTorch's FX graph mode quantization, which is deprecated. No other module imports ``torch.ao``.

PyTorch announces its removal with every call; the warnings are silenced only here. With a PyTorch that lacks the API,
int8 cells are skipped, and ``tests/compress/test_quantize.py`` fails and names the alternative.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from harness.errors import HarnessError, Unsupported
from harness_compress import _int8_state
from harness_compress._int8_graph import first_line, trace
from harness_compress._kernels import check
from harness_compress._linears import AsLinears, replaced

ENGINE = "fbgemm"
#: Seven of eight bits, so that the 16-bit sums of products of AVX2 kernels cannot saturate on the calibrated range. The
#: kernels clamp at 255, so values beyond that range may still saturate sums on a processor without VNNI.
ACTIVATION_RANGE = (0, 127)
WEIGHT_RANGE = (-127, 127)
#: Folding a batch normalisation rounds float32; probabilities that differ by more are another function's.
ROUNDING = 1e-5
#: The operations of an int8 network are checked on this many calibration examples, since all values are held at once.
CHECKED = 32
#: The first version that was not tested with this module.
NEWER = "2.14"


@contextlib.contextmanager
def _deprecated() -> Iterator[None]:
    """Silence the removal notices, and set study B's engine, because weights are packed for the current engine.

    Graph nodes get no stack traces: recording them imports the compiler, whose seconds and megabytes would count
    against the int8 model. Raises Unsupported for a PyTorch without the API or without the engine.
    """
    _check_api()
    if ENGINE not in torch.backends.quantized.supported_engines:
        raise Unsupported(
            f"int8 needs PyTorch's {ENGINE} engine, which this build does not have (it has "
            f"{', '.join(torch.backends.quantized.supported_engines)}): use an x86-64 build of PyTorch"
        )
    before = torch.backends.quantized.engine, torch.fx.config.do_not_emit_stack_traces
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.quantized.engine, torch.fx.config.do_not_emit_stack_traces = ENGINE, True
        try:
            yield
        finally:
            torch.backends.quantized.engine, torch.fx.config.do_not_emit_stack_traces = before
            _forget_networks()


def _forget_networks() -> None:
    """Clear PyTorch's cache of devices, which otherwise keeps the float network of every int8 one in memory."""
    from torch.ao.quantization.fx import utils

    clear = getattr(utils.assert_and_get_unique_device, "cache_clear", None)  # a plain function before version 2.9
    if clear is not None:
        clear()


def _check_api() -> None:
    try:
        importlib.import_module("torch.ao.quantization.quantize_fx")
        importlib.import_module("torch.ao.nn.quantized.dynamic")
    except ImportError as error:
        raise Unsupported(
            f"torch {torch.__version__} has no torch.ao.quantization ({error}), which quantize(scheme='ptq-int8') "
            f"needs; install torch<{NEWER} for int8 cells, or use scheme='uniform8'"
        ) from error


def quantize(model: nn.Module, batches: Sequence[torch.Tensor]) -> tuple[torch.fx.GraphModule, dict[str, Any]]:
    """Return the network in int8 with its sigmoid, activation ranges calibrated on ``batches``, and facts about it.

    Raises Unsupported, with the name of the layer or operator, when PyTorch prepares another function than the network,
    cannot run the int8 one, or an operation of the int8 network is no rounding of the float one.
    """
    whole = nn.Sequential(model, nn.Sigmoid()).eval()
    with torch.no_grad():
        prepared = prepare(whole)
        expected = [whole(batch) for batch in batches]
        answers = [_run(prepared, batch) for batch in batches]  # observers change nothing
        changed = _largest_difference(expected, answers)
        if changed > ROUNDING:
            raise Unsupported(
                f"int8: PyTorch prepares another function of this network: before any rounding to int8, probabilities "
                f"differ by {changed:.2g}; {_shared(prepared)}"
            )
        seen = ranges(prepared)
        int8 = convert(copy.deepcopy(prepared))
        _refuse_simulated(int8)
        difference = _largest_difference(answers, [_run(int8, batch) for batch in batches])
        with _deprecated():
            check(prepared, int8, batches[0][:CHECKED])
    return int8, {"engine": ENGINE, "ranges": seen, "max_probability_difference": difference}


def _largest_difference(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(ones, others, strict=True))


def _shared(prepared: torch.fx.GraphModule) -> str:
    """The layers that run more than once, which is the usual reason why folding changes a network."""
    calls = [str(node.target) for node in prepared.graph.nodes if node.op == "call_module"]
    observers = {str(node.target) for node, _ in _observers(prepared)}
    twice = sorted({call for call in calls if calls.count(call) > 1} - observers)
    if not twice:
        return "no layer runs twice, so the reason is another one"
    return f"it runs these layers more than once, and folds a normalisation or ReLU into them: {', '.join(twice)}"


def _refuse_simulated(int8: torch.fx.GraphModule) -> None:
    """Raise Unsupported for a layer that PyTorch simulates in float, because it found no int8 kernel for its place."""
    for path, module in int8.named_modules():
        if type(module).__module__.startswith("torch.ao.nn.quantized.reference"):
            raise Unsupported(
                f"int8: PyTorch has no int8 kernel for {path} ({type(module).__name__}) in its place in this network"
            )


def _run(network: torch.fx.GraphModule, batch: torch.Tensor) -> torch.Tensor:
    """Run a graph. Raises Unsupported with the operator that fails, such as one without an int8 kernel."""
    running: list[torch.fx.Node] = []

    class Interpreter(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            running.append(n)
            return super().run_node(n)

    interpreter = Interpreter(network)
    interpreter.extra_traceback = False
    try:
        answer: torch.Tensor = interpreter.run(batch)
    except HarnessError:
        raise
    except Exception as error:  # foreign code: torch raises many types
        node = running[-1]
        observed = node.target if isinstance(node.target, str) and "activation_post_process" in node.target else None
        if observed and isinstance(node.args[0], torch.fx.Node):
            node = node.args[0]
            raise Unsupported(
                f"int8: the output of {node.name} has no range, because it is not a tensor of floats: "
                f"{first_line(error)}"
            ) from error
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        raise Unsupported(f"int8: {name} ({node.name}) cannot run: {first_line(error)}") from error
    return answer


def restore(network: nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]) -> torch.fx.GraphModule:
    """Rebuild the int8 network from a float one of its structure and the result of ``dump_state``."""
    int8 = convert(prepare(nn.Sequential(network, nn.Sigmoid())))
    with _deprecated():
        _int8_state.load_state(int8, tensors, notes)
    return int8


def dump_state(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the state as dense tensors, and notes on how these form the quantized and packed ones."""
    with _deprecated():
        return _int8_state.dump_state(model)


def prepare(model: nn.Module) -> torch.fx.GraphModule:
    """Return a copy of ``model`` in eval mode with B's observers, to run on the calibration data.

    A module that is ``AsLinears`` stays one node of the graph, and PReLU stays float.
    Raises Unsupported for a network that FX cannot trace.
    """
    with _deprecated():
        from torch.ao.quantization.fx.custom_config import PrepareCustomConfig
        from torch.ao.quantization.fx.tracer import QuantizationTracer
        from torch.ao.quantization.quantize_fx import prepare_fx

        whole: list[nn.Module] = []

        def spelled_out(module: nn.Module) -> nn.Module | None:
            if type(module) is nn.PReLU:
                whole.append(_FloatPReLU(module))
            elif isinstance(module, AsLinears):
                whole.append(module.as_linears())
            else:
                return None
            return whole[-1]

        network = replaced(copy.deepcopy(model), spelled_out).eval()
        names = [path for path, module in network.named_modules() if module in whole]
        traced, in_float = trace(network, QuantizationTracer(names, []))
        config = PrepareCustomConfig().set_non_traceable_module_names([*names, *in_float])
        try:
            prepared = prepare_fx(traced, _qconfig_mapping(), example_inputs=(), prepare_custom_config=config)
        except Exception as error:  # foreign code: torch raises many types
            raise Unsupported(f"PyTorch's FX quantization cannot prepare this network: {first_line(error)}") from error
        _keep_dynamic_inputs_float(prepared)
        return prepared


class _FloatPReLU(nn.PReLU):
    """Stay float, because PyTorch's int8 PReLU scales positive values, too, and stores no weight."""

    def __init__(self, layer: nn.PReLU) -> None:
        nn.Module.__init__(self)
        self.num_parameters, self.weight = layer.num_parameters, layer.weight


def convert(prepared: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Convert ``prepared``, in place, to int8. Calibration sets scales and zero points, never the graph."""
    with _deprecated():
        from torch.ao.quantization.quantize_fx import convert_fx

        try:
            converted = convert_fx(prepared)
        except Exception as error:
            raise Unsupported(
                f"PyTorch's FX quantization cannot convert this network to int8: {first_line(error)}"
            ) from error
        replaced(converted, _dynamic_linear)
        for node in converted.graph.nodes:
            node.meta.clear()  # its observers hold the float layers, and thereby their weights
        return converted.requires_grad_(False).eval()


def ranges(prepared: torch.fx.GraphModule) -> dict[str, dict[str, float | int]]:
    """Return the observed range and its scale and zero point for each activation, by the observed graph node's name."""
    found: dict[str, dict[str, float | int]] = {}
    seen: set[int] = set()
    with _deprecated():
        for node, observer in _observers(prepared):
            if observer.is_dynamic or id(observer) in seen:
                continue
            seen.add(id(observer))
            scale, zero_point = observer.calculate_qparams()
            extremes = {name: getattr(observer, f"{name}_val", None) for name in ("min", "max")}
            found[node.args[0].name] = {
                **{name: float(value) for name, value in extremes.items() if value is not None},
                "scale": float(scale),
                "zero_point": int(zero_point),
                "quant_min": int(observer.quant_min),
                "quant_max": int(observer.quant_max),
            }
    return found


def is_int8(model: nn.Module) -> bool:
    """Return whether any layer of the model is quantized."""
    packed = any(type(module).__module__.startswith("torch.ao.nn") for module in model.modules())
    return packed or any(parameter.is_quantized for parameter in model.parameters())


def keep(model: torch.fx.GraphModule, blueprint: Mapping[str, Any]) -> torch.fx.GraphModule:
    """Set attributes that survive ``copy.deepcopy``, which a GraphModule's ordinary attributes do not."""
    from torch.ao.quantization.quantize_fx import attach_preserved_attrs_to_model

    attach_preserved_attrs_to_model(model, {"gives_probabilities": True, "blueprint": blueprint})
    return model


def _qconfig_mapping() -> Any:
    """Study B's observers. The rest (a sigmoid's fixed range, LayerNorm with float weights) is PyTorch's default."""
    from torch.ao import quantization
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.observer import (
        HistogramObserver,
        PerChannelMinMaxObserver,
        default_placeholder_observer,
    )

    QConfig: Any = quantization.QConfig
    low, high = WEIGHT_RANGE
    activation = HistogramObserver.with_args(
        dtype=torch.quint8,
        qscheme=torch.per_tensor_affine,
        quant_min=ACTIVATION_RANGE[0],
        quant_max=ACTIVATION_RANGE[1],
    )
    static = QConfig(
        activation=activation,
        weight=PerChannelMinMaxObserver.with_args(
            dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=low, quant_max=high
        ),
    )
    dynamic = _dynamic_qconfig()
    layer_norm = QConfig(activation=activation, weight=default_placeholder_observer)
    return (
        get_default_qconfig_mapping(ENGINE)
        .set_global(static)
        .set_object_type(nn.LSTM, dynamic)
        .set_object_type(nn.GRU, dynamic)
        .set_object_type(nn.LayerNorm, layer_norm)
        .set_object_type(nn.functional.layer_norm, layer_norm)
    )


def _dynamic_qconfig() -> Any:
    """Study B's LSTM: weights symmetric per tensor, activation ranges determined at run time."""
    from torch.ao import quantization
    from torch.ao.quantization.observer import MinMaxObserver, PlaceholderObserver

    QConfig: Any = quantization.QConfig
    low, high = WEIGHT_RANGE
    return QConfig(
        activation=PlaceholderObserver.with_args(dtype=torch.quint8, is_dynamic=True),
        weight=MinMaxObserver.with_args(
            dtype=torch.qint8, qscheme=torch.per_tensor_symmetric, quant_min=low, quant_max=high
        ),
    )


def _dynamic_linear(module: nn.Module) -> nn.Module | None:
    """Quantize a linear layer inside a module that FX kept as one node: dynamically, like an LSTM."""
    if type(module) is not nn.Linear:
        return None
    from torch.ao.nn.quantized import dynamic

    module.qconfig = _dynamic_qconfig()
    quantized: nn.Module = dynamic.Linear.from_float(module)  # type: ignore[no-untyped-call]
    return quantized


def _observers(prepared: torch.fx.GraphModule) -> list[tuple[Any, Any]]:
    from torch.ao.quantization.observer import ObserverBase

    calls = [node for node in prepared.graph.nodes if node.op == "call_module"]
    modules = [(node, prepared.get_submodule(str(node.target))) for node in calls]
    return [(node, module) for node, module in modules if isinstance(module, ObserverBase)]


def _keep_dynamic_inputs_float(prepared: torch.fx.GraphModule) -> None:
    """Remove static observers between a float value and a dynamic layer, where only shapes change in between.

    Otherwise FX rounds an LSTM's input to seven bits, converts it back to float, and the LSTM rounds it again. Study
    B's LSTM quantizes its activations only dynamically.
    """
    observers = dict(_observers(prepared))
    for dynamic in [node for node, observer in observers.items() if observer.is_dynamic]:
        chain: list[Any] = []
        node: Any = dynamic.args[0]
        while node in observers and len(node.users) == 1 and observers[node] is observers[(chain or [node])[0]]:
            chain.append(node)
            node = node.args[0]
            # A shape operation shares its input's observer; any other computes in int8 and must keep its own.
            source = node.args[0] if node.args else None
            if isinstance(source, torch.fx.Node) and observers.get(source) is observers[chain[0]]:
                node = source
        if node.op == "placeholder" or _comes_from_dynamic(node, prepared):
            for observer in chain:
                observer.replace_all_uses_with(observer.args[0])
                prepared.graph.erase_node(observer)
    prepared.recompile()


def _comes_from_dynamic(node: Any, prepared: torch.fx.GraphModule) -> bool:
    while node.target is operator.getitem:
        node = node.args[0]
    return node.op == "call_module" and isinstance(prepared.get_submodule(node.target), (nn.LSTM, nn.GRU))
