"""Fewer layers that give the same: batch norms and biases go into the Linear before them, activations too, DCNv2's layers are found again."""

from __future__ import annotations

import re
from collections import Counter

import torch

from .graph import Layer, Value

FC_ACTIVATIONS = ("relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu")


def fuse(layers: list[Layer], outputs: list[Value]) -> tuple[list[Layer], list[Value]]:
    """The layers that the outputs need, in order, and the outputs."""
    fusion = _Fusion(layers, outputs)
    for layer in layers:
        fusion.visit(layer)
    outputs = [fusion.now(output) for output in outputs]
    return _needed(fusion.layers, outputs), outputs


def _needed(layers: list[Layer], outputs: list[Value]) -> list[Layer]:
    needed = set(map(id, outputs))
    for layer in reversed(layers):
        if id(layer) in needed:
            needed.update(map(id, layer.read))
    return [layer for layer in layers if id(layer) in needed]


class _Fusion:
    def __init__(self, layers: list[Layer], outputs: list[Value]) -> None:
        needed = _needed(layers, outputs)
        self.layers: list[Layer] = []
        self._replaced: dict[int, Value] = {}
        self._needed = set(map(id, needed))
        self._readers = Counter(id(value) for layer in needed for value in layer.read)
        self._readers.update(map(id, outputs))

    def now(self, value: Value) -> Value:
        """What stands for a value."""
        while id(value) in self._replaced:
            value = self._replaced[id(value)]
        return value

    def visit(self, layer: Layer) -> None:
        """Takes over a layer, or puts it into one before it."""
        if id(layer) not in self._needed:
            return
        layer.inputs = {
            key: [self.now(value) for value in given] if isinstance(given, list) else self.now(given) for key, given in layer.inputs.items()
        }
        fused = self._scale_shift(layer) or self._activation(layer) or self._sum(layer)
        if fused is not None:
            self._replaced[id(layer)] = fused
            self._readers[id(fused)] = self._readers[id(layer)]
        else:
            self.layers.append(layer)
            cross = self._cross(layer)
            if cross is not None:
                self.layers[-1] = cross
                self._replaced[id(layer)] = cross
                self._readers[id(cross)] = self._readers[id(layer)]

    def _alone(self, value: Value | list[Value], kind: str) -> Layer | None:
        """The layer, if it is of that type and one layer alone reads it."""
        alone = isinstance(value, Layer) and value.type == kind and self._readers[id(value)] == 1
        return value if alone else None  # type: ignore[return-value]

    def _linear(self, value: Value | list[Value]) -> Layer | None:
        fc = self._alone(value, "fc")
        return fc if fc is not None and "activation" not in fc.attributes else None

    def _scale_shift(self, layer: Layer) -> Layer | None:
        fc = self._linear(layer.inputs["input"]) if layer.type == "scale_shift" else None
        if fc is None:
            return None
        scale, shift = layer.tensors["scale"].double(), layer.tensors["shift"].double()
        bias = fc.tensors["bias"].double() * scale if "bias" in fc.tensors else 0
        if not bool((scale == 1).all()):
            fc.tensors["weight"] = (fc.tensors["weight"].double() * scale.unsqueeze(1)).float()
        fc.tensors["bias"] = (bias + shift).float()
        return fc

    def _activation(self, layer: Layer) -> Layer | None:
        activation = layer.attributes.get("activation") if layer.type == "activation" else None
        fc = self._linear(layer.inputs["input"]) if activation in FC_ACTIVATIONS else None
        if fc is not None:
            fc.attributes["activation"] = activation
        return fc

    def _sum(self, layer: Layer) -> Layer | None:
        """A sum whose first input is a sum: ((a + b) + c) is a sum of three, which adds in this order."""
        if layer.type != "sum":
            return None
        first, *rest = layer.inputs["inputs"]  # type: ignore[misc]
        inner = self._alone(first, "sum")
        if inner is None or any(value is inner for value in rest):
            return None
        # It stands where the outer sum does, after all that it reads.
        self.layers.remove(inner)
        self.layers.append(inner)
        inner.inputs = {"inputs": [*inner.inputs["inputs"], *rest]}  # type: ignore[misc]
        return inner

    def _cross(self, layer: Layer) -> Layer | None:
        """x0 * (W x + bias) + x."""
        if layer.type != "sum" or len(layer.inputs["inputs"]) != 2:  # type: ignore[arg-type]
            return None
        pair: list[Value] = layer.inputs["inputs"]  # type: ignore[assignment]
        for product, x in (pair, pair[::-1]):
            multiplied = self._alone(product, "product")
            if multiplied is None or len(multiplied.inputs["inputs"]) != 2:  # type: ignore[arg-type]
                continue
            factors: list[Value] = multiplied.inputs["inputs"]  # type: ignore[assignment]
            for x0, value in (factors, factors[::-1]):
                fc = self._linear(value)
                tensors = None if fc is None else self._cross_tensors(fc, x)
                if tensors is not None:
                    return self._made(layer, [x0, x], tensors)
        return None

    def _cross_tensors(self, fc: Layer, x: Value) -> dict[str, torch.Tensor] | None:
        bias = {"bias": fc.tensors["bias"]} if "bias" in fc.tensors else {}
        source = fc.inputs["input"]
        if source is x and fc.tensors["weight"].shape[0] == fc.tensors["weight"].shape[1]:
            return {"weight": fc.tensors["weight"], **bias}
        inner = self._linear(source)
        if inner is None or inner.inputs["input"] is not x or "bias" in inner.tensors:
            return None
        return {"weightU": fc.tensors["weight"], "weightV": inner.tensors["weight"], **bias}

    @staticmethod
    def _made(layer: Layer, inputs: list[Value], tensors: dict[str, torch.Tensor]) -> Layer:
        name = re.sub(r"sum(_\d+)?$", r"cross\1", layer.name)
        cross = Layer(name, layer.dim, layer.positions, "cross", {"inputs": inputs}, {}, tensors)
        cross.start = layer.start
        return cross
