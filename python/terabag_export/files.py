"""Files of a bundle: written whole or not at all, with the lengths and checksums that model.json states."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save_file

CRC_CHUNK_BYTES = 64 * 1024 * 1024
READ_BYTES = 4 * 1024 * 1024
# Packed tables are mapped: their rows begin on a page.
PAGE_BYTES = 4096


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Writes tensors atomically and returns what model.json says of a file: its bytes, and zlib's crc32 of each chunk of 64 MiB."""
    # Clones, as the format refuses tensors that share memory; a single one cannot.
    owned = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if len(owned) > 1:
        owned = {name: tensor.clone() for name, tensor in owned.items()}
    return _write_atomic(path, lambda temporary: save_file(owned, temporary))


def write_packed(path: Path, name: str, rows: torch.Tensor, row_format: str) -> dict[str, Any]:
    """Writes packed rows, uint8 [rows, bytes of a row]: the metadata names the row format, and spaces fill the header up to a page."""
    shape = list(rows.shape)
    entries = {
        "__metadata__": {f"{name}.row_format": row_format},
        name: {"dtype": "U8", "shape": shape, "data_offsets": [0, shape[0] * shape[1]]},
    }
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-(8 + len(header)) % PAGE_BYTES)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for chunk in rows.split(max(1, READ_BYTES // shape[1])):
                file.write(chunk.contiguous().numpy().tobytes())

    return _write_atomic(path, write)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically, indented, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_bytes(path: Path, content: bytes) -> dict[str, Any]:
    """Writes bytes atomically, and returns what model.json says of a file."""
    return _write_atomic(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Writes text atomically."""
    _write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write_atomic(path: Path, write: Callable[[Path], object]) -> dict[str, Any]:
    """Writes beside the final name, flushes, renames, flushes the directory: readers see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
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


def _checksum(file: BinaryIO) -> dict[str, Any]:
    total, sums = 0, []
    while data := file.read(min(READ_BYTES, CRC_CHUNK_BYTES - total % CRC_CHUNK_BYTES)):
        if total % CRC_CHUNK_BYTES == 0:
            sums.append(0)
        sums[-1] = zlib.crc32(data, sums[-1])
        total += len(data)
    return {"bytes": total, "crc32": [f"{value:08x}" for value in sums]}
