"""The model of a bundle in PyTorch: the layers that the shapes of bench/models.ts have, with the bundle's own weights, and the bench's requests."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

ACTIVATIONS: dict[str, Callable] = {"none": lambda x: x, "relu": torch.relu, "sigmoid": torch.sigmoid}
SCORES = "scores"


class Bag(nn.Module):
    """Sums of rows, [rows, dim], or a sequence, [rows, positions, dim], of ids [rows, ids]: all of a layer have as many."""

    def __init__(self, table: torch.Tensor, pooled: bool) -> None:
        super().__init__()
        self.table, self.pooled = nn.Parameter(table), pooled

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if not self.pooled:
            return functional.embedding(ids, self.table)
        if ids.shape[1] == 1:
            return functional.embedding(ids.squeeze(1), self.table)
        # As one operation, where it need not become ONNX, which has none.
        if not torch.onnx.is_in_onnx_export():
            return functional.embedding_bag(ids, self.table, mode="sum")
        return functional.embedding(ids, self.table).sum(1)


class Fc(nn.Module):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, activation: str = "none") -> None:
        super().__init__()
        self.linear = linear(weight, bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.linear(x))


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


class Concat(nn.Module):
    def __init__(self, items: int) -> None:
        super().__init__()
        self.items = items

    def forward(self, *vectors: torch.Tensor) -> torch.Tensor:
        return torch.cat([vector.expand(self.items, -1) for vector in vectors], 1)


class DotInteraction(nn.Module):
    """The first vector, then the dot products of all pairs, row-major lower triangle."""

    def __init__(self, count: int) -> None:
        super().__init__()
        below = torch.tril_indices(count, count, offset=-1)
        self.register_buffer("below", below[0] * count + below[1])

    def forward(self, *vectors: torch.Tensor) -> torch.Tensor:
        stacked = torch.stack(vectors, 1)
        pairs = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1).index_select(1, self.below)
        return torch.cat([vectors[0], pairs], 1)


class Product(nn.Module):
    def forward(self, *vectors: torch.Tensor) -> torch.Tensor:
        product = vectors[0]
        for vector in vectors[1:]:
            product = product * vector
        return product


class Scores(nn.Module):
    """[items, positions] of a query an item and a sequence that all items share, or each its own."""

    def __init__(self, features: list[str], layers: list[nn.Module], softmax: bool) -> None:
        super().__init__()
        self.features, self.softmax = features, softmax
        self.layers = nn.Sequential(*layers)

    def forward(self, query: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
        queries, keys = torch.broadcast_tensors(query.unsqueeze(1), sequence)
        seen = {"query": lambda: queries, "key": lambda: keys, "difference": lambda: queries - keys, "product": lambda: queries * keys}
        features = [seen[feature]() for feature in self.features]
        scores = self.layers(features[0] if len(features) == 1 else torch.cat(features, 2)).squeeze(2)
        return torch.softmax(scores, 1) if self.softmax else scores


class TargetAttention(nn.Module):
    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, query: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
        scores = self.scores(query, sequence)
        if sequence.shape[0] == 1:
            return scores @ sequence.squeeze(0)
        return (scores.unsqueeze(1) @ sequence).squeeze(1)


class Gru(nn.Module):
    def __init__(self, weight_input: torch.Tensor, weight_hidden: torch.Tensor, bias_input: torch.Tensor, bias_hidden: torch.Tensor) -> None:
        super().__init__()
        self.gru = nn.GRU(weight_input.shape[1], weight_hidden.shape[1], batch_first=True)
        weights = {"weight_ih_l0": weight_input, "weight_hh_l0": weight_hidden, "bias_ih_l0": bias_input, "bias_hh_l0": bias_hidden}
        self.gru.load_state_dict(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x)[0]


class Augru(nn.Module):
    """The last state, as a sequence of one position: no layer reads others. What the gates see of the sequence is multiplied at once."""

    def __init__(self, weight_input: torch.Tensor, weight_hidden: torch.Tensor, bias_input: torch.Tensor, bias_hidden: torch.Tensor) -> None:
        super().__init__()
        self.input, self.hidden = linear(weight_input, bias_input), linear(weight_hidden, bias_hidden)
        self.dim = weight_hidden.shape[1]

    def forward(self, x: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        gates = self.input(x)
        gates_x, candidates_x = gates[..., : 2 * self.dim], gates[..., 2 * self.dim :]
        state = torch.zeros(scores.shape[0], self.dim)
        for position in range(x.shape[1]):
            gates_h, candidates_h = self.hidden(state).split([2 * self.dim, self.dim], 1)
            reset, update = torch.sigmoid(gates_x[:, position] + gates_h).chunk(2, 1)
            candidate = torch.tanh(candidates_x[:, position] + reset * candidates_h)
            state = torch.lerp(state, candidate, update * scores[:, position].unsqueeze(1))
        return state.unsqueeze(1)


class Last(nn.Module):
    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        return sequence[:, -1]


class BundleModel(nn.Module):
    """Scores of a batch: its dense features, then the ids of bags and sequences in the order of model.json; one row is for all items."""

    def __init__(self, bundle: Path, items: int) -> None:
        super().__init__()
        spec = json.loads((bundle / "model.json").read_text())
        self.weights = load_file(bundle / "dense.safetensors")
        self.files = {table["name"]: (bundle / table["file"], table["tensor"]) for table in spec["tables"]}
        self.items, self.output = items, spec["output"]
        layers = [layer for net in spec["nets"] for layer in net["layers"]]
        readers = [layer for layer in layers if "table" in layer]
        self.input_names = [feature["name"] for feature in spec["dense"]] + [layer["name"] for layer in readers]
        # Each with what it reads; readers read the input of their name.
        self.steps = [(layer["name"], inputs_of(layer)) for layer in layers]
        self.layers = nn.ModuleList([self.layer_of(layer) for layer in layers])

    def layer_of(self, layer: dict) -> nn.Module:
        weights = self.weights
        match layer["type"]:
            case "embedding_bag" | "embedding_sequence":
                path, tensor = self.files[layer["table"]]
                # Copied to memory of its own, which gets huge pages.
                return Bag(load_file(path)[tensor].clone(), layer["type"] == "embedding_bag")
            case "fc":
                return Fc(weights[layer["weight"]], weights[layer["bias"]], layer.get("activation", "none"))
            case "concat":
                return Concat(self.items)
            case "dot_interaction" if not layer.get("diagonal"):
                return DotInteraction(len(layer["inputs"]))
            case "product":
                return Product()
            case "target_attention":
                return TargetAttention(self.scores_of(layer))
            case "target_scores":
                return self.scores_of(layer)
            case "gru" | "augru":
                names = ("weightInput", "weightHidden", "biasInput", "biasHidden")
                return {"gru": Gru, "augru": Augru}[layer["type"]](*(weights[layer[name]] for name in names))
            case "sequence_pool" if layer["pooling"] == "last":
                return Last()
        raise ValueError(f"no such layer here: {layer['type']}, {layer['name']}")

    def scores_of(self, layer: dict) -> Scores:
        parts = [Fc(self.weights[part["weight"]], self.weights[part["bias"]], part.get("activation", "none")) for part in layer["layers"]]
        return Scores(layer.get("features", ["query", "key", "difference", "product"]), parts, layer["normalize"] == "softmax")

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        values = dict(zip(self.input_names, inputs))
        for (name, read), layer in zip(self.steps, self.layers):
            values[name] = layer(*(values[input] for input in read))
        return values[self.output]


def inputs_of(layer: dict) -> list[str]:
    if "table" in layer:
        return [layer["name"]]
    if "query" in layer:
        return [layer["query"], layer["sequence"]]
    return layer["inputs"] if "inputs" in layer else [layer[field] for field in ("input", "scores") if field in layer]


def read_requests(path: str, names: list[str]) -> list[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    """The inputs and our scores of each request."""
    tensors = load_file(path)
    count = sum(name.endswith(f".{SCORES}") for name in tensors)
    return [(tuple(tensors[f"{n}.{name}"] for name in names), tensors[f"{n}.{SCORES}"]) for n in range(count)]


def check_scores(run: Callable[..., torch.Tensor], requests: list[tuple[tuple[torch.Tensor, ...], torch.Tensor]]) -> None:
    for inputs, scores in requests:
        torch.testing.assert_close(run(*inputs), scores, rtol=1e-5, atol=0)
