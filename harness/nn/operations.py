"""Count multiply-accumulates and weights of a network, layer by layer, from the operators that execute.

A dispatch mode sees every operator of one run: matrix products (also those of attention and of ``torch.einsum``),
convolutions, bilinear forms, recurrent kernels, and their int8 variants. A product of (m, k) and (k, n) takes m k n
multiply-accumulates; a convolution its weights times its positions; a recurrent kernel its weights times its time
steps, so an LSTM 4 H (in + H) per step. Attention over T keys takes 2 T E per query of width E beside its projections.
A product by broadcasting, ``(x[..., None, :] * w).sum(-1)``, counts its summands.
Biases, normalisation, activations, pooling, additions, embeddings and other element-wise products are not counted.

The weights of a product are the parameters from which its operands were computed: of a ``nn.Linear`` its matrix, and
those that a subclass adds. Constant matrices (buffers, tensors in attributes) are weights where they multiply.

A ``structure.PrunableLayer`` counts as one layer: the weights that it declares, at each of its input vectors.

An operator that multiplies but has no formula here, or that comes from a library outside PyTorch, is named in
``OperationCounts.uncounted``; then the totals are None, because they would leave work out. A product whose operand was
computed from a matrix of parameters and the input together, such as ``tanh(w * gate(x))``, is named in
``OperationCounts.unattributed`` unless those parameters count elsewhere; then the number of weights is None.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.former_names import former_export
from harness.nn.structure import PrunableLayer

#: Libraries of operators that this module knows. Operators of ``prim`` and ``profiler`` compute nothing.
_LIBRARIES = ("aten", "prims", "quantized", "prim", "profiler")
#: Words in the names of operators that multiply more than element by element.
_MULTIPLIES = re.compile(
    r"(^|_)(\w*mm|\w*mv|v?dot|matmul|addr|conv\w*|\w*attention|\w*lstm|\w*gru|\w*rnn\w*|linear|trilinear|linalg|"
    r"fft|cdist|pdist|cholesky|lu|qr|geqrf|orgqr|ormqr|svd|triangular|encoder)(_|$)"
)
#: Operators that such words name all the same: element-wise parts, packing, and gradients' helpers.
_ELEMENTWISE = re.compile(r"^(addr|_thnn_fused_(lstm|gru)_cell|_?\w*_(un|pre)pack|_pack_padded_sequence)$")
#: Operators whose result does not depend on the values of their operands.
_CREATES = re.compile(r"^(new_)?(zeros|ones|empty|full)(_like|_strided)?$|^lift_fresh(_copy)?$")
#: Sums: a parameter that is added to what depends on the input is a bias or an embedding of positions, and no weight.
_SUMS = ("add", "add_", "sub", "sub_", "rsub")
#: Operators whose result holds elements of their operands, unchanged. What chooses them may depend on the input.
_MOVES = frozenset(
    [
        "_to_copy",
        "_unsafe_index",
        "cat",
        "clone",
        "copy_",
        "constant_pad_nd",
        "gather",
        "index",
        "index_copy_",
        "index_put_",
        "index_select",
        "repeat",
        "stack",
        "take",
        "where",
    ]
)


def __getattr__(name: str) -> Any:
    return former_export(__name__, name)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: path, class, dtype and number of its weights (without biases), and its multiply-accumulates."""

    path: str
    kind: str
    dtype: str
    weights: int
    macs: int


@dataclasses.dataclass(frozen=True)
class OperationCounts:
    """The modules whose operators multiply, in the order in which they first run.

    A module that multiplies in several types has one row per type. ``uncounted`` names the operators (with the module
    that ran them) whose work is not in the rows, ``unattributed`` those of which it is not known by how many weights
    they multiply.
    """

    layers: tuple[Layer, ...]
    uncounted: tuple[str, ...] = ()
    unattributed: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why totals are None; empty if none is."""
        reasons = []
        if self.uncounted:
            reasons.append(f"there is no formula for {', '.join(self.uncounted)}")
        if self.unattributed:
            reasons.append(f"it is not known by how many weights {', '.join(self.unattributed)} multiplies")
        return "; ".join(reasons)

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of the whole network; None when some operator could not be counted."""
        return None if self.uncounted else sum(layer.macs for layer in self.layers)

    @property
    def weights(self) -> int | None:
        """Weights that multiply, without biases and normalisation; None when ``reason`` says why."""
        return None if self.reason else sum(layer.weights for layer in self.layers)

    def share(self, dtype: str) -> tuple[float, float] | None:
        """Return the shares (0 to 1) of weights and of multiply-accumulates in ``dtype``; (0, 0) for no layers.

        None when ``reason`` says why.
        """
        selected = OperationCounts(tuple(layer for layer in self.layers if layer.dtype == dtype))
        if self.macs is None or self.weights is None or selected.macs is None or selected.weights is None:
            return None
        return selected.weights / max(self.weights, 1), selected.macs / max(self.macs, 1)


def count(model: nn.Module, example: torch.Tensor) -> OperationCounts:
    """Run ``example``, a batch of one (1, *input_shape), through the model in eval mode and count its operations.

    A batch of n counts n times. A layer that runs several times counts its multiply-accumulates each time, its weights
    once. PyTorch's fused attention kernels are switched off during the run, because they hide their products.
    """
    modes = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    counter = _Counter(model)
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), counter.following_modules(), counter:
            model(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, training in modes.items():
            module.training = training
    return counter.result()


#: Numbers of weights, by an identity of the tensor that holds them; negative for constants.
_Weights = dict[int, int]


def _union(several: Iterable[_Weights | None]) -> _Weights:
    """All weights, without constants beside a parameter that is as large: masks and initial states are no weights."""
    union = {key: size for weights in several if weights for key, size in weights.items()}
    largest = max((size for key, size in union.items() if key > 0), default=0)
    return {key: size for key, size in union.items() if key > 0 or size > largest}


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the products among the operators that run inside the block, by the module that runs them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._modules = {module: path for path, module in model.named_modules()}
        self._running: list[nn.Module] = [model]
        self._layers: dict[tuple[str, str], Layer] = {}
        self._weights: dict[tuple[str, str], dict[int, int]] = {}
        self._uncounted: dict[str, None] = {}
        #: The parameters that a tensor was computed from, by its storage, for tensors that depend on no input.
        self._sources: dict[int, _Weights] = {}
        #: The same for tensors that depend on the input too: elements that it chose, products with it.
        self._mixed: dict[int, _Weights] = {}
        #: Storages of products in which each operand that depends on the input was expanded.
        self._expanded: set[int] = set()
        #: Tensors that the run created without the input, such as zeros.
        self._created: set[int] = set()
        #: Matrices that tensors were computed from together with the input, other than by moves and products.
        self._hidden: dict[int, _Weights] = {}
        self._unattributed: dict[str, _Weights] = {}
        self._matrices = {id(entry) for entry in model.parameters() if sum(size > 1 for size in entry.shape) > 1}
        self._alive: list[torch.Tensor] = []  # an address in these tables must not be used again
        #: Parameters in one storage (those of a flat buffer), with their places in it.
        self._flat: dict[int, list[nn.Parameter]] = {}
        for parameter in model.parameters():
            self._flat.setdefault(_storage(parameter), []).append(parameter)
            self._remember(parameter, {id(parameter): parameter.numel()})
        for module in self._modules:
            for constant in _tensors(vars(module)):
                if _storage(constant) not in self._sources:
                    self._remember(constant, {-_storage(constant): constant.numel()})

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do not import PyTorch's compiler, which takes seconds; compiled networks are not counted."""
        return False

    @contextlib.contextmanager
    def following_modules(self) -> Iterator[None]:
        """Keep the stack of the modules that run."""

        def enter(module: nn.Module, inputs: Any) -> None:
            self._running.append(module)

        def leave(module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
            declares = isinstance(module, PrunableLayer) and self._declaring() is module
            self._running.pop()
            if declares and output is not None:  # None: it raised
                weights = {index: matrix.numel() for index, matrix in enumerate(_matrices(module))}
                self._add(module, weights, sum(weights.values()) * _vectors(_tensors((inputs, named))[0]), [])

        hooks = []
        try:
            for module in self._modules:
                hooks.append(module.register_forward_pre_hook(enter, prepend=True))
                hooks.append(module.register_forward_hook(leave, always_call=True, with_kwargs=True))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def result(self) -> OperationCounts:
        counted = {key for weights in self._weights.values() for key in weights}
        unattributed = [where for where, weights in self._unattributed.items() if weights.keys() - counted]
        return OperationCounts(tuple(self._layers.values()), tuple(self._uncounted), tuple(unattributed))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        library, _, name = func._schema.name.partition("::")
        formula = _FORMULAS.get(library, {}).get(name)
        if formula is None:  # inference mode lets composite operators through, whose parts are counted
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **kwargs)
        operands = _tensors((args, kwargs))
        if self._declaring() is None:
            if formula is not None:
                self._count(f"{library}::{name}", formula(args, output), operands, args)
            elif name in ("sum", "mean") and _storage(operands[0]) in self._expanded:
                self._count(f"{library}::{name}", operands[0].numel(), operands, args)
            elif library not in _LIBRARIES or (_MULTIPLIES.search(name) and not _ELEMENTWISE.match(name)):
                self._uncounted[self._place(f"{library}::{name}")] = None
        if func._schema.is_mutable:
            self._overwrite(name, operands, _tensors(output), formula is not None)
        self._propagate(name, operands, output, formula is not None)
        return output

    def _place(self, operator: str) -> str:
        return f"{operator} in {self._modules[self._running[-1]] or 'the network'}"

    def _declaring(self) -> nn.Module | None:
        """The outermost PrunableLayer that runs: it counts as one layer, by the weights that it declares."""
        return next((module for module in self._running if isinstance(module, PrunableLayer)), None)

    def _count(self, operator: str, macs: int, operands: Sequence[torch.Tensor], args: Sequence[Any]) -> None:
        """Add the work of one operator, with the weights of its module or else those among its operands."""
        module = self._running[-1]
        matrices = _matrices(module)
        if matrices and not all(isinstance(matrix, nn.Parameter) for matrix in matrices):  # computed or packed
            weights = {index: matrix.numel() for index, matrix in enumerate(matrices)}
        elif packed := _packed_weights(args):
            # Unpacking copies, so only its values tell whether a matrix has worked before.
            weights = {hash(matrix.dequantize().float().numpy().tobytes()): matrix.numel() for matrix in packed}
            operands = packed
        else:
            weights = self._behind(operands) or {id(matrix): matrix.numel() for matrix in matrices}
            hidden = _union(self._hidden.get(_storage(operand)) for operand in operands)
            if hidden and not weights:
                self._unattributed.setdefault(self._place(operator), {}).update(hidden)
        self._add(module, weights, macs, operands)

    def _add(self, module: nn.Module, weights: Mapping[int, int], macs: int, operands: Sequence[torch.Tensor]) -> None:
        kind = (_matrices(module) or operands)[0].dtype
        dtype = "int8" if kind in (torch.qint8, torch.quint8) else str(kind).removeprefix("torch.")
        key = self._modules[module], dtype
        seen = self._weights.setdefault(key, {})
        seen.update(weights)
        before = self._layers[key].macs if key in self._layers else 0
        self._layers[key] = Layer(key[0], type(module).__name__, dtype, sum(seen.values()), before + macs)

    def _remember(self, tensor: torch.Tensor, sources: _Weights) -> None:
        self._sources[_storage(tensor)] = sources
        self._alive.append(tensor)

    def _source(self, tensor: torch.Tensor) -> _Weights | None:
        """The parameters that ``tensor`` was computed from; None if it depends on the input."""
        sharing = self._flat.get(_storage(tensor), [])
        if len(sharing) < 2:
            return self._sources.get(_storage(tensor))
        return {id(parameter): parameter.numel() for parameter in sharing if _overlap(parameter, tensor)}

    def _behind(self, operands: Sequence[torch.Tensor]) -> _Weights:
        """The weights among the operands of a product: parameters, or else constant matrices.

        Operands that depend on the input count only beside no others: an embedding is an input of its linear layer.
        """
        matrices = [operand for operand in operands if operand.dim() > 1]
        return _union(self._source(matrix) for matrix in matrices) or _union(
            self._mixed.get(_storage(matrix)) for matrix in matrices
        )

    def _overwrite(
        self, name: str, operands: Sequence[torch.Tensor], written: Sequence[torch.Tensor], product: bool
    ) -> None:
        """Forget what tensors were computed from when values that depend on the input are written into them."""
        if product or any(self._source(tensor) is None and not self._is_created(tensor) for tensor in operands):
            for tensor in written:
                before = self._sources.pop(_storage(tensor), None)
                self._created.discard(_storage(tensor))
                if before and not product and name in _MOVES:
                    self._mix(tensor, before, False)

    def _is_created(self, tensor: torch.Tensor) -> bool:
        return _storage(tensor) in self._created

    def _propagate(self, name: str, operands: Sequence[torch.Tensor], output: Any, product: bool) -> None:
        """Note from which parameters ``output`` was computed, alone or by a product with what depends on the input."""
        fresh = [tensor for tensor in _tensors(output) if _storage(tensor) not in self._sources]
        if not fresh:
            return
        if _CREATES.match(name) or (name != "mul" and all(map(self._is_created, operands))):
            self._created.update(map(_storage, fresh))
            self._alive += fresh
            return
        known = [self._source(operand) for operand in operands]
        # A product with zeros is work all the same: an initial state.
        settled = [
            sources
            for operand, sources in zip(operands, known, strict=True)
            if name == "mul" or not self._is_created(operand)
        ]
        if None not in settled:
            for tensor in fresh:
                self._remember(tensor, _union(settled))
        elif name in _MOVES or (len(operands) == 1 and name in ("mul", "div", "neg")):  # by a number
            mixed = [self._mixed.get(_storage(operand)) for operand in operands]
            expanded = any(_storage(operand) in self._expanded for operand in operands)
            self._mix(fresh[0], _union([*known, *mixed]), expanded)
            self._hide(operands, fresh, self._hidden)
        elif name == "mul":
            weights = self._behind([operand for operand in operands if self._source(operand) is not None])
            inputs = [operand.numel() for operand, sources in zip(operands, known, strict=True) if sources is None]
            expanded = max(inputs) < fresh[0].numel() and (bool(weights) or len(inputs) > 1)
            self._mix(fresh[0], weights, expanded)
            self._hide(operands, fresh, self._hidden, self._mixed)
        elif not product:
            tables = (self._hidden, self._mixed) if name in _SUMS else (self._hidden, self._mixed, self._sources)
            self._hide(operands, fresh, *tables)

    def _hide(
        self, operands: Sequence[torch.Tensor], results: Sequence[torch.Tensor], *tables: Mapping[int, _Weights]
    ) -> None:
        """Note the matrices behind the operands, by these tables, of which the results hold no elements any more."""
        hidden = _union(table.get(_storage(operand)) for operand in operands for table in tables)
        hidden = {key: size for key, size in hidden.items() if key in self._matrices}
        if hidden:
            self._hidden.update((_storage(tensor), hidden) for tensor in results)
            self._alive += results

    def _mix(self, tensor: torch.Tensor, weights: _Weights, expanded: bool) -> None:
        if weights:
            self._mixed[_storage(tensor)] = weights
        if expanded:
            self._expanded.add(_storage(tensor))
        if weights or expanded:
            self._alive.append(tensor)


def _tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in nested mappings, lists and tuples, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, list | tuple) else []


def _storage(tensor: torch.Tensor) -> int:
    """The identity of the memory that the tensor shares with its views; its own identity where it has no storage."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return id(tensor)


def _overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors in the same storage may share an element."""
    (start, end), (first, last) = _span(one), _span(other)
    return start <= last and first <= end


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    start = int(tensor.storage_offset())
    return start, start + sum(
        int((size - 1) * stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def parameters(model: nn.Module) -> int:
    """Count weights and biases of the model as deployed, including packed int8 ones; shared ones count once.

    A batch normalisation folded into a convolution leaves one bias per channel where it had two parameters (study B
    gives its int8 networks the count of the float ones). PyTorch's int8 LSTM has both biases, even where
    ``structure.drop_parameter`` removed the second one from the float LSTM.
    """
    return sum(tensor.numel() for tensor in _weights_and_biases(model))


def nonzero(model: nn.Module) -> int:
    """Count the weights and biases that are not zero. Int8 weights that were rounded to zero count as zero."""
    return sum(
        int(torch.count_nonzero(tensor.dequantize() if tensor.is_quantized else tensor))
        for tensor in _weights_and_biases(model)
    )


def _is_packed(module: nn.Module) -> bool:
    """Whether the layer packs its weights in int8. Detected by name, to avoid importing the deprecated API."""
    return type(module).__module__.startswith("torch.ao.nn") and (
        hasattr(module, "get_weight") or callable(getattr(module, "weight", None))
    )


def _matrices(module: nn.Module) -> list[torch.Tensor]:
    """The weights by which a layer multiplies; empty for any other module."""
    if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
        return [module.weight]
    if isinstance(module, (nn.LSTM, nn.GRU, nn.RNN)):
        return [weight for name, weight in module.named_parameters(recurse=False) if name.startswith("weight")]
    if isinstance(module, PrunableLayer):
        return [part.weight for parts in module.incoming().values() for part in parts]
    return _packed(module, "weight") if _is_packed(module) else []


def _packed(module: Any, name: str) -> list[torch.Tensor]:
    """The packed tensors called ``name`` ("weight" or "bias") of an int8 layer."""
    if hasattr(module, f"get_{name}"):
        values = list(getattr(module, f"get_{name}")().values())
    else:
        values = [getattr(module, name)()]
    return [value for value in values if value is not None]


def _weights_and_biases(model: nn.Module) -> Iterator[torch.Tensor]:
    seen: set[int] = set()
    for module in model.modules():
        if _is_packed(module):
            yield from _packed(module, "weight")
            yield from _packed(module, "bias")
            continue
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter


def _product(first: int) -> Callable[[Sequence[Any], Any], int]:
    """A product of the arguments ``first`` (..., m, k) and ``first`` + 1 (..., k, n) or (k,)."""

    def macs(args: Sequence[Any], output: Any) -> int:
        one, other = args[first], args[first + 1]
        return int(one.numel() * (other.shape[-1] if other.dim() > 1 else 1))

    return macs


def _convolution(args: Sequence[Any], output: Any) -> int:
    """A transposed convolution applies its weights at each input position, any other at each output position."""
    inputs, weight, transposed = args[0], args[1], args[6]
    return int(
        weight.numel() * (inputs if transposed else output).numel() // (inputs if transposed else output).shape[1]
    )


def _attention(args: Sequence[Any], output: Any) -> int:
    """Queries (..., S, E) times keys (..., T, E), and the result (..., S, T) times values (..., T, V)."""
    query, key, value = args[:3]
    return int(math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def _bilinear(args: Sequence[Any], output: Any) -> int:
    """``torch.nn.functional.bilinear``: each weight once at each position."""
    positions = args[0].numel() // args[0].shape[-1] if args[0].shape else 1
    return int(args[1].numel() * positions)


def _recurrent(weights: Callable[[Sequence[Any]], Sequence[torch.Tensor]]) -> Callable[[Sequence[Any], Any], int]:
    """A recurrent kernel: each of its matrices once at each time step."""

    def macs(args: Sequence[Any], output: Any) -> int:
        return sum(weight.numel() for weight in weights(args)) * _vectors(args[0])

    return macs


def _vectors(inputs: torch.Tensor) -> int:
    return int(inputs.numel() // inputs.shape[-1])


def _packed_convolution(args: Sequence[Any], output: Any) -> int:
    (weight,) = _packed_weights(args)
    return int(weight.numel() * output.numel() // output.shape[1])


def _packed_transposed(args: Sequence[Any], output: Any) -> int:
    (weight,) = _packed_weights(args)
    return int(weight.numel() * args[0].numel() // args[0].shape[1])


def _packed_linear(args: Sequence[Any], output: Any) -> int:
    return sum(weight.numel() for weight in _packed_weights(args)) * _vectors(args[0])


def _packed_weights(args: Sequence[Any]) -> list[torch.Tensor]:
    """The matrices in the packed arguments of an int8 operator."""
    found: list[torch.Tensor] = []
    for value in args:
        if isinstance(value, torch.ScriptObject):
            found += _unpacked(value)
        elif isinstance(value, list | tuple):
            found += _packed_weights(value)
    return found


def _unpacked(packed: Any) -> list[torch.Tensor]:
    if hasattr(packed, "unpack"):  # a convolution
        return [packed.unpack()[0]]
    return [tensor for tensor in _states(packed.__getstate__()) if tensor.dim() == 2]


def _states(state: Any) -> list[torch.Tensor]:
    """The tensors in the state of a packed object, which may hold further ones: an LSTM cell holds linear layers."""
    if isinstance(state, torch.ScriptObject):
        return _states(state.__getstate__())
    if isinstance(state, list | tuple):
        return [tensor for part in state for tensor in _states(part)]
    return [state] if isinstance(state, torch.Tensor) else []


_Formula = Callable[[Sequence[Any], Any], int]
#: Multiply-accumulates of one call, from the operator's arguments and result.
_ATEN: dict[str, _Formula] = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot", "_int_mm"), _product(0)),
    **dict.fromkeys(("addmm", "baddbmm", "addmv", "addbmm", "_addmm_activation"), _product(1)),
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), _convolution),
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_trilinear": _bilinear,
    "mkldnn_rnn_layer": _recurrent(lambda args: args[1:3]),
    "_cudnn_rnn": _recurrent(lambda args: [weight for weight in args[1] if weight.dim() == 2]),
    "quantized_lstm": _packed_linear,
    "quantized_gru": _packed_linear,
}
_LINEAR8 = ("", "_relu", "_leaky_relu", "_tanh", "_dynamic", "_relu_dynamic")
_CELLS8 = ("lstm", "gru", "rnn_relu", "rnn_tanh")
_QUANTIZED: dict[str, _Formula] = {
    **{f"linear{kind}": _packed_linear for kind in _LINEAR8},
    "linear_with_input_q_dq_qweight_dq_output_fp32": _packed_linear,
    **{f"conv{n}d{kind}": _packed_convolution for n in (1, 2, 3) for kind in ("", "_relu", "_add", "_add_relu")},
    **{f"conv{n}d_dynamic": _packed_convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d{kind}": _packed_transposed for n in (1, 2, 3) for kind in ("", "_dynamic")},
    **{f"quantized_{kind}_cell_dynamic": _packed_linear for kind in _CELLS8},
    "matmul": _product(0),
}
_FORMULAS = {"aten": _ATEN, "quantized": _QUANTIZED}
