"""The dense part as Terabag's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .dense_inputs import read_features
from .errors import UnknownOperation
from .fuse import fuse
from .graph import Graph, Layer, Value
from .inputs import ExampleInputs
from .leaves import leaves_of
from .lookups import Lookup
from .lower import Elements, Lowering, Unread
from .sequences import Lengths, Sequence, SequenceIds
from .trace import Traced, trace

if TYPE_CHECKING:
    from .export import Parts


def layers_of(model: nn.Module, inputs: ExampleInputs, parts: Parts) -> tuple[dict[str, Any], dict[str, bytes], dict[str, torch.Tensor]]:
    """Fields of the spec (dense, nets, output, outputs), no further files, and the weights; raises UnknownOperation."""
    with leaves_of(model):
        traced = trace(model, inputs, parts.recording)
    graph = Graph()
    read_inputs = read_features(traced, inputs, parts)
    features = {feature.leaf.path: Value(feature.name, _width(feature.leaf.tensor)) for feature in read_inputs}
    reads = [Value(lookup.name, lookup.table.dim, lookup.max_length or 0) for lookup in parts.recording.lookups]
    for value in [*features.values(), *reads]:
        graph.add(value)
    lowering = Lowering(traced, _placeholders(traced, inputs, parts, graph, features, reads), graph, dict(model.named_modules()))
    values: list[Value] = []
    for value, name in zip(lowering.run(), parts.outputs, strict=True):
        output = _output(graph, value, name)
        # A layer is one output: another of the same values is a copy.
        values.append(graph.layer("concat", {"inputs": [output]}, output.dim) if any(output is other for other in values) else output)
    layers, outputs = fuse(graph.layers, values)
    _name_outputs(dict(zip(parts.outputs, outputs, strict=True)), [*features.values(), *reads, *layers])
    weights: dict[str, torch.Tensor] = {}
    entries = [lookup_entry(lookup) for lookup in parts.recording.lookups]
    entries += [_entry(layer, lowering.origins, weights) for layer in layers]
    read = {id(value) for layer in layers for value in layer.read}
    net = {"name": "net", "layers": entries}
    spec = {
        "dense": [{"name": value.name, "dim": value.dim} for value in features.values() if id(value) in read],
        "nets": [net],
        "output": outputs[0].name,
    }
    if len(outputs) > 1:
        spec["outputs"] = [output.name for output in outputs[1:]]
    return spec, {}, weights


def _placeholders(
    traced: Traced, inputs: ExampleInputs, parts: Parts, graph: Graph, features: Mapping[str, Value], reads: list[Value]
) -> dict[str, Any]:
    """What the lowering takes for each input of the graph."""
    lookups = parts.recording.lookups
    found: dict[str, Any] = {}
    for placeholder, leaf in zip(traced.leaves, inputs.leaves, strict=True):
        feature = features.get(leaf.path)
        sequence = next((k for k, lookup in enumerate(lookups) if leaf.path in (lookup.ids_leaf, lookup.lengths_leaf)), None)
        if feature is not None:
            found[placeholder] = Elements(graph.ids(feature).reshape(1, *leaf.tensor.shape[1:]))
        elif sequence is not None and lookups[sequence].lengths_leaf == leaf.path:
            found[placeholder] = Lengths(reads[sequence].positions)
        elif sequence is not None and lookups[sequence].max_length is not None:
            found[placeholder] = SequenceIds(reads[sequence].positions, lookups[sequence].padding)
        else:
            found[placeholder] = Unread((1, *leaf.tensor.shape[1:]))
    for placeholder, lookup, value in zip(traced.vectors, lookups, reads, strict=True):
        is_bag = lookup.max_length is None
        found[placeholder] = Elements(graph.ids(value).reshape(1, -1)) if is_bag else Sequence(value, clean=True)
    for placeholder, value in zip(traced.lengths, reads, strict=True):
        found[placeholder] = Lengths(value.positions)
    return found


def _width(tensor: torch.Tensor) -> int:
    return tensor.shape[1] if tensor.dim() == 2 else 1


def _output(graph: Graph, value: Any, name: str) -> Value:
    if not isinstance(value, Elements):
        raise UnknownOperation("output", name, "is no vector of values of the model")
    graph.scope = name
    found = graph.exact(value.ids.flatten())
    return found if isinstance(found, Layer) else graph.layer("concat", {"inputs": [found]}, found.dim)


def _name_outputs(outputs: dict[str, Value], values: list[Value]) -> None:
    """Gives the outputs of a dict its keys as names, where no other value has them; a single output keeps its own."""
    if len(outputs) == 1:
        return
    taken = {value.name for value in values}
    for name, value in outputs.items():
        if name not in taken and value.name not in outputs:
            value.name = name


def lookup_entry(lookup: Lookup) -> dict[str, Any]:
    """A bag or a sequence as a layer of model.json."""
    entry: dict[str, Any] = {"type": "embedding_bag", "name": lookup.name, "table": lookup.table.name}
    if lookup.max_length is not None:
        entry |= {"type": "embedding_sequence", "maxLength": lookup.max_length, "truncate": "first"}
    else:
        entry |= {"pooling": lookup.pooling} | ({"weighted": True} if lookup.weights is not None else {})
    return entry | ({"paddingId": lookup.padding} if lookup.padding is not None else {})


def _entry(layer: Layer, origins: Mapping[tuple[int, torch.Size], str], weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A layer as model.json has it; its tensors are added to weights."""
    entry: dict[str, Any] = {"type": layer.type, "name": layer.name}
    entry |= {key: [value.name for value in given] if isinstance(given, list) else given.name for key, given in layer.inputs.items()}

    def named(tensor: torch.Tensor, natural: str) -> str:
        return _tensor_name(_origin(tensor, origins) or natural, tensor, weights)

    entry |= {key: named(tensor, f"{layer.name}.{key}") for key, tensor in layer.tensors.items()}
    for field, layers in layer.within.items():
        entry[field] = [
            {key: named(value, f"{layer.name}.{number}.{key}") if isinstance(value, torch.Tensor) else value for key, value in inner.items()}
            for number, inner in enumerate(layers)
        ]
    return entry | layer.attributes


def _origin(tensor: torch.Tensor, origins: Mapping[tuple[int, torch.Size], str]) -> str | None:
    return origins.get((tensor.data_ptr(), tensor.shape))


def _is_same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.data_ptr() == b.data_ptr() and a.shape == b.shape)


def _tensor_name(natural: str, tensor: torch.Tensor, weights: dict[str, torch.Tensor]) -> str:
    """The name of a tensor among the weights; one that is there already keeps its name."""
    name, number = natural, 1
    while name in weights and not _is_same(weights[name], tensor):
        number += 1
        name = f"{natural}_{number}"
    weights[name] = tensor
    return name
