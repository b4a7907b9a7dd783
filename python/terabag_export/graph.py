"""The dense part as layers of model.json, while it is being made.

A value of the dense part, as PyTorch has it for one row of the batch, is a tensor of any shape; each of its elements is one of some
layer's. So a value is kept as a tensor of *element ids* of the same shape, int64, where each layer of dim n owns n ids in a row, and 0 is
the constant zero. What only moves elements (view, cat, transpose, split, indexing...) is then the same operation on the ids, and costs no
layer; a Linear reads its inputs from wherever they are by permuting the columns of its weight.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

ZERO = 0
# Several rows of one batch element go through a Linear as so many layers; beyond, the model is meant otherwise.
MOST_ROWS = 512

Inputs = Mapping[str, "Value | list[Value]"]


@dataclass(eq=False)
class Value:
    """What a layer reads: a dense feature, a bag, a sequence, or a layer before it."""

    name: str
    dim: int
    positions: int = 0
    """Maximal length of a sequence, whose dim is that of a position; 0: a vector."""
    start: int = field(default=0, init=False)
    """Its first element id."""


@dataclass(eq=False)
class Layer(Value):
    """A layer of model.json."""

    type: str = ""
    inputs: dict[str, Value | list[Value]] = field(default_factory=dict)
    """By the field that names them."""
    attributes: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    """By the field that names them."""
    within: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Layers within it, such as the MLP of an attention unit: fields of each, tensors among them."""
    aliases: torch.Tensor | None = None
    """int64 [n]: its first n elements are these ones too (a dot interaction repeats its first input)."""

    @property
    def read(self) -> list[Value]:
        """All that it reads."""
        return [value for given in self.inputs.values() for value in (given if isinstance(given, list) else [given])]


class Virtual(Value):
    """A value that becomes layers only when it is known which of its elements are used, and how."""

    scope = ""
    """The path of the module that it is part of."""

    def realize(self, graph: Graph, local: torch.Tensor) -> torch.Tensor:
        """Ids of elements of layers, for some of its own, counted from 0."""
        raise NotImplementedError


class Dots(Virtual):
    """Dot products of all pairs of rows: element i * F + j. rows: element ids [F, D]."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__("", rows.shape[0] ** 2)
        # The rule of pairs needs two inputs.
        self.rows = rows if rows.shape[0] > 1 else torch.cat([rows, rows])
        self._count = rows.shape[0]
        self._layers: dict[bool, Layer] = {}

    def realize(self, graph: Graph, local: torch.Tensor) -> torch.Tensor:
        """Through a dot_interaction, with the diagonal where one of its elements is used."""
        i, j = torch.maximum(local // self._count, local % self._count), torch.minimum(local // self._count, local % self._count)
        if self._count == 1:
            i = i + 1
        diagonal = bool((i == j).any())
        if diagonal not in self._layers:
            inputs = [graph.exact(row) for row in self.rows]
            count, dim = self.rows.shape
            pairs = count * (count + (1 if diagonal else -1)) // 2
            layer = graph.layer("dot_interaction", {"inputs": inputs}, dim + pairs, {"diagonal": True} if diagonal else {})
            layer.aliases = graph.resolved(self.rows[0])
            self._layers[diagonal] = layer
        before = i * (i + 1) // 2 if diagonal else i * (i - 1) // 2
        return self._layers[diagonal].start + self.rows.shape[1] + before + j


class Products(Virtual):
    """Elementwise products of a and b, element ids [n] both."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor) -> None:
        super().__init__("", a.shape[0])
        self.a = a
        self.b = b
        self._ids: torch.Tensor | None = None

    def realize(self, graph: Graph, local: torch.Tensor) -> torch.Tensor:
        """Through product layers."""
        if self._ids is None:
            self._ids = graph.elementwise("product", self.a, self.b)
        return self._ids[local]


class Graph:
    """Makes layers. `scope`: the path of the module that they are made for, after which they are named."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.scope = ""
        self._values: list[Value] = []
        self._starts: list[int] = []
        self._next = 1
        self._names: set[str] = set()
        self._made: dict[tuple[Any, ...], Layer] = {}

    # Values ----------------------------------------------------------------------------------------------------------------------

    def add(self, value: Value) -> Value:
        """Takes the name of a value, and gives its elements their ids."""
        self._names.add(value.name)
        value.start = self._next
        self._values.append(value)
        self._starts.append(value.start)
        self._next += value.dim
        return value

    def layer(
        self,
        kind: str,
        inputs: Inputs,
        dim: int,
        attributes: Mapping[str, Any] | None = None,
        tensors: Mapping[str, torch.Tensor] | None = None,
        positions: int = 0,
        within: Mapping[str, list[dict[str, Any]]] | None = None,
    ) -> Layer:
        """A new layer, or one before it that is the same."""
        tensors = {key: tensor for key, tensor in (tensors or {}).items() if tensor is not None}
        key = (
            kind,
            tuple((name, tuple(map(id, value)) if isinstance(value, list) else id(value)) for name, value in inputs.items()),
            tuple(sorted((attributes or {}).items())),
            tuple((name, id(tensor)) for name, tensor in tensors.items()),
            tuple((name, id(value)) for layers in (within or {}).values() for inner in layers for name, value in inner.items()),
        )
        if key not in self._made:
            layer = Layer(self._name(kind), dim, positions, kind, dict(inputs), dict(attributes or {}), tensors, dict(within or {}))
            self.add(layer)
            self.layers.append(layer)
            self._made[key] = layer
        return self._made[key]

    def _name(self, kind: str) -> str:
        # A Linear's layer has the path of the module; what else a module computes says what it is.
        natural = self.scope if kind == "fc" and self.scope else f"{self.scope}.{kind}".lstrip(".")
        name, number = natural, 1
        while name in self._names:
            number += 1
            name = f"{natural}_{number}"
        return name

    def ids(self, value: Value) -> torch.Tensor:
        """Its element ids [dim]."""
        return torch.arange(value.start, value.start + value.dim)

    def virtual(self, value: Virtual) -> torch.Tensor:
        """Element ids [dim] of a new virtual value."""
        value.scope = self.scope
        return self.ids(self.add(value))

    def sources(self, ids: torch.Tensor) -> list[Value]:
        """The values whose elements these are, by first appearance; zeros are of none."""
        flat = ids.flatten()
        positions = torch.bucketize(flat, torch.tensor(self._starts), right=True) - 1
        seen = dict.fromkeys(positions[flat != ZERO].tolist())
        return [self._values[position] for position in seen]

    def resolved(self, ids: torch.Tensor) -> torch.Tensor:
        """The same with elements of layers in place of virtual ones."""
        while virtual := [source for source in self.sources(ids) if isinstance(source, Virtual)]:
            ids = ids.clone()
            for source in virtual:
                mine = (ids >= source.start) & (ids < source.start + source.dim)
                scope, self.scope = self.scope, source.scope
                ids[mine] = source.realize(self, ids[mine] - source.start)
                self.scope = scope
        return ids

    # Vectors of elements ---------------------------------------------------------------------------------------------------------

    def columns(self, ids: torch.Tensor) -> tuple[Value, torch.Tensor | None]:
        """A value that has all these elements, and the place of each in it, -1 of zeros; None: it is they, in order. ids: [n]."""
        ids = self._aliased(self.resolved(ids))
        sources = self.sources(ids)
        if not sources:
            raise LookupError("no element of any value")
        value = sources[0] if len(sources) == 1 else self._concat(sources)
        places, at = torch.full_like(ids, -1), 0
        for source in sources:
            mine = (ids >= source.start) & (ids < source.start + source.dim)
            places[mine] = ids[mine] - source.start + at
            at += source.dim
        whole = len(ids) == value.dim and bool((places == torch.arange(value.dim)).all())
        return value, None if whole else places

    def exact(self, ids: torch.Tensor) -> Value:
        """A value that is these elements in their order, ids [n]: a concat where whole values stand side by side, else a matrix that picks."""
        runs = self.segments(self._aliased(self.resolved(ids)))
        if runs is not None:
            values = [run for (run,) in runs]
            return values[0] if len(values) == 1 else self._concat(values)
        value, places = self.columns(ids)
        if places is None:
            return value
        picks = torch.zeros(len(ids), value.dim)
        kept = places >= 0
        picks[torch.arange(len(ids))[kept], places[kept]] = 1
        return self.layer("fc", {"input": value}, len(ids), {}, {"weight": picks})

    def segments(self, *flats: torch.Tensor) -> list[tuple[Value, ...]] | None:
        """Values that, side by side, are the elements [n]; of several lists, cut at the same places. None where there are none."""
        found: list[tuple[Value, ...]] = []
        at, length = 0, len(flats[0])
        while at < length:
            values = tuple(self._whole_at(flat, at) for flat in flats)
            if any(value is None or value.dim != values[0].dim for value in values if values[0] is not None) or values[0] is None:
                return None
            found.append(values)  # type: ignore[arg-type]
            at += values[0].dim
        return found

    def _whole_at(self, ids: torch.Tensor, at: int) -> Value | None:
        first = int(ids[at])
        position = bisect_right(self._starts, first) - 1
        if first == ZERO or self._starts[position] != first:
            return None
        value = self._values[position]
        run = ids[at : at + value.dim]
        return value if len(run) == value.dim and torch.equal(run, self.ids(value)) else None

    def _aliased(self, ids: torch.Tensor) -> torch.Tensor:
        """With elements of a dot interaction in place of its first input's, where they are used together."""
        for source in self.sources(ids):
            if not isinstance(source, Layer) or source.aliases is None:
                continue
            repeated = source.aliases
            for other in self.sources(repeated):
                mine = (ids >= other.start) & (ids < other.start + other.dim)
                if other is not source and bool(torch.isin(ids[mine], repeated).all()) and bool(mine.any()):
                    order = torch.argsort(repeated)
                    found = torch.searchsorted(repeated[order], ids[mine])
                    ids = ids.clone()
                    ids[mine] = source.start + order[found]
        return ids

    def _concat(self, values: list[Value]) -> Value:
        return self.layer("concat", {"inputs": values}, sum(value.dim for value in values))

    # Operations ------------------------------------------------------------------------------------------------------------------

    def linear(self, ids: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Element ids [n] of weight x + bias: ids [k], weight [n, k], bias [n]."""
        value, places = self.columns(ids)
        if places is not None:
            spread = torch.zeros(weight.shape[0], value.dim, dtype=torch.float64)
            kept = places >= 0
            weight = spread.index_add_(1, places[kept], weight.double()[:, kept]).float()
        return self.ids(self.layer("fc", {"input": value}, weight.shape[0], {}, {"weight": weight, "bias": bias}))

    def unary(self, ids: torch.Tensor, make: Callable[[Value], Layer], keeps_zero: bool) -> torch.Tensor:
        """Element ids of the same shape of a function of each element; make applies it to a value."""
        ids = self.resolved(ids)
        if not keeps_zero and bool((ids == ZERO).any()):
            ids = self.ids(self.exact(ids.flatten())).reshape(ids.shape)
        out = ids.clone()
        for source in self.sources(ids):
            mine = (ids >= source.start) & (ids < source.start + source.dim)
            out[mine] = ids[mine] - source.start + make(source).start
        return out

    def elementwise(self, kind: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Element ids of a sum or product of elements, of the same shape."""
        flats = [self.resolved(x.flatten()) for x in (a, b)]
        pairs = self.segments(*flats) or [tuple(self.exact(flat) for flat in flats)]
        parts = [self.ids(self.layer(kind, {"inputs": list(pair)}, pair[0].dim)) for pair in pairs]
        return torch.cat(parts).reshape(a.shape)

    def affine(self, ids: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Element ids of scale * x + shift, constants of the shape of ids."""
        flat, scale, shift = self.resolved(ids.flatten()), scale.flatten().float(), shift.flatten().float()
        values = [value for (value,) in self.segments(flat) or []]
        # Each Linear takes its own share into its weights; what is none is done at once.
        if not all(isinstance(value, Layer) and value.type == "fc" for value in values) or not values:
            values = [self.exact(flat)]
        parts, at = [], 0
        for value in values:
            constants = {"scale": scale[at : at + value.dim].clone(), "shift": shift[at : at + value.dim].clone()}
            parts.append(self.ids(self.layer("scale_shift", {"input": value}, value.dim, {}, constants)))
            at += value.dim
        return torch.cat(parts).reshape(ids.shape)

    def total(self, terms: torch.Tensor) -> torch.Tensor:
        """Element ids [n] of sums over the last dimension: terms [n, k]."""
        virtual = self._products(terms)
        if virtual is not None:
            mixed = self._mixture(*virtual)
            return self._dots(*virtual) if mixed is None else mixed
        terms = self.resolved(terms)
        runs = [self.segments(terms[:, k]) for k in range(terms.shape[1])]
        if all(run is not None for run in runs):
            lengths = [[value.dim for (value,) in run or []] for run in runs]
            if all(length == lengths[0] for length in lengths):
                columns = zip(*[[value for (value,) in run or []] for run in runs], strict=True)
                return torch.cat([self.ids(self.layer("sum", {"inputs": list(values)}, values[0].dim)) for values in columns])
        count, width = terms.shape
        ones = torch.zeros(count, count * width)
        ones[torch.arange(count).repeat_interleave(width), torch.arange(count * width)] = 1
        return self.linear(terms.flatten(), ones, None)

    def mixed(self, gate: torch.Tensor, rows: Iterable[torch.Tensor]) -> torch.Tensor:
        """Element ids [n] of the sum of gate[e] * row e: gate [e], rows of [n]."""
        inputs = [self.exact(row) for row in rows]
        return self.ids(self.layer("mixture", {"gate": self.exact(gate), "inputs": inputs}, inputs[0].dim))

    def dots(self, rows: torch.Tensor) -> torch.Tensor:
        """Element ids [F, F] of the dot products of all pairs of rows [F, D]."""
        return self.virtual(Dots(rows)).reshape(rows.shape[0], rows.shape[0])

    def _products(self, terms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        sources = self.sources(terms)
        if len(sources) != 1 or not isinstance(sources[0], Products) or bool((terms == ZERO).any()):
            return None
        local = terms - sources[0].start
        return sources[0].a[local], sources[0].b[local]

    def _mixture(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
        """a, b: [n, k], of which one has the same k factors in each of the n sums."""
        for gate, rows in ((a, b), (b, a)):
            if len(gate) > 1 and bool((gate == gate[0]).all()):
                return self.mixed(gate[0], rows.T)
        return None

    def _dots(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """a, b: [n, k]: n dot products."""
        rows, places = torch.unique(torch.cat([a, b]), dim=0, return_inverse=True)
        pairs = self.dots(rows)
        return pairs[places[: len(a)], places[len(a) :]]
