"""Models of nn.Modules: what they become, with scores held against PyTorch's by a plain reference."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import types_of
from torch import nn
from torch.nn import functional

from terabag_export import ExportError, export

B = 6


class Tower(nn.Module):
    """One bag and a dense feature, then whatever is given."""

    def __init__(self, behind: nn.Module, dim: int = 4) -> None:
        super().__init__()
        self.items = nn.EmbeddingBag(20, dim, mode="sum", include_last_offset=True)
        self.behind = behind

    def forward(self, dense, ids, offsets):
        return self.behind(torch.cat([dense, self.items(ids, offsets)], 1))


def tower_inputs(width: int = 3):
    return torch.randn(B, width), torch.randint(0, 20, (10,)), torch.tensor([0, 2, 2, 5, 6, 9, 10])


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("behind", "types"),
    [
        (lambda: nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid()), ["concat", "fc", "fc"]),
        (
            lambda: nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 5), nn.SiLU(), nn.Linear(5, 1)),
            ["concat", "fc", "fc", "fc"],
        ),
        (lambda: nn.Sequential(nn.Linear(7, 5), nn.GELU(), nn.Linear(5, 5), nn.GELU("tanh")), ["concat", "fc", "fc"]),
        (lambda: nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1)), ["concat", "fc", "fc"]),
        (lambda: nn.Sequential(nn.BatchNorm1d(7), nn.Linear(7, 1)), ["concat", "scale_shift", "fc"]),
        (lambda: nn.Sequential(nn.Linear(7, 6), nn.LayerNorm(6), nn.Linear(6, 1)), ["concat", "fc", "layer_norm", "fc"]),
        (lambda: nn.Sequential(nn.Linear(7, 6), nn.PReLU(), nn.Linear(6, 6), nn.PReLU(6)), ["concat", "fc", "prelu", "fc", "prelu"]),
        (lambda: nn.Sequential(nn.Linear(7, 6), nn.LeakyReLU(0.2), nn.Softmax(-1)), ["concat", "fc", "prelu", "softmax"]),
        (lambda: Apply(lambda x: x[:, 2:5] - 2 * x[:, :3] + 0.5), None),
        (lambda: Apply(lambda x: (x * x).sum(1)), None),
        (lambda: Apply(lambda x: x.square().mean(1, keepdim=True) / 3), None),
        (lambda: Apply(lambda x: torch.einsum("bi,bj->bij", x[:, :2], x[:, 3:5]).flatten(1)), None),
        (lambda: Apply(lambda x: functional.glu(x[:, :6])), None),
        (lambda: Apply(lambda x: x.flip(1).clamp(min=0)), None),
        (lambda: Apply(lambda x: torch.sigmoid(functional.pad(x, (1, 2)))), None),
    ],
)
def test_what_stands_behind_a_bag_becomes_layers(exported, behind, types):
    model = Tower(behind())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
    done = exported(model, tower_inputs())
    assert done.dense == "layers"
    assert done.reason is None
    if types is not None:
        assert types_of(done) == types


class Interaction(nn.Module):
    """DLRM with pairs of rows in a given order."""

    def __init__(self, pairs, concatenated: bool = True) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(9, 4, mode="mean") for _ in range(3))
        self.bottom = nn.Linear(2, 4)
        self.pairs = pairs
        self.concatenated = concatenated
        self.top = nn.Linear(len(pairs) + 4 * concatenated, 1)

    def forward(self, dense, ids):
        bottom = self.bottom(dense).relu()
        rows = torch.cat([bottom.unsqueeze(1), *(bag(ids[:, k]).unsqueeze(1) for k, bag in enumerate(self.bags))], 1)
        dots = torch.bmm(rows, rows.transpose(1, 2))
        i, j = torch.tensor(self.pairs).T
        flat = dots[:, i, j]
        return self.top(torch.cat([bottom, flat], 1) if self.concatenated else flat)


@pytest.mark.parametrize("concatenated", [True, False])
@pytest.mark.parametrize(
    "pairs",
    [
        [(i, j) for i in range(4) for j in range(i)],
        [(i, j) for i in range(4) for j in range(i + 1, 4)],
        [(i, j) for i in range(4) for j in range(i + 1)],
        [(i, j) for i in range(4) for j in range(4)],
        [(3, 1), (0, 2)],
    ],
)
def test_an_interaction_is_one_layer_whatever_the_order_of_its_pairs(exported, pairs, concatenated):
    done = exported(Interaction(pairs, concatenated), (torch.randn(B, 2), torch.randint(0, 9, (B, 3, 2))))
    assert types_of(done) == ["fc", "dot_interaction", "fc"]


class Gated(nn.Module):
    """Two tasks over experts, by gates: MMoE."""

    def __init__(self, mix) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 5)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 6), nn.ReLU()) for _ in range(3))
        self.gates = nn.ModuleList(nn.Linear(8, 3) for _ in range(2))
        self.towers = nn.ModuleList(nn.Linear(6, 1) for _ in range(2))
        self.mix = mix

    def forward(self, dense, item):
        x = torch.cat([dense, self.table(item)], -1)
        experts = torch.stack([expert(x) for expert in self.experts], 1)
        outputs = [tower(self.mix(gate(x).softmax(-1), experts)).sigmoid() for gate, tower in zip(self.gates, self.towers, strict=True)]
        return {"click": outputs[0], "like": outputs[1].squeeze(1)}


@pytest.mark.parametrize(
    "mix",
    [
        lambda gate, experts: torch.einsum("be,bed->bd", gate, experts),
        lambda gate, experts: (gate.unsqueeze(-1) * experts).sum(1),
        lambda gate, experts: torch.bmm(gate.unsqueeze(1), experts).squeeze(1),
        lambda gate, experts: (experts.transpose(1, 2) @ gate.unsqueeze(2)).squeeze(2),
    ],
)
def test_gates_over_experts_are_mixtures_and_outputs_have_the_names_of_the_dict(exported, mix):
    done = exported(Gated(mix), (torch.randn(B, 3), torch.randint(0, 12, (B,))))
    assert types_of(done).count("mixture") == 2
    assert types_of(done).count("fc") == 3 + 2 + 2
    assert len(done.model["outputs"]) == 1


class Crossed(nn.Module):
    """DCNv2 by hand, of full and of low rank."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 5)
        self.full = nn.Linear(8, 8)
        self.v, self.u = nn.Linear(8, 2, bias=False), nn.Linear(2, 8)
        self.score = nn.Linear(8, 1)

    def forward(self, dense, item):
        x0 = torch.cat([dense, self.table(item)], -1)
        x = x0 * self.full(x0) + x0
        x = x + self.u(self.v(x)) * x0
        return self.score(x)


def test_cross_layers_are_found(exported):
    done = exported(Crossed(), (torch.randn(B, 3), torch.randint(0, 12, (B,))))
    assert types_of(done) == ["concat", "cross", "cross", "fc"]


class FieldMachine(nn.Module):
    """A factorization machine over columns of ids that share a table."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(30, 4)
        self.linear = nn.Embedding(30, 1)
        self.register_buffer("offsets", torch.tensor([0, 10, 20]))

    def forward(self, fields):
        ids = fields + self.offsets
        v = self.vectors(ids)
        second = 0.5 * (v.sum(1).pow(2) - v.pow(2).sum(1)).sum(1)
        return second + self.linear(ids).sum((1, 2))


def test_columns_of_ids_are_bags_of_one_id_and_a_factorization_machine_is_layers(exported):
    done = exported(FieldMachine(), (torch.randint(0, 10, (B, 3)),))
    bags = [layer["name"] for layer in done.model["nets"][0]["layers"] if layer["type"] == "embedding_bag"]
    assert bags == [*(f"vectors.{k}" for k in range(3)), *(f"linear.{k}" for k in range(3))]
    request = json.loads((done.directory / "check" / "requests.jsonl").read_text().splitlines()[0])
    assert request["sparse"]["vectors.2"]["indices"][0] >= 20


class Shared(nn.Module):
    """Two bags over one table, weighted and not, one of them by the functional form."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.EmbeddingBag(15, 4, mode="sum")
        self.top = nn.Linear(8, 2)

    def forward(self, clicks, weights, item):
        a = self.items(clicks, per_sample_weights=weights)
        b = functional.embedding_bag(item.unsqueeze(1), self.items.weight, mode="mean")
        return self.top(torch.cat([a, b], 1))


def test_a_table_that_two_bags_read_is_written_once(exported):
    inputs = {"clicks": torch.randint(0, 15, (B, 3)), "weights": torch.rand(B, 3), "item": torch.randint(0, 15, (B,))}
    done = exported(Shared(), inputs)
    assert [table["name"] for table in done.model["tables"]] == ["items"]
    bags = [layer for layer in done.model["nets"][0]["layers"] if layer["type"] == "embedding_bag"]
    assert [(bag["name"], bag["pooling"], bag.get("weighted", False)) for bag in bags] == [("clicks", "sum", True), ("item", "mean", False)]
    assert done.model["dense"] == []


class Weighted(nn.Module):
    """A bag whose weights are what a function makes of the model, the ids and an input."""

    def __init__(self, weights) -> None:
        super().__init__()
        self.items, self.head = nn.EmbeddingBag(20, 4, mode="sum"), nn.Linear(4, 1)
        self.of_id = nn.Parameter(torch.rand(20))
        self.weights = weights

    def forward(self, clicks, given):
        return self.head(self.items(clicks, per_sample_weights=self.weights(self, clicks, given)))


@pytest.mark.parametrize(
    "weights",
    [
        lambda model, clicks, given: model.of_id[clicks],
        lambda model, clicks, given: model.of_id.gather(0, clicks.flatten()).view(B, 3),
        lambda model, clicks, given: given * model.of_id[clicks],
        lambda model, clicks, given: given.softmax(1),
        lambda model, clicks, given: (clicks != 0).float(),
        lambda model, clicks, given: model.of_id[:3].expand(clicks.shape),
    ],
    ids=["of id", "gathered", "product", "softmax", "mask", "constant"],
)
def test_weights_that_the_model_computes_are_refused(tmp_path, weights):
    inputs = (torch.randint(0, 20, (B, 3)), torch.rand(B, 3))
    with pytest.raises(ExportError, match=r"^clicks: the model computes the weights of this bag.*make them an input of the model"):
        export(Weighted(weights), inputs, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("weights", "given"),
    [
        (lambda model, clicks, given: given.float(), torch.randint(0, 5, (B, 3))),
        (lambda model, clicks, given: given.float(), torch.rand(B, 3, dtype=torch.float64)),
        (lambda model, clicks, given: given[:, 1:4].contiguous(), torch.rand(B, 5)),
        (lambda model, clicks, given: torch.stack([given[:, 0], given[:, 2], given[:, 1]], 1), torch.rand(B, 3)),
        (lambda model, clicks, given: given[:, torch.tensor([2, 0, 1])], torch.rand(B, 3)),
        (lambda model, clicks, given: given.expand(-1, 3), torch.rand(B, 1)),
    ],
    ids=["counts", "double", "slice", "stack", "index", "expand"],
)
def test_weights_that_are_an_input_may_be_cast_and_moved(exported, weights, given):
    done = exported(Weighted(weights), (torch.randint(0, 20, (B, 3)), given))
    assert done.model["nets"][0]["layers"][0]["weighted"] is True


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("last", [True, False])
def test_modes_padding_and_both_forms_of_offsets(exported, mode, padding, last):
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.EmbeddingBag(8, 3, mode=mode, padding_idx=padding, include_last_offset=last)
            self.top = nn.Linear(3, 1)

        def forward(self, ids, offsets):
            return self.top(self.table(ids, offsets))

    offsets = torch.tensor([0, 3, 3, 4, 7, 9])
    done = exported(Bags(), (torch.tensor([3, 1, 2, 3, 3, 3, 5, 0, 7]), offsets if last else offsets[:-1]))
    bag = done.model["nets"][0]["layers"][0]
    assert bag["pooling"] == mode
    assert bag.get("paddingId") == padding


@pytest.mark.parametrize("row_format", ["fp16", "bf16"])
def test_scores_are_those_of_tables_rounded_to_their_format_and_the_model_keeps_its_values(exported, row_format):
    model = Tower(nn.Linear(7, 1))
    before = model.items.weight.detach().clone()
    done = exported(model, tower_inputs(), formats={"items": row_format})
    assert done.model["tables"][0]["format"] == row_format
    assert torch.equal(model.items.weight, before)


def test_positions_are_constants_and_no_lookup(exported):
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(9, 4)
            self.places = nn.Embedding(2, 4)
            self.top = nn.Linear(8, 1)

        def forward(self, pair):
            x = self.items(pair) + self.places(torch.arange(2))
            return self.top(x.flatten(1))

    done = exported(Positions(), (torch.randint(0, 9, (B, 2)),))
    assert [table["name"] for table in done.model["tables"]] == ["items"]


def test_training_mode_is_as_it_was_and_dropout_is_off(exported):
    model = Tower(nn.Sequential(nn.Linear(7, 5), nn.Dropout(0.5), nn.BatchNorm1d(5), nn.Linear(5, 1))).train()
    model.behind[2].eval()
    exported(model, tower_inputs())
    assert model.training
    assert not model.behind[2].training


def test_what_is_no_layer_is_named(tmp_path):
    model = Tower(nn.Sequential(nn.Linear(7, 5), Apply(torch.erfinv), nn.Linear(5, 1)))
    with pytest.raises(ExportError, match=r"behind\.1: erfinv in behind\.1: no layer of Terabag does this with values"):
        export(model, tower_inputs(), tmp_path, dense="layers")
    assert not (tmp_path / "model.json").exists()


def test_what_cannot_be_exported_is_refused_by_name(tmp_path):
    class Renorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users = nn.Embedding(9, 4, max_norm=1.0)

        def forward(self, user):
            return self.users(user).sum(1)

    with pytest.raises(ExportError, match="users: max_norm changes rows"):
        export(Renorm(), (torch.tensor([1, 2]),), tmp_path)
    nan = Tower(nn.Linear(7, 1))
    with torch.no_grad():
        nan.items.weight[3, 1] = float("nan")
    with pytest.raises(ExportError, match=r"tables\.items: has values that are not finite"):
        export(nan, tower_inputs(), tmp_path)
    with pytest.raises(ExportError, match=r"formats\.items: has to be one of fp32, fp16, bf16"):
        export(Tower(nn.Linear(7, 1)), tower_inputs(), tmp_path, formats="int8")
    with pytest.raises(ExportError, match=r"model: has to return tensors \[6\] or \[6, dim\]: it returns a tensor"):
        export(Tower(Apply(lambda x: x.sum())), tower_inputs(), tmp_path)
    assert not (tmp_path / "model.json").exists()


def test_an_old_bundle_is_replaced_and_a_failed_write_leaves_none(exported, tmp_path, monkeypatch):
    exported(Tower(nn.Linear(7, 1)), tower_inputs())
    exported(Tower(nn.Linear(7, 2)), tower_inputs())
    assert not list((tmp_path / "bundle").rglob("*.tmp"))
    monkeypatch.setattr("terabag_export.files.save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export(Tower(nn.Linear(7, 1)), tower_inputs(), tmp_path / "bundle")
    assert not (tmp_path / "bundle" / "model.json").exists()
    assert not list((tmp_path / "bundle").rglob("*.tmp"))


class Mixed(nn.Module):
    """Rows of a table, and a function of them."""

    def __init__(self, function) -> None:
        super().__init__()
        self.items, self.head = nn.Embedding(20, 4), nn.Linear(4, 1)
        self.function = function

    def forward(self, ids):
        return self.function(self, self.items(ids))


@pytest.mark.parametrize(
    "function",
    [
        lambda model, x: model.head(x.flip(0)),
        lambda model, x: model.head(x.roll(1)),
        lambda model, x: model.head(x - x.mean(0, keepdim=True)),
        lambda model, x: torch.softmax(model.head(x), 0),
        lambda model, x: model.head(x) / x.shape[0],
        lambda model, x: x @ x.T,
    ],
    ids=["flip", "roll", "mean", "softmax", "division", "pairs"],
)
@pytest.mark.parametrize("dense", ["layers", "onnx"])
def test_rows_that_depend_on_each_other_are_refused(tmp_path, function, dense):
    with pytest.raises(ExportError, match="model: what it gives for a row depends on the other rows of the batch"):
        export(Mixed(function), (torch.randint(0, 20, (B,)),), tmp_path / "bundle", dense=dense)


def test_a_padding_idx_counts_from_the_end_where_it_is_negative(exported):
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.randn(20, 4))

        def forward(self, ids):
            return functional.embedding_bag(ids, self.rows, mode="mean", padding_idx=-1)

    ids = torch.randint(0, 19, (B, 3))
    ids[:, 2] = 19
    done = exported(Bag(), (ids,))
    assert done.model["nets"][0]["layers"][0]["paddingId"] == 19


def test_outputs_of_one_name_and_of_one_value_are_told_apart(exported):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items, self.head = nn.Embedding(20, 4), nn.Linear(4, 1)

        def forward(self, ids):
            score = self.head(self.items(ids))
            return {"a": score}, {"a": score, "b": score.sigmoid()}

    done = exported(Twice(), (torch.randint(0, 20, (B,)),))
    assert len({done.model["output"], *done.model["outputs"]}) == 3


def test_example_inputs_that_no_request_can_have_are_refused(tmp_path):
    model = Tower(nn.Linear(7, 1))
    dense, ids, offsets = tower_inputs()
    dense[1, 2] = float("nan")
    with pytest.raises(ExportError, match=r"example_inputs\.dense: has to be finite"):
        export(model, (dense, ids, offsets), tmp_path / "bundle")
