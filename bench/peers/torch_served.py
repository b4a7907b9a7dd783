"""A DLRM of a bundle as servers run it: of dense features [items, dim] and ids [bags, items], one id a bag, to scores [items, 1]."""

import json
import os
import sys
from collections.abc import Callable

import torch
from torch import nn

MODEL = "dlrm"


class ServedModel(nn.Module):
    def __init__(self, model: nn.Module, bags: int) -> None:
        super().__init__()
        self.model, self.bags = model, bags

    def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.model(dense, *(ids[bag].unsqueeze(1) for bag in range(self.bags)))


def load(task: dict) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The TorchScript that bench/peers/served_models.py wrote, frozen and warm, on as many threads as the task says. Autograd is off from here on."""
    torch.set_num_threads(task["threads"])
    torch.set_num_interop_threads(1)
    torch.set_grad_enabled(False)
    script = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.load(task["script"]).eval()))
    dense, ids = torch.zeros(task["items"], task["denseDim"]), torch.zeros(task["bags"], task["items"], dtype=torch.int64)
    # It is specialised in its first calls.
    for _ in range(20):
        script(dense, ids)
    return script


def ready(port: int, **params: object) -> None:
    """Says where it serves, once it does."""
    print(json.dumps({"url": f"http://127.0.0.1:{port}", "params": params}), flush=True)


def end_with_stdin() -> None:
    """In a thread: the bench closes our stdin, or ends, and then this process does, with its children. It leads a process group of its own."""
    sys.stdin.read()
    os.killpg(os.getpid(), 9)
