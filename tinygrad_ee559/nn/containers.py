"""Containers of modules. Lists, tuples and dicts in the fields of a module are such too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, overload

from tinygrad_ee559.nn.module import Module


class Sequential(Module):
    """Modules applied one after the other.

    Args:
        layers: the modules, or one list of them.

    Raises:
        TypeError: one of them is not a `Module`.

    >>> from tinygrad_ee559.nn import Linear, ReLU
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
