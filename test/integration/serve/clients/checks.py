"""What the checks of all clients share: the task, its tensors, and how what came of each check is told.

The task is a JSON file: where the server listens, and requests as named tensors with the scores that the API of TypeScript gives. Each client is
checked in a process of its own, which prints a line of JSON for each check: {"name": ..., "error": null or a traceback}.
"""

import asyncio
import inspect
import json
import os
import signal
import sys
import traceback
from contextlib import contextmanager

import numpy as np

with open(sys.argv[1], encoding="utf-8") as file:
    TASK = json.load(file)

DTYPES = {
    "FP32": np.float32,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
}

_checks = []


def check(function):
    _checks.append(function)
    return function


def array(tensor):
    """The numpy array of a tensor of the task. Integers beyond 2^53 are strings there."""
    values = [int(value) if isinstance(value, str) else value for value in tensor["data"]]
    return np.array(values, dtype=DTYPES[tensor["datatype"]]).reshape(tensor["shape"])


def requests(model):
    return [request for request in TASK["requests"] if request["model"] == model]


def expect(actual, expected, what=""):
    if actual != expected:
        raise AssertionError(f"{what}: {actual!r}, not {expected!r}")


def expect_bits(actual, expected, what):
    """Of an output: shape, datatype and every bit."""
    wanted = array(expected)
    if actual is None:
        raise AssertionError(f"{what}: no {expected['name']}")
    same = actual.shape == wanted.shape and actual.dtype == wanted.dtype and actual.tobytes() == wanted.tobytes()
    if not same:
        raise AssertionError(f"{what}: {expected['name']} {actual.tolist()}, not {wanted.tolist()}")


def expect_outputs(as_numpy, request, what=""):
    for output in request["outputs"]:
        expect_bits(as_numpy(output["name"]), output, f"{what} {request['what']}")


@contextmanager
def refused(error_class, *words):
    """The block has to raise; the error is held to the words, each of which is in its text."""
    told = []
    try:
        yield told
    except error_class as error:
        told.append(error)
        for word in words:
            if word not in str(error):
                raise AssertionError(f"no {word!r} in {error!s}") from error
        return
    raise AssertionError(f"not refused: {words}")


@contextmanager
def stopped_shards():
    """The shards neither answer nor end."""
    for pid in TASK["shards"]:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in TASK["shards"]:
            os.kill(pid, signal.SIGCONT)


def run():
    for function in _checks:
        error = None
        try:
            if inspect.iscoroutinefunction(function):
                asyncio.run(asyncio.wait_for(function(), 60))
            else:
                function()
        except BaseException:  # Told, whatever it is: the other checks are run all the same.
            error = traceback.format_exc()
        print(json.dumps({"name": function.__name__, "error": error}), flush=True)
    # Threads of a client that hang must not keep the process.
    sys.stdout.flush()
    os._exit(0)
