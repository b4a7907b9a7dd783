"""Modules that are one layer of Terabag's each, for models of sequences; a model that is made of them is exported as layers.

A sequence is a padded tensor float32 [B, L, dim] and lengths int64 [B]; what stands beyond a length is never read, and what is returned there means
nothing.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def positions_of(sequence: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """bool [B, L]: which positions there are."""
    return torch.arange(sequence.shape[1], device=sequence.device) < lengths.unsqueeze(1)


class SequencePool(nn.Module):
    """A sequence's positions as one vector, zeros of none: the sum, the mean, the largest of each element, or the last position."""

    def __init__(self, pooling: str = "sum") -> None:
        super().__init__()
        if pooling not in ("sum", "mean", "max", "last"):
            raise ValueError(f"pooling has to be sum, mean, max or last: {pooling}")
        self.pooling = pooling

    def forward(self, sequence: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """float32 [B, dim] of a sequence [B, L, dim]."""
        here = positions_of(sequence, lengths).unsqueeze(-1)
        if self.pooling == "last":
            here = here & ~positions_of(sequence, lengths - 1).unsqueeze(-1)
        if self.pooling == "max":
            largest = sequence.masked_fill(~here, float("-inf")).amax(1)
            return torch.where(lengths.unsqueeze(1) > 0, largest, 0.0)
        total = torch.where(here, sequence, 0.0).sum(1)
        return total / lengths.clamp(min=1).unsqueeze(1) if self.pooling == "mean" else total


class Append(nn.Module):
    """A sequence with a vector as one more position behind its last, as BST has the candidate behind the user's events."""

    def forward(self, sequence: torch.Tensor, lengths: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """float32 [B, L + 1, dim], whose lengths are lengths + 1. vector: [B, dim]."""
        longer = functional.pad(sequence, (0, 0, 0, 1))
        behind = torch.arange(longer.shape[1], device=lengths.device) == lengths.unsqueeze(1)
        return torch.where(behind.unsqueeze(-1), vector.unsqueeze(1), longer)


class Dice(nn.Module):
    """Dice (Zhou et al., 2018): p x + (1 - p) alpha x, p the sigmoid of x normalized over the batch. Of vectors [B, dim]."""

    def __init__(self, dim: int, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, eps=epsilon, affine=False)
        self.alpha = nn.Parameter(torch.zeros(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 of the shape of x: [B, dim] or [B, L, dim]."""
        p = torch.sigmoid(self.norm(x.flatten(0, -2)).reshape(x.shape))
        return p * x + (1 - p) * self.alpha * x


class AttentionUnit(nn.Module):
    """DIN's unit (Zhou et al., 2018): an MLP that gives each position of a sequence a score, of the query beside it.

    It reads the query, the position, their difference and their product, side by side. activation: makes the module behind each Linear but the last.
    """

    def __init__(self, dim: int, hidden: tuple[int, ...], activation: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        widths = (4 * dim, *hidden)
        layers = [part for width, out in zip(widths, hidden, strict=False) for part in (nn.Linear(width, out), activation())]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, query: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
        """float32 [B, L]: a score of each position. query: [B, dim]."""
        spread = query.unsqueeze(1).expand_as(sequence)
        return self.layers(torch.cat([spread, sequence, spread - sequence, spread * sequence], -1)).squeeze(-1)


class TargetScores(nn.Module):
    """The scores of an AttentionUnit, normalized over the positions that are there, or as they are."""

    def __init__(self, unit: AttentionUnit, normalize: bool = True) -> None:
        super().__init__()
        self.unit = unit
        self.normalize = normalize

    def forward(self, query: torch.Tensor, sequence: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """float32 [B, L], 0 beyond the lengths. query: [B, dim]."""
        here = positions_of(sequence, lengths)
        scores = self.unit(query, sequence)
        if self.normalize:
            scores = scores.masked_fill(~here, torch.finfo(scores.dtype).min).softmax(-1)
        return torch.where(here, scores, 0.0)


class TargetAttention(nn.Module):
    """A sequence as the sum of its positions, each times its score: what DIN makes of a user's history for a candidate."""

    def __init__(self, unit: AttentionUnit, normalize: bool = True) -> None:
        super().__init__()
        self.scores = TargetScores(unit, normalize)

    def forward(self, query: torch.Tensor, sequence: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """float32 [B, dim]."""
        return torch.bmm(self.scores(query, sequence, lengths).unsqueeze(1), sequence).squeeze(1)


class Augru(nn.Module):
    """A GRU whose update gate is multiplied by a score of the position (Zhou et al., 2019, DIEN); gates and biases as torch.nn.GRU has them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        bound = hidden**-0.5
        self.weight_ih, self.weight_hh = (nn.Parameter(torch.empty(3 * hidden, width).uniform_(-bound, bound)) for width in (dim, hidden))
        self.bias_ih, self.bias_hh = (nn.Parameter(torch.empty(3 * hidden).uniform_(-bound, bound)) for _ in range(2))

    def forward(self, sequence: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """float32 [B, L, hidden] of a sequence [B, L, dim] and scores [B, L]."""
        state = sequence.new_zeros(sequence.shape[0], self.weight_hh.shape[1])
        states = []
        for position in range(sequence.shape[1]):
            of_input = functional.linear(sequence[:, position], self.weight_ih, self.bias_ih).chunk(3, -1)
            of_state = functional.linear(state, self.weight_hh, self.bias_hh).chunk(3, -1)
            reset = torch.sigmoid(of_input[0] + of_state[0])
            update = scores[:, position : position + 1] * torch.sigmoid(of_input[1] + of_state[1])
            new = torch.tanh(of_input[2] + reset * of_state[2])
            state = (1 - update) * state + update * new
            states.append(state)
        return torch.stack(states, 1)


class Hstu(nn.Module):
    """A layer of HSTU (Zhai et al., 2024): each position attends to those up to its own by SiLU in place of a softmax, with a bias by distance.

    U, V, Q, K = split(SiLU(f1(norm(x)))); A = SiLU(Q K^T + bias) / N; the value is f2(norm(A V) * U) + x. U and V have linear_dim values a head,
    Q and K attention_dim. positions: of its sequences, L. normalizer: N, L where it is None.
    """

    def __init__(
        self, dim: int, heads: int, linear_dim: int, attention_dim: int, positions: int, normalizer: float | None = None, epsilon: float = 1e-6
    ) -> None:
        super().__init__()
        self.heads, self.linear_dim, self.attention_dim = heads, linear_dim, attention_dim
        self.positions, self.normalizer, self.epsilon = positions, normalizer, epsilon
        self.f1 = nn.Linear(dim, 2 * heads * (linear_dim + attention_dim))
        self.f2 = nn.Linear(heads * linear_dim, dim)
        self.position_bias = nn.Parameter(torch.randn(2 * positions - 1) * 0.02)
        """At positions - 1 + j - i what key j has for query i."""

    def forward(self, sequence: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """float32 of the shape of the sequence, [B, L, dim]."""
        positions = sequence.shape[1]
        if positions != self.positions:
            raise ValueError(f"a sequence of {self.positions} positions: {positions}")
        of_u, of_q = self.heads * self.linear_dim, self.heads * self.attention_dim
        u, *vqk = functional.silu(self.f1(self._norm(sequence))).split([of_u, of_u, of_q, of_q], -1)
        v, q, k = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in vqk)
        places = torch.arange(positions, device=sequence.device)
        distances = places - places.unsqueeze(1)
        seen = (distances <= 0) & positions_of(sequence, lengths)[:, None, None]
        weights = functional.silu(q @ k.mT + self.position_bias[positions - 1 + distances]) / (self.normalizer or positions)
        values = torch.where(seen, weights, 0.0) @ v
        return self.f2(self._norm(values.transpose(1, 2).flatten(2)) * u) + sequence

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], eps=self.epsilon)
