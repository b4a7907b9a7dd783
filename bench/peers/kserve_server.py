"""KServe's Python server around TorchScript, asked over the Open Inference Protocol with binary tensors."""

import json
import logging
import sys
import threading

import numpy as np
import torch
from torch_served import MODEL, end_with_stdin, load, ready

task = json.loads(sys.argv.pop(1))

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer  # noqa: E402 It reads the arguments.
from kserve.logging import logger  # noqa: E402


class Dlrm(Model):
    def load(self) -> bool:
        self.script = load(task)
        self.ready = True
        return True

    async def predict(self, payload: InferRequest, headers: dict | None = None, response_headers: dict | None = None) -> InferResponse:
        # What it decodes lies where the body does, and may not be written to.
        dense, ids = (torch.from_numpy(np.array(payload.get_input_by_name(name).as_numpy())) for name in ("dense", "ids"))
        scores = self.script(dense, ids).numpy()
        output = InferOutput("scores", list(scores.shape), "FP32")
        output.set_data_from_numpy(scores, binary_data=True)
        # A request need not have an id, and an answer does.
        return InferResponse(payload.id or "0", MODEL, [output])


if __name__ == "__main__":
    logger.setLevel(logging.ERROR)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    model = Dlrm(MODEL)
    model.load()
    ready(task["port"], torch=torch.__version__)
    ModelServer(http_port=task["port"], workers=task["workers"], enable_grpc=False, enable_latency_logging=False, event_loop="uvloop").start([model])
