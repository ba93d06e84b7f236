"""Inputs: the tensors that a program computes with, fetched at each call."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from tinygrad_ee559.compiling.capture import Capture
from tinygrad_ee559.compiling.memory import are_apart, borders, overlapping, reach
from tinygrad_ee559.compiling.places import Gradient, Look, Place
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
        self._reaches = [reach(tensor) for tensor in capture.inputs]
        #: What was found in places.
        self._known = [
            tensor if isinstance(source, Place) else None
            for source, tensor in zip(capture.sources, capture.inputs)
        ]
        self.moving = [i for i, source in enumerate(self._sources) if source.__class__ is int]
        self.starts = [tensor.data_ptr() for tensor in capture.inputs]
        given = [i for i, source in enumerate(self._sources) if isinstance(source, (int, Gradient))]
        #: What each call gives, and whether that is changed in place.
        self._given = given
        self._changes_given = not set(given).isdisjoint(written)
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
        may = self._may_overlap(self._extents(self._given))
        return not (may and overlapping(self._written, found))

    def stay_apart(self, given: Sequence[torch.Tensor]) -> bool:
        """Whether none of what many steps are given shares memory with what one of them changes.

        Args:
            given: as `fetch` found it, but for arguments those of all steps.
        """
        extents = []
        for i in self._given:
            start = given[i].data_ptr()
            extents.append((start, start + reach(given[i])))
        return not (self._may_overlap(extents) and overlapping(self._written, given))

    def _may_overlap(self, extents: Sequence[tuple[int, int]]) -> bool:
        """Whether what a call gives shares memory with what the program changes or, where that is
        changed itself, with anything.

        Args:
            extents: where what is given begins in memory, and where it ends.
        """
        bounds = self._borders
        if bounds:
            for start, end in extents:
                before = bisect_right(bounds, start)
                if before % 2 or bisect_left(bounds, end) != before:
                    return True
        return self._changes_given and not are_apart(extents)

    def _settle(self) -> None:
        """Note the memory that what is given must not share."""
        checked = range(len(self._sources)) if self._changes_given else self._written
        fixed = [i for i in checked if i not in self._given]
        self._borders = borders(self._extents(fixed))
        self._settled = True

    def _extents(self, numbers: Iterable[int]) -> list[tuple[int, int]]:
        """Where inputs begin in memory, and where they end."""
        return [(self.starts[i], self.starts[i] + self._reaches[i]) for i in numbers]
