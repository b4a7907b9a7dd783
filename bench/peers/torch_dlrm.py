"""A DLRM in PyTorch, eager and frozen, whichever is faster: one id a bag, batches of one size; ns per batch, a round at a time."""

import json
import sys

import torch
from torch import nn
from torch_rounds import serve

torch.set_num_threads(1)
torch.manual_seed(3)
task = json.loads(sys.argv[1])
tables, rows, dim, batch = (task[key] for key in ("tables", "rows", "dim", "batch"))


def mlp(dims: list[int], last: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer, (inputs, outputs) in enumerate(zip(dims, dims[1:])):
        layers += [nn.Linear(inputs, outputs), nn.ReLU() if layer < len(dims) - 2 else last]
    return nn.Sequential(*layers)


class Dlrm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bottom = mlp(task["bottom"], nn.ReLU())
        self.top = mlp(task["top"], nn.Sigmoid())
        self.bags = nn.ModuleList(
            nn.EmbeddingBag(rows, dim, mode="sum", include_last_offset=False, _weight=torch.empty(rows, dim).uniform_(-0.5, 0.5)) for _ in range(tables)
        )
        below = torch.tril_indices(tables + 1, tables + 1, offset=-1)
        self.register_buffer("below", below[0] * (tables + 1) + below[1])

    def forward(self, dense: torch.Tensor, ids: list[torch.Tensor], offsets: torch.Tensor) -> torch.Tensor:
        bottom = self.bottom(dense)
        vectors = [bottom]
        for i, bag in enumerate(self.bags):
            vectors.append(bag(ids[i], offsets))
        stacked = torch.stack(vectors, 1)
        pairs = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1).index_select(1, self.below)
        return self.top(torch.cat([bottom, pairs], 1))


with torch.inference_mode():
    model = Dlrm().eval()
    offsets = torch.arange(batch)
    inputs = [(torch.rand(batch, task["bottom"][0]), [torch.randint(rows, (batch,)) for _ in range(tables)]) for _ in range(16)]
    turn = 0

    def runner(net):
        def run():
            global turn
            turn = (turn + 1) % len(inputs)
            net(*inputs[turn], offsets)

        return run

    serve(model, runner)
