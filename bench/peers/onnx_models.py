"""Writes an ONNX model of random weights, an mlp, a dlrm, din's attention or self-attention, to the path that the task names."""

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


def linear(prefix: str, x: str, inputs: int, outputs: int) -> str:
    w = constant(f"{prefix}_w", random.uniform(-0.1, 0.1, (inputs, outputs)).astype(np.float32))
    b = constant(f"{prefix}_b", random.uniform(-0.1, 0.1, outputs).astype(np.float32))
    nodes.append(helper.make_node("MatMul", [x, w], [f"{prefix}_product"]))
    nodes.append(helper.make_node("Add", [f"{prefix}_product", b], [prefix]))
    return prefix


def node(kind: str, inputs: list[str], output: str, **attributes) -> str:
    nodes.append(helper.make_node(kind, inputs, [output], **attributes))
    return output


def shape_of(name: str, *dims: int) -> str:
    return constant(name, np.array(dims, dtype=np.int64))


def din(dim: int, positions: int, batch: int, unit: list[int]) -> str:
    shape = shape_of("all", batch, positions, dim)
    keys = node("Expand", ["sequence", shape], "keys")
    queries = node("Expand", [node("Unsqueeze", ["query", shape_of("one", 1)], "row"), shape], "queries")
    x = node("Concat", [queries, keys, node("Sub", [queries, keys], "differences"), node("Mul", [queries, keys], "products")], "seen", axis=2)
    for layer, (inputs, outputs) in enumerate(zip([4 * dim, *unit], unit)):
        x = linear(f"unit_{layer}", x, inputs, outputs)
        if layer < len(unit) - 1:
            x = node("Sigmoid", [x], f"unit_{layer}_sigmoid")
    pooled = node("MatMul", [node("Transpose", [x], "scores", perm=[0, 2, 1]), keys], "pooled")
    return node("Squeeze", [pooled, "one"], "interest")


def self_attention(dim: int, positions: int, heads: int) -> str:
    shape = shape_of("heads", 0, positions, heads, dim // heads)
    parts = []
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        parts.append(node("Transpose", [node("Reshape", [linear(name, "sequence", dim, dim), shape], f"{name}_heads")], f"{name}_turned", perm=perm))
    scale = constant("scale", np.array((dim // heads) ** -0.5, dtype=np.float32))
    scores = node("Softmax", [node("Mul", [node("MatMul", parts[:2], "products"), scale], "scaled")], "scores", axis=-1)
    turned = node("Transpose", [node("MatMul", [scores, parts[2]], "sums")], "turned", perm=[0, 2, 1, 3])
    out = linear("out", node("Reshape", [turned, shape_of("flat", 0, positions, dim)], "joined"), dim, dim)
    return node("ReduceSum", [out, shape_of("axes", 1)], "pooled", keepdims=0)


def save(inputs, output: str, width: int) -> None:
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", width])
    graph = helper.make_graph(nodes, "bench", inputs, [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, task["path"], save_as_external_data=True, location=task["path"].rsplit("/", 1)[-1] + ".data")


if task["what"] == "mlp":
    dense = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", task["dims"][0]])
    save([dense], mlp("fc", "x", task["dims"], "relu"), task["dims"][-1])
elif task["what"] in ("din", "self-attention"):
    dim, positions = task["dim"], task["positions"]
    inputs = [helper.make_tensor_value_info("sequence", TensorProto.FLOAT, ["sequences", positions, dim])]
    if task["what"] == "din":
        inputs.append(helper.make_tensor_value_info("query", TensorProto.FLOAT, ["batch", dim]))
        save(inputs, din(dim, positions, task["batch"], task["unit"]), dim)
    else:
        save(inputs, self_attention(dim, positions, task["heads"]), dim)
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
