"""Writes an ONNX model of random weights: {"what": "mlp", "dims": [...]} or {"what": "dlrm", ...}, to the path that the task names."""

import json
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

task = json.loads(sys.argv[1])
random = np.random.default_rng(3)
nodes, weights = [], []


def constant(name: str, values: np.ndarray) -> str:
    weights.append(numpy_helper.from_array(values, name))
    return name


def mlp(prefix: str, x: str, dims: list[int], last: str) -> str:
    for layer, (inputs, outputs) in enumerate(zip(dims, dims[1:])):
        w = constant(f"{prefix}_w{layer}", random.uniform(-0.1, 0.1, (outputs, inputs)).astype(np.float32))
        b = constant(f"{prefix}_b{layer}", random.uniform(-0.1, 0.1, outputs).astype(np.float32))
        y = f"{prefix}_{layer}"
        nodes.append(helper.make_node("Gemm", [x, w, b], [f"{y}_sum"], transB=1))
        nodes.append(helper.make_node("Relu" if layer < len(dims) - 2 or last == "relu" else "Sigmoid", [f"{y}_sum"], [y]))
        x = y
    return x


def save(inputs, output: str, width: int) -> None:
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", width])
    graph = helper.make_graph(nodes, "bench", inputs, [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, task["path"], save_as_external_data=True, location=task["path"].rsplit("/", 1)[-1] + ".data")


if task["what"] == "mlp":
    dense = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", task["dims"][0]])
    save([dense], mlp("fc", "x", task["dims"], "relu"), task["dims"][-1])
else:
    tables, rows, dim = task["tables"], task["rows"], task["dim"]
    inputs = [helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["batch", task["bottom"][0]])]
    vectors = [mlp("bottom", "dense", task["bottom"], "relu")]
    for t in range(tables):
        inputs.append(helper.make_tensor_value_info(f"ids{t}", TensorProto.INT64, ["batch"]))
        table = constant(f"table{t}", random.random((rows, dim), dtype=np.float32) - 0.5)
        nodes.append(helper.make_node("Gather", [table, f"ids{t}"], [f"bag{t}"], axis=0))
        vectors.append(f"bag{t}")
    count = tables + 1
    nodes.append(helper.make_node("Concat", vectors, ["flat"], axis=1))
    shape = constant("shape", np.array([-1, count, dim], dtype=np.int64))
    nodes.append(helper.make_node("Reshape", ["flat", shape], ["stacked"]))
    nodes.append(helper.make_node("Transpose", ["stacked"], ["turned"], perm=[0, 2, 1]))
    nodes.append(helper.make_node("MatMul", ["stacked", "turned"], ["products"]))
    flat = constant("flat_shape", np.array([-1, count * count], dtype=np.int64))
    nodes.append(helper.make_node("Reshape", ["products", flat], ["all_pairs"]))
    below = constant("below", np.array([i * count + j for i in range(count) for j in range(i)], dtype=np.int64))
    nodes.append(helper.make_node("Gather", ["all_pairs", below], ["pairs"], axis=1))
    nodes.append(helper.make_node("Concat", [vectors[0], "pairs"], ["interaction"], axis=1))
    save(inputs, mlp("top", "interaction", task["top"], "sigmoid"), 1)
