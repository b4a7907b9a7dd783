"""Lowering of sequences: what a layer of Terabag's does position by position, or over all positions of one item."""

from __future__ import annotations

from dataclasses import dataclass

from .graph import Value


@dataclass(frozen=True)
class Sequence:
    """Values [1, positions, dim] of one item; beyond its length PyTorch has zeros there if it is clean, else whatever a layer made of them."""

    value: Value
    clean: bool
    is_sequence = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item."""
        return 1, self.value.positions, self.value.dim


@dataclass(frozen=True)
class Lengths:
    """The lengths [1] of a sequence."""

    value: Value
    is_sequence = True
    shape = (1,)


@dataclass(frozen=True)
class SequenceIds:
    """The padded ids [1, positions] of a sequence, which are compared with the padding."""

    value: Value
    padding: int | None
    is_sequence = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item."""
        return 1, self.value.positions
