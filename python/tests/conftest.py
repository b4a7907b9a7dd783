"""What the tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reference import Reference
from safetensors.torch import load_file
from torch import nn

from terabag_export import Exported, export


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def exported(tmp_path: Path):
    """Exports a model, holds the reference's scores against PyTorch's, and returns what was exported."""

    def run(model: nn.Module, inputs: Any, **options: Any) -> Exported:
        done = export(model, inputs, tmp_path / "bundle", **{"dense": "layers", **options})
        expected = list(load_file(tmp_path / "bundle" / "check" / "scores.safetensors").items())
        expected.sort(key=lambda entry: entry[0] != "scores")
        found = Reference(tmp_path / "bundle").scores()
        assert len(expected) == len(found)
        for name, tensor in expected:
            layer = done.model["output"] if name == "scores" else name.removeprefix("outputs.")
            torch.testing.assert_close(found[layer], tensor.double(), rtol=1e-5, atol=1e-6)
        return done

    return run


def types_of(done: Exported) -> list[str]:
    """Types of the layers, but for bags."""
    return [layer["type"] for net in done.model["nets"] for layer in net["layers"] if not layer["type"].startswith("embedding")]


@pytest.fixture
def as_onnx(tmp_path: Path):
    """Exports a model, holds onnxruntime's scores of it against PyTorch's, and returns what was exported."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

    def run(model: nn.Module, inputs: Any, **options: Any) -> Exported:
        directory = tmp_path / "onnx"
        done = export(model, inputs, directory, **options)
        assert done.dense == "onnx"
        reference, spec = Reference(directory), done.model["onnx"]
        session = runtime.InferenceSession(directory / spec["file"], providers=["CPUExecutionProvider"])
        assert [given.name for given in session.get_inputs()] == [
            name for given in spec["inputs"] for name in (given["name"], given.get("lengths")) if name is not None
        ]
        expected = load_file(directory / "check" / "scores.safetensors")
        rows = reference.rows(reference.values_before_dense)
        feed: dict[str, Any] = {}
        for given in spec["inputs"]:
            values = [row[given["value"]] for row in rows]
            if "lengths" in given:
                feed[given["lengths"]] = torch.tensor([len(value) for value in values]).numpy()
            shape = session.get_inputs()[[i.name for i in session.get_inputs()].index(given["name"])].shape[1:]
            padded = torch.zeros(len(values), *shape)
            for n, value in enumerate(values):
                padded[n, : len(value)] = value.float()
            feed[given["name"]] = padded.numpy()
        names = [output["name"] for output in spec["outputs"]]
        found = dict(zip([output["layer"] for output in spec["outputs"]], session.run(names, feed), strict=True))
        for name, tensor in expected.items():
            layer = done.model["output"] if name == "scores" else name.removeprefix("outputs.")
            torch.testing.assert_close(torch.from_numpy(found[layer]).reshape(tensor.shape), tensor, rtol=1e-5, atol=1e-6)
        return done

    return run
