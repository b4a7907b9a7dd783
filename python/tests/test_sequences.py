"""Sequences: what is done position by position, and over the positions of an item."""

from __future__ import annotations

import pytest
import torch
from conftest import types_of
from torch import nn

from terabag_export import ExportError, export
from terabag_export.nn import Append, AttentionUnit, Augru, Dice, Hstu, SequencePool, TargetAttention, TargetScores, positions_of

HISTORY = torch.tensor([[1, 2, 3, 0, 0], [5, 0, 0, 0, 0], [0, 0, 0, 0, 0], [4, 4, 1, 2, 9]])


class Over(nn.Module):
    """Something over the vectors of a history, [B, 5, 4], and its ids."""

    def __init__(self, over, out: int = 4, **modules: nn.Module) -> None:
        super().__init__()
        self.items = nn.Embedding(12, 4, padding_idx=0)
        self.parts = nn.ModuleDict(modules)
        self.over = over
        self.top = nn.Linear(out, 1)

    def forward(self, history):
        return self.top(self.over(self.parts, self.items(history), history))


def mask_of(ids):
    return (ids != 0).unsqueeze(-1)


def mean(x, ids):
    mask = (ids != 0).float()
    return (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


@pytest.mark.parametrize(
    ("over", "out", "modules", "types"),
    [
        (lambda m, x, ids: x.sum(1), 4, {}, ["sequence_pool", "fc"]),
        (lambda m, x, ids: x.flatten(1), 20, {}, ["flatten", "fc"]),
        (lambda m, x, ids: x.mean(1), 4, {}, None),
        (lambda m, x, ids: mean(x, ids), 4, {}, ["sequence_pool", "fc"]),
        (lambda m, x, ids: x.sum(dim=1) / (ids > 0).sum(1).clamp(min=1).unsqueeze(1), 4, {}, ["sequence_pool", "fc"]),
        (lambda m, x, ids: (m["fc"](x).relu() * mask_of(ids)).sum(1), 4, {"fc": nn.Linear(4, 4)}, ["fc", "sequence_pool", "fc"]),
        (lambda m, x, ids: (m["norm"](x) * mask_of(ids)).sum(1), 4, {"norm": nn.LayerNorm(4)}, ["layer_norm", "sequence_pool", "fc"]),
        (
            lambda m, x, ids: ((x + m["places"](torch.arange(5))) * mask_of(ids)).sum(1),
            4,
            {"places": nn.Embedding(5, 4)},
            ["positions", "sequence_pool", "fc"],
        ),
        (lambda m, x, ids: torch.cat([x, 2 * x], -1).sum(1), 8, {}, ["scale_shift", "concat", "sequence_pool", "fc"]),
        (lambda m, x, ids: (x * x).tanh().sum(1), 4, {}, ["product", "activation", "sequence_pool", "fc"]),
        (lambda m, x, ids: mean(m["gru"](x)[0], ids), 6, {"gru": nn.GRU(4, 6, batch_first=True)}, ["gru", "sequence_pool", "fc"]),
        (
            lambda m, x, ids: (m["gru"](x)[0] * mask_of(ids)).sum(1),
            6,
            {"gru": nn.GRU(4, 6, num_layers=2, bias=False, batch_first=True)},
            ["gru", "gru", "sequence_pool", "fc"],
        ),
    ],
)
def test_layers_read_sequences(exported, over, out, modules, types):
    done = exported(Over(over, out, **modules), (HISTORY,))
    sequence = done.model["nets"][0]["layers"][0]
    assert (sequence["type"], sequence["maxLength"], sequence["paddingId"]) == ("embedding_sequence", 5, 0)
    if types is not None:
        assert types_of(done) == types


@pytest.mark.parametrize(
    "over",
    [
        lambda m, x, ids: m["fc"](x).sum(1),
        lambda m, x, ids: (x + 1).flatten(1)[:, :4],
        lambda m, x, ids: m["gru"](x)[1][0],
        lambda m, x, ids: x.sum(1) * ids.sum(1, keepdim=True),
    ],
)
def test_what_reads_beyond_the_end_of_a_sequence_is_no_layer(tmp_path, over):
    model = Over(over, fc=nn.Linear(4, 4), gru=nn.GRU(4, 4, batch_first=True))
    with pytest.raises(ExportError, match=r"no layer of Terabag does this|is no vector"):
        export(model, (HISTORY,), tmp_path, dense="layers")


def test_lengths_may_be_an_input_of_their_own(exported):
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(12, 4)
            self.top = nn.Linear(4, 1)

        def forward(self, history, lengths):
            mask = torch.arange(history.shape[1]) < lengths.unsqueeze(1)
            return self.top((self.items(history) * mask.unsqueeze(-1)).sum(1) / lengths.unsqueeze(-1).clamp(min=1))

    done = exported(Given(), (HISTORY, torch.tensor([3, 1, 0, 4])), sequences={"history": "lengths"})
    assert types_of(done) == ["sequence_pool", "fc"]


def test_padding_has_to_be_zeros_at_the_end(tmp_path):
    model = Over(lambda m, x, ids: x.sum(1))
    with pytest.raises(ExportError, match="history: padding has to stand at the end"):
        export(model, (torch.tensor([[1, 0, 2], [1, 2, 3]]),), tmp_path)
    with torch.no_grad():
        model.items.weight[0] = 1
    with pytest.raises(ExportError, match=r"items\.padding_idx: row 0 has to be zeros"):
        export(model, (HISTORY,), tmp_path)


class Ranked(nn.Module):
    """A candidate and a history of items of one table, and whatever is made of them."""

    def __init__(self, over, out: int, **modules: nn.Module) -> None:
        super().__init__()
        self.items = nn.Embedding(12, 4, padding_idx=0)
        self.parts = nn.ModuleDict(modules)
        self.over = over
        self.top = nn.Linear(out, 1)

    def forward(self, history, item):
        return self.top(self.over(self.parts, self.items(item), self.items(history), (history != 0).sum(1)))


def unit(activation=nn.Sigmoid):
    return AttentionUnit(4, (6, 3), activation)


def dien(m, item, x, lengths):
    states = m["gru"](x)[0]
    return m["last"](m["augru"](states, m["scores"](item, states, lengths)), lengths)


@pytest.mark.parametrize(
    ("over", "out", "modules", "types"),
    [
        *(
            (lambda m, item, x, lengths: m["pool"](x, lengths), 4, {"pool": SequencePool(pooling)}, ["sequence_pool", "fc"])
            for pooling in ("sum", "mean", "max", "last")
        ),
        (
            lambda m, item, x, lengths: m["pool"](m["append"](x, lengths, item), lengths + 1),
            4,
            {"append": Append(), "pool": SequencePool("last")},
            ["append", "sequence_pool", "fc"],
        ),
        (lambda m, item, x, lengths: m["dice"](item), 4, {"dice": Dice(4)}, ["dice", "fc"]),
        (lambda m, item, x, lengths: m["din"](item, x, lengths), 4, {"din": TargetAttention(unit())}, ["target_attention", "fc"]),
        (
            lambda m, item, x, lengths: torch.cat([item, m["din"](item, x, lengths)], 1),
            8,
            {"din": TargetAttention(unit(nn.ReLU), normalize=False)},
            ["target_attention", "concat", "fc"],
        ),
        (
            dien,
            4,
            {"gru": nn.GRU(4, 4, batch_first=True), "scores": TargetScores(unit()), "augru": Augru(4, 4), "last": SequencePool("last")},
            ["gru", "target_scores", "augru", "sequence_pool", "fc"],
        ),
        (
            lambda m, item, x, lengths: m["pool"](
                m["attention"](x, x, x, key_padding_mask=~positions_of(x, lengths), need_weights=False)[0], lengths
            ),
            4,
            {"attention": nn.MultiheadAttention(4, 2, batch_first=True), "pool": SequencePool("sum")},
            ["self_attention", "sequence_pool", "fc"],
        ),
        (
            lambda m, item, x, lengths: m["last"](m["second"](m["first"](x, lengths), lengths), lengths),
            4,
            {"first": Hstu(4, 2, 3, 5, 5), "second": Hstu(4, 1, 4, 2, 5, normalizer=3), "last": SequencePool("last")},
            ["hstu", "hstu", "sequence_pool", "fc"],
        ),
        *(
            (lambda m, item, x, lengths: m["din"](item, x, lengths), 4, {"din": TargetAttention(unit(activation))}, ["target_attention", "fc"])
            for activation in (nn.PReLU, lambda: nn.PReLU(init=0.5), nn.Tanh, nn.SiLU)
        ),
        (
            lambda m, item, x, lengths: m["din"](item, x, lengths),
            4,
            {"din": TargetAttention(AttentionUnit(4, (6,), lambda: Dice(6)))},
            ["target_attention", "fc"],
        ),
        (
            lambda m, item, x, lengths: torch.cat([m["one"](item, x, lengths), m["two"](item, x, lengths)], 1),
            8,
            {"one": TargetAttention(unit()), "two": TargetAttention(unit())},
            ["target_attention", "target_attention", "concat", "fc"],
        ),
    ],
)
def test_modules_of_sequences_are_a_layer_each(exported, over, out, modules, types):
    model = Ranked(over, out, **modules)
    for module in model.modules():
        if isinstance(module, Hstu):
            nn.init.normal_(module.position_bias)
        if isinstance(module, Dice):
            module.norm.running_mean.normal_()
            module.norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.alpha)
    done = exported(model, (HISTORY[[0, 1, 3]], torch.tensor([7, 1, 3])))
    assert types_of(done) == types


def test_a_block_of_hstu_is_of_its_positions(tmp_path):
    model = Ranked(lambda m, item, x, lengths: m["pool"](m["hstu"](x, lengths), lengths), 4, hstu=Hstu(4, 1, 4, 4, 6), pool=SequencePool("last"))
    with pytest.raises(ValueError, match="a sequence of 6 positions: 5"):
        export(model, (HISTORY, torch.tensor([7, 1, 3, 2])), tmp_path, dense="layers")
