"""Modules that become a layer as a whole, however they compute it: each is one operation of the traced graph, `terabag_export::module`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .errors import UnknownOperation
from .graph import Value
from .lower import Call, Elements, Lowering, handles
from .nn import Append, AttentionUnit, Augru, Dice, Hstu, SequencePool, TargetAttention, TargetScores
from .sequences import Lengths, Mask, Sequence, gru_layer, pooled

Lower = Callable[[Lowering, Any, list[Any]], Any]
Shape = Callable[[Any, list[torch.Tensor]], tuple[Any, ...]]


@dataclass(frozen=True)
class Leaf:
    """How modules of a class are lowered."""

    shape: Shape
    """Of the output, by the inputs."""
    lower: Lower
    wraps: Callable[[torch.Tensor], Any] = lambda output: output
    """What forward returns, of the output."""


LEAVES: dict[type[nn.Module], Leaf] = {}
_modules: dict[str, nn.Module] = {}


def leaf(of: type[nn.Module], shape: Shape, wraps: Callable[[torch.Tensor], Any] = lambda output: output) -> Callable[[Lower], Lower]:
    """Registers how modules of a class are lowered: of the values of forward's tensors."""

    def register(lower: Lower) -> Lower:
        LEAVES[of] = Leaf(shape, lower, wraps)
        return lower

    return register


@torch.library.custom_op("terabag_export::module", mutates_args=())
def module_operation(path: str, inputs: list[torch.Tensor]) -> torch.Tensor:
    """What stands for a module in the graph; it is never run."""
    raise NotImplementedError(path)


@module_operation.register_fake
def _(path: str, inputs: list[torch.Tensor]) -> torch.Tensor:
    module = _modules[path]
    shape = LEAVES[type(module)].shape(module, inputs)
    return torch.empty(shape, dtype=torch.float32)


@contextmanager
def leaves_of(model: nn.Module) -> Iterator[None]:
    """Within it, modules of the classes of LEAVES are one operation each."""
    found = {path: module for path, module in model.named_modules() if type(module) in LEAVES}

    def patch(path: str, module: nn.Module) -> None:
        wraps = LEAVES[type(module)].wraps

        def forward(*args: Any, **kwargs: Any) -> Any:
            tensors = [value for value in [*args, *kwargs.values()] if isinstance(value, torch.Tensor)]
            return wraps(torch.ops.terabag_export.module(path, tensors))

        module.forward = forward

    try:
        _modules.update(found)
        for path, module in found.items():
            patch(path, module)
        yield
    finally:
        for path, module in found.items():
            module.__dict__.pop("forward", None)
            del _modules[path]


@handles("module")
def _module(lowering: Lowering, call: Call) -> Any:
    path, inputs = call.args
    module = lowering.modules[path]
    lowering.graph.scope = path
    return LEAVES[type(module)].lower(lowering, module, list(inputs))


def _like_first(_: Any, inputs: list[torch.Tensor]) -> tuple[Any, ...]:
    return tuple(inputs[0].shape)


def _sequence(value: Any, what: str) -> Value:
    if not isinstance(value, Sequence):
        raise UnknownOperation(what, "", "reads a sequence of a lookup")
    return value.value


def _vector(lowering: Lowering, value: Any, what: str) -> Value:
    if not isinstance(value, Elements):
        raise UnknownOperation(what, "", "reads a vector of values of the model")
    return lowering.graph.exact(value.ids.flatten())


def _same_lengths(sequence: Value, lengths: Any, what: str) -> None:
    if not isinstance(lengths, (Lengths, Mask)) or lengths.positions != sequence.positions:
        raise UnknownOperation(what, "", "reads the lengths of its sequence")


@leaf(SequencePool, lambda _, inputs: (inputs[0].shape[0], inputs[0].shape[2]))
def _pool(lowering: Lowering, module: SequencePool, inputs: list[Any]) -> Any:
    sequence = _sequence(inputs[0], "SequencePool")
    _same_lengths(sequence, inputs[1], "SequencePool")
    return Elements(pooled(lowering.graph, sequence, module.pooling).reshape(1, -1))


@leaf(Append, lambda _, inputs: (inputs[0].shape[0], inputs[0].shape[1] + 1, inputs[0].shape[2]))
def _append(lowering: Lowering, module: Append, inputs: list[Any]) -> Any:
    sequence = _sequence(inputs[0], "Append")
    _same_lengths(sequence, inputs[1], "Append")
    vector = _vector(lowering, inputs[2], "Append")
    layer = lowering.graph.layer("append", {"input": sequence, "vector": vector}, sequence.dim, positions=sequence.positions + 1)
    return Sequence(layer, inputs[0].clean)


@leaf(Dice, _like_first)
def _dice(lowering: Lowering, module: Dice, inputs: list[Any]) -> Any:
    norm = module.norm
    tensors = {"alpha": module.alpha.detach(), "mean": norm.running_mean, "variance": norm.running_var}
    value = inputs[0].value if isinstance(inputs[0], Sequence) else _vector(lowering, inputs[0], "Dice")
    layer = lowering.graph.layer("dice", {"input": value}, value.dim, {"epsilon": norm.eps}, tensors, value.positions)
    return Sequence(layer, clean=False) if value.positions else Elements(lowering.graph.ids(layer).reshape(1, -1))


@leaf(TargetAttention, lambda _, inputs: (inputs[1].shape[0], inputs[1].shape[2]))
def _target_attention(lowering: Lowering, module: TargetAttention, inputs: list[Any]) -> Any:
    layer = _attention(lowering, "target_attention", module.scores, inputs)
    return Elements(lowering.graph.ids(layer).reshape(1, -1))


@leaf(TargetScores, lambda _, inputs: tuple(inputs[1].shape[:2]))
def _target_scores(lowering: Lowering, module: TargetScores, inputs: list[Any]) -> Any:
    return Sequence(_attention(lowering, "target_scores", module, inputs), clean=True)


def _attention(lowering: Lowering, kind: str, module: TargetScores, inputs: list[Any]) -> Value:
    query, sequence = _vector(lowering, inputs[0], kind), _sequence(inputs[1], kind)
    _same_lengths(sequence, inputs[2], kind)
    dim, positions = (sequence.dim, 0) if kind == "target_attention" else (1, sequence.positions)
    attributes = {"normalize": "softmax" if module.normalize else "none"}
    return lowering.graph.layer(
        kind, {"query": query, "sequence": sequence}, dim, attributes, positions=positions, within={"layers": unit_layers(module.unit)}
    )


def unit_layers(unit: AttentionUnit) -> list[dict[str, Any]]:
    """The layers of an attention unit: weight, bias and activation of each."""
    layers: list[dict[str, Any]] = []
    for part in unit.layers:
        if isinstance(part, nn.Linear):
            layers.append({"weight": part.weight.detach(), "bias": part.bias.detach()})
        elif isinstance(part, Dice):
            norm = part.norm
            layers[-1] |= {"activation": "dice", "alpha": part.alpha.detach(), "mean": norm.running_mean, "variance": norm.running_var}
            layers[-1]["epsilon"] = norm.eps
        elif isinstance(part, nn.PReLU):
            layers[-1] |= {"activation": "prelu", "slope": part.weight.detach()}
        else:
            layers[-1]["activation"] = _unit_activation(part)
    return layers


def _unit_activation(part: nn.Module) -> str:
    names: Mapping[type[nn.Module], str] = {nn.Sigmoid: "sigmoid", nn.ReLU: "relu", nn.Tanh: "tanh", nn.SiLU: "silu"}
    if type(part) not in names:
        raise UnknownOperation(type(part).__name__, "", "no activation of an attention unit")
    return names[type(part)]


@leaf(Augru, lambda module, inputs: (*inputs[0].shape[:2], module.weight_hh.shape[1]))
def _augru(lowering: Lowering, module: Augru, inputs: list[Any]) -> Any:
    sequence, scores = _sequence(inputs[0], "Augru"), _sequence(inputs[1], "Augru")
    biases = [module.bias_ih.detach(), module.bias_hh.detach()]
    return Sequence(gru_layer(lowering.graph, sequence, module.weight_ih.detach(), module.weight_hh.detach(), biases, scores), clean=False)


@leaf(Hstu, _like_first)
def _hstu(lowering: Lowering, module: Hstu, inputs: list[Any]) -> Any:
    sequence = _sequence(inputs[0], "Hstu")
    _same_lengths(sequence, inputs[1], "Hstu")
    if sequence.positions != module.positions:
        raise UnknownOperation("Hstu", "", f"was made for {module.positions} positions, not {sequence.positions}")
    attributes = {"heads": module.heads, "linearDim": module.linear_dim, "attentionDim": module.attention_dim, "epsilon": module.epsilon}
    attributes |= {"normalizer": module.normalizer} if module.normalizer is not None else {}
    of_input, of_output = module.f1, module.f2
    tensors = {
        "weightUvqk": of_input.weight.detach(),
        "biasUvqk": of_input.bias.detach(),
        "positionBias": module.position_bias.detach(),
        "weightOut": of_output.weight.detach(),
        "biasOut": of_output.bias.detach(),
    }
    return Sequence(lowering.graph.layer("hstu", {"input": sequence}, sequence.dim, attributes, tensors, sequence.positions), clean=False)


@leaf(nn.MultiheadAttention, _like_first, lambda output: (output, None))
def _self_attention(lowering: Lowering, module: nn.MultiheadAttention, inputs: list[Any]) -> Any:
    query, key, value, *masks = inputs
    sequence = _sequence(query, "MultiheadAttention")
    if any(not isinstance(other, Sequence) or other.value is not sequence for other in (key, value)):
        raise UnknownOperation("MultiheadAttention", "", "query, key and value have to be one sequence")
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn or not module.batch_first:
        raise UnknownOperation("MultiheadAttention", "", "keys and values of the sequence's dim, without added ones, batch first")
    if len(masks) != 1 or not isinstance(masks[0], Mask) or not masks[0].inverted or masks[0].positions != sequence.positions:
        raise UnknownOperation("MultiheadAttention", "", "key_padding_mask has to leave out the padding of its sequence, and no other mask")
    biases = {}
    if module.in_proj_bias is not None:
        biases = {"biasQkv": module.in_proj_bias.detach(), "biasOut": module.out_proj.bias.detach()}
    tensors = {"weightQkv": module.in_proj_weight.detach(), "weightOut": module.out_proj.weight.detach(), **biases}
    layer = lowering.graph.layer(
        "self_attention", {"input": sequence}, sequence.dim, {"heads": module.num_heads}, tensors, positions=sequence.positions
    )
    return Sequence(layer, clean=False)
