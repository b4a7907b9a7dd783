"""Exports a PyTorch DLRM as a terabag bundle: model.json, dense.safetensors, tables/<name>.safetensors.

The spec is model.json without what the export finds out itself: no `files`, and no `file` in the tables. Each table names its
tensor of the state dict, and the row format that it is converted to; rows and dim are taken from the tensor, or checked when given:

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

An fc layer's weight [out, in] and bias [out] are those of torch.nn.Linear, under their names in the state dict.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

ROW_FORMATS: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CRC_CHUNK_BYTES = 64 * 1024 * 1024
READ_BYTES = 4 * 1024 * 1024

# Fields of each object of the spec: required ones, then optional ones.
SPEC_FIELDS = ({"terabag": int, "name": str, "version": str, "dense": list, "tables": list, "nets": list, "output": str}, {})
DENSE_FIELDS = ({"name": str, "dim": int}, {})
TABLE_FIELDS = ({"name": str, "tensor": str, "format": str}, {"rows": int, "dim": int})
NET_FIELDS = ({"name": str, "layers": list}, {})
LAYER_FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "embedding_bag": ({"table": str}, {"pooling": str, "weighted": bool}),
    "fc": ({"input": str, "weight": str}, {"bias": (str, type(None)), "activation": str}),
    "dot_interaction": ({"inputs": list}, {"diagonal": bool}),
    "concat": ({"inputs": list}, {}),
    "sum": ({"inputs": list}, {}),
}
CHOICES = {"pooling": ("sum", "mean"), "activation": ("none", "relu", "sigmoid"), "format": tuple(ROW_FORMATS)}


class ExportError(ValueError):
    """What cannot be exported; `field` is the path of the field in the spec, or names the file."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


def export_bundle(directory: str | Path, spec: Mapping[str, Any], state_dict: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Writes a bundle and returns the content of its model.json.

    spec: see the module's description. state_dict: tables are 2-D floating point tensors [rows, dim] of any float dtype, converted to
    the table's format; weights [out, in] and biases [out] of fc layers are converted to float32. Tensors that the spec does not name
    are left out. Everything is checked before anything is written. Raises ExportError.
    """
    if not isinstance(spec, Mapping):
        raise ExportError("spec", f"has to be an object: {spec!r}")
    model = copy.deepcopy(dict(spec))
    tables = _check_tables(model, state_dict)
    dense = _check_nets(model, state_dict)
    for index, table in enumerate(model["tables"]):
        _check_finite(tables[table["name"]], ROW_FORMATS[table["format"]], f"tables[{index}].tensor", table["tensor"])
    for name, tensor in dense.items():
        _check_finite(tensor, torch.float32, "state dict", name)
    directory = Path(directory)
    (directory / "tables").mkdir(parents=True, exist_ok=True)
    # An older model.json would describe files that are replaced one by one: until the new one is there, there is no bundle.
    (directory / "model.json").unlink(missing_ok=True)
    files: dict[str, Any] = {}
    for table in model["tables"]:
        converted = tables[table["name"]].detach().to(ROW_FORMATS[table["format"]])
        table["file"] = f"tables/{quote(table['name'], safe='')}.safetensors"
        files[table["file"]] = write_safetensors(directory / table["file"], {table["tensor"]: converted})
    weights = {name: tensor.detach().to(torch.float32) for name, tensor in dense.items()}
    files["dense.safetensors"] = write_safetensors(directory / "dense.safetensors", weights)
    model["files"] = files
    write_json(directory / "model.json", model)
    return model


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Writes tensors atomically and returns what model.json says of a file: its bytes, and zlib's crc32 of each chunk of 64 MiB."""
    # Clones, as the format refuses tensors that share memory; a single one cannot.
    owned = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if len(owned) > 1:
        owned = {name: tensor.clone() for name, tensor in owned.items()}
    return _write_atomic(path, lambda temporary: save_file(owned, temporary))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically, indented, keys in the order given."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    _write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write_atomic(path: Path, write: Callable[[Path], object]) -> dict[str, Any]:
    """Writes beside the final name, flushes, renames, flushes the directory: readers see the old file or the whole new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        # save_file gives its files to this user alone; shards often run as another, so that the umask has the say.
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
            checksum = _checksum(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    return checksum


def _checksum(file: Any) -> dict[str, Any]:
    total, sums = 0, []
    while data := file.read(min(READ_BYTES, CRC_CHUNK_BYTES - total % CRC_CHUNK_BYTES)):
        if total % CRC_CHUNK_BYTES == 0:
            sums.append(0)
        sums[-1] = zlib.crc32(data, sums[-1])
        total += len(data)
    return {"bytes": total, "crc32": [f"{value:08x}" for value in sums]}


def _check_finite(tensor: torch.Tensor, dtype: torch.dtype, field: str, name: str) -> None:
    """Refuses NaN and infinity, and values too large for the dtype: they would be served as scores that mean nothing."""
    if not bool(torch.isfinite(tensor.detach().to(dtype)).all()):
        raise ExportError(field, f"has values that are not finite as {str(dtype).removeprefix('torch.')}: {name}")


def _check_tables(model: dict[str, Any], state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Checks the spec's tables, fills in rows and dim, and returns their tensors by table name."""
    _check_object(model, "spec", SPEC_FIELDS)
    if model["terabag"] != 1:
        raise ExportError("terabag", f"the version of the format has to be 1: {model['terabag']}")
    tensors: dict[str, torch.Tensor] = {}
    for index, table in enumerate(model["tables"]):
        field = f"tables[{index}]"
        _check_object(table, field, TABLE_FIELDS)
        if table["name"] in tensors:
            raise ExportError(f"{field}.name", f"name is taken: {table['name']}")
        tensor = _tensor(state_dict, table["tensor"], f"{field}.tensor")
        if tensor.dim() != 2 or 0 in tensor.shape:
            raise ExportError(f"{field}.tensor", f"a table is a 2-D tensor [rows, dim]: {table['tensor']} is {_shape(tensor)}")
        for axis, key in enumerate(("rows", "dim")):
            if table.setdefault(key, tensor.shape[axis]) != tensor.shape[axis]:
                raise ExportError(f"{field}.{key}", f"is {table[key]}, tensor {table['tensor']} is {_shape(tensor)}")
        tensors[table["name"]] = tensor
    return tensors


def _check_nets(model: dict[str, Any], state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Follows the dims through all layers, and returns the fc layers' tensors by name."""
    tensors: dict[str, torch.Tensor] = {}
    dims: dict[str, int] = {}
    outputs: set[str] = set()
    tables = {table["name"]: table for table in model["tables"]}
    for index, feature in enumerate(model["dense"]):
        _check_object(feature, f"dense[{index}]", DENSE_FIELDS)
        _define(dims, f"dense[{index}].name", feature["name"], feature["dim"])
    if not model["nets"]:
        raise ExportError("nets", "a model has at least one net")
    for n, net in enumerate(model["nets"]):
        _check_object(net, f"nets[{n}]", NET_FIELDS)
        for l, layer in enumerate(net["layers"]):
            field = f"nets[{n}].layers[{l}]"
            kind = layer.get("type") if isinstance(layer, dict) else None
            if not isinstance(kind, str) or kind not in LAYER_FIELDS:
                raise ExportError(f"{field}.type", f"has to be one of {', '.join(LAYER_FIELDS)}: {kind}")
            required, optional = LAYER_FIELDS[kind]
            _check_object(layer, field, ({"type": str, "name": str, **required}, optional))
            if kind == "embedding_bag":
                if layer["table"] not in tables:
                    raise ExportError(f"{field}.table", f"no such table: {layer['table']}")
                dim = tables[layer["table"]]["dim"]
            elif kind == "fc":
                dim = _check_fc(layer, field, _input_dims(dims, [layer["input"]], f"{field}.input")[0], state_dict, tensors)
            else:
                dim = _combined_dim(layer, field, _input_dims(dims, layer["inputs"], f"{field}.inputs"))
            if kind != "embedding_bag":
                outputs.add(layer["name"])
            _define(dims, f"{field}.name", layer["name"], dim)
    if model["output"] not in outputs:
        raise ExportError("output", f"has to name a layer that is no embedding bag: {model['output']}")
    return tensors


def _check_fc(
    layer: dict[str, Any], field: str, width: int, state_dict: Mapping[str, torch.Tensor], tensors: dict[str, torch.Tensor]
) -> int:
    """Checks weight [out, width] and bias [out], adds them to tensors, and returns out."""
    weight = _tensor(state_dict, layer["weight"], f"{field}.weight")
    if weight.dim() != 2 or weight.shape[0] == 0 or weight.shape[1] != width:
        raise ExportError(f"{field}.weight", f"has to be [out, {width}]: {layer['weight']} is {_shape(weight)}")
    tensors[layer["weight"]] = weight
    if layer.get("bias") is not None:
        bias = _tensor(state_dict, layer["bias"], f"{field}.bias")
        if tuple(bias.shape) != (weight.shape[0],):
            raise ExportError(f"{field}.bias", f"has to be [{weight.shape[0]}]: {layer['bias']} is {_shape(bias)}")
        tensors[layer["bias"]] = bias
    return weight.shape[0]


def _combined_dim(layer: dict[str, Any], field: str, dims: list[int]) -> int:
    if layer["type"] == "concat":
        return sum(dims)
    if len(set(dims)) != 1:
        raise ExportError(f"{field}.inputs", f"have to be of one dim: {', '.join(map(str, dims))}")
    if layer["type"] == "sum":
        return dims[0]
    if len(dims) < 2:
        raise ExportError(f"{field}.inputs", "a dot interaction has at least two inputs")
    return dims[0] + len(dims) * (len(dims) + (1 if layer.get("diagonal") else -1)) // 2


def _input_dims(dims: Mapping[str, int], names: list[str], field: str) -> list[int]:
    for name in names:
        if not isinstance(name, str) or name not in dims:
            raise ExportError(field, f"reads a value that no dense feature and no earlier layer gives: {name}")
    if not names:
        raise ExportError(field, "a layer has at least one input")
    return [dims[name] for name in names]


def _define(dims: dict[str, int], field: str, name: str, dim: int) -> None:
    if name in dims:
        raise ExportError(field, f"name is taken: {name}")
    dims[name] = dim


def _tensor(state_dict: Mapping[str, torch.Tensor], name: str, field: str) -> torch.Tensor:
    tensor = state_dict.get(name)
    if not isinstance(tensor, torch.Tensor):
        raise ExportError(field, f"no such tensor in the state dict: {name}; it has {', '.join(map(str, state_dict)) or 'none'}")
    if not tensor.is_floating_point():
        raise ExportError(field, f"has to be of a floating point dtype: {name} is {tensor.dtype}")
    return tensor


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _check_object(value: Any, field: str, fields: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Refuses missing and unknown fields, wrong types, empty names and counts below 1."""
    required, optional = fields
    if not isinstance(value, dict):
        raise ExportError(field, f"has to be an object: {value!r}")
    prefix = "" if field == "spec" else f"{field}."
    for key in required:
        if key not in value:
            raise ExportError(f"{prefix}{key}", "is missing")
    for key, item in value.items():
        kind = required.get(key, optional.get(key))
        if kind is None:
            raise ExportError(f"{prefix}{key}", f"no such field; it has {', '.join([*required, *optional])}")
        # True is an int for Python, and no count for model.json.
        if not isinstance(item, kind) or (kind is int and isinstance(item, bool)):
            raise ExportError(f"{prefix}{key}", f"has to be {getattr(kind, '__name__', 'str or null')}: {item!r}")
        if (kind is str and item == "") or (kind is int and item < 1):
            raise ExportError(f"{prefix}{key}", f"is empty or below 1: {item!r}")
        if key in CHOICES and item not in CHOICES[key]:
            raise ExportError(f"{prefix}{key}", f"has to be one of {', '.join(CHOICES[key])}: {item}")


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Reads a state dict saved by safetensors or torch.save; the latter only as tensors, never as pickled code."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ExportError(str(path), f"is no sound safetensors file: {error}") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        # PyTorch's own message proposes to run the code in the file.
        raise ExportError(str(path), "is no file of torch.save that holds tensors only; save model.state_dict()") from error
    if not isinstance(loaded, dict) or not any(isinstance(value, torch.Tensor) for value in loaded.values()):
        found = ", ".join(map(str, loaded)) if isinstance(loaded, dict) else type(loaded).__name__
        raise ExportError(str(path), f"has to hold a state dict, names to tensors; it holds {found}")
    return loaded


def load_spec(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ExportError(str(path), f"is not JSON: {error}") from error


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Export a PyTorch DLRM as a terabag bundle.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  python terabag_export.py --state-dict model.pt --spec spec.json --output model
  python terabag_export.py --state-dict model.safetensors --spec spec.json --output model

The spec is model.json without files and without each table's file; see the top of this program.""",
    )
    parser.add_argument("--state-dict", type=Path, required=True, metavar="FILE", help="model.pt (torch.save) or model.safetensors")
    parser.add_argument("--spec", type=Path, required=True, metavar="FILE", help="tables, nets and output of the model, as JSON")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory of the bundle")
    arguments = parser.parse_args()
    try:
        model = export_bundle(arguments.output, load_spec(arguments.spec), load_state_dict(arguments.state_dict))
    except (ExportError, OSError) as error:
        print(f"terabag_export: {error}", file=sys.stderr)
        return 1
    total = sum(file["bytes"] for file in model["files"].values())
    print(f"{model['name']} {model['version']}: {len(model['tables'])} tables, {total} bytes in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
