"""Traces what lies behind the lookups.

torch.export in its non-strict form, since it runs the model's own Python (TorchRec's containers, dicts, loops over modules) and gives one
graph of ATen operations, however a model spells them; with a batch size that is a symbol. Lookups are replaced by inputs
(lookups.replayed), and modules that are a layer of Terabag's (terabag_export.nn, MultiheadAttention) by one operation each.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_leaves

from .errors import ExportError, UnknownOperation
from .inputs import ExampleInputs
from .lookups import Lookup, Recording, replayed

# Any size but 0 and 1, which torch.export takes for constants.
_TRACED_ROWS = 3
# Rows that are scored together, and how many of them then without the others.
_TRIED_ROWS = 4
_FIRST_ROWS = 2


class DensePart(nn.Module):
    """The model behind its lookups, as a module of tensors alone."""

    def __init__(self, model: nn.Module, inputs: ExampleInputs, recording: Recording) -> None:
        super().__init__()
        self.model = model
        self._inputs = inputs
        self._recording = recording

    def forward(self, leaves: list[torch.Tensor], vectors: list[torch.Tensor], lengths: list[torch.Tensor]) -> Any:
        """leaves: the inputs' tensors; vectors: of each lookup, float32 [B, dim] or [B, max_length, dim]; lengths: of each, int64 [B]."""
        remaining = iter(leaves)
        args, kwargs = self._inputs.replaced(lambda _, value: next(remaining) if isinstance(value, torch.Tensor) else value)
        with replayed(self.model, self._recording, vectors, lengths):
            return self.model(*args, **kwargs)


@dataclass(frozen=True)
class Traced:
    """The dense part as a graph."""

    program: ExportedProgram
    leaves: list[str]
    """Placeholders of the inputs' tensors, of the vectors, and of the lengths, in order."""
    vectors: list[str]
    lengths: list[str]


def trace(model: nn.Module, inputs: ExampleInputs, recording: Recording) -> Traced:
    """The graph of the dense part for any batch size."""
    return export_graph(DensePart(model, inputs, recording), traced_arguments(inputs, recording))


def export_graph(part: nn.Module, arguments: tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]) -> Traced:
    """The graph of a module of these inputs; raises UnknownOperation where there is none."""
    counts = [len(group) for group in arguments]
    shapes = tuple([{0: Dim.AUTO} if tensor.dim() else None for tensor in group] for group in arguments)
    with warnings.catch_warnings(), torch.no_grad(), unpacked(part), _packing_refused():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(part, arguments, strict=False, dynamic_shapes=shapes).run_decompositions(_decompositions())
        except UnknownOperation:
            raise
        except Exception as error:  # torch.export raises of many kinds; whatever it is, there is no graph.
            raise UnknownOperation("torch.export", "", str(error).strip().splitlines()[0]) from error
    placeholders = list(program.graph_signature.user_inputs)
    ends = (counts[0], counts[0] + counts[1])
    return Traced(program, placeholders[: ends[0]], placeholders[ends[0] : ends[1]], placeholders[ends[1] :])


@contextmanager
def _packing_refused() -> Iterator[None]:
    """With packed sequences refused by their name: how many steps they have depends on the lengths, which no graph of all batches has."""

    def refuse(*_: Any) -> Any:
        raise UnknownOperation(
            "pack_padded_sequence", "", "nn.GRU reads the padded sequence too, and SequencePool('last') of terabag_export.nn its last state"
        )

    with patch.object(torch._VF, "_pack_padded_sequence", refuse, create=True):
        yield


@contextmanager
def unpacked(part: nn.Module) -> Iterator[None]:
    """Without the packed rows of torch.ao.nn.quantized's modules, which torch.export cannot hold, and their lookups do not need."""
    packed = [(module, module._modules["_packed_params"]) for module in part.modules() if "_packed_params" in module._modules]
    try:
        for module, _ in packed:
            del module._modules["_packed_params"]
        yield
    finally:
        for module, parameters in packed:
            module._modules["_packed_params"] = parameters


def traced_arguments(inputs: ExampleInputs, recording: Recording) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Inputs of DensePart with few rows: only their shapes matter."""
    rows = batch_size(inputs, recording)
    leaves = [_few_rows(leaf.tensor) if leaf.tensor.dim() > 0 and leaf.tensor.shape[0] == rows else leaf.tensor for leaf in inputs.leaves]
    vectors, lengths = [], []
    for lookup in recording.lookups:
        shape = (lookup.table.dim,) if lookup.max_length is None else (lookup.max_length, lookup.table.dim)
        vectors.append(torch.zeros(_TRACED_ROWS, *shape))
        lengths.append(torch.ones(_TRACED_ROWS, dtype=torch.long))
    return leaves, vectors, lengths


def refuse_mixed_rows(model: nn.Module, inputs: ExampleInputs, recording: Recording) -> None:
    """Refuses a model whose output for a row depends on the other rows of the batch: a layer of Terabag's sees one item.

    What the lookups return are random numbers; all else are rows of the example.
    """
    rows = batch_size(inputs, recording)
    chosen = torch.arange(_TRIED_ROWS) % rows
    leaves = [leaf.tensor[chosen] if leaf.tensor.dim() > 0 and leaf.tensor.shape[0] == rows else leaf.tensor for leaf in inputs.leaves]
    batched = [leaf.tensor.dim() > 0 and leaf.tensor.shape[0] == rows for leaf in inputs.leaves]
    lengths = [lookup.lengths[chosen] for lookup in recording.lookups]
    vectors = [random_vectors(lookup, of_lookup) for lookup, of_lookup in zip(recording.lookups, lengths, strict=True)]
    part = DensePart(model, inputs, recording)
    first = [leaf[:_FIRST_ROWS] if of_rows else leaf for leaf, of_rows in zip(leaves, batched, strict=True)]
    try:
        with torch.no_grad():
            together = tree_leaves(part(leaves, vectors, lengths))
            apart = tree_leaves(part(first, [vector[:_FIRST_ROWS] for vector in vectors], [length[:_FIRST_ROWS] for length in lengths]))
    except Exception:  # A model that cannot be run so cannot be traced either, which says why.
        return
    for whole, alone in zip(together, apart, strict=True):
        same = whole[:_FIRST_ROWS]
        largest = float(torch.where(whole.isfinite(), whole, 0).abs().max())
        if same.shape != alone.shape or not torch.allclose(same, alone, rtol=1e-2, atol=1e-3 * largest, equal_nan=True):
            raise ExportError("model", "what it gives for a row depends on the other rows of the batch, and requests have others")


def random_vectors(lookup: Lookup, lengths: torch.Tensor) -> torch.Tensor:
    """What a lookup may return: [B, dim], or [B, max_length, dim] with zeros beyond the lengths [B]."""
    generator = torch.Generator().manual_seed(0)
    if lookup.max_length is None:
        return torch.randn(len(lengths), lookup.table.dim, generator=generator)
    here = torch.arange(lookup.max_length) < lengths.unsqueeze(1)
    return torch.randn(len(lengths), lookup.max_length, lookup.table.dim, generator=generator) * here.unsqueeze(2)


def batch_size(inputs: ExampleInputs, recording: Recording) -> int:
    """Rows of the example: bags of a lookup, or rows of the first input of a model without any."""
    for lookup in recording.lookups:
        return len(lookup.offsets) - 1
    return inputs.leaves[0].tensor.shape[0]


def _few_rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.new_zeros((_TRACED_ROWS, *tensor.shape[1:]))


def _decompositions() -> dict[Any, Any]:
    """Operations that are others of the list below in disguise; all that is not listed stays whole: linear, softmax, layer_norm..."""
    disguised = ("aten.einsum.", "aten.addmm.", "aten.square.", "aten.outer.", "aten.addcmul.", "aten.lerp.")
    return {operation: how for operation, how in torch.export.default_decompositions().items() if str(operation).startswith(disguised)}
