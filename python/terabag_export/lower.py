"""Lowers a traced graph to layers, operation by operation, for one row of the batch; raises UnknownOperation at the first that is no layer."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind
from torch.nn import functional
from torch.utils._pytree import tree_map

from .errors import UnknownOperation
from .graph import MOST_ROWS, ZERO, Graph, Layer, Products, Value
from .trace import Traced


@dataclass(frozen=True)
class Elements:
    """A value of one batch row, as element ids of its shape with the batch dimension 1."""

    ids: torch.Tensor


@dataclass(frozen=True)
class Unread:
    """An input of which only the shape is read."""

    shape: tuple[int, ...]


Handler = Callable[["Lowering", "Call"], Any]
HANDLERS: dict[str, Handler] = {}

# What only moves elements: the operation itself runs on the ids.
MOVES = frozenset(
    """
    view reshape _unsafe_view flatten unflatten view_as reshape_as permute transpose t numpy_T mT movedim swapaxes unsqueeze squeeze
    select slice narrow split split_with_sizes chunk unbind unsafe_split unsafe_chunk index index_select diagonal
    cat stack concat hstack expand expand_as repeat tile repeat_interleave flip roll tril triu
    clone contiguous alias detach lift_fresh_copy zeros_like new_zeros
    """.split()
)
_SAME = frozenset(["dropout", "feature_dropout", "alpha_dropout", "to", "_to_copy", "type_as", "contiguous", "detach_", "lift"])


@dataclass
class Call:
    """An operation of the graph with its arguments."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """A positional or named argument."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


class Lowering:
    """One lowering; `graph` has the layers when `run` has ended."""

    def __init__(self, traced: Traced, values: dict[str, Any], graph: Graph, modules: Mapping[str, nn.Module]) -> None:
        """values: of each placeholder that is no parameter. modules: of the model, by path."""
        self.graph = graph
        self.modules = modules
        self._program = traced.program
        self._values = values
        self.origins: dict[tuple[int, torch.Size], str] = {}
        """Names in the state dict of tensors that are its own, by address and shape."""

    def run(self) -> list[Any]:
        """The outputs, in the order in which the model's output is flattened."""
        nodes = list(self._program.graph.nodes)
        needed = needed_nodes(nodes)
        constants = self._constants()
        env: dict[fx.Node, Any] = {}
        for node in nodes:
            if node not in needed:
                continue
            if node.op == "placeholder":
                env[node] = constants[node.name] if node.name in constants else self._values[node.name]
            elif node.op == "output":
                return list(fx.map_arg(node.args[0], lambda read: env[read]))
            else:
                env[node] = self._call(node, env)
        raise AssertionError("a graph ends with its output")

    def _constants(self) -> dict[str, torch.Tensor]:
        state = {**self._program.state_dict, **self._program.constants}
        found: dict[str, torch.Tensor] = {}
        for spec in self._program.graph_signature.input_specs:
            if spec.kind is not InputKind.USER_INPUT and spec.target in state:
                tensor = state[spec.target].detach()
                self.origins[tensor.data_ptr(), tensor.shape] = spec.target.removeprefix("model.")
                found[spec.arg.name] = tensor
        return found

    def _call(self, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
        args = fx.map_arg(node.args, lambda read: env[read])
        kwargs = fx.map_arg(node.kwargs, lambda read: env[read])
        name = operation_name(node)
        path = module_path(node)
        self.graph.scope = path
        try:
            return self.apply(Call(name, tuple(args), dict(kwargs), node.target), node)
        except UnknownOperation:
            raise
        except (RuntimeError, IndexError, ValueError, TypeError, LookupError) as error:
            raise UnknownOperation(name, path, str(error).splitlines()[0]) from error

    def apply(self, call: Call, node: fx.Node) -> Any:
        """The value of an operation."""
        values = _values_in(call.args, call.kwargs)
        if call.name == "sym_size":
            return _size(call.args[0], call.args[1])
        if not any(isinstance(value, Elements) or hasattr(value, "is_sequence") for value in values):
            return call.target(*call.args, **call.kwargs)
        if call.target is operator.getitem:
            return call.args[0][call.args[1]]
        handler = HANDLERS.get(call.name)
        if handler is not None:
            result = handler(self, call)
            if result is not NotImplemented:
                return result
        if all(isinstance(value, (Elements, torch.Tensor)) for value in values):
            if call.name in _SAME and _keeps_floats(call):
                return call.args[0]
            if call.name in MOVES:
                return self._move(call)
        what = ", ".join(sorted({_kind_of(value) for value in values}))
        raise UnknownOperation(call.name, module_path(node), f"no layer of Terabag does this with {what}")

    def _move(self, call: Call) -> Any:
        def ids_of(value: Any) -> Any:
            if isinstance(value, Elements):
                return value.ids
            # What is put beside elements has to be zeros; indices stay as they are.
            if isinstance(value, torch.Tensor) and call.name not in ("index", "index_select"):
                if bool(value.any()):
                    raise UnknownOperation(call.name, self.graph.scope, "constants other than 0 beside values of the model")
                return torch.zeros(value.shape, dtype=torch.long)
            return value

        args = tree_map(ids_of, call.args, is_leaf=lambda value: isinstance(value, Elements))
        kwargs = {key: value for key, value in call.kwargs.items() if key not in ("dtype", "layout", "device", "pin_memory")}
        moved = call.target(*args, **tree_map(ids_of, kwargs, is_leaf=lambda value: isinstance(value, Elements)))
        return tree_map(lambda value: Elements(value) if isinstance(value, torch.Tensor) else value, moved)


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Registers the lowering of ATen operations; it may return NotImplemented."""

    def register(handler: Handler) -> Handler:
        for name in names:
            previous = HANDLERS.get(name)
            HANDLERS[name] = handler if previous is None else _first_of(handler, previous)
        return handler

    return register


def _first_of(first: Handler, second: Handler) -> Handler:
    def tried(lowering: Lowering, call: Call) -> Any:
        result = first(lowering, call)
        return second(lowering, call) if result is NotImplemented else result

    return tried


def module_path(node: fx.Node) -> str:
    """The path in the model of the module that an operation is part of."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path.startswith("model.")]
    return paths[-1].removeprefix("model.").split("@")[0] if paths else ""


def needed_nodes(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """What the output depends on."""
    needed: set[fx.Node] = set()
    for node in reversed(list(nodes)):
        if node.op == "output" or any(user in needed for user in node.users):
            needed.add(node)
    return needed


def operation_name(node: fx.Node) -> str:
    """The name of an operation without its overload: `add` of aten.add.Tensor."""
    packet = getattr(node.target, "overloadpacket", None)
    return packet.__name__ if packet is not None else getattr(node.target, "__name__", str(node.target))


def _values_in(args: Any, kwargs: Any) -> list[Any]:
    found: list[Any] = []

    def visit(value: Any) -> None:
        if isinstance(value, (tuple, list)):
            for entry in value:
                visit(entry)
        elif isinstance(value, (Elements, torch.Tensor)) or hasattr(value, "is_sequence"):
            found.append(value)

    visit(args)
    visit(list(kwargs.values()))
    return found


def _kind_of(value: Any) -> str:
    if hasattr(value, "what"):
        return value.what
    return {"Elements": "values", "Tensor": "constants", "Sequence": "sequences", "Mask": "a mask"}.get(type(value).__name__, "lengths or ids")


def _keeps_floats(call: Call) -> bool:
    dtypes = [value for value in [*call.args, *call.kwargs.values()] if isinstance(value, torch.dtype)]
    return all(dtype.is_floating_point for dtype in dtypes) and not (call.name.endswith("dropout") and call.argument(2, "train"))


def _size(value: Any, axis: int) -> int:
    return (value.ids.shape if isinstance(value, Elements) else value.shape)[axis]


# Rows -----------------------------------------------------------------------------------------------------------------------------------


def _by_row(ids: torch.Tensor, width: int, apply: Callable[[torch.Tensor], torch.Tensor]) -> Elements:
    """Applies what takes a vector [width] to each row of ids [..., width]."""
    rows = ids.reshape(-1, width)
    if len(rows) > MOST_ROWS:
        raise ValueError(f"{len(rows)} rows of one item, {MOST_ROWS} at most")
    return Elements(torch.stack([apply(row) for row in rows]).reshape(*ids.shape[:-1], -1))


def _constant(value: Any, shape: torch.Size) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64).expand(shape)


@handles("linear")
def _linear(lowering: Lowering, call: Call) -> Any:
    x, weight, bias = call.args[0], call.args[1], call.argument(2, "bias")
    if not isinstance(x, Elements) or not isinstance(weight, torch.Tensor):
        return NotImplemented
    return _by_row(x.ids, weight.shape[1], lambda row: lowering.graph.linear(row, weight, bias))


@handles("matmul", "bmm", "mm")
def _matmul(lowering: Lowering, call: Call) -> Any:
    a, b = call.args[:2]
    if isinstance(a, Elements) and isinstance(b, torch.Tensor):
        return _times_constant(lowering, a.ids, b)
    if isinstance(a, torch.Tensor) and isinstance(b, Elements):
        if b.ids.dim() < 2:
            return NotImplemented
        product = _times_constant(lowering, b.ids.transpose(-1, -2), a.transpose(-1, -2))
        return NotImplemented if product is NotImplemented else Elements(product.ids.transpose(-1, -2))
    if isinstance(a, Elements) and isinstance(b, Elements):
        return _times_values(lowering.graph, a.ids, b.ids)
    return NotImplemented


def _times_constant(lowering: Lowering, ids: torch.Tensor, matrix: torch.Tensor) -> Any:
    matrix = matrix.squeeze(0) if matrix.dim() == 3 and matrix.shape[0] == 1 else matrix
    if matrix.dim() != 2:
        return NotImplemented
    weight = matrix.T
    return _by_row(ids, weight.shape[1], lambda row: lowering.graph.linear(row, weight, None))


def _times_values(graph: Graph, a: torch.Tensor, b: torch.Tensor) -> Any:
    """a [..., m, k], b [..., k, n]: dot products of pairs of vectors, or sums of vectors by a gate."""
    if a.dim() < 2 or b.dim() < 2 or a.shape[:-2].numel() != 1 or b.shape[:-2].numel() != 1:
        return NotImplemented
    shape = (*a.shape[:-1], b.shape[-1])
    left, right = a.reshape(a.shape[-2:]), b.reshape(b.shape[-2:])
    if torch.equal(left, right.T):
        return Elements(graph.dots(left).reshape(shape))
    if _rows_are_values(graph, right):
        return Elements(torch.stack([graph.mixed(gate, right) for gate in left]).reshape(shape))
    if _rows_are_values(graph, left.T):
        return Elements(torch.stack([graph.mixed(gate, left.T) for gate in right.T]).T.reshape(shape))
    count = len(left)
    pairs = graph.dots(torch.cat([left, right.T]))
    return Elements(pairs[:count, count:].reshape(shape))


def _rows_are_values(graph: Graph, rows: torch.Tensor) -> bool:
    return rows.shape[1] > 1 and graph.segments(graph.resolved(rows.flatten())) is not None


@handles("pad", "constant_pad_nd")
def _pad(lowering: Lowering, call: Call) -> Any:
    x, padding = call.args[:2]
    value = call.kwargs.get("value") if call.name == "pad" else call.argument(2, "value", 0)
    if not isinstance(x, Elements) or value not in (None, 0) or call.argument(2, "mode", "constant") not in ("constant", 0):
        return NotImplemented
    return Elements(functional.pad(x.ids, padding, value=ZERO))


@handles("layer_norm")
def _layer_norm(lowering: Lowering, call: Call) -> Any:
    x, over = call.args[0], call.args[1]
    if not isinstance(x, Elements) or len(over) != 1:
        return NotImplemented
    width = over[0]
    weight, bias = call.argument(2, "weight"), call.argument(3, "bias")
    tensors = {"weight": torch.ones(width) if weight is None else weight, "bias": torch.zeros(width) if bias is None else bias}
    attributes = {"epsilon": call.argument(4, "eps", 1e-5)}
    graph = lowering.graph
    return _by_row(x.ids, width, lambda row: graph.ids(graph.layer("layer_norm", {"input": graph.exact(row)}, width, attributes, tensors)))


@handles("softmax", "_softmax")
def _softmax(lowering: Lowering, call: Call) -> Any:
    x, axis = call.args[0], call.args[1]
    if not isinstance(x, Elements):
        return NotImplemented
    ids, graph = x.ids.movedim(axis, -1), lowering.graph
    width = ids.shape[-1]
    done = _by_row(ids, width, lambda row: graph.ids(graph.layer("softmax", {"input": graph.exact(row)}, width)))
    return Elements(done.ids.movedim(-1, axis))


# One element at a time ------------------------------------------------------------------------------------------------------------------


def activation_layer(graph: Graph, value: Value, activation: str) -> Layer:
    """The layer `activation` over a vector or a sequence."""
    return graph.layer("activation", {"input": value}, value.dim, {"activation": activation}, positions=value.positions)


_ACTIVATIONS = {"relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "sigmoid_": "sigmoid", "tanh": "tanh", "silu": "silu", "silu_": "silu"}


def activation_of(call: Call) -> str | None:
    """The activation that an operation is."""
    if call.name == "gelu":
        return "gelu_tanh" if call.argument(1, "approximate", "none") == "tanh" else "gelu"
    return _ACTIVATIONS.get(call.name)


@handles("gelu", *_ACTIVATIONS)
def _activation(lowering: Lowering, call: Call) -> Any:
    x, activation = call.args[0], activation_of(call)
    if not isinstance(x, Elements) or activation is None:
        return NotImplemented
    graph = lowering.graph
    return Elements(graph.unary(x.ids, lambda value: activation_layer(graph, value, activation), activation != "sigmoid"))


@handles("glu")
def _glu(lowering: Lowering, call: Call) -> Any:
    x = call.args[0]
    if not isinstance(x, Elements):
        return NotImplemented
    graph = lowering.graph
    value, gate = x.ids.chunk(2, call.argument(1, "dim", -1))
    gate = graph.unary(gate, lambda source: activation_layer(graph, source, "sigmoid"), False)
    return Elements(graph.virtual(Products(value.flatten(), gate.flatten())).reshape(value.shape))


@handles("clamp", "clamp_min", "hardtanh")
def _clamp(lowering: Lowering, call: Call) -> Any:
    """A clamp from below at 0 is a ReLU."""
    x, low, high = call.args[0], call.argument(1, "min"), call.argument(2, "max")
    if not isinstance(x, Elements) or low != 0 or high is not None:
        return NotImplemented
    graph = lowering.graph
    return Elements(graph.unary(x.ids, lambda value: activation_layer(graph, value, "relu"), True))


@handles("prelu", "_prelu_kernel", "leaky_relu", "leaky_relu_")
def _prelu(lowering: Lowering, call: Call) -> Any:
    x, slope = call.args[0], call.argument(1, "negative_slope", 0.01)
    if not isinstance(x, Elements):
        return NotImplemented
    weight = slope.reshape(-1) if isinstance(slope, torch.Tensor) else torch.tensor([float(slope)])
    graph = lowering.graph
    if len(weight) == 1:
        return Elements(graph.unary(x.ids, lambda value: graph.layer("prelu", {"input": value}, value.dim, {}, {"weight": weight}), True))
    if x.ids.dim() != 2:
        return NotImplemented
    return _by_row(x.ids, len(weight), lambda row: graph.ids(graph.layer("prelu", {"input": graph.exact(row)}, len(weight), {}, {"weight": weight})))


@handles("batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(lowering: Lowering, call: Call) -> Any:
    x, weight, bias, mean, variance = call.args[:5]
    legit = call.name != "batch_norm"
    epsilon = call.args[6 if legit else 7]
    if not isinstance(x, Elements) or mean is None or variance is None or (not legit and call.args[5]):
        return NotImplemented
    scale = torch.rsqrt(variance.double() + epsilon) * (1 if weight is None else weight.double())
    shift = (0 if bias is None else bias.double()) - mean.double() * scale
    shape = (1, -1, *[1] * (x.ids.dim() - 2))
    done = Elements(lowering.graph.affine(x.ids, scale.reshape(shape).expand(x.ids.shape), shift.reshape(shape).expand(x.ids.shape)))
    return (done, None, None) if legit else done


# Two values -----------------------------------------------------------------------------------------------------------------------------


@handles("add", "add_", "sub", "sub_", "rsub", "neg")
def _add(lowering: Lowering, call: Call) -> Any:
    a, b = call.args[0], call.argument(1, "other", 0)
    alpha = call.kwargs.get("alpha", 1)
    factors = {"add": (1, alpha), "add_": (1, alpha), "sub": (1, -alpha), "sub_": (1, -alpha), "rsub": (-1, alpha), "neg": (-1, 1)}
    of_a, of_b = factors[call.name]
    graph = lowering.graph
    if isinstance(a, Elements) and isinstance(b, Elements):
        left, right = torch.broadcast_tensors(a.ids, b.ids)
        return Elements(graph.elementwise("sum", _scaled(graph, left, of_a), _scaled(graph, right, of_b)))
    if isinstance(a, Elements) and _is_number(b):
        return _affine(graph, a.ids, of_a, _times(b, of_b))
    if _is_number(a) and isinstance(b, Elements):
        return _affine(graph, b.ids, of_b, _times(a, of_a))
    return NotImplemented


@handles("mul", "mul_")
def _multiply(lowering: Lowering, call: Call) -> Any:
    a, b = call.args[:2]
    graph = lowering.graph
    if isinstance(a, Elements) and isinstance(b, Elements):
        left, right = torch.broadcast_tensors(a.ids, b.ids)
        return Elements(graph.virtual(Products(left.flatten(), right.flatten())).reshape(left.shape))
    value, number = (a, b) if isinstance(a, Elements) else (b, a)
    return _affine(graph, value.ids, number, 0) if _is_number(number) else NotImplemented


@handles("div", "div_", "true_divide")
def _divide(lowering: Lowering, call: Call) -> Any:
    a, b = call.args[:2]
    if not isinstance(a, Elements) or not _is_number(b) or call.kwargs.get("rounding_mode") is not None:
        return NotImplemented
    return _affine(lowering.graph, a.ids, 1 / torch.as_tensor(b, dtype=torch.float64), 0)


@handles("pow")
def _power(lowering: Lowering, call: Call) -> Any:
    x, exponent = call.args[:2]
    if not isinstance(x, Elements) or exponent not in (1, 2):
        return NotImplemented
    if exponent == 1:
        return x
    flat = x.ids.flatten()
    return Elements(lowering.graph.virtual(Products(flat, flat)).reshape(x.ids.shape))


@handles("sum", "mean")
def _reduce(lowering: Lowering, call: Call) -> Any:
    x, dims = call.args[0], call.argument(1, "dim")
    if not isinstance(x, Elements) or dims is None or call.kwargs.get("dtype") not in (None, torch.float32):
        return NotImplemented
    keep = bool(call.argument(2, "keepdim", False))
    ids = x.ids
    reduced = sorted({axis % ids.dim() for axis in (dims if isinstance(dims, (tuple, list)) else [dims])})
    if not reduced or 0 in reduced:
        raise ValueError("reduces over the batch")
    kept = [axis for axis in range(ids.dim()) if axis not in reduced]
    terms = ids.permute(*kept, *reduced).reshape(-1, ids.shape[reduced[0]] if len(reduced) == 1 else int(_numel(ids, reduced)))
    shape = [1 if axis in reduced else ids.shape[axis] for axis in range(ids.dim())]
    shape = shape if keep else [ids.shape[axis] for axis in kept]
    total = _totals(lowering.graph, terms, ids.shape[kept[-1]] if kept[1:] else 1).reshape(shape)
    return Elements(total) if call.name == "sum" else _affine(lowering.graph, total, 1 / terms.shape[1], 0)


def _totals(graph: Graph, terms: torch.Tensor, width: int) -> torch.Tensor:
    """Sums of terms [n, k], in groups of width sums that a layer may give together."""
    return torch.cat([graph.total(group) for group in terms.split(width)])


def _numel(ids: torch.Tensor, axes: list[int]) -> int:
    return torch.Size([ids.shape[axis] for axis in axes]).numel()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, torch.Tensor))


def _times(value: Any, factor: float) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64) * factor


def _scaled(graph: Graph, ids: torch.Tensor, factor: float) -> torch.Tensor:
    return ids if factor == 1 else _affine(graph, ids, factor, 0).ids


def _affine(graph: Graph, ids: torch.Tensor, scale: Any, shift: Any) -> Elements:
    shape = torch.broadcast_shapes(ids.shape, *(value.shape for value in (scale, shift) if isinstance(value, torch.Tensor)))
    ids, scale, shift = ids.expand(shape), _constant(scale, shape), _constant(shift, shape)
    if bool((scale == 1).all()) and not bool(shift.any()):
        return Elements(ids)
    if bool((scale == 0).all()) and not bool(shift.any()):
        return Elements(torch.full_like(ids, ZERO))
    return Elements(graph.affine(ids, scale, shift))
