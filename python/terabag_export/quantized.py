"""Quantized tables of PyTorch and FBGEMM as rows of Terabag's int8, int8_fp16 and int4: no value is quantized again.

A row of Terabag's is the quantized values, then scale and bias: fp32 for int8, fp16 for int8_fp16 and int4. That is the fused layout of
torch.ops.quantized.embedding_bag_byte_prepack and _4bit_prepack, and of FBGEMM's fused rows; FBGEMM's tables for inference (TorchRec's
quantized collections) have an fp16 scale and bias in front of the values, and rows padded to an alignment.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .errors import ExportError
from .tables import SourceTable

_FRONT_BYTES = 4
_BYTES_OF_DATA_TYPE = {"INT8": ("int8_fp16", lambda dim: dim), "INT4": ("int4", lambda dim: (dim + 1) // 2)}


def packed_rows_at_end(name: str, tensor: str, rows: Any, config: Any) -> SourceTable:
    """A table of TorchRec's quantized collections: uint8 [rows, alignment], or what holds two values a byte."""
    data_type = config.data_type.name
    if data_type not in _BYTES_OF_DATA_TYPE:
        raise ExportError(name, f"quantized tables are int8 or int4: {data_type}")
    row_format, bytes_of = _BYTES_OF_DATA_TYPE[data_type]
    raw = getattr(rows, "elem", rows).detach().view(torch.uint8)
    return SourceTable(name, tensor, _to_end(raw, bytes_of(config.embedding_dim), name), config.embedding_dim, row_format)


def _to_end(raw: torch.Tensor, value_bytes: int, name: str) -> torch.Tensor:
    """Rows [scale, bias, values, padding] as [values, scale, bias], uint8."""
    if raw.shape[1] < _FRONT_BYTES + value_bytes:
        raise ExportError(name, f"rows of {value_bytes} bytes of values and {_FRONT_BYTES} of scale and bias: {raw.shape[1]} bytes")
    return torch.cat([raw[:, _FRONT_BYTES : _FRONT_BYTES + value_bytes], raw[:, :_FRONT_BYTES]], 1).contiguous()


def is_packed_module(module: nn.Module) -> bool:
    """Whether it is torch.ao.nn.quantized.EmbeddingBag."""
    return any(base.__module__.startswith("torch.ao.nn.quantized") and base.__name__ == "EmbeddingBag" for base in type(module).__mro__)


def packed_module_table(module: Any, path: str) -> SourceTable:
    """The table of such a module."""
    return packed_table(path, f"{path}.weight" if path else "weight", module.weight())


def packed_table(name: str, tensor: str, weight: torch.Tensor) -> SourceTable:
    """A quantized tensor [rows, dim], quint8 or quint4x2 with a scale and a zero point for each row, as fused rows."""
    if weight.dtype == torch.quint8:
        rows, row_format = _fused(weight, torch.float32, 8), "int8"
    elif weight.dtype == torch.quint4x2:
        rows, row_format = _fused(weight, torch.float16, 4), "int4"
    else:
        raise ExportError(name, f"quantized tables are quint8 or quint4x2: {weight.dtype}")
    return SourceTable(name, tensor, rows, weight.shape[1], row_format)


def _fused(weight: torch.Tensor, scale_dtype: torch.dtype, bits: int) -> torch.Tensor:
    """uint8 [rows, bytes of a row]; a value is scale * q + bias with bias = -zero point * scale."""
    scales = weight.q_per_channel_scales().float()
    biases = -weight.q_per_channel_zero_points().float() * scales
    values = weight.int_repr() if bits == 8 else weight.int_repr().flatten()[: weight.shape[0] * ((weight.shape[1] + 1) // 2)]
    values = values.view(torch.uint8).reshape(weight.shape[0], -1)
    ends = torch.stack([scales, biases], 1).to(scale_dtype).view(torch.uint8)
    return torch.cat([values, ends], 1).contiguous()


def packed_rows(name: str, rows: torch.Tensor, row_format: str, dim: int) -> SourceTable:
    """Rows that torch.ops.quantized.embedding_bag_byte_prepack or _4bit_prepack, or FBGEMM's fused conversions made: uint8 [rows, bytes of a row]."""
    bytes_of_row = {"int8": dim + 8, "int8_fp16": dim + 4, "int4": (dim + 1) // 2 + 4}
    if row_format not in bytes_of_row:
        raise ExportError(name, f"the format has to be one of {', '.join(bytes_of_row)}: {row_format}")
    if rows.dtype != torch.uint8 or rows.dim() != 2 or rows.shape[1] != bytes_of_row[row_format]:
        wanted = f"uint8 [rows, {bytes_of_row[row_format]}]"
        raise ExportError(name, f"{row_format} rows of dim {dim} are {wanted}: {rows.dtype} {list(rows.shape)}")
    return SourceTable(name, f"{name}.weight", rows, dim, row_format)
