"""Finds what a model looks up: runs it once on the example inputs, and keeps the ids of each embedding bag and sequence.

Lookups are found where they happen, not where modules are: at torch.nn.functional.embedding_bag and embedding, through which the
modules go too, and at the modules that have kernels of their own (TorchRec's collections, quantized modules). Ids that do not depend on
the inputs, such as positions, are no lookup: their rows are constants of the dense part.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .errors import ExportError
from .inputs import ExampleInputs, is_jagged, short_names
from .quantized import is_packed_module, packed_module_table
from .tables import SourceTable
from .torchrec_modules import collection_call, is_collection

_BAG = inspect.signature(functional.embedding_bag)
_ROWS = inspect.signature(functional.embedding)
# Longer, a table of positions is more likely than as many features that share a table.
MOST_COLUMNS = 128
# What gives elements of one of its arguments, beside views: the place of that argument.
_CARRIED_ARGUMENT = {
    "aten.clone": 0,
    "aten._to_copy": 0,
    "aten._unsafe_view": 0,
    "aten.cat": 0,
    "aten.stack": 0,
    "aten.index": 0,
    "aten.index_select": 0,
    "fbgemm.permute_1D_sparse_data": 3,
    "fbgemm.permute_2D_sparse_data": 3,
}


@dataclass
class Lookup:
    """One embedding bag or sequence of the bundle, with the ids of the example."""

    name: str
    table: SourceTable
    ids: torch.Tensor
    """int64 [ids], of all bags in order."""
    offsets: torch.Tensor
    """int64 [B + 1]."""
    pooling: str = "sum"
    weights: torch.Tensor | None = None
    """float32 [ids] of a weighted bag."""
    padding: int | None = None
    max_length: int | None = None
    """Of a sequence; None: a bag."""
    ids_leaf: str | None = None
    """Path of the input that is the padded ids [B, max_length]."""
    lengths_leaf: str | None = None
    """Path of the input that is the lengths [B]."""

    @property
    def lengths(self) -> torch.Tensor:
        """int64 [B]."""
        return self.offsets.diff()


@dataclass
class Call:
    """A call of the model that is replaced when its dense part is traced."""

    lookups: list[Lookup]
    assemble: Callable[[list[torch.Tensor], list[torch.Tensor]], Any]
    """What the call returns, of each lookup's vectors [B, dim] or [B, max_length, dim], and of each one's lengths [B]."""


@dataclass
class Recording:
    """All calls in the order in which the model made them; None: one whose ids are constants, which is left alone."""

    calls: list[Call | None] = field(default_factory=list)

    @property
    def lookups(self) -> list[Lookup]:
        """In the order of the calls."""
        return [lookup for call in self.calls if call is not None for lookup in call.lookups]


def record(model: nn.Module, inputs: ExampleInputs, names: Mapping[str, str], sequences: Mapping[str, str | None]) -> tuple[Recording, Any]:
    """Runs the model on the example; returns its lookups and its output."""
    recorder = _Recorder(model, inputs, names, sequences)
    args, kwargs = inputs.replaced(lambda _, value: value)
    with _patched(recorder.modules, recorder.module_call), torch.no_grad(), recorder.taint, _Functions(recorder.function_call):
        output = model(*args, **kwargs)
    for call in recorder.recording.calls:
        for lookup in call.lookups if call else []:
            if lookup.max_length == 0:
                raise ExportError(lookup.name, "the sequence is never padded: call to_padded_dense(desired_length=...) on it")
    return recorder.recording, output


@contextmanager
def replayed(model: nn.Module, recording: Recording, vectors: list[torch.Tensor], lengths: list[torch.Tensor]) -> Iterator[None]:
    """Within it, the model's lookups return these vectors, in the order of recording.lookups; no table is read."""
    calls = iter(recording.calls)
    position = 0

    def answer(original: Callable[[], Any]) -> Any:
        nonlocal position
        call = next(calls)
        if call is None:
            return original()
        start, position = position, position + len(call.lookups)
        return call.assemble(vectors[start:position], lengths[start:position])

    with (
        _patched(_patched_modules(model), lambda _module, _path, original, *_: answer(original)),
        _Functions(lambda _function, original, *_: answer(original)),
    ):
        yield


class _Taint(TorchDispatchMode):
    """Follows which tensors depend on the values of the inputs, and which are nothing but such values."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        # The tensors are held, as an id is taken again once its object is gone.
        self.tainted = {id(tensor): tensor for tensor in tensors}
        self._carried = dict(self.tainted)

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self.tainted

    def carries(self, tensor: torch.Tensor) -> bool:
        """Whether each of its elements is one of an input's, moved or cast."""
        return id(tensor) in self._carried

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, torch.Tensor) and leaf in self for leaf in tree_leaves((args, kwargs))):
            made = {id(leaf): leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)}
            self.tainted.update(made)
            place = 0 if func.is_view else _CARRIED_ARGUMENT.get(str(func.overloadpacket))
            given = [] if place is None else [leaf for leaf in tree_leaves(args[place : place + 1]) if isinstance(leaf, torch.Tensor)]
            if given and all(self.carries(leaf) for leaf in given):
                self._carried.update(made)
        return out


class _Functions(TorchFunctionMode):
    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self._call = call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (functional.embedding_bag, functional.embedding):
            return self._call(func, lambda: func(*args, **kwargs), args, kwargs)
        return func(*args, **kwargs)


def _patched_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules whose lookups are found at their forward, by path; what lies within them is theirs."""
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        within = any(path == outer or path.startswith(f"{outer}.") or outer == "" for outer in found)
        if not within and (is_collection(module) or is_packed_module(module)):
            found[path] = module
    return found


@contextmanager
def _patched(modules: Mapping[str, nn.Module], call: Callable[..., Any]) -> Iterator[None]:
    def patch(path: str, module: nn.Module) -> None:
        original = module.forward
        module.forward = lambda *args, **kwargs: call(module, path, lambda: original(*args, **kwargs), args, kwargs)

    try:
        for path, module in modules.items():
            patch(path, module)
        yield
    finally:
        for module in modules.values():
            module.__dict__.pop("forward", None)


class _Recorder:
    def __init__(self, model: nn.Module, inputs: ExampleInputs, names: Mapping[str, str], sequences: Mapping[str, str | None]) -> None:
        self.modules = _patched_modules(model)
        self.recording = Recording()
        leaves = inputs.leaves
        self._leaves = {leaf.path: leaf.tensor for leaf in leaves}
        self._short = short_names(leaves)
        jagged = [part() for kjt in inputs.jagged for part in (kjt.values, kjt.lengths, kjt.offsets, kjt.weights_or_none)]
        self.taint = _Taint([*self._leaves.values(), *(part for part in jagged if part is not None)])
        # Parameters that are one tensor are one table, under the first name.
        self._parameters: dict[int, str] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._parameters.setdefault(id(tensor), name)
        self._tables: dict[int, SourceTable] = {}
        self._names = names
        self._sequences = sequences
        self._taken: set[str] = set()
        self._within = False

    def module_call(self, module: nn.Module, path: str, original: Callable[[], Any], args: Any, kwargs: Any) -> Any:
        if is_collection(module):
            features = next(value for value in [*args, *kwargs.values()] if is_jagged(value))
            # What it looks up within is its own.
            self._within = True
            fields, assemble, output = collection_call(module, path, features, original, self._name)
            self._within = False
            lookups = [Lookup(**of_lookup) for of_lookup in fields]
            if any(lookup.weights is not None for lookup in lookups):
                self._refuse_computed(lookups[0].name, features.weights())
            self.recording.calls.append(Call(lookups, assemble))
            for lookup, watch in zip(lookups, getattr(assemble, "watches", []), strict=False):
                watch(lookup)
            return output
        table = packed_module_table(module, path)
        self._quantized(table, path, args, kwargs)
        return original()

    def function_call(self, function: Any, original: Callable[[], Any], args: Any, kwargs: Any) -> Any:
        output = original()
        if self._within:
            return output
        bound = (_BAG if function is functional.embedding_bag else _ROWS).bind(*args, **kwargs)
        bound.apply_defaults()
        call = bound.arguments
        if call["input"] not in self.taint:
            self.recording.calls.append(None)
            return output
        table = self._table(call["weight"])
        if call["max_norm"] is not None:
            raise ExportError(table.name, f"max_norm changes rows when they are read, which Terabag does not: {call['max_norm']}")
        if call["padding_idx"] is not None and call["padding_idx"] < 0:
            call["padding_idx"] += table.rows.shape[0]
        make = self._bag if function is functional.embedding_bag else self._rows
        self.recording.calls.append(make(table, call))
        return output

    def _table(self, weight: torch.Tensor) -> SourceTable:
        name = self._parameters.get(id(weight))
        if name is None:
            raise ExportError("model", f"looks up rows of a tensor that is no parameter of it: [{', '.join(map(str, weight.shape))}]")
        path = name.removesuffix(".weight") or name
        return self._tables.setdefault(id(weight), SourceTable(self._names.get(f"{path}.table", path), name, weight, weight.shape[1]))

    def _leaf(self, tensor: torch.Tensor) -> str | None:
        """The path of the input that the tensor is, or a view of all of it."""
        for path, leaf in self._leaves.items():
            if leaf is tensor or (leaf.data_ptr() == tensor.data_ptr() and leaf.numel() == tensor.numel() and leaf.dtype == tensor.dtype):
                return path
        return None

    def _name(self, natural: str) -> str:
        """A name that no lookup has yet: what the caller gives for it, else itself."""
        wanted, number = natural, 1
        while wanted in self._taken:
            number += 1
            wanted = f"{natural}_{number}"
        self._taken.add(wanted)
        return self._names.get(wanted, wanted)

    def _natural_name(self, table: SourceTable, ids: torch.Tensor) -> str:
        leaf = self._leaf(ids)
        return self._short[leaf] if leaf is not None else table.name

    def _refuse_computed(self, bag: str, weights: torch.Tensor) -> None:
        """Refuses weights that are no input: a request would have to bring what the model computes."""
        if not self.taint.carries(weights):
            raise ExportError(
                bag,
                "the model computes the weights of this bag, and a bundle takes them from the request: make them an input of the model, "
                "or, where each is a number of its id, multiply the rows of the table by them",
            )

    def _bag(self, table: SourceTable, call: Mapping[str, Any]) -> Call:
        ids, offsets = call["input"], call["offsets"]
        weights = call["per_sample_weights"]
        name = self._name(self._natural_name(table, ids))
        if weights is not None:
            self._refuse_computed(name, weights)
        if ids.dim() == 2:
            offsets = torch.arange(ids.shape[0] + 1) * ids.shape[1]
        elif not call["include_last_offset"]:
            offsets = torch.cat([offsets.long(), torch.tensor([ids.shape[0]])])
        bag = Lookup(name, table, ids.flatten().long(), offsets.long(), call["mode"])
        bag.weights = None if weights is None else weights.detach().flatten().float()
        bag.padding = call["padding_idx"]
        return Call([bag], lambda vectors, _: vectors[0])

    def _quantized(self, table: SourceTable, path: str, args: Any, kwargs: Any) -> None:
        named = dict(zip(("indices", "offsets", "per_sample_weights"), args, strict=False)) | dict(kwargs)
        ids, weights = named["indices"], named.get("per_sample_weights")
        offsets = named.get("offsets")
        if ids.dim() == 2:
            offsets = torch.arange(ids.shape[0] + 1) * ids.shape[1]
        elif offsets is None:
            raise ExportError(path, "a quantized embedding bag needs offsets")
        elif int(offsets[-1]) != ids.shape[0]:
            offsets = torch.cat([offsets.long(), torch.tensor([ids.shape[0]])])
        bag = Lookup(self._name(self._natural_name(table, ids)), table, ids.flatten().long(), offsets.long())
        if weights is not None:
            self._refuse_computed(bag.name, weights)
            bag.weights = weights.flatten().float()
        self.recording.calls.append(Call([bag], lambda vectors, _: vectors[0]))

    def _rows(self, table: SourceTable, call: Mapping[str, Any]) -> Call:
        ids, padding = call["input"], call["padding_idx"]
        natural = self._natural_name(table, ids)
        if ids.dim() == 1 or (ids.dim() == 2 and ids.shape[1] == 1):
            single = _single(self._name(natural), table, ids.flatten())
            return Call([single], (lambda vectors, _: vectors[0]) if ids.dim() == 1 else (lambda vectors, _: vectors[0].unsqueeze(1)))
        if ids.dim() != 2:
            raise ExportError(table.name, f"ids have to be [B] or [B, ids], not of {ids.dim()} dimensions: {list(ids.shape)}")
        if padding is not None or natural in self._sequences:
            return self._sequence(table, ids, padding, natural)
        if ids.shape[1] > MOST_COLUMNS:
            raise ExportError(natural, f"is it a sequence? name it in `sequences`; as {MOST_COLUMNS} features at most: {ids.shape[1]}")
        columns = [_single(self._name(f"{natural}.{k}"), table, ids[:, k]) for k in range(ids.shape[1])]
        return Call(columns, lambda vectors, _: torch.stack(vectors, 1))

    def _sequence(self, table: SourceTable, ids: torch.Tensor, padding: int | None, natural: str) -> Call:
        """ids [B, L], padded at the end by padding, or to lengths that are an input of their own."""
        name = self._name(natural)
        lengths_leaf = self._sequences.get(natural)
        if lengths_leaf is not None:
            path = next((path for path, short in self._short.items() if lengths_leaf in (path, short)), None)
            if path is None:
                raise ExportError(f"sequences.{natural}", f"no such input: {lengths_leaf}; there are {', '.join(self._short.values())}")
            lengths = self._leaves[path].long()
        elif padding is not None:
            path, lengths = None, (ids != padding).sum(1)
        else:
            path, lengths = None, torch.full((ids.shape[0],), ids.shape[1])
        if padding is not None and bool(table.rows.detach()[padding].any()):
            raise ExportError(f"{table.name}.padding_idx", f"row {padding} has to be zeros, as Terabag leaves padding out")
        kept = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
        if padding is not None and bool((ids[kept] == padding).any()):
            raise ExportError(name, f"padding has to stand at the end of a sequence, not between its ids: padding_idx {padding}")
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        sequence = Lookup(name, table, ids[kept].long(), offsets, padding=padding, max_length=ids.shape[1])
        sequence.ids_leaf, sequence.lengths_leaf = self._leaf(ids), path
        return Call([sequence], lambda vectors, _: vectors[0])


def _single(name: str, table: SourceTable, ids: torch.Tensor) -> Lookup:
    """A bag of one id: ids [B]."""
    return Lookup(name, table, ids.long(), torch.arange(ids.shape[0] + 1))
