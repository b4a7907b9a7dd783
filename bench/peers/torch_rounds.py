"""Variants of a PyTorch model, measured in rounds; the fastest is the peer."""

import json
import sys
import time
from collections.abc import Callable

import torch
import torch._inductor.config
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


def frozen(model: nn.Module, example: tuple | None) -> nn.Module:
    script = torch.jit.script(model) if example is None else torch.jit.trace(model, example)
    return torch.jit.optimize_for_inference(torch.jit.freeze(script))


def compiled(model: nn.Module, example: tuple | None) -> Callable:
    torch._inductor.config.freezing = True
    torch._inductor.config.cpp_wrapper = True
    return torch.compile(model, dynamic=False, fullgraph=True)


VARIANTS: dict[str, Callable[[nn.Module, tuple | None], Callable]] = {
    "eager": lambda model, example: model,
    "frozen TorchScript": frozen,
    "compiled": compiled,
}


def serve(model: nn.Module, runner: Callable[[Callable], Callable[[], object]], example: tuple | None = None) -> None:
    """Says which of eager, frozen TorchScript and compiled is fastest, then answers each line, milliseconds, with nanoseconds per call of it.

    runner gives the call to measure of a model; TorchScript traces one with an example. To be called in inference mode.
    """
    variants: dict[str, Callable[[], object]] = {}
    for name, make in VARIANTS.items():
        try:
            run = runner(make(model, example))
            nanoseconds(run, 300)
            variants[name] = run
        except Exception as error:  # The variant is left out, and said so.
            print(f"not {name}: {error}", file=sys.stderr)
    took = {name: nanoseconds(run, 500) for name, run in variants.items()}
    best = min(took, key=lambda name: took[name])
    print(json.dumps({"params": {"torch": torch.__version__, "variant": best}}), flush=True)
    for line in sys.stdin:
        print(nanoseconds(variants[best], float(line)), flush=True)
