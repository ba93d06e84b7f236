"""Layers. Each is its parameters and one torch expression; the tape does the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, overload

import torch
import torch.nn.functional as F

from tinygrad_ee559.nn import init
from tinygrad_ee559.nn.module import Module, Parameter
from tinygrad_ee559.record import recorded

_linear = recorded(F.linear)


class Linear(Module):
    """An affine map of the last dimension: x @ weight.T + bias.

    Args:
        in_features: the size of the input's last dimension.
        out_features: the size of the output's last dimension.
        bias: add a learned bias.
        device: where the parameters are.
        dtype: the parameters' dtype, torch's default if None.

    The parameters begin as those of `torch.nn.Linear`: with the same `torch.manual_seed`, the same
    numbers, uniform between -1/sqrt(in_features) and 1/sqrt(in_features).

    >>> layer = Linear(3, 2)
    >>> layer.weight.shape, layer.bias.shape
    (torch.Size([2, 3]), torch.Size([2]))
    >>> layer(torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.in_features = in_features
        self.out_features = out_features
        weight = torch.empty((out_features, in_features), device=device, dtype=dtype)
        # The gain of a leaky ReLU of slope sqrt(5) is 1/sqrt(3), so the bound is 1/sqrt(fan_in).
        self.weight = init.kaiming_uniform_(Parameter(weight), a=math.sqrt(5))
        self.bias = None
        if bias:
            bound = 1 / math.sqrt(in_features) if in_features else 0.0
            empty = torch.empty(out_features, device=device, dtype=dtype)
            self.bias = init.uniform_(Parameter(empty), -bound, bound)

    def forward(self, x: Any) -> Any:
        return _linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class ReLU(Module):
    """max(x, 0), element by element."""

    def forward(self, x: Any) -> Any:
        return x.relu()


class LeakyReLU(Module):
    """x where x is positive, negative_slope * x elsewhere."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Any) -> Any:
        return F.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class Tanh(Module):
    """The hyperbolic tangent, element by element."""

    def forward(self, x: Any) -> Any:
        return x.tanh()


class Sigmoid(Module):
    """1 / (1 + exp(-x)), element by element."""

    def forward(self, x: Any) -> Any:
        return x.sigmoid()


class Sequential(Module):
    """Modules applied one after the other.

    Args:
        layers: the modules, or one list of them.

    Raises:
        TypeError: one of them is not a `Module`.

    >>> model = Sequential(Linear(2, 25), ReLU(), Linear(25, 2))
    >>> model[1], len(model)
    (ReLU(), 3)
    >>> model[:2]
    Sequential(
      (0): Linear(in_features=2, out_features=25, bias=True)
      (1): ReLU()
    )
    """

    def __init__(self, *layers: Module | list[Module]) -> None:
        given = layers[0] if len(layers) == 1 and isinstance(layers[0], (list, tuple)) else layers
        self.layers: list[Module] = []
        for layer in given:
            self.append(layer)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def append(self, layer: Any) -> Sequential:
        """Add a module at the end, and return this one."""
        if not isinstance(layer, Module):
            raise TypeError(
                f"layer {len(self)} of a Sequential must be a Module, not {type(layer).__name__}"
            )
        self.layers.append(layer)
        return self

    def _fields(self) -> Mapping[str, Any]:
        others = {name: value for name, value in vars(self).items() if name != "layers"}
        return {**{str(i): layer for i, layer in enumerate(self.layers)}, **others}

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return Sequential(self.layers[index])
        return self.layers[index]
