"""Dense parts with operations that are no layers become ONNX."""

from __future__ import annotations

import pytest
import torch
from test_export import Gated, Tower, tower_inputs
from torch import nn

from terabag_export import ExportError, export

B = 6


def test_an_unknown_operation_makes_the_dense_part_onnx_and_is_named(as_onnx):
    model = Tower(nn.Sequential(nn.Linear(7, 5), nn.Softplus(), nn.Linear(5, 1)))
    done = as_onnx(model, tower_inputs())
    assert done.reason == "softplus in behind.1: no layer of Terabag does this with values"
    assert [given["value"] for given in done.model["onnx"]["inputs"]] == ["dense", "ids"]
    assert not (done.directory / "dense.safetensors").exists()
    assert set(done.model["files"]) == {"dense.onnx", "tables/items.safetensors"}
    assert "the dense part is ONNX: softplus" in str(done)
    assert b"test_onnx.py" not in (done.directory / "dense.onnx").read_bytes(), "where the model's code lies is nobody's business"


def test_several_outputs_of_onnx_keep_their_names(as_onnx):
    done = as_onnx(
        Gated(lambda gate, experts: torch.einsum("be,bed->bd", gate, experts)), (torch.randn(B, 3), torch.randint(0, 12, (B,))), dense="onnx"
    )
    assert [output["layer"] for output in done.model["onnx"]["outputs"]] == ["click", "like"]
    assert done.model["output"] == "click"
    assert done.model["outputs"] == ["like"]


class Masked(nn.Module):
    """A mean over what is no padding, written with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(12, 4, padding_idx=0)
        self.top = nn.Linear(4, 1)

    def forward(self, history):
        mask = (history != 0).float()
        rows = torch.nn.functional.softplus(self.items(history)) * mask.unsqueeze(-1)
        return self.top(rows.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))


def test_a_sequence_goes_in_with_its_lengths(as_onnx):
    history = torch.tensor([[1, 2, 3, 0], [5, 0, 0, 0], [0, 0, 0, 0], [4, 4, 1, 2]])
    done = as_onnx(Masked(), (history,))
    assert done.model["onnx"]["inputs"] == [{"name": "history", "value": "history", "lengths": "history.lengths"}]
    assert done.model["nets"][0]["layers"][0] == {
        "type": "embedding_sequence",
        "name": "history",
        "table": "items",
        "maxLength": 4,
        "truncate": "first",
        "paddingId": 0,
    }


class Recurrent(nn.Module):
    """A GRU of its own over a history, whose score of each position is in the update gate, as the paper or as the code of DIEN has it."""

    def __init__(self, update) -> None:
        super().__init__()
        self.items = nn.Embedding(12, 4, padding_idx=0)
        self.gates, self.candidate = nn.Linear(8, 8), nn.Linear(8, 4)
        self.update = update
        self.top = nn.Linear(8, 1)

    def forward(self, history, item):
        events, query = self.items(history), self.items(item)
        here = history != 0
        shares = (events * query.unsqueeze(1)).sum(-1).masked_fill(~here, -1e9).softmax(1)
        state = torch.zeros_like(query)
        for at in range(history.shape[1]):
            reset, gate = torch.sigmoid(self.gates(torch.cat([events[:, at], state], 1))).chunk(2, 1)
            new = torch.tanh(self.candidate(torch.cat([events[:, at], reset * state], 1)))
            update = self.update(shares[:, at : at + 1], gate)
            state = torch.where(here[:, at : at + 1], (1 - update) * state + update * new, state)
        return self.top(torch.cat([state, query], 1))


@pytest.mark.parametrize("update", [lambda share, gate: share * gate, lambda share, gate: 1 - (1 - share) * gate])
def test_a_dien_written_position_by_position_becomes_onnx(as_onnx, update):
    history = torch.tensor([[1, 2, 3, 0], [5, 0, 0, 0], [0, 0, 0, 0], [4, 4, 1, 2]])
    done = as_onnx(Recurrent(update), (history, torch.tensor([7, 1, 3, 2])))
    assert done.reason is not None
    assert done.reason.endswith("no layer of Terabag does this with sequences, values")
    assert {"name": "history", "value": "history", "lengths": "history.lengths"} in done.model["onnx"]["inputs"]


def test_packed_sequences_are_refused_by_their_name(tmp_path):
    class Packs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(12, 4, padding_idx=0)
            self.gru = nn.GRU(4, 4, batch_first=True)

        def forward(self, history):
            lengths = (history != 0).sum(1)
            packed = nn.utils.rnn.pack_padded_sequence(self.items(history), lengths, batch_first=True, enforce_sorted=False)
            return self.gru(packed)[1][0]

    with pytest.raises(ExportError, match=r"pack_padded_sequence: nn\.GRU reads the padded sequence too"):
        export(Packs(), (torch.tensor([[1, 2, 3, 0], [5, 0, 0, 0]]),), tmp_path)


@pytest.mark.parametrize(
    ("mask", "refused"),
    [
        (lambda history: history != 0, False),
        (lambda history: history.bool(), False),
        (lambda history: history > 3, True),
        (lambda history: history, True),
        (lambda history: history % 2, True),
    ],
    ids=["unequal", "bool", "greater", "numbers", "remainder"],
)
def test_of_the_ids_of_a_sequence_only_the_padding_is_read(as_onnx, mask, refused):
    class History(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(12, 4, padding_idx=0)

        def forward(self, history):
            return (nn.functional.softplus(self.items(history)) * mask(history).unsqueeze(2)).sum(1)

    history = torch.tensor([[1, 2, 3], [5, 0, 0], [4, 4, 0], [7, 8, 9]])
    if not refused:
        as_onnx(History(), (history,))
        return
    with pytest.raises(ExportError, match=r"^history: the dense part reads ids of a sequence as numbers: pass these once more"):
        as_onnx(History(), (history,))


def test_a_dense_feature_has_its_dtype_in_the_model(as_onnx):
    class Double(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items, self.wide = nn.Embedding(12, 4), nn.Linear(3, 4).double()

        def forward(self, item, x):
            return nn.functional.softplus(self.items(item)) + self.wide(x).float()

    done = as_onnx(Double(), (torch.randint(0, 12, (B,)), torch.rand(B, 3, dtype=torch.float64)))
    assert done.model["dense"] == [{"name": "x", "dim": 3}]


def test_ids_that_the_dense_part_reads_are_refused(tmp_path):
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(12, 4)

        def forward(self, item):
            return self.items(item).sum(1) * item.sqrt()

    pytest.importorskip("onnxscript")
    with pytest.raises(ExportError, match=r"^item: the dense part reads the ids of a lookup as numbers: pass these once more, as floats"):
        export(Reads(), (torch.arange(1, 5),), tmp_path)
