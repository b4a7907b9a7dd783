"""Triton, with PyTriton, around TorchScript and with dynamic batching, asked over the Open Inference Protocol with binary tensors; ids are [items, bags]."""

import json
import sys
import threading

import numpy as np
import torch
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from torch_served import MODEL, end_with_stdin, load, ready

task = json.loads(sys.argv[1])
script = load(task)


@batch
def score(dense: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    return {"scores": script(torch.from_numpy(dense), torch.from_numpy(ids.T.copy())).numpy()}


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()
    config = TritonConfig(http_address="127.0.0.1", http_port=task["port"], allow_grpc=False, allow_metrics=False, log_verbose=0)
    with Triton(config=config) as triton:
        triton.bind(
            model_name=MODEL,
            infer_func=score,
            inputs=[Tensor(name="dense", dtype=np.float32, shape=(task["denseDim"],)), Tensor(name="ids", dtype=np.int64, shape=(task["bags"],))],
            outputs=[Tensor(name="scores", dtype=np.float32, shape=(1,))],
            # As many requests as fit together into what is on hand: none waits for others.
            config=ModelConfig(max_batch_size=task["items"] * task["mostRequests"], batcher=DynamicBatcher(max_queue_delay_microseconds=task["queueDelayUs"])),
        )
        ready(task["port"], torch=torch.__version__)
        threading.Event().wait()
