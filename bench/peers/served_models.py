"""Writes the model of a bundle for servers: TorchScript and ONNX, once they give the scores of the task's requests."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch_bundle import SCORES, BundleModel
from torch_served import ServedModel

task = json.loads(sys.argv[1])
with torch.inference_mode(False), torch.no_grad():
    bundle = Path(task["bundle"])
    bags = sum("table" in layer for net in json.loads((bundle / "model.json").read_text())["nets"] for layer in net["layers"])
    model = ServedModel(BundleModel(bundle, task["items"]), bags).eval()
    tensors = load_file(task["request"])
    example = (tensors["dense"], tensors["ids"])
    script = torch.jit.trace(model, example)
    torch.testing.assert_close(script(*example), tensors[SCORES], rtol=1e-4, atol=1e-6)
    script.save(task["script"])
    torch.onnx.export(model, example, task["onnx"], input_names=["dense", "ids"], output_names=[SCORES], dynamo=True, external_data=True, optimize=True)
