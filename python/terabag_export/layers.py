"""The dense part as Terabag's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from . import sequences  # noqa: F401  registers the lowering of sequences
from .errors import UnknownOperation
from .fuse import fuse
from .graph import Graph, Layer, Value
from .inputs import ExampleInputs
from .lookups import Lookup
from .lower import Elements, Lowering, Opaque
from .sequences import Lengths, Sequence, SequenceIds
from .trace import Traced, trace

if TYPE_CHECKING:
    from .export import Parts


def layers_of(model: nn.Module, inputs: ExampleInputs, parts: Parts) -> tuple[dict[str, Any], dict[str, bytes], dict[str, torch.Tensor]]:
    """Fields of the spec (dense, nets, output, outputs), no further files, and the weights; raises UnknownOperation."""
    traced = trace(model, inputs, parts.recording)
    graph = Graph()
    features = {feature.leaf.path: Value(feature.name, _width(feature.leaf.tensor)) for feature in parts.features}
    reads = [Value(lookup.name, lookup.table.dim, lookup.max_length or 0) for lookup in parts.recording.lookups]
    for value in [*features.values(), *reads]:
        graph.add(value)
    lowering = Lowering(traced, _placeholders(traced, inputs, parts, graph, features, reads), graph)
    values = [_output(graph, value, name) for value, name in zip(lowering.run(), parts.outputs, strict=True)]
    layers, outputs = fuse(graph.layers, values)
    outputs = [_layer(output, layers) for output in outputs]
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
            found[placeholder] = Lengths(reads[sequence])
        elif sequence is not None and lookups[sequence].max_length is not None:
            found[placeholder] = SequenceIds(reads[sequence], lookups[sequence].padding)
        else:
            found[placeholder] = Opaque(leaf.path, (1, *leaf.tensor.shape[1:]))
    for placeholder, lookup, value in zip(traced.vectors, lookups, reads, strict=True):
        is_bag = lookup.max_length is None
        found[placeholder] = Elements(graph.ids(value).reshape(1, -1)) if is_bag else Sequence(value, clean=True)
    for placeholder, value in zip(traced.lengths, reads, strict=True):
        found[placeholder] = Lengths(value)
    return found


def _width(tensor: torch.Tensor) -> int:
    return tensor.shape[1] if tensor.dim() == 2 else 1


def _output(graph: Graph, value: Any, name: str) -> Value:
    if not isinstance(value, Elements):
        raise UnknownOperation("output", name, "is no vector of values of the model")
    graph.scope = name
    found = graph.exact(value.ids.flatten())
    return found if isinstance(found, Layer) else graph.layer("concat", {"inputs": [found]}, found.dim)


def _layer(value: Value, layers: list[Layer]) -> Value:
    assert any(layer is value for layer in layers), value.name
    return value


def lookup_entry(lookup: Lookup) -> dict[str, Any]:
    """A bag or a sequence as a layer of model.json."""
    entry: dict[str, Any] = {"type": "embedding_bag", "name": lookup.name, "table": lookup.table.name}
    if lookup.max_length is not None:
        entry |= {"type": "embedding_sequence", "maxLength": lookup.max_length, "truncate": "first"}
    else:
        entry |= {"pooling": lookup.pooling} | ({"weighted": True} if lookup.weights is not None else {})
    return entry | ({"paddingId": lookup.padding} if lookup.padding is not None else {})


def _entry(layer: Layer, origins: Mapping[int, str], weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A layer as model.json has it; its tensors are added to weights."""
    entry: dict[str, Any] = {"type": layer.type, "name": layer.name}
    entry |= {key: [value.name for value in given] if isinstance(given, list) else given.name for key, given in layer.inputs.items()}
    for key, tensor in layer.tensors.items():
        entry[key] = _tensor_name(origins.get(id(tensor), f"{layer.name}.{key}"), tensor, weights)
    return entry | layer.attributes


def _tensor_name(natural: str, tensor: torch.Tensor, weights: dict[str, torch.Tensor]) -> str:
    """The name of a tensor among the weights; one that is there already keeps its name."""
    name, number = natural, 1
    while name in weights and weights[name] is not tensor:
        number += 1
        name = f"{natural}_{number}"
    weights[name] = tensor
    return name
