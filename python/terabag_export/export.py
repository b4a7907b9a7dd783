"""The one call: a model and example inputs in, a bundle out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._pytree import tree_flatten_with_path

from .check import write_check
from .errors import ExportError, UnknownOperation
from .files import write_bytes, write_json, write_safetensors
from .inputs import ExampleInputs, Leaf, example_inputs_of, short_names
from .lookups import Lookup, Recording, record
from .tables import SourceTable, check_finite, rounded_to, write_table
from .trace import batch_size, refuse_mixed_rows

DENSE_FILE = "dense.safetensors"

Dense = Literal["auto", "layers", "onnx"]


@dataclass(frozen=True)
class Exported:
    """What was written."""

    directory: Path
    model: dict[str, Any]
    """The content of model.json."""
    dense: Literal["layers", "onnx"]
    """What runs the dense part: Terabag's layers, or ONNX Runtime."""
    reason: str | None
    """Of ONNX: the first operation that is no layer of Terabag's."""

    def __str__(self) -> str:
        part = "the dense part is Terabag's layers" if self.dense == "layers" else f"the dense part is ONNX: {self.reason}"
        return f"{self.model['name']} {self.model['version']}: {len(self.model['tables'])} tables, {part}: {self.directory}"


@dataclass(frozen=True)
class Feature:
    """A dense feature."""

    name: str
    leaf: Leaf
    """Its tensor [B] or [B, dim]: floats, or what the model casts to them."""


@dataclass
class Parts:
    """What a model is made of, before it is written."""

    recording: Recording
    features: list[Feature]
    """All that may be one; the dense part reads some of them."""
    outputs: dict[str, torch.Tensor]
    """PyTorch's, float32 [B, dim], by name."""


def export(
    model: nn.Module,
    example_inputs: Any,
    directory: str | Path,
    *,
    name: str | None = None,
    version: str = "1",
    dense: Dense = "auto",
    formats: Mapping[str, str] | str | None = None,
    names: Mapping[str, str] | None = None,
    sequences: Mapping[str, str | None] | None = None,
    items_per_request: int = 8,
) -> Exported:
    """Exports a model as a Terabag bundle, with PyTorch's scores of the example beside it, which `terabag verify --scores` repeats.

    model: any nn.Module, TorchRec's too. example_inputs: what it is called with, a tuple of arguments or a dict by parameter, a batch of
    a few real rows; tensors may be nested in dicts, lists and dataclasses, and sparse features be KeyedJaggedTensors.
    dense: 'auto' writes the dense part as layers of Terabag's where it can, else as ONNX; 'layers' refuses what it cannot; 'onnx' writes
    ONNX anyway. formats: the row format of all tables, or by table: fp32, fp16, bf16; else that of a table's dtype. names: other names
    than the natural ones for dense features, bags, sequences, and, as NAME.table, tables. sequences: the [B, L] ids that are sequences
    though they have no padding_idx: by name, with the input that has their lengths, or None.

    Natural names: a feature of TorchRec's has its own; ids that are an input of the model have its name; others have the path of the
    module that reads them. What the model does to ids before it looks them up is not exported: a request has the ids that the tables are
    read with.
    Raises ExportError.
    """
    inputs = example_inputs_of(model, example_inputs)
    with _evaluating(model):
        recording, output = record(model, inputs, names or {}, sequences or {})
        tables = {lookup.table: lookup.table.format_in(formats) for lookup in recording.lookups}
        _refuse_same_names(recording.lookups, tables)
        with rounded_to(tables):
            if any(row_format in ("fp16", "bf16") for row_format in tables.values()):
                args, kwargs = inputs.replaced(lambda _, value: value)
                with torch.no_grad():
                    output = model(*args, **kwargs)
        parts = Parts(recording, _dense_features(inputs, recording, names or {}), _named_outputs(output, batch_size(inputs, recording)))
        refuse_mixed_rows(model, inputs, recording)
        spec, files, weights, reason = _dense_part(model, inputs, parts, dense)
    spec = {"terabag": 1, "name": name or type(model).__name__, "version": version, **spec}
    written = _write(Path(directory), spec, tables, weights, files, parts, inputs, items_per_request)
    return Exported(Path(directory), written, "layers" if reason is None else "onnx", reason)


def _dense_part(
    model: nn.Module, inputs: ExampleInputs, parts: Parts, dense: Dense
) -> tuple[dict[str, Any], dict[str, bytes], dict[str, torch.Tensor], str | None]:
    """Fields of the spec, files of bytes, dense weights, and why it is no layers of ours."""
    from .layers import layers_of
    from .onnx_part import onnx_of

    reason = "asked for"
    if dense != "onnx":
        try:
            return *layers_of(model, inputs, parts), None
        except UnknownOperation as unknown:
            if dense == "layers":
                raise ExportError(unknown.path or "model", str(unknown)) from unknown
            reason = str(unknown)
    return *onnx_of(model, inputs, parts), reason


def _dense_features(inputs: ExampleInputs, recording: Recording, names: Mapping[str, str]) -> list[Feature]:
    """The inputs of a row for each bag, [B] or [B, dim], of floats, or of integers and bools that are not the ids of a lookup."""
    rows, short = batch_size(inputs, recording), short_names(inputs.leaves)
    named = {leaf.path: names.get(short[leaf.path], short[leaf.path]) for leaf in inputs.leaves}
    looked_up = {lookup.name for lookup in recording.lookups}
    return [
        Feature(named[leaf.path], leaf)
        for leaf in inputs.leaves
        if leaf.tensor.dim() in (1, 2) and leaf.tensor.shape[0] == rows and (leaf.tensor.is_floating_point() or named[leaf.path] not in looked_up)
    ]


def _named_outputs(output: Any, rows: int) -> dict[str, torch.Tensor]:
    """Tensors [B] or [B, dim] as float32 [B, dim], named by the keys of a dict, else output, output_1..."""
    found: dict[str, torch.Tensor] = {}
    for path, value in tree_flatten_with_path(output)[0]:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dim() not in (1, 2) or value.shape[0] != rows:
            what = f"a tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise ExportError("model", f"has to return tensors [{rows}] or [{rows}, dim]: it returns {what}")
        keys = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path if not hasattr(key, "idx")]
        name = ".".join(keys) or (f"output_{len(found)}" if found else "output")
        found[f"{name}_{len(found)}" if name in found else name] = value.detach().float().reshape(rows, -1)
    if not found:
        raise ExportError("model", f"has to return tensors [{rows}] or [{rows}, dim]: it returns none")
    return found


def _refuse_same_names(lookups: list[Lookup], tables: Mapping[SourceTable, str]) -> None:
    for what, given in (("bag", [lookup.name for lookup in lookups]), ("table", [table.name for table in tables])):
        for taken in given:
            if given.count(taken) > 1:
                raise ExportError(f"names.{taken}", f"two have this name of a {what}: {taken}")


def _write(
    directory: Path,
    spec: dict[str, Any],
    tables: Mapping[SourceTable, str],
    weights: Mapping[str, torch.Tensor],
    files: Mapping[str, bytes],
    parts: Parts,
    inputs: ExampleInputs,
    items_per_request: int,
) -> dict[str, Any]:
    for name, tensor in weights.items():
        check_finite(tensor, "dense weights", name)
    directory.mkdir(parents=True, exist_ok=True)
    # An older model.json would describe files that are replaced one by one: until the new one is there, there is no bundle.
    (directory / "model.json").unlink(missing_ok=True)
    entries, written = [], {}
    for table, row_format in tables.items():
        entry, file = write_table(directory, table, row_format)
        entries.append(entry)
        written |= file
    if "onnx" not in spec:
        written[DENSE_FILE] = write_safetensors(directory / DENSE_FILE, weights)
    for file, content in files.items():
        written[file] = write_bytes(directory / file, content)
    write_check(directory / "check", parts, inputs, spec, items_per_request)
    model = {**spec, "tables": entries, "files": written}
    order = ("terabag", "name", "version", "dense", "tables", "nets", "output", "outputs", "onnx", "files")
    model = {key: model[key] for key in order if key in model}
    write_json(directory / "model.json", model)
    return model


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model as it serves: dropout off, batch norms by their running statistics."""
    training = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, was in training.items():
            module.training = was
