"""Gradients that a program writes over, as long as nobody has looked at them.

A step leaves a gradient in every parameter, and most of them nobody looks at before the next step
takes their place. Where networks are small, new tensors for all of them would take as long as what
is computed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch

from tinygrad_ee559.compiling.native import Native
from tinygrad_ee559.tape import Leaf
from tinygrad_ee559.tensor import Tensor, lift

_references = sys.getrefcount


class Unseen(Tensor):
    """A gradient, and whether anybody has asked for its value.

    Args:
        value: the memory that a program leaves it in.
    """

    __slots__ = ("value", "seen")

    def __init__(self, value: torch.Tensor) -> None:
        self.value: Any = value
        self.seen = False
        self.node = None

    def _like(self, data: Any) -> Tensor:
        return lift(data, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return lift, (self._data, None)

    @property
    def _data(self) -> Any:
        self.seen = True
        return self.value

    @_data.setter
    def _data(self, value: Any) -> None:
        self.value = value
        self.seen = True


class Gradients:
    """The gradients that a native program leaves in leaves.

    Args:
        program: the program.
        leaves: where they gather, by their position among the program's outputs.
    """

    def __init__(self, program: Native, leaves: Mapping[int, Leaf]) -> None:
        self._program = program
        self._positions = list(leaves)
        self._leaves = list(leaves.values())
        self._tensors = [Unseen(program.hold(position)) for position in self._positions]

    def take_back(self) -> None:
        """Before a step: leaves have none, and whoever has looked at one, or may, keeps it."""
        tensors = self._tensors
        for i, leaf in enumerate(self._leaves):
            leaf.grad = None
            if _references(tensors[i]) > _OWN_REFERENCES or tensors[i].seen:
                tensors[i] = Unseen(self._program.hold(self._positions[i]))

    def leave(self) -> None:
        """After it."""
        for leaf, tensor in zip(self._leaves, self._tensors):
            leaf.grad = tensor


def _count_own_references() -> int:
    """What `sys.getrefcount` says in `take_back` of a tensor that nobody else holds."""
    tensors = [object()]
    return _references(tensors[0])


_OWN_REFERENCES = _count_own_references()
