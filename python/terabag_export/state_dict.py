"""A bundle of a state dict and a spec, where there is no module to run: the spec is model.json without what is found out here.

It has no `files`, and no `file`, `rows` and `dim` in the tables; each table names its tensor of the state dict and the row format that
it is converted to, or that its rows are packed in already (int8, int8_fp16, int4), with their dim:

    {
      "terabag": 1, "name": "ads", "version": "2024-05-01",
      "dense": [{"name": "dense", "dim": 13}],
      "tables": [{"name": "user_id", "tensor": "tables.user_id", "format": "fp16"}],
      "nets": [{"name": "dlrm", "layers": [
        {"type": "embedding_bag", "name": "user_id", "table": "user_id", "pooling": "sum"},
        {"type": "fc", "name": "bottom", "input": "dense", "weight": "bottom.weight", "bias": "bottom.bias", "activation": "relu"},
        {"type": "dot_interaction", "name": "interaction", "inputs": ["bottom", "user_id"]},
        {"type": "fc", "name": "top", "input": "interaction", "weight": "top.weight", "bias": "top.bias", "activation": "sigmoid"}
      ]}],
      "output": "top"
    }
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .errors import ExportError
from .files import write_json, write_safetensors
from .quantized import packed_rows
from .tables import PACKED_FORMATS, ROW_FORMATS, SourceTable, check_finite, write_table

# Fields of layers that name tensors; what else a layer has is checked by `terabag verify`.
TENSOR_FIELDS = frozenset(
    """
    weight bias weightU weightV scale shift alpha mean variance slope weightUvqk biasUvqk positionBias
    weightInput weightHidden biasInput biasHidden weightQkv biasQkv weightOut biasOut
    """.split()
)


def export_state_dict(directory: str | Path, spec: Mapping[str, Any], state_dict: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Writes a bundle and returns the content of its model.json.

    state_dict: tables are floating point tensors [rows, dim], converted to the table's format; weights of layers are converted to float32. Tensors
    that the spec does not name are left out. All tensors are found and checked before anything is written. Raises ExportError.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("tables"), list) or not isinstance(spec.get("nets"), list):
        raise ExportError("spec", f"has to be an object with tables and nets: {spec!r}")
    model = copy.deepcopy(dict(spec))
    tables = [_table(table, f"tables[{index}]", state_dict) for index, table in enumerate(model["tables"])]
    weights: dict[str, torch.Tensor] = {}
    for n, net in enumerate(model["nets"]):
        for place, layer in enumerate(net.get("layers", [])):
            for field, name in _tensors_of(layer, f"nets[{n}].layers[{place}]"):
                weights[name] = _tensor(state_dict, name, field).detach().float()
    for name, tensor in weights.items():
        check_finite(tensor, "state dict", name)
    directory = Path(directory)
    (directory / "tables").mkdir(parents=True, exist_ok=True)
    # An older model.json would describe files that are replaced one by one: until the new one is there, there is no bundle.
    (directory / "model.json").unlink(missing_ok=True)
    files: dict[str, Any] = {}
    for index, (table, row_format) in enumerate(tables):
        entry, written = write_table(directory, table, row_format)
        model["tables"][index] |= entry
        files |= written
    files["dense.safetensors"] = write_safetensors(directory / "dense.safetensors", weights)
    model["files"] = files
    write_json(directory / "model.json", model)
    return model


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Reads a state dict saved by safetensors or torch.save; the latter only as tensors, never as pickled code."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ExportError(str(path), f"is no safetensors file: {error}") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ExportError(str(path), "is no file of torch.save that holds tensors only; save model.state_dict()") from error
    if not isinstance(loaded, dict) or not any(isinstance(value, torch.Tensor) for value in loaded.values()):
        found = ", ".join(map(str, loaded)) if isinstance(loaded, dict) else type(loaded).__name__
        raise ExportError(str(path), f"has to hold a state dict, names to tensors; it holds {found}")
    return loaded


def load_spec(path: Path) -> Any:
    """Reads a spec."""
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ExportError(str(path), f"is not JSON: {error}") from error


def _table(table: Any, field: str, state_dict: Mapping[str, torch.Tensor]) -> tuple[SourceTable, str]:
    for key in ("name", "tensor", "format"):
        if not isinstance(table, dict) or not isinstance(table.get(key), str):
            raise ExportError(f"{field}.{key}", "is missing, or no text")
    if table["format"] in PACKED_FORMATS:
        return _packed_table(table, field, state_dict), table["format"]
    if table["format"] not in ROW_FORMATS:
        raise ExportError(f"{field}.format", f"has to be one of {', '.join((*ROW_FORMATS, *PACKED_FORMATS))}: {table['format']}")
    tensor = _tensor(state_dict, table["tensor"], f"{field}.tensor")
    if tensor.dim() != 2 or 0 in tensor.shape:
        raise ExportError(f"{field}.tensor", f"a table is a 2-D tensor [rows, dim]: {table['tensor']} is {_shape(tensor)}")
    for axis, key in enumerate(("rows", "dim")):
        if table.get(key, tensor.shape[axis]) != tensor.shape[axis]:
            raise ExportError(f"{field}.{key}", f"is {table[key]}, tensor {table['tensor']} is {_shape(tensor)}")
    return SourceTable(table["name"], table["tensor"], tensor, tensor.shape[1]), table["format"]


def _packed_table(table: dict[str, Any], field: str, state_dict: Mapping[str, torch.Tensor]) -> SourceTable:
    """Rows that are packed already; their bytes do not say how many values they are."""
    if not isinstance(table.get("dim"), int):
        raise ExportError(f"{field}.dim", f"rows of {table['format']} need their dim: {table.get('dim')}")
    tensor = state_dict.get(table["tensor"])
    if not isinstance(tensor, torch.Tensor):
        raise ExportError(f"{field}.tensor", f"no such tensor in the state dict: {table['tensor']}")
    packed = packed_rows(f"{field}.tensor", tensor, table["format"], table["dim"])
    return replace(packed, name=table["name"], tensor=table["tensor"])


def _tensors_of(layer: Any, field: str) -> Iterator[tuple[str, str]]:
    """The fields of a layer that name tensors, also those of layers within it, with the names."""
    if isinstance(layer, list):
        for index, entry in enumerate(layer):
            yield from _tensors_of(entry, f"{field}[{index}]")
    elif isinstance(layer, dict):
        for key, value in layer.items():
            if key in TENSOR_FIELDS and isinstance(value, str):
                yield f"{field}.{key}", value
            elif key != "inputs":
                yield from _tensors_of(value, f"{field}.{key}")


def _tensor(state_dict: Mapping[str, torch.Tensor], name: str, field: str) -> torch.Tensor:
    tensor = state_dict.get(name)
    if not isinstance(tensor, torch.Tensor):
        raise ExportError(field, f"no such tensor in the state dict: {name}; it has {', '.join(map(str, state_dict)) or 'none'}")
    if not tensor.is_floating_point():
        raise ExportError(field, f"has to be of a floating point dtype: {name} is {tensor.dtype}")
    return tensor


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
