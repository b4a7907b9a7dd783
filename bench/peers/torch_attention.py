"""DIN's attention or self attention in PyTorch, eager and frozen, whichever is faster: all sequences full; ns per batch, a round at a time."""

import json
import sys

import torch
from torch import nn
from torch_rounds import serve

torch.set_num_threads(1)
torch.manual_seed(3)
task = json.loads(sys.argv[1])
dim, heads, unit, batch = (task[key] for key in ("dim", "heads", "unit", "batch"))


class Din(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first, second, last = unit
        self.unit = nn.Sequential(nn.Linear(4 * dim, first), nn.Sigmoid(), nn.Linear(first, second), nn.Sigmoid(), nn.Linear(second, last))

    def forward(self, sequence: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        keys = sequence.expand(query.shape[0], -1, -1)
        queries = query.unsqueeze(1).expand_as(keys)
        scores = self.unit(torch.cat([queries, keys, queries - keys, queries * keys], 2))
        return torch.matmul(scores.transpose(1, 2), keys).squeeze(1)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, sequence: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        return self.attention(sequence, sequence, sequence, need_weights=False)[0].sum(1)


with torch.inference_mode():
    model = (Din() if task["what"] == "din" else SelfAttention()).eval()
    sequence, query = torch.rand(task["sequences"], task["positions"], dim), torch.rand(batch, dim)
    serve(model, lambda net: lambda: net(sequence, query))
