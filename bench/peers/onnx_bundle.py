"""Writes the model of a bundle as ONNX, as PyTorch exports it, to the path that the task names."""

import json
import sys
from pathlib import Path

import torch
from torch_bundle import SCORES, BundleModel, read_requests

task = json.loads(sys.argv[1])
model = BundleModel(Path(task["bundle"]), task["batch"]).eval()
inputs, _ = read_requests(task["requests"], model.input_names)[0]
torch.onnx.export(model, inputs, task["path"], input_names=model.input_names, output_names=[SCORES], dynamo=True, external_data=True, optimize=True)
