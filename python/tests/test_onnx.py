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


def test_ids_that_the_dense_part_reads_are_refused(tmp_path):
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(12, 4)

        def forward(self, item):
            return self.items(item).sum(1) * item.sqrt()

    pytest.importorskip("onnxscript")
    with pytest.raises(ExportError, match="item: input in item: the dense part reads ids"):
        export(Reads(), (torch.arange(1, 5),), tmp_path)
