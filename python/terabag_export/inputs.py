"""Example inputs as a flat list of named leaves: tensors, and KeyedJaggedTensors, which stay whole."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .errors import ExportError

Replace = Callable[[str, Any], Any]


@dataclass(frozen=True)
class Leaf:
    """A tensor of the example inputs."""

    path: str
    """Where it is: `batch.user.age`."""
    tensor: torch.Tensor


@dataclass(frozen=True)
class ExampleInputs:
    """What the model is called with."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    names: tuple[str, ...]
    """Of the positional arguments, as forward calls them."""

    @property
    def leaves(self) -> list[Leaf]:
        """The tensors, in the order of the arguments."""
        found: list[Leaf] = []

        def keep(path: str, value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                found.append(Leaf(path, value))
            return value

        self.replaced(keep)
        return found

    @property
    def jagged(self) -> list[Any]:
        """The KeyedJaggedTensors."""
        found: list[Any] = []

        def keep(_: str, value: Any) -> Any:
            if is_jagged(value):
                found.append(value)
            return value

        self.replaced(keep)
        return found

    def replaced(self, replace: Replace) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the same structure with each leaf replaced."""
        args = tuple(_replaced(value, name, replace) for name, value in zip(self.names, self.args, strict=True))
        return args, {name: _replaced(value, name, replace) for name, value in self.kwargs.items()}


def example_inputs_of(model: nn.Module, given: Any) -> ExampleInputs:
    """A tuple or list is the positional arguments, a dict with the names of parameters the keyword arguments, all else one argument."""
    parameters = [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if isinstance(given, Mapping) and given and all(key in parameters for key in given):
        return ExampleInputs((), dict(given), ())
    args = tuple(given) if isinstance(given, (tuple, list)) and not hasattr(given, "_fields") else (given,)
    names = [*parameters, *(f"input_{index}" for index in range(len(parameters), len(args)))]
    if not args:
        raise ExportError("example_inputs", "have to be what the model is called with: a tuple of arguments, or a dict by parameter")
    return ExampleInputs(args, {}, tuple(names[: len(args)]))


def is_jagged(value: Any) -> bool:
    """Whether it is a TorchRec KeyedJaggedTensor, told by its name, so that TorchRec need not be there."""
    return any(base.__name__ == "KeyedJaggedTensor" for base in type(value).__mro__)


def short_names(leaves: Sequence[Leaf]) -> dict[str, str]:
    """A name for each path: its last part where no other path ends in it, else the whole path."""
    lasts = [leaf.path.rsplit(".", 1)[-1] for leaf in leaves]
    return {leaf.path: last if lasts.count(last) == 1 and not last.isdigit() else leaf.path for leaf, last in zip(leaves, lasts, strict=True)}


def _replaced(value: Any, path: str, replace: Replace) -> Any:
    if isinstance(value, torch.Tensor) or is_jagged(value):
        return replace(path, value)
    if isinstance(value, Mapping):
        return type(value)({key: _replaced(entry, f"{path}.{key}", replace) for key, entry in value.items()})
    if isinstance(value, (tuple, list)):
        entries = [_replaced(entry, f"{path}.{index}", replace) for index, entry in enumerate(value)]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _replaced(getattr(value, field.name), f"{path}.{field.name}", replace) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value
