"""Lowering of sequences: what a layer of Terabag's does position by position, or over all positions of one item.

PyTorch has a sequence as a padded tensor [B, positions, dim]; what stands beyond the length differs: zeros where rows come from the lookup,
whatever a bias made of them behind a Linear. Terabag has no values there. So a sequence is *clean* as long as they are zeros in PyTorch,
and only then may an operation read them (a sum over the positions, a flatten); a product with the mask cleans it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .graph import Graph, Layer, Value
from .lower import Call, Elements, Lowering, activation_layer, activation_of, handles


@dataclass(frozen=True)
class Sequence:
    """Values [1, positions, dim] of one item."""

    value: Value
    clean: bool
    is_sequence = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item."""
        return 1, self.value.positions, self.value.dim


@dataclass(frozen=True)
class Lengths:
    """The lengths of sequences of so many positions, in any shape of one element; at least `least`."""

    positions: int
    axes: int = 1
    least: int = 0
    is_sequence = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item."""
        return (1,) * self.axes


@dataclass(frozen=True)
class SequenceIds:
    """The padded ids [1, positions] of a sequence, which are compared with the padding."""

    positions: int
    padding: int | None
    is_sequence = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item."""
        return 1, self.positions


@dataclass(frozen=True)
class Mask:
    """1 or True where a sequence has a position, [1, positions]; inverted: where it has none; trailing: with a last axis of 1."""

    positions: int
    inverted: bool = False
    trailing: bool = False
    is_sequence = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item."""
        return (1, self.positions, 1) if self.trailing else (1, self.positions)


@dataclass(frozen=True)
class MaskedOut:
    """Zeros of the shape of a mask, which is added to what attention makes of a position."""

    positions: int
    is_sequence = True
    what = "a mask"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item."""
        return 1, self.positions


@dataclass(frozen=True)
class Behind:
    """The state of a GRU behind the last position: that of the padding, not of the last position that is there."""

    is_sequence = True
    what = "the state behind a padded sequence"


def _layer(graph: Graph, kind: str, of: Value, dim: int, attributes: Any = None, tensors: Any = None) -> Layer:
    return graph.layer(kind, {"input": of}, dim, attributes, tensors, of.positions)


# Position by position -------------------------------------------------------------------------------------------------------------------


@handles("dropout", "contiguous", "clone", "alias", "detach", "to", "_to_copy", "type_as", "lift_fresh_copy")
def _same(lowering: Lowering, call: Call) -> Any:
    x = call.args[0]
    return x if isinstance(x, (Sequence, Lengths, Mask)) else NotImplemented


@handles("linear")
def _linear(lowering: Lowering, call: Call) -> Any:
    x, weight, bias = call.args[0], call.args[1], call.argument(2, "bias")
    if not isinstance(x, Sequence) or not isinstance(weight, torch.Tensor):
        return NotImplemented
    layer = _layer(lowering.graph, "fc", x.value, weight.shape[0], {}, {"weight": weight, "bias": bias})
    return Sequence(layer, x.clean and bias is None)


@handles("relu", "relu_", "sigmoid", "sigmoid_", "tanh", "silu", "silu_", "gelu")
def _activation(lowering: Lowering, call: Call) -> Any:
    x, activation = call.args[0], activation_of(call)
    if not isinstance(x, Sequence) or activation is None:
        return NotImplemented
    return Sequence(activation_layer(lowering.graph, x.value, activation), x.clean and activation != "sigmoid")


@handles("prelu", "_prelu_kernel", "leaky_relu")
def _prelu(lowering: Lowering, call: Call) -> Any:
    x, slope = call.args[0], call.argument(1, "negative_slope", 0.01)
    weight = slope.reshape(-1) if isinstance(slope, torch.Tensor) else torch.tensor([float(slope)])
    # PReLU's weights of several channels are those of the second axis, the positions.
    if not isinstance(x, Sequence) or len(weight) != 1:
        return NotImplemented
    return Sequence(_layer(lowering.graph, "prelu", x.value, x.value.dim, {}, {"weight": weight}), x.clean)


@handles("layer_norm")
def _layer_norm(lowering: Lowering, call: Call) -> Any:
    x, over = call.args[0], call.args[1]
    if not isinstance(x, Sequence) or list(over) != [x.value.dim]:
        return NotImplemented
    weight, bias = call.argument(2, "weight"), call.argument(3, "bias")
    tensors = {"weight": torch.ones(over[0]) if weight is None else weight, "bias": torch.zeros(over[0]) if bias is None else bias}
    return Sequence(_layer(lowering.graph, "layer_norm", x.value, x.value.dim, {"epsilon": call.argument(4, "eps", 1e-5)}, tensors), clean=False)


@handles("softmax", "_softmax")
def _softmax(lowering: Lowering, call: Call) -> Any:
    x, axis = call.args[0], call.args[1]
    if not isinstance(x, Sequence) or axis not in (-1, 2):
        return NotImplemented
    return Sequence(_layer(lowering.graph, "softmax", x.value, x.value.dim), clean=False)


@handles("add", "sub")
def _longer(lowering: Lowering, call: Call) -> Any:
    """Lengths of a sequence to which positions were appended."""
    x, by = call.args[:2]
    if not isinstance(x, Lengths) or not isinstance(by, int) or x.least or call.name == "sub":
        return NotImplemented
    return Lengths(x.positions + by, x.axes)


@handles("zeros_like")
def _zeros(lowering: Lowering, call: Call) -> Any:
    x = call.args[0]
    return MaskedOut(x.positions) if isinstance(x, Mask) else NotImplemented


@handles("masked_fill", "masked_fill_")
def _masked_fill(lowering: Lowering, call: Call) -> Any:
    """Zeros with -inf where there is no position, which PyTorch makes of a mask that attention gets."""
    x, mask, value = call.args[:3]
    if isinstance(x, MaskedOut) and isinstance(mask, Mask) and mask.inverted and value == float("-inf"):
        return mask
    return NotImplemented


@handles("add", "add_", "mul", "mul_")
def _two(lowering: Lowering, call: Call) -> Any:
    a, b = call.args[0], call.args[1]
    kind = "sum" if call.name.startswith("add") else "product"
    if call.kwargs.get("alpha", 1) != 1 or not any(isinstance(value, Sequence) for value in (a, b)):
        return NotImplemented
    x, other = (a, b) if isinstance(a, Sequence) else (b, a)
    if isinstance(other, Sequence):
        if (other.value.positions, other.value.dim) != (x.value.positions, x.value.dim):
            return NotImplemented
        clean = (x.clean and other.clean) if kind == "sum" else (x.clean or other.clean)
        layer = lowering.graph.layer(kind, {"inputs": [a.value, b.value]}, x.value.dim, positions=x.value.positions)
        return Sequence(layer, clean)
    if isinstance(other, Mask) and kind == "product" and other.trailing and not other.inverted and other.positions == x.value.positions:
        return Sequence(x.value, clean=True)
    if isinstance(other, (int, float, torch.Tensor)):
        return _with_constant(lowering.graph, kind, x, torch.as_tensor(other, dtype=torch.float32))
    return NotImplemented


def _with_constant(graph: Graph, kind: str, x: Sequence, constant: torch.Tensor) -> Any:
    """A sum or product with a constant of a position [dim], or a sum with one for each position [positions, dim]."""
    spread = constant.expand(x.shape)[0]
    value = x.value
    if kind == "sum" and not bool((spread == spread[0]).all()):
        layer = graph.layer("positions", {"input": value}, value.dim, {}, {"weight": spread.contiguous()}, value.positions)
        return Sequence(layer, clean=False)
    if not bool((spread == spread[0]).all()):
        return NotImplemented
    row = spread[0].clone()
    constants = {"scale": torch.ones_like(row), "shift": row} if kind == "sum" else {"scale": row, "shift": torch.zeros_like(row)}
    return Sequence(_layer(graph, "scale_shift", value, value.dim, {}, constants), x.clean and kind == "product")


@handles("div", "div_")
def _divide(lowering: Lowering, call: Call) -> Any:
    x, by = call.args[:2]
    if isinstance(x, Sequence) and isinstance(by, (int, float, torch.Tensor)):
        return _with_constant(lowering.graph, "product", x, 1 / torch.as_tensor(by, dtype=torch.float32))
    if isinstance(x, Elements) and isinstance(by, Lengths):
        return _mean(lowering.graph, x, by)
    return NotImplemented


@handles("cat", "concat")
def _concat(lowering: Lowering, call: Call) -> Any:
    parts, axis = call.args[0], call.argument(1, "dim", 0)
    if not all(isinstance(part, Sequence) for part in parts) or axis not in (-1, 2):
        return NotImplemented
    values = [part.value for part in parts]
    if len({value.positions for value in values}) != 1:
        return NotImplemented
    layer = lowering.graph.layer("concat", {"inputs": values}, sum(value.dim for value in values), positions=values[0].positions)
    return Sequence(layer, all(part.clean for part in parts))


# All positions of an item ---------------------------------------------------------------------------------------------------------------


def pooled(graph: Graph, value: Value, pooling: str) -> torch.Tensor:
    """Element ids [dim] of a sequence's positions pooled."""
    return graph.ids(graph.layer("sequence_pool", {"input": value}, value.dim, {"pooling": pooling}))


@handles("sum", "mean")
def _sum(lowering: Lowering, call: Call) -> Any:
    x, axes = call.args[0], call.argument(1, "dim")
    axes = [axes] if isinstance(axes, int) else axes
    keep = bool(call.argument(2, "keepdim", False))
    if call.name == "sum" and isinstance(x, Mask) and not x.inverted and axes in ([1], [-1]) and not x.trailing:
        return Lengths(x.positions, 2 if keep else 1)
    if call.name == "sum" and isinstance(x, Mask) and not x.inverted and x.trailing and axes in ([1], [-2]):
        return Lengths(x.positions, 3 if keep else 2)
    if not isinstance(x, Sequence) or not x.clean or axes not in ([1], [-2]):
        return NotImplemented
    ids = pooled(lowering.graph, x.value, "sum")
    if call.name == "mean":
        # Over all positions, also those beyond the length.
        count = torch.tensor(1 / x.value.positions)
        ids = lowering.graph.affine(ids, count.expand(ids.shape), torch.zeros(ids.shape))
    return Elements(ids.reshape(1, 1, -1) if keep else ids.reshape(1, -1))


def _mean(graph: Graph, x: Elements, lengths: Lengths) -> Any:
    """A sum over the positions divided by the lengths; of no positions both are 0, which PyTorch divides unless they are at least 1."""
    sources = graph.sources(x.ids)
    source = sources[0] if len(sources) == 1 else None
    if not isinstance(source, Layer) or source.type != "sequence_pool" or source.attributes["pooling"] != "sum" or lengths.least < 1:
        return NotImplemented
    value = source.inputs["input"]
    if not isinstance(value, Value) or value.positions != lengths.positions:
        return NotImplemented
    ids = pooled(graph, value, "mean")
    return Elements(x.ids - source.start + int(ids[0]))


@handles("view", "reshape", "flatten", "_unsafe_view")
def _flatten(lowering: Lowering, call: Call) -> Any:
    x = call.args[0]
    if not isinstance(x, Sequence) or not x.clean:
        return NotImplemented
    shape = call.target(torch.empty(x.shape), *call.args[1:], **call.kwargs).shape
    if tuple(shape) == x.shape:
        return x
    value = x.value
    ids = lowering.graph.ids(lowering.graph.layer("flatten", {"input": value}, value.positions * value.dim))
    return Elements(ids.reshape(shape))


@handles("gru")
def _gru(lowering: Lowering, call: Call) -> Any:
    x, state, weights, has_biases, num_layers = call.args[:5]
    bidirectional, batch_first = call.args[7:9]
    if not isinstance(x, Sequence) or bidirectional or not batch_first or not isinstance(state, torch.Tensor) or bool(state.any()):
        return NotImplemented
    value = x.value
    per_layer = 4 if has_biases else 2
    for layer in range(num_layers):
        weight_input, weight_hidden, *biases = weights[layer * per_layer : (layer + 1) * per_layer]
        value = gru_layer(lowering.graph, value, weight_input, weight_hidden, biases)
    return Sequence(value, clean=False), Behind()


def gru_layer(
    graph: Graph, value: Value, weight_input: torch.Tensor, weight_hidden: torch.Tensor, biases: list[torch.Tensor], scores: Value | None = None
) -> Layer:
    """A GRU over a sequence, torch.nn.GRU's order of gates; with scores, an AUGRU."""
    hidden = weight_hidden.shape[1]
    if not biases:
        biases = [torch.zeros(3 * hidden), torch.zeros(3 * hidden)]
    tensors = {"weightInput": weight_input, "weightHidden": weight_hidden, "biasInput": biases[0], "biasHidden": biases[1]}
    inputs: dict[str, Any] = {"input": value} if scores is None else {"input": value, "scores": scores}
    return graph.layer("gru" if scores is None else "augru", inputs, hidden, {}, tensors, value.positions)


# Lengths and masks ----------------------------------------------------------------------------------------------------------------------


@handles("ne", "eq", "gt", "ge", "lt", "le")
def _compare(lowering: Lowering, call: Call) -> Any:
    a, b = call.args[:2]
    if isinstance(a, SequenceIds) and isinstance(b, int):
        positive = {"ne": b == a.padding, "gt": a.padding == b == 0, "ge": a.padding == 0 and b == 1}.get(call.name, False)
        if positive or (call.name == "eq" and b == a.padding):
            return Mask(a.positions, inverted=call.name == "eq")
    if isinstance(a, torch.Tensor) and isinstance(b, Lengths):
        return _positions_mask(a, b, call.name)
    if isinstance(a, Lengths) and isinstance(b, torch.Tensor):
        return _positions_mask(b, a, {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}.get(call.name, call.name))
    return NotImplemented


def _positions_mask(positions: torch.Tensor, lengths: Lengths, comparison: str) -> Any:
    """positions < lengths, of all positions 0, 1, ..."""
    count = lengths.positions
    if positions.shape[-1] != count or not torch.equal(positions.reshape(-1), torch.arange(count, dtype=positions.dtype)):
        return NotImplemented
    return Mask(count, inverted=comparison == "ge") if comparison in ("lt", "ge") else NotImplemented


@handles("logical_not", "bitwise_not")
def _not(lowering: Lowering, call: Call) -> Any:
    x = call.args[0]
    return Mask(x.positions, not x.inverted, x.trailing) if isinstance(x, Mask) else NotImplemented


@handles("unsqueeze", "view", "reshape")
def _shaped(lowering: Lowering, call: Call) -> Any:
    x = call.args[0]
    if not isinstance(x, (Mask, Lengths)):
        return NotImplemented
    shape = tuple(call.target(torch.empty(x.shape), *call.args[1:], **call.kwargs).shape)
    if isinstance(x, Lengths):
        return Lengths(x.positions, len(shape), x.least)
    if shape in ((1, x.positions), (1, x.positions, 1)):
        return Mask(x.positions, x.inverted, len(shape) == 3)
    return NotImplemented


@handles("clamp", "clamp_min")
def _clamp(lowering: Lowering, call: Call) -> Any:
    x, low = call.args[0], call.argument(1, "min")
    if not isinstance(x, Lengths) or call.argument(2, "max") is not None or low not in (1, 1.0):
        return NotImplemented
    return Lengths(x.positions, x.axes, 1)
