"""TorchRec's EmbeddingBagCollection and EmbeddingCollection, also quantized ones; told by their names, so that TorchRec need not be there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .errors import ExportError, UnknownOperation
from .quantized import packed_rows_at_end
from .tables import SourceTable

Assemble = Callable[[list[torch.Tensor], list[torch.Tensor]], Any]


def _kind(module: nn.Module) -> str | None:
    for base in type(module).__mro__:
        if base.__module__.startswith("torchrec.") and base.__name__ in ("EmbeddingBagCollection", "EmbeddingCollection"):
            return base.__name__
    return None


def is_collection(module: nn.Module) -> bool:
    """Whether it is one of TorchRec's collections."""
    return _kind(module) is not None


def collection_call(
    module: Any, path: str, features: Any, original: Callable[[], Any], name_of: Callable[[str], str]
) -> tuple[list[dict[str, Any]], Assemble, Any]:
    """Runs the collection; returns fields of its Lookups, what assembles its output, and its output.

    features: a KeyedJaggedTensor of B rows. Pooled: a KeyedTensor. Sequences: a dict of JaggedTensors, which have to be padded.
    """
    output = original()
    by_feature = features.to_dict()
    pooled = _kind(module) == "EmbeddingBagCollection"
    configs = module.embedding_bag_configs() if pooled else module.embedding_configs()
    tables = {config.name: _table(module, path, config, pooled) for config in configs}
    shared = [feature for config in configs for feature in config.feature_names]
    lookups: dict[str, dict[str, Any]] = {}
    for config in configs:
        for feature in config.feature_names:
            key = f"{feature}@{config.name}" if shared.count(feature) > 1 else feature
            jagged = by_feature[feature]
            lookups[key] = {
                "name": name_of(key),
                "table": tables[config.name],
                "ids": jagged.values().long(),
                "offsets": jagged.offsets().long(),
                "pooling": config.pooling.name.lower() if pooled else "sum",
                "weights": jagged.weights().float() if pooled and module.is_weighted() else None,
                "max_length": None if pooled else 0,
            }
    if pooled:
        keys, widths = list(output.keys()), list(output.length_per_key())
        ordered = [lookups[key] for key in keys]
        return ordered, lambda vectors, _: type(output)(keys=keys, length_per_key=widths, values=torch.cat(vectors, 1)), output
    return list(lookups.values()), _Sequences(output, list(lookups)), output


class _Sequences:
    """Assembles what an EmbeddingCollection returns; of the first run, learns the length that each sequence is padded to."""

    def __init__(self, output: dict[str, Any], keys: list[str]) -> None:
        self._keys = keys
        self.watches = [self._watch(output[key]) for key in keys]

    def __call__(self, vectors: list[torch.Tensor], lengths: list[torch.Tensor]) -> dict[str, Any]:
        return {key: PaddedSequence(*of) for key, *of in zip(self._keys, vectors, lengths, strict=True)}

    @staticmethod
    def _watch(jagged: Any) -> Callable[[Any], None]:
        def watch(lookup: Any) -> None:
            original = jagged.to_padded_dense

            def padded(desired_length: int | None = None, padding_value: float = 0.0) -> torch.Tensor:
                if desired_length is None or padding_value != 0:
                    raise ExportError(lookup.name, "has to be padded with zeros to a length that is given: desired_length=...")
                if lookup.max_length not in (0, desired_length):
                    raise ExportError(lookup.name, f"is padded to two lengths: {lookup.max_length}, {desired_length}")
                lookup.max_length = desired_length
                return original(desired_length, padding_value)

            jagged.to_padded_dense = padded

        return watch


class PaddedSequence:
    """What stands for a JaggedTensor in the dense part: vectors float32 [B, max_length, dim], zeros beyond lengths int64 [B]."""

    def __init__(self, vectors: torch.Tensor, lengths: torch.Tensor) -> None:
        self._vectors = vectors
        self._lengths = lengths

    def to_padded_dense(self, desired_length: int | None = None, padding_value: float = 0.0) -> torch.Tensor:
        """float32 [B, max_length, dim]."""
        return self._vectors

    def lengths(self) -> torch.Tensor:
        """int64 [B]."""
        return self._lengths

    def __getattr__(self, name: str) -> Any:
        raise UnknownOperation(f"JaggedTensor.{name}", "", "of a sequence there are to_padded_dense and lengths")


def _table(module: Any, path: str, config: Any, pooled: bool) -> SourceTable:
    attribute = "embedding_bags" if pooled else "embeddings"
    tensor = ".".join(part for part in (path, attribute, config.name, "weight") if part)
    weight = getattr(module, attribute)[config.name].weight
    if not weight.is_floating_point():
        return packed_rows_at_end(config.name, tensor, weight, config)
    return SourceTable(config.name, tensor, weight, config.embedding_dim)
