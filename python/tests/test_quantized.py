"""Quantized tables are taken over as they are; TorchRec's collections keep their feature names."""

from __future__ import annotations

import pytest
import torch
from conftest import types_of
from safetensors.torch import load_file
from torch import nn

from terabag_export import ExportError, export, export_state_dict
from terabag_export.quantized import packed_rows

B = 4


class Bags(nn.Module):
    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table
        self.top = nn.Linear(6, 1)

    def forward(self, ids, offsets):
        return self.top(self.table(ids, offsets))


@pytest.mark.parametrize(("dtype", "row_format"), [(torch.quint8, "int8"), (torch.quint4x2, "int4")])
def test_a_quantized_bag_keeps_its_values(exported, dtype, row_format):
    values = torch.randn(9, 6)
    observer = torch.ao.quantization.PerChannelMinMaxObserver(dtype=dtype, qscheme=torch.per_channel_affine_float_qparams, ch_axis=0)
    observer(values)
    scales, points = observer.calculate_qparams()
    weight = torch.quantize_per_channel(values, scales, points, 0, dtype)
    table = torch.ao.nn.quantized.EmbeddingBag(9, 6, mode="sum", include_last_offset=True, dtype=dtype)
    table.set_weight(weight)
    done = exported(Bags(table), (torch.tensor([1, 2, 8, 0, 3]), torch.tensor([0, 2, 2, 3, 5])))
    assert done.model["tables"][0]["format"] == row_format


@pytest.mark.parametrize(("pack", "row_format"), [("byte", "int8"), ("4bit", "int4")])
def test_rows_that_pytorch_packed_are_rows_of_terabag(pack, row_format):
    packed = getattr(torch.ops.quantized, f"embedding_bag_{pack}_prepack")(torch.randn(5, 6))
    table = packed_rows("items", packed, row_format, 6)
    assert torch.equal(table.rows, packed)
    assert table.packed == row_format


@pytest.mark.parametrize(("pack", "row_format"), [("byte", "int8"), ("4bit", "int4")])
def test_a_state_dict_may_have_packed_rows(tmp_path, pack, row_format):
    packed = getattr(torch.ops.quantized, f"embedding_bag_{pack}_prepack")(torch.randn(5, 6))
    table = {"name": "items", "tensor": "items.rows", "format": row_format, "dim": 6}
    spec = {"terabag": 1, "name": "m", "version": "1", "dense": [], "tables": [table], "nets": [{"name": "net", "layers": []}], "output": "top"}
    model = export_state_dict(tmp_path, spec, {"items.rows": packed})
    entry = model["tables"][0]
    assert (entry["rows"], entry["dim"], entry["format"]) == (5, 6, row_format)
    assert torch.equal(load_file(tmp_path / entry["file"])["items.rows"], packed)
    table["dim"] = 7000
    with pytest.raises(ExportError, match=r"tables\[0\]\.tensor: .*rows of dim 7000 are uint8"):
        export_state_dict(tmp_path, spec, {"items.rows": packed})
    del table["dim"]
    with pytest.raises(ExportError, match=r"tables\[0\]\.dim"):
        export_state_dict(tmp_path, spec, {"items.rows": packed})


def torchrec_model(data_type):
    configs = pytest.importorskip("torchrec.modules.embedding_configs", reason="torchrec is not installed")
    from torchrec.modules.embedding_modules import EmbeddingBagCollection
    from torchrec.quant.embedding_modules import EmbeddingBagCollection as Quantized

    tables = [
        configs.EmbeddingBagConfig(name="t1", embedding_dim=8, num_embeddings=10, feature_names=["f1", "f3"]),
        configs.EmbeddingBagConfig(name="t2", embedding_dim=8, num_embeddings=7, feature_names=["f2"], pooling=configs.PoolingType.MEAN),
    ]
    collection = EmbeddingBagCollection(tables=tables)
    if data_type is not None:
        weight = torch.ao.quantization.PlaceholderObserver.with_args(dtype=data_type)
        activation = torch.ao.quantization.PlaceholderObserver.with_args(dtype=torch.float)
        collection.qconfig = torch.ao.quantization.QConfig(activation=activation, weight=weight)
        collection = Quantized.from_float(collection)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.collection = collection
            self.top = nn.Linear(24, 1)

        def forward(self, features):
            return self.top(self.collection(features).values())

    return Model()


@pytest.mark.parametrize(("data_type", "row_format"), [(None, "fp32"), (torch.qint8, "int8_fp16"), (torch.quint4x2, "int4")])
def test_collections_of_torchrec_have_their_feature_names(exported, data_type, row_format):
    model = torchrec_model(data_type)
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    features = KeyedJaggedTensor(
        keys=["f1", "f2", "f3"], values=torch.randint(0, 7, (12,)), lengths=torch.tensor([2, 0, 1, 1, 1, 3, 0, 0, 1, 1, 1, 1])
    )
    done = exported(model, (features,))
    assert {table["format"] for table in done.model["tables"]} == {row_format}
    bags = {layer["name"]: (layer["table"], layer["pooling"]) for layer in done.model["nets"][0]["layers"] if layer["type"] == "embedding_bag"}
    assert bags == {"f1": ("t1", "sum"), "f3": ("t1", "sum"), "f2": ("t2", "mean")}
    assert types_of(done) == ["concat", "fc"]


def weighted_torchrec(prepare):
    """A weighted collection behind what a function makes of the features."""
    configs = pytest.importorskip("torchrec.modules.embedding_configs", reason="torchrec is not installed")
    from torchrec.modules.embedding_modules import EmbeddingBagCollection
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            tables = [configs.EmbeddingBagConfig(name=f"t{k}", embedding_dim=4, num_embeddings=10, feature_names=[f"f{k}"]) for k in (1, 2)]
            self.collection = EmbeddingBagCollection(tables=tables, is_weighted=True)
            self.of_id, self.top = nn.Parameter(torch.rand(10)), nn.Linear(8, 1)

        def forward(self, features):
            return self.top(self.collection(prepare(self, features)).values())

    lengths = torch.tensor([2, 0, 1, 1, 1, 0, 2, 1])
    return Model(), KeyedJaggedTensor(keys=["f2", "f1"], values=torch.randint(0, 10, (8,)), lengths=lengths, weights=torch.rand(8))


@pytest.mark.parametrize("prepare", [lambda model, features: features, lambda model, features: features.permute([1, 0])], ids=["same", "permuted"])
def test_weights_of_torchrec_are_those_of_the_features(exported, prepare):
    model, features = weighted_torchrec(prepare)
    done = exported(model, (features,))
    assert [layer.get("weighted") for layer in done.model["nets"][0]["layers"][:2]] == [True, True]


def test_weights_of_torchrec_that_the_model_computes_are_refused(tmp_path):
    def by_id(model, features):
        return type(features)(keys=features.keys(), values=features.values(), lengths=features.lengths(), weights=model.of_id[features.values()])

    model, features = weighted_torchrec(by_id)
    with pytest.raises(ExportError, match=r"^f1: the model computes the weights of this bag"):
        export(model, (features,), tmp_path)


def test_sequences_of_torchrec_are_padded(exported):
    configs = pytest.importorskip("torchrec.modules.embedding_configs", reason="torchrec is not installed")
    from torchrec.modules.embedding_modules import EmbeddingCollection
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = configs.EmbeddingConfig(name="item", embedding_dim=4, num_embeddings=10, feature_names=["history"])
            self.collection = EmbeddingCollection(tables=[config])
            self.top = nn.Linear(4, 1)

        def forward(self, features):
            return self.top(self.collection(features)["history"].to_padded_dense(3).sum(1))

    features = KeyedJaggedTensor(keys=["history"], values=torch.randint(0, 10, (7,)), lengths=torch.tensor([2, 0, 1, 4]))
    done = exported(Model(), (features,))
    assert done.model["nets"][0]["layers"][0]["maxLength"] == 3
    assert types_of(done) == ["sequence_pool", "fc"]
