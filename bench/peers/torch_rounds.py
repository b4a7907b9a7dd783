"""Variants of a PyTorch model, measured in rounds; the fastest is the peer."""

import json
import sys
import time
from collections.abc import Callable

import torch
from torch import nn


def nanoseconds(run: Callable[[], object], ms: float) -> float:
    """Nanoseconds of a call, over as many as fit into the time."""
    started = now = time.perf_counter_ns()
    until = started + int(ms * 1e6)
    calls = 0
    while now < until:
        run()
        calls += 1
        now = time.perf_counter_ns()
    return (now - started) / calls


def serve(model: nn.Module, runner: Callable[[Callable], Callable[[], object]]) -> None:
    """Says which of eager and frozen TorchScript is faster, then answers each line, milliseconds, with nanoseconds per call of it.

    runner gives the call to measure of a model. To be called in inference mode.
    """
    variants = {"eager": runner(model)}
    try:
        variants["frozen TorchScript"] = runner(torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.script(model))))
    except Exception as error:  # The variant is left out, and said so.
        print(f"no TorchScript: {error}", file=sys.stderr)
    for run in variants.values():
        nanoseconds(run, 300)
    best = min(variants, key=lambda name: nanoseconds(variants[name], 500))
    print(json.dumps({"params": {"torch": torch.__version__, "variant": best}}), flush=True)
    for line in sys.stdin:
        print(nanoseconds(variants[best], float(line)), flush=True)
