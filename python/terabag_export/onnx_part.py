"""The dense part as ONNX: its inputs are the dense features, the vectors of bags, and sequences with their lengths."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.export import Dim

from .dense_inputs import read_features, read_placeholders
from .errors import ExportError, UnknownOperation
from .inputs import ExampleInputs, Leaf
from .lookups import Lookup
from .trace import DensePart, export_graph, random_vectors, traced_arguments, unpacked

if TYPE_CHECKING:
    from .export import Feature, Parts

ONNX_FILE = "dense.onnx"


def onnx_of(model: nn.Module, inputs: ExampleInputs, parts: Parts) -> tuple[dict[str, Any], dict[str, bytes], dict[str, torch.Tensor]]:
    """Fields of the spec (dense, nets, output, outputs, onnx), the file, and no weights."""
    from .layers import lookup_entry

    lookups = parts.recording.lookups
    try:
        part = OnnxPart(model, inputs, parts, _read(model, inputs, parts))
        _refuse_ids_as_numbers(model, inputs, parts, part.sequence_of)
        content = _export(part, list(parts.outputs))
    except UnknownOperation as unknown:
        raise ExportError(unknown.path or "model", str(unknown)) from unknown
    read = [{"name": given.name, "value": given.value} | ({"lengths": given.lengths} if given.lengths else {}) for given in part.given]
    names = list(parts.outputs)
    taken = {given.value for given in part.given} | {lookup.name for lookup in lookups}
    layers = {name: name if name not in taken else f"{name}.output" for name in names}
    spec: dict[str, Any] = {
        "dense": [{"name": given.value, "dim": given.shape[0]} for given in part.given if given.leaf is not None],
        "nets": [{"name": "net", "layers": [lookup_entry(lookup) for lookup in lookups]}],
        "output": layers[names[0]],
        "onnx": {
            "file": ONNX_FILE,
            "inputs": read,
            "outputs": [{"name": name, "layer": layers[name], "dim": tensor.shape[1]} for name, tensor in parts.outputs.items()],
        },
    }
    if len(names) > 1:
        spec["outputs"] = [layers[name] for name in names[1:]]
    return spec, {ONNX_FILE: content}, {}


@dataclass(frozen=True)
class Read:
    """What the dense part reads."""

    features: dict[str, Feature]
    """Dense features, by the path of the input."""
    leaves: set[int]
    """Numbers of the inputs' tensors, of the lookups' vectors, and of their lengths."""
    vectors: set[int]
    lengths: set[int]


@dataclass(frozen=True)
class Given:
    """An input of the ONNX model, and a second one of its lengths."""

    name: str
    value: str
    shape: tuple[int, ...]
    """Of an item."""
    leaf: Leaf | None = None
    """Of a dense feature."""
    lookup: int | None = None
    lengths: str | None = None


class OnnxPart(nn.Module):
    """The dense part with an input for each value that it reads."""

    def __init__(self, model: nn.Module, inputs: ExampleInputs, parts: Parts, read: Read) -> None:
        super().__init__()
        self._part = DensePart(model, inputs, parts.recording)
        self._arguments = traced_arguments(inputs, parts.recording)
        self._inputs = inputs
        self._lookups = parts.recording.lookups
        # The sequences whose ids or lengths the inputs of these numbers are.
        self.sequence_of = {
            number: self._sequence(leaf) for number, leaf in enumerate(inputs.leaves) if number in read.leaves and leaf.path not in read.features
        }
        self.given: list[Given] = []
        for leaf in inputs.leaves:
            feature = read.features.get(leaf.path)
            if feature is not None:
                self.given.append(Given(feature.name, feature.name, (leaf.tensor.shape[1] if leaf.tensor.dim() == 2 else 1,), leaf))
        for number, lookup in enumerate(self._lookups):
            masked = number in read.lengths or number in self.sequence_of.values()
            if number in read.vectors or masked:
                shape = (lookup.table.dim,) if lookup.max_length is None else (lookup.max_length, lookup.table.dim)
                self.given.append(Given(lookup.name, lookup.name, shape, None, number, f"{lookup.name}.lengths" if masked else None))

    def _sequence(self, leaf: Leaf) -> int | None:
        """The sequence whose ids or lengths an input is."""
        return next((k for k, lookup in enumerate(self._lookups) if leaf.path in (lookup.ids_leaf, lookup.lengths_leaf) and lookup.max_length), None)

    @property
    def names(self) -> list[str]:
        """Of the inputs of forward."""
        return [name for given in self.given for name in (given.name, given.lengths) if name is not None]

    def example(self) -> tuple[torch.Tensor, ...]:
        """A few rows of each input."""
        rows = self._arguments[1][0].shape[0] if self._arguments[1] else 3
        found: list[torch.Tensor] = []
        for given in self.given:
            found.append(torch.zeros(rows, *given.shape))
            if given.lengths is not None:
                found.append(torch.ones(rows, dtype=torch.long))
        return tuple(found)

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Tensors [B, dim], of sequences [B, max_length, dim] and lengths [B], in the order of names."""
        leaves, vectors, lengths = (list(group) for group in self._arguments)
        remaining = iter(tensors)
        for given in self.given:
            tensor = next(remaining)
            if given.lookup is not None:
                vectors[given.lookup] = tensor
            else:
                number = [leaf.path for leaf in self._inputs.leaves].index(given.leaf.path if given.leaf else "")
                of_model = self._inputs.leaves[number].tensor
                leaves[number] = (tensor if of_model.dim() == 2 else tensor.squeeze(1)).to(of_model.dtype)
            if given.lengths is not None and given.lookup is not None:
                lengths[given.lookup] = next(remaining)
        for number, sequence in self.sequence_of.items():
            if sequence is not None:
                leaves[number] = _leaf_of(self._lookups[sequence], self._inputs.leaves[number], lengths[sequence])
        output = self._part(leaves, vectors, lengths)
        return tuple(value.reshape(value.shape[0], -1) for value in torch.utils._pytree.tree_leaves(output))


def _leaf_of(lookup: Lookup, leaf: Leaf, lengths: torch.Tensor) -> torch.Tensor:
    """An input again from the lengths [B] of a sequence: these, or padded ids, of which the dense part tells padding from what is none."""
    if leaf.path == lookup.lengths_leaf:
        return lengths.to(leaf.tensor.dtype)
    padding = lookup.padding if lookup.padding is not None else 0
    here = torch.arange(leaf.tensor.shape[1]) < lengths.unsqueeze(1)
    return torch.where(here, 0 if padding else 1, padding).to(leaf.tensor.dtype)


def _refuse_ids_as_numbers(model: nn.Module, inputs: ExampleInputs, parts: Parts, sequence_of: dict[int, int | None]) -> None:
    """Refuses a dense part that reads more of a sequence's ids than where they are padding, which is all that ONNX is given of them."""
    lookups = parts.recording.lookups
    lengths = [lookup.lengths for lookup in lookups]
    vectors = [random_vectors(lookup, of_lookup) for lookup, of_lookup in zip(lookups, lengths, strict=True)]
    part, given = DensePart(model, inputs, parts.recording), [leaf.tensor for leaf in inputs.leaves]
    for number, sequence in sequence_of.items():
        if sequence is None:
            continue
        leaf = inputs.leaves[number]
        again = [*given[:number], _leaf_of(lookups[sequence], leaf, lengths[sequence]), *given[number + 1 :]]
        with torch.no_grad():
            outputs = zip(*(torch.utils._pytree.tree_leaves(part(leaves, vectors, lengths)) for leaves in (given, again)), strict=True)
        if not all(torch.allclose(a, b, equal_nan=True) for a, b in outputs):
            raise ExportError(
                leaf.path, "the dense part reads ids of a sequence as numbers: pass these once more, as floats, in an input of their own"
            )


def _read(model: nn.Module, inputs: ExampleInputs, parts: Parts) -> Read:
    traced = export_graph(DensePart(model, inputs, parts.recording), traced_arguments(inputs, parts.recording))
    names = read_placeholders(traced)
    groups = (traced.leaves, traced.vectors, traced.lengths)
    leaves, vectors, lengths = ({number for number, name in enumerate(group) if name in names} for group in groups)
    return Read({feature.leaf.path: feature for feature in read_features(traced, inputs, parts)}, leaves, vectors, lengths)


def _export(part: OnnxPart, outputs: list[str]) -> bytes:
    """The ONNX model, with its weights in it."""
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()), unpacked(part):
        warnings.simplefilter("ignore")
        example = part.example()
        try:
            program = torch.export.export(part, example, strict=False, dynamic_shapes=(tuple({0: Dim.AUTO} for _ in example),))
            made = torch.onnx.export(program, dynamo=True, input_names=part.names, output_names=outputs, external_data=False, verbose=False)
        except ModuleNotFoundError as error:
            raise ExportError("onnx", "the dense part becomes ONNX, which needs the packages onnx and onnxscript") from error
        except Exception as error:
            raise UnknownOperation("torch.onnx.export", "", str(error).strip().splitlines()[0]) from error
    if made is None:
        raise UnknownOperation("torch.onnx.export", "", "gave no model")
    return _without_notes(made.model_proto).SerializeToString()


def _without_notes(proto: Any) -> Any:
    """A message of ONNX without what torch.onnx notes of each node, five times as much as the rest: where in which file of the model it stands."""
    for field, value in proto.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            proto.ClearField(field.name)
        elif field.message_type is not None:
            for message in [value] if hasattr(value, "ListFields") else value:
                _without_notes(message)
    return proto
