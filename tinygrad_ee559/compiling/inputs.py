"""Inputs: the tensors that a program computes with, fetched at each call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tinygrad_ee559.compiling.capture import Capture, Gradient
from tinygrad_ee559.compiling.lowering import overlapping
from tinygrad_ee559.compiling.places import Look, Place
from tinygrad_ee559.tensor import Tensor


class Inputs:
    """The inputs of a program, and whether they are laid out as it was compiled for.

    Args:
        capture: the run that was compiled.
        written: the numbers of the inputs that it changes in place.

    Attributes:
        moving: the numbers of those that are arguments.
        starts: where the memory of each begins that was fetched last.
    """

    def __init__(self, capture: Capture, written: Sequence[int]) -> None:
        self._sources = capture.sources
        self._written = written
        self._looks = [Look(tensor) for tensor in capture.inputs]
        self._known: list[torch.Tensor] = list(capture.inputs)
        self.moving = [i for i, source in enumerate(self._sources) if source.__class__ is int]
        self.starts = [tensor.data_ptr() for tensor in capture.inputs]
        self._settle()

    def fetch(self, arguments: Sequence[Any]) -> list[torch.Tensor] | None:
        """The tensors, None if they are not as they have to be.

        Args:
            arguments: the leaves of the call's arguments, which fit the program's conditions.
        """
        found: list[torch.Tensor] = []
        starts = self.starts
        for i, source in enumerate(self._sources):
            if source.__class__ is int:
                argument = arguments[source]
                tensor = argument._data if isinstance(argument, Tensor) else argument
                starts[i] = tensor.data_ptr()
            elif source.__class__ is Place:
                tensor = source.tensor()
                if tensor is None:
                    return None
                if tensor is not self._known[i] or tensor.data_ptr() != starts[i]:
                    if not self._looks[i].fits(tensor):
                        return None
                    self._known[i] = tensor
                    starts[i] = tensor.data_ptr()
                    self._settled = False
            elif source.__class__ is Gradient:
                tensor = arguments[source.argument].node.grad._data
                if not self._looks[i].fits(tensor):
                    return None
                starts[i] = tensor.data_ptr()
            else:
                tensor = source
                if tensor.data_ptr() != starts[i]:
                    if not self._looks[i].fits(tensor):
                        return None
                    starts[i] = tensor.data_ptr()
                    self._settled = False
            found.append(tensor)
        return found if self._are_apart(found) else None

    def _are_apart(self, found: Sequence[torch.Tensor]) -> bool:
        """Whether no two are one tensor, or share memory that is changed."""
        if len(set(map(id, found))) < len(found):
            return False
        if not self._settled:
            if overlapping(self._written, found):
                return False
            self._settle()
        memories = [_memory(found[i]) for i in self.moving]
        may_overlap = len(set(memories)) < len(memories) or not self._fixed.isdisjoint(memories)
        return not (may_overlap and overlapping(self._written, found))

    def _settle(self) -> None:
        """Note the memories that arguments must not share: of what is changed, or if these are
        changed themselves, of all."""
        moving = set(self.moving)
        all_count = not moving.isdisjoint(self._written)
        fixed = range(len(self._known)) if all_count else self._written
        self._fixed = {_memory(self._known[i]) for i in fixed if i not in moving}
        self._settled = True


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
