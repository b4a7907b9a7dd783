"""Inputs of the dense part: integers and bools that are cast to float are dense features, and all else of them is refused by name."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from terabag_export import ExportError, export

B = 6


class Beside(nn.Module):
    """A function of the model, the rows of an embedding, and two inputs."""

    def __init__(self, function, width: int) -> None:
        super().__init__()
        self.items, self.head = nn.Embedding(12, 4), nn.Linear(4 + width, 1)
        self.bias = nn.Parameter(torch.randn(12))
        self.function = function

    def forward(self, item, x):
        return self.head(torch.cat([self.items(item), self.function(self, item, x)], 1))


ITEMS = torch.tensor([1, 4, 2, 11, 0, 3])
COUNTS = torch.tensor([[3, 0, 7], [250, 1, 2], [9, 9, 9], [0, 0, 0], [1, 2, 3], [-4, 5, 6]])
AGES = torch.tensor([20, 31, 5, 64, 0, 17])

CASTS = {
    "float": (lambda model, item, x: x.float(), COUNTS, 3),
    "to": (lambda model, item, x: x.to(torch.float32) / 10, COUNTS, 3),
    "type_as": (lambda model, item, x: x.type_as(model.bias), COUNTS, 3),
    "int32": (lambda model, item, x: x.float(), COUNTS.int(), 3),
    "moved": (lambda model, item, x: x.flip(1)[:, 1:].float(), COUNTS, 2),
    "scalar": (lambda model, item, x: x.unsqueeze(1).float(), AGES, 1),
    "scalar cast first": (lambda model, item, x: x.float().unsqueeze(-1), AGES, 1),
    "viewed": (lambda model, item, x: x.view(-1, 1) * 0.1, AGES, 1),
    "stacked": (lambda model, item, x: torch.stack([x[:, 0], x[:, 2]], 1).float(), COUNTS, 2),
    "joined": (lambda model, item, x: torch.cat([x, x.float() * 2], 1), COUNTS, 6),
    "promoted": (lambda model, item, x: x + 0.5, COUNTS, 3),
    "bool": (lambda model, item, x: x.float(), COUNTS > 2, 3),
    "bool scalar": (lambda model, item, x: x.unsqueeze(1) * model.items(item), AGES > 18, 4),
}


@pytest.mark.parametrize("case", CASTS)
def test_integers_and_bools_that_are_cast_to_float_are_dense_features(exported, case):
    function, x, width = CASTS[case]
    done = exported(Beside(function, width), (ITEMS, x))
    assert done.model["dense"] == [{"name": "x", "dim": x[0].numel()}]
    requests = [json.loads(line) for line in (done.directory / "check" / "requests.jsonl").read_text().splitlines()]
    given = [value for request in requests for value in request["dense"]["x"]]
    assert given == x.float().flatten().tolist()
    assert all(isinstance(value, float) for value in given)


@pytest.mark.parametrize("case", ["float", "scalar", "bool", "bool scalar", "int32"])
def test_they_are_dense_features_of_onnx_too(as_onnx, case):
    function, x, width = CASTS[case]
    done = as_onnx(Beside(function, width), (ITEMS, x), dense="onnx")
    assert done.model["dense"] == [{"name": "x", "dim": x[0].numel()}]


def test_scalars_of_floats_are_dense_features(exported):
    done = exported(Beside(lambda model, item, x: x.unsqueeze(1), 1), (ITEMS, torch.rand(B)))
    assert done.model["dense"] == [{"name": "x", "dim": 1}]


def test_integers_that_only_lookups_read_are_no_dense_features(exported, as_onnx):
    # The ids are cast on the way, which reads nothing in the dense part.
    model = Beside(lambda model, item, x: model.items(x.long() % 12), 4)
    assert exported(model, (ITEMS.int(), AGES.int())).model["dense"] == []
    assert as_onnx(model, (ITEMS.int(), AGES.int()), dense="onnx").model["dense"] == []


def test_weights_of_a_bag_may_be_a_dense_feature_too(exported):
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items, self.head = nn.EmbeddingBag(12, 4, mode="sum"), nn.Linear(7, 1)

        def forward(self, clicks, weights):
            return self.head(torch.cat([self.items(clicks, per_sample_weights=weights), weights], 1))

    done = exported(Both(), (torch.randint(0, 12, (B, 3)), torch.rand(B, 3)))
    assert done.model["dense"] == [{"name": "weights", "dim": 3}]
    assert done.model["nets"][0]["layers"][0]["weighted"] is True


@pytest.mark.parametrize("dense", ["auto", "layers", "onnx"])
@pytest.mark.parametrize(
    ("function", "x", "width", "message"),
    [
        (
            lambda model, item, x: (x == 9).float(),
            COUNTS,
            3,
            r"x: the dense part does eq with its int64 values: cast them to float first, as by \.float\(\)",
        ),
        (lambda model, item, x: (x % 7).float(), COUNTS, 3, r"x: the dense part does remainder with its int64 values: cast them to float first"),
        (
            lambda model, item, x: (x * 2).float(),
            COUNTS.to(torch.uint8),
            3,
            r"x: the dense part does mul with its uint8 values: cast them to float first",
        ),
        (lambda model, item, x: (x + x).float(), COUNTS > 2, 3, r"x: the dense part does add with its bool values: cast them to float first"),
        (lambda model, item, x: x.to(torch.int8).float(), COUNTS, 3, r"x: the dense part does .* with its int64 values: cast them to float first"),
        (lambda model, item, x: x.unsqueeze(1).sqrt(), AGES, 1, r"x: .* or pass what it gives as an input of floats"),
        (
            lambda model, item, x: item.unsqueeze(1).float(),
            AGES,
            1,
            r"item: the dense part reads the ids of a lookup as numbers: pass these once more",
        ),
        (
            lambda model, item, x: x.float().flatten(1),
            COUNTS.view(B, 3, 1),
            3,
            r"x: a dense feature is \[B\] or \[B, dim\]: pass \[6, 3\], and reshape",
        ),
        (lambda model, item, x: x.flatten(1), torch.rand(B, 2, 2), 4, r"x: a dense feature is \[B\] or \[B, dim\]: pass \[6, 4\], and reshape"),
        (
            lambda model, item, x: model.items(item) * x[:4],
            torch.rand(4),
            4,
            r"x: a dense feature .* with a row for each of the 6 items .* not \[4\]",
        ),
    ],
    ids=["eq", "remainder", "uint8", "or", "int8", "sqrt", "ids", "three axes", "three axes of floats", "four rows"],
)
def test_what_the_dense_part_cannot_read_is_refused_by_the_name_of_the_input(tmp_path, dense, function, x, width, message):
    with pytest.raises(ExportError, match=f"^{message}"):
        export(Beside(function, width), (ITEMS, x), tmp_path / "bundle", dense=dense)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("dense", ["auto", "layers", "onnx"])
@pytest.mark.parametrize(
    ("function", "width", "table", "operation"),
    [
        (lambda model, item, x: model.items.weight[x], 4, r"items\.weight", "index"),
        (lambda model, item, x: model.items.weight[item], 4, r"items\.weight", "index"),
        (lambda model, item, x: model.items.weight[(x + 1) % 12], 4, r"items\.weight", "index"),
        (lambda model, item, x: torch.index_select(model.items.weight, 0, x % 12), 4, r"items\.weight", "index_select"),
        (lambda model, item, x: model.bias[item].unsqueeze(1), 1, "bias", "index"),
        (lambda model, item, x: (2 * model.items.weight)[item], 4, "a tensor", "index"),
    ],
    ids=["of another input", "of the same", "of sums", "index_select", "of numbers", "of a computed table"],
)
def test_tables_that_are_indexed_are_refused_with_the_function_that_looks_up(tmp_path, dense, function, width, table, operation):
    ids = AGES % 12
    message = rf"^(item|x): the model reads rows of {table} by {operation}: look them up with torch\.nn\.functional\.embedding"
    with pytest.raises(ExportError, match=message):
        export(Beside(function, width), (ITEMS, ids), tmp_path / "bundle", dense=dense)


def test_ids_of_a_sequence_index_no_table_either(tmp_path):
    class History(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items, self.bias = nn.Embedding(12, 4, padding_idx=0), nn.Parameter(torch.randn(12))

        def forward(self, history):
            return functional.softplus(self.items(history)).sum(1) + self.bias[history].sum(1, keepdim=True)

    history = torch.tensor([[1, 2, 3], [5, 0, 0], [4, 4, 0]])
    with pytest.raises(ExportError, match=r"^history: the model reads rows of bias by index: look them up"):
        export(History(), (history,), tmp_path)


def test_rows_of_a_constant_at_fixed_places_are_no_lookup(exported):
    model = Beside(lambda model, item, x: x.float() * model.bias[torch.tensor([2, 0, 5])], 3)
    assert exported(model, (ITEMS, COUNTS)).dense == "layers"
