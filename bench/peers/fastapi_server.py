"""FastAPI on uvicorn with uvloop and httptools around TorchScript: POST /score takes dense features and ids as bytes, and answers with those of the scores."""

import json
import os
import sys
import threading
from contextlib import asynccontextmanager

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from torch_served import end_with_stdin, load, ready

# Workers of uvicorn import this file, and have only the environment from their parent.
task = json.loads(os.environ.setdefault("PEER_TASK", sys.argv[1] if len(sys.argv) > 1 else "{}"))
DENSE_BYTES = 4 * task["items"] * task["denseDim"]


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.model = load(task)
    yield


app = FastAPI(lifespan=lifespan)


# On the event loop: a thread a request costs more than it lets run side by side.
@app.post("/score")
async def score(request: Request) -> Response:
    body = await request.body()
    dense = torch.from_numpy(np.frombuffer(body, np.float32, DENSE_BYTES // 4).reshape(task["items"], -1))
    ids = torch.from_numpy(np.frombuffer(body, np.int64, offset=DENSE_BYTES).reshape(task["bags"], -1))
    return Response(app.state.model(dense, ids).numpy().tobytes(), media_type="application/octet-stream")


@app.get("/ready")
async def is_ready() -> dict:
    return {"ready": True}


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()
    ready(task["port"], torch=torch.__version__)
    uvicorn.run(
        "fastapi_server:app",
        app_dir=os.path.dirname(os.path.abspath(__file__)),
        port=task["port"],
        workers=task["workers"],
        # Workers that import PyTorch do not answer for a while.
        timeout_worker_healthcheck=120,
        loop="uvloop",
        http="httptools",
        log_level="error",
        access_log=False,
    )
