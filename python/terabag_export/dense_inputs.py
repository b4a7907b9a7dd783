"""The inputs that the dense part reads.

A dense feature is floats. Integers and bools are one too where the dense part only moves them and casts them to float. What else reads
integers is refused by the name of the input, and so is indexing of a table by ids, which would make the table a constant of the dense part.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from .errors import ExportError
from .inputs import ExampleInputs, Leaf
from .lower import MOVES, module_path, needed_nodes, operation_name
from .trace import Traced, batch_size

if TYPE_CHECKING:
    from .export import Feature, Parts

_CASTS = frozenset(["to", "_to_copy", "type_as"])
# Integers beside floats are cast to float first.
_PROMOTES = frozenset("add sub rsub mul div true_divide cat stack concat hstack".split())
_INDEXES = frozenset(["index", "index_select", "gather", "take"])


def read_placeholders(traced: Traced) -> set[str]:
    """Inputs of the graph of which more is read than the shape."""
    needed = needed_nodes(traced.program.graph.nodes)
    return {node.name for node in needed if node.op == "placeholder" and any(user in needed and not _is_size(user) for user in node.users)}


def read_features(traced: Traced, inputs: ExampleInputs, parts: Parts) -> list[Feature]:
    """The dense features that the dense part reads; refuses what else it reads of the inputs."""
    features = {feature.leaf.path: feature for feature in parts.features}
    lookups = parts.recording.lookups
    ids, lengths = {lookup.ids_leaf for lookup in lookups}, {lookup.lengths_leaf for lookup in lookups}
    nodes, read = {node.name: node for node in traced.program.graph.nodes}, read_placeholders(traced)
    found: list[Feature] = []
    for name, leaf in zip(traced.leaves, inputs.leaves, strict=True):
        if name not in read or leaf.path in lengths:
            continue
        if not leaf.tensor.is_floating_point():
            _refuse_indexing(traced, nodes[name], leaf)
        if leaf.path in ids:
            continue
        if leaf.path not in features:
            raise ExportError(leaf.path, _why_no_feature(leaf, batch_size(inputs, parts.recording)))
        if not leaf.tensor.is_floating_point():
            _refuse_integers(traced, nodes[name], leaf)
        found.append(features[leaf.path])
    return found


def _why_no_feature(leaf: Leaf, rows: int) -> str:
    shape = list(leaf.tensor.shape)
    if not shape or shape[0] != rows:
        return f"a dense feature is [B] or [B, dim], with a row for each of the {rows} items of the example: not {shape}"
    if len(shape) > 2:
        return f"a dense feature is [B] or [B, dim]: pass [{rows}, {leaf.tensor[0].numel()}], and reshape it in the model, not {shape}"
    return "the dense part reads the ids of a lookup as numbers: pass these once more, as floats, in an input of their own"


def _refuse_indexing(traced: Traced, start: fx.Node, leaf: Leaf) -> None:
    """Refuses rows of a constant that are chosen by what is made of an input."""
    of_leaf, of_inputs = _made_of([start], traced), _made_of(_user_inputs(traced), traced)
    for node in needed_nodes(traced.program.graph.nodes):
        if operation_name(node) in _INDEXES and node.args[0] not in of_inputs and any(given in of_leaf for given in node.all_input_nodes):
            table = traced.program.graph_signature.inputs_to_parameters.get(getattr(node.args[0], "name", ""), "a tensor").removeprefix("model.")
            raise ExportError(
                leaf.path,
                f"the model reads rows of {table} by {operation_name(node)}{_where(node)}: look them up with torch.nn.functional.embedding, "
                "or nn.Embedding, of a parameter [rows, dim], so that they are rows of a table",
            )


def _refuse_integers(traced: Traced, start: fx.Node, leaf: Leaf) -> None:
    """Refuses what is done to integers, but to move them and to cast them to float."""
    integers = {start}
    needed = needed_nodes(traced.program.graph.nodes)
    for node in traced.program.graph.nodes:
        if node not in needed or not integers.intersection(node.all_input_nodes) or _is_size(node) or _gives_floats(node):
            continue
        if not _moves(node, integers):
            what = f"the dense part does {operation_name(node)} with its {str(leaf.tensor.dtype).removeprefix('torch.')} values{_where(node)}"
            raise ExportError(leaf.path, f"{what}: cast them to float first, as by .float(), or pass what it gives as an input of floats")
        integers.add(node)


def _gives_floats(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return operation_name(node) in _CASTS | _PROMOTES and isinstance(value, torch.Tensor) and value.is_floating_point()


def _moves(node: fx.Node, integers: set[fx.Node]) -> bool:
    beside = tree_leaves((node.args[1:], node.kwargs))
    return node.target is operator.getitem or (operation_name(node) in MOVES and not any(given in integers for given in beside))


def _made_of(starts: list[fx.Node], traced: Traced) -> set[fx.Node]:
    """What depends on more than the shapes of these."""
    found = set(starts)
    for node in traced.program.graph.nodes:
        if not _is_size(node) and found.intersection(node.all_input_nodes):
            found.add(node)
    return found


def _user_inputs(traced: Traced) -> list[fx.Node]:
    names = {*traced.leaves, *traced.vectors, *traced.lengths}
    return [node for node in traced.program.graph.nodes if node.name in names]


def _is_size(node: fx.Node) -> bool:
    return operation_name(node) == "sym_size"


def _where(node: fx.Node) -> str:
    path = module_path(node)
    return f" in {path}" if path else ""
