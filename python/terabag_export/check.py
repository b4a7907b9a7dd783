"""What `terabag verify --scores` repeats: requests of the example inputs, and PyTorch's scores of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .errors import ExportError
from .files import write_safetensors, write_text
from .inputs import ExampleInputs
from .lookups import Lookup
from .trace import batch_size

if TYPE_CHECKING:
    from .export import Parts

REQUESTS_FILE = "requests.jsonl"
SCORES_FILE = "scores.safetensors"
# Integers that JSON numbers of all readers hold.
_EXACT = 2**53


def write_check(directory: Path, parts: Parts, inputs: ExampleInputs, spec: dict[str, Any], items_per_request: int) -> None:
    """Writes requests.jsonl, the example's rows in their order, and scores.safetensors, float32 [B, dim] of each output.

    The scores of `output` are the tensor scores, those of further outputs outputs.NAME.
    """
    rows = batch_size(inputs, parts.recording)
    used = {feature["name"] for feature in spec["dense"]}
    _refuse_infinite({feature.name: feature.leaf.tensor for feature in parts.features if feature.name in used})
    _refuse_infinite({lookup.name: lookup.weights for lookup in parts.recording.lookups if lookup.weights is not None})
    lines = []
    for start in range(0, rows, items_per_request):
        end = min(rows, start + items_per_request)
        dense = {feature.name: feature.leaf.tensor[start:end].float().flatten().tolist() for feature in parts.features if feature.name in used}
        sparse = {lookup.name: _bags(lookup, start, end) for lookup in parts.recording.lookups}
        lines.append(json.dumps({"items": end - start, "dense": dense, "sparse": sparse}, allow_nan=False, separators=(",", ":")) + "\n")
    scores = dict(zip(["scores", *(f"outputs.{name}" for name in spec.get("outputs", []))], parts.outputs.values(), strict=True))
    write_text(directory / REQUESTS_FILE, "".join(lines))
    write_safetensors(directory / SCORES_FILE, scores)


def _refuse_infinite(inputs: dict[str, torch.Tensor]) -> None:
    for name, tensor in inputs.items():
        if not bool(torch.isfinite(tensor.float()).all()):
            raise ExportError(f"example_inputs.{name}", "has to be finite, as the numbers of a request")


def _bags(lookup: Lookup, start: int, end: int) -> dict[str, Any]:
    """The bags start..end in the form of a request."""
    offsets = lookup.offsets[start : end + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    bags: dict[str, Any] = {"indices": _json_ids(lookup.ids[first:last]), "offsets": (offsets - first).tolist()}
    if lookup.weights is not None:
        bags["weights"] = lookup.weights[first:last].tolist()
    return bags


def _json_ids(ids: torch.Tensor) -> list[int | str]:
    return [value if abs(value) < _EXACT else str(value) for value in ids.tolist()]
