"""A plain reading of model.json in float64, one row at a time, that shares nothing with the package: what both say has to agree."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

Vector = torch.Tensor


class Reference:
    """A bundle."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.model = json.loads((directory / "model.json").read_text())
        self.dense = {name: tensor.double() for name, tensor in _weights(directory).items()}
        self.tables = {table["name"]: self._table(table) for table in self.model["tables"]}

        positions: dict[str, int] = {}
        for layer in (layer for net in self.model["nets"] for layer in net["layers"]):
            read = layer.get("input", layer.get("sequence", (layer.get("inputs") or [None])[0]))
            layer["_positions"] = positions.get(read, 0)
            pools = layer["type"] in ("sequence_pool", "flatten", "target_attention")
            positions[layer["name"]] = layer.get("maxLength", 0 if pools else layer["_positions"] + (layer["type"] == "append"))

    def _table(self, table: dict[str, Any]) -> torch.Tensor:
        rows = load_file(self.directory / table["file"])[table["tensor"]]
        dim, kind = table["dim"], table["format"]
        if kind not in ("int8", "int8_fp16", "int4"):
            assert list(rows.shape) == [table["rows"], dim]
            return rows.double()
        end = 8 if kind == "int8" else 4
        ends = rows[:, -end:].contiguous().view(torch.float32 if kind == "int8" else torch.float16).double()
        values = rows[:, :-end]
        if kind == "int4":
            values = torch.stack([values & 15, values >> 4], 2).flatten(1)[:, :dim]
        return values.double() * ends[:, :1] + ends[:, 1:]

    def outputs(self) -> list[str]:
        """Names of the layers that are returned."""
        return [self.model["output"], *self.model.get("outputs", [])]

    def scores(self) -> dict[str, torch.Tensor]:
        """float64 [rows, dim] of each output, of the requests of check/."""
        rows = self.rows(self._all_values)
        return {name: torch.stack([values[name] for values in rows]) for name in self.outputs()}

    def rows(self, values_of: Any) -> list[dict[str, torch.Tensor]]:
        """values_of(request, item) of each row of the requests of check/."""
        lines = (self.directory / "check" / "requests.jsonl").read_text().splitlines()
        requests = [json.loads(line) for line in lines]
        return [values_of(request, item) for request in requests for item in range(request["items"])]

    def values_before_dense(self, request: dict[str, Any], item: int) -> dict[str, torch.Tensor]:
        """Dense features, bags and sequences, [length, dim] each."""
        values: dict[str, torch.Tensor] = {}
        for feature in self.model["dense"]:
            given = torch.tensor(request["dense"][feature["name"]], dtype=torch.float64).reshape(-1, feature["dim"])
            values[feature["name"]] = given[item]
        for net in self.model["nets"]:
            for layer in net["layers"]:
                if layer["type"].startswith("embedding"):
                    values[layer["name"]] = self._layer(layer, values, request, item)
        return values

    def _all_values(self, request: dict[str, Any], item: int) -> dict[str, torch.Tensor]:
        values = self.values_before_dense(request, item)
        for net in self.model["nets"]:
            for layer in net["layers"]:
                if layer["name"] not in values:
                    values[layer["name"]] = self._layer(layer, values, request, item)
        return values

    def _layer(self, layer: dict[str, Any], values: dict[str, torch.Tensor], request: dict[str, Any], item: int) -> torch.Tensor:
        kind = layer["type"]
        if kind in ("embedding_bag", "embedding_sequence"):
            bags = request["sparse"][layer["name"]]
            start, end = bags["offsets"][item : item + 2]
            ids = bags["indices"][start:end]
            weights = bags.get("weights", [1.0] * len(bags["indices"]))[start:end]
            kept = [(id, weight) for id, weight in zip(ids, weights, strict=True) if id != layer.get("paddingId")]
            table = self.tables[layer["table"]]
            rows = [table[id] * weight for id, weight in kept]
            if kind == "embedding_sequence":
                return torch.stack(rows[: layer["maxLength"]]) if rows else torch.zeros(0, table.shape[1], dtype=torch.float64)
            return self._pool(layer["pooling"], rows, table.shape[1])

        def tensor(key: str) -> torch.Tensor | None:
            return self.dense[layer[key]] if layer.get(key) is not None else None

        tensor.dense = self.dense
        x = values[layer["input"]] if "input" in layer else None
        inputs = [values[name] for name in layer.get("inputs", [])]
        return globals()[f"_{kind}"](layer, x, inputs, tensor, values)

    @staticmethod
    def _pool(pooling: str, rows: list[torch.Tensor], dim: int) -> torch.Tensor:
        if not rows:
            return torch.zeros(dim, dtype=torch.float64)
        stacked = torch.stack(rows)
        return {"sum": stacked.sum(0), "mean": stacked.mean(0), "max": stacked.max(0).values}[pooling]


def _weights(directory: Path) -> dict[str, torch.Tensor]:
    file = directory / "dense.safetensors"
    return load_file(file) if file.exists() else {}


def _activate(name: str, x: torch.Tensor) -> torch.Tensor:
    return {
        "none": lambda: x,
        "relu": lambda: x.clamp(min=0),
        "sigmoid": lambda: 1 / (1 + torch.exp(-x)),
        "tanh": lambda: torch.tanh(x),
        "silu": lambda: x / (1 + torch.exp(-x)),
        "gelu": lambda: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        "gelu_tanh": lambda: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    }[name]()


def _affine(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out = x @ weight.T
    return out if bias is None else out + bias


def _fc(layer, x, inputs, tensor, values):
    return _activate(layer.get("activation", "none"), _affine(x, tensor("weight"), tensor("bias")))


def _activation(layer, x, inputs, tensor, values):
    return _activate(layer["activation"], x)


def _concat(layer, x, inputs, tensor, values):
    return torch.cat(inputs, -1)


def _sum(layer, x, inputs, tensor, values):
    return sum(inputs)


def _product(layer, x, inputs, tensor, values):
    out = inputs[0]
    for other in inputs[1:]:
        out = out * other
    return out


def _dot_interaction(layer, x, inputs, tensor, values):
    diagonal = layer.get("diagonal", False)
    pairs = [inputs[i] @ inputs[j] for i in range(len(inputs)) for j in range(i + diagonal)]
    return torch.cat([inputs[0], torch.stack(pairs)])


def _cross(layer, x, inputs, tensor, values):
    x0, x = inputs
    weight = tensor("weight") if layer.get("weight") else tensor("weightU") @ tensor("weightV")
    return x0 * _affine(x, weight, tensor("bias")) + x


def _layer_norm(layer, x, inputs, tensor, values):
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + layer["epsilon"]) * tensor("weight") + tensor("bias")


def _scale_shift(layer, x, inputs, tensor, values):
    return x * tensor("scale") + tensor("shift")


def _prelu(layer, x, inputs, tensor, values):
    return torch.where(x > 0, x, x * tensor("weight"))


def _softmax(layer, x, inputs, tensor, values):
    return torch.exp(x) / torch.exp(x).sum(-1, keepdim=True)


def _mixture(layer, x, inputs, tensor, values):
    gate = values[layer["gate"]]
    return sum(weight * expert for weight, expert in zip(gate, inputs, strict=True))


def _sequence_pool(layer, x, inputs, tensor, values):
    if len(x) == 0:
        return torch.zeros(x.shape[1], dtype=torch.float64)
    return {"sum": x.sum(0), "mean": x.mean(0), "max": x.max(0).values, "last": x[-1]}[layer["pooling"]]


def _flatten(layer, x, inputs, tensor, values):
    return torch.cat([x.flatten(), torch.zeros(layer["_positions"] * x.shape[1] - x.numel(), dtype=torch.float64)])


def _append(layer, x, inputs, tensor, values):
    return torch.cat([x, values[layer["vector"]].unsqueeze(0)])


def _positions(layer, x, inputs, tensor, values):
    return x + tensor("weight")[: len(x)]


def _gru(layer, x, inputs, tensor, values, attention=None):
    state, states = torch.zeros(tensor("weightHidden").shape[1], dtype=torch.float64), []
    for position, row in enumerate(x):
        of_input = (tensor("weightInput") @ row + tensor("biasInput")).chunk(3)
        of_state = (tensor("weightHidden") @ state + tensor("biasHidden")).chunk(3)
        reset, update = (1 / (1 + torch.exp(-(a + b))) for a, b in zip(of_input[:2], of_state[:2], strict=True))
        new = torch.tanh(of_input[2] + reset * of_state[2])
        if attention is None:
            state = (1 - update) * new + update * state
        else:
            update = attention[position] * update
            state = (1 - update) * state + update * new
        states.append(state)
    return torch.stack(states) if states else torch.zeros(0, len(state), dtype=torch.float64)


def _augru(layer, x, inputs, tensor, values):
    return _gru(layer, x, inputs, tensor, values, values[layer["scores"]].flatten())


def _dice(layer, x, inputs, tensor, values):
    p = 1 / (1 + torch.exp(-(x - tensor("mean")) / torch.sqrt(tensor("variance") + layer["epsilon"])))
    return p * x + (1 - p) * tensor("alpha") * x


def _scores(layer, query, sequence, dense):
    scores = []
    for row in sequence:
        x = torch.cat([query, row, query - row, query * row])
        for part in layer["layers"]:
            x = _affine(x, dense[part["weight"]], dense[part["bias"]])
            activation = part.get("activation", "none")
            if activation == "prelu":
                x = torch.where(x > 0, x, x * dense[part["slope"]])
            elif activation == "dice":
                x = _dice(part, x, [], lambda key, part=part: dense[part[key]], values={})
            else:
                x = _activate(activation, x)
        scores.append(x[0])
    stacked = torch.stack(scores) if scores else torch.zeros(0, dtype=torch.float64)
    return torch.exp(stacked) / torch.exp(stacked).sum() if layer["normalize"] == "softmax" else stacked


def _target_scores(layer, x, inputs, tensor, values):
    return _scores(layer, values[layer["query"]], values[layer["sequence"]], tensor.dense).unsqueeze(1)


def _target_attention(layer, x, inputs, tensor, values):
    sequence = values[layer["sequence"]]
    return _scores(layer, values[layer["query"]], sequence, tensor.dense) @ sequence


def _self_attention(layer, x, inputs, tensor, values):
    out, heads = [], layer["heads"]
    queries, keys, rows = _affine(x, tensor("weightQkv"), tensor("biasQkv")).chunk(3, -1)
    width = x.shape[1] // heads
    for head in range(heads):
        at = slice(head * width, (head + 1) * width)
        logits = queries[:, at] @ keys[:, at].T / math.sqrt(width)
        if layer.get("causal"):
            logits = logits + torch.full_like(logits, float("-inf")).triu(1)
        out.append(torch.softmax(logits, -1) @ rows[:, at])
    return _affine(torch.cat(out, -1), tensor("weightOut"), tensor("biasOut"))


def _hstu(layer, x, inputs, tensor, values):
    def norm(row):
        return (row - row.mean()) / torch.sqrt(row.var(unbiased=False) + layer["epsilon"])

    heads, width, keys = layer["heads"], layer["linearDim"], layer["attentionDim"]
    sizes, out = [heads * width] * 2 + [heads * keys] * 2, []
    parts = [_activate("silu", _affine(norm(row), tensor("weightUvqk"), tensor("biasUvqk"))).split(sizes) for row in x]
    for i, row in enumerate(x):
        pooled = torch.zeros(heads, width, dtype=torch.float64)
        for j in range(i + 1):
            scores = (parts[i][2] * parts[j][3]).reshape(heads, keys).sum(1)
            weights = _activate("silu", scores + tensor("positionBias")[layer["_positions"] - 1 + j - i])
            pooled += weights.unsqueeze(1) / layer.get("normalizer", layer["_positions"]) * parts[j][1].reshape(heads, width)
        out.append(_affine(norm(pooled.flatten()) * parts[i][0], tensor("weightOut"), tensor("biasOut")) + row)
    return torch.stack(out) if out else x
