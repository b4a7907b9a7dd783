"""Embedding tables as they lie in the model, and the row formats that they are written in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from .errors import ExportError
from .files import write_packed, write_safetensors

ROW_FORMATS: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PACKED_FORMATS = ("int8", "int8_fp16", "int4")
_FORMAT_OF_DTYPE = {torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class SourceTable:
    """A table of the model."""

    name: str
    tensor: str
    """Its name in the state dict, and in the file."""
    rows: torch.Tensor
    """Floating point [rows, dim]; packed: uint8 [rows, bytes of a row], scale and bias at the end."""
    dim: int
    packed: str | None = None
    """The row format of rows that are packed."""

    def format_in(self, formats: Mapping[str, str] | str | None) -> str:
        """The format that it is written in: what the caller says, else that of its dtype."""
        wanted = formats if isinstance(formats, str) else (formats or {}).get(self.name)
        if self.packed is not None:
            if wanted not in (None, self.packed):
                raise ExportError(f"formats.{self.name}", f"the table is quantized and stays {self.packed}: {wanted}")
            return self.packed
        chosen = wanted or _FORMAT_OF_DTYPE.get(self.rows.dtype, "fp32")
        if chosen not in ROW_FORMATS:
            raise ExportError(f"formats.{self.name}", f"has to be one of {', '.join(ROW_FORMATS)}, packed ones are terabag pack's: {chosen}")
        return chosen


def write_table(directory: Path, table: SourceTable, row_format: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes the table's file; returns its entry of `tables` and that of `files`, by path."""
    file = f"tables/{quote(table.name, safe='')}.safetensors"
    if table.packed is None:
        rows = table.rows.detach().to(ROW_FORMATS[row_format])
        check_finite(rows, f"tables.{table.name}", table.tensor)
        written = write_safetensors(directory / file, {table.tensor: rows})
    else:
        written = write_packed(directory / file, table.tensor, table.rows, f"{row_format} dim {table.dim}")
    entry = {"name": table.name, "rows": table.rows.shape[0], "dim": table.dim, "format": row_format, "file": file, "tensor": table.tensor}
    return entry, {file: written}


def check_finite(tensor: torch.Tensor, field: str, name: str) -> None:
    """Refuses NaN and infinity, also values too large for the dtype: they would be served as scores that mean nothing."""
    if not bool(torch.isfinite(tensor).all()):
        raise ExportError(field, f"has values that are not finite as {str(tensor.dtype).removeprefix('torch.')}: {name}")


@contextmanager
def rounded_to(tables: Mapping[SourceTable, str]) -> Iterator[None]:
    """The model with its tables rounded to their row formats, so that PyTorch scores with the values that are exported."""
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        with torch.no_grad():
            for table, row_format in tables.items():
                if table.packed is None and table.rows.dtype != ROW_FORMATS[row_format] and row_format != "fp32":
                    kept.append((table.rows, table.rows.clone()))
                    table.rows.copy_(table.rows.to(ROW_FORMATS[row_format]))
        yield
    finally:
        with torch.no_grad():
            for rows, original in kept:
                rows.copy_(original)
