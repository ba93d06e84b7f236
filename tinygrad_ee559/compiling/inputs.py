"""Inputs: the tensors that a program computes with, fetched at each call."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import is_
from typing import Any

import torch

from tinygrad_ee559.compiling.capture import Capture
from tinygrad_ee559.compiling.memory import are_apart, borders, overlapping, reach
from tinygrad_ee559.compiling.places import Gradient, Look, Place
from tinygrad_ee559.tensor import Tensor

_start = torch.Tensor.data_ptr


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
        self._written = written
        self._looks = [Look(tensor) for tensor in capture.inputs]
        self._reaches = [reach(tensor) for tensor in capture.inputs]
        self.starts = [tensor.data_ptr() for tensor in capture.inputs]
        sources = [*enumerate(capture.sources)]
        self.moving = [i for i, s in sources if isinstance(s, int)]
        #: What each call gives, and whether that is changed in place.
        self._given = [(i, s) for i, s in sources if isinstance(s, (int, Gradient))]
        self._changes_given = any(i in written for i, _ in self._given)
        #: What else there is, which is the same in nearly all calls.
        self._lasting = [i for i, s in sources if not isinstance(s, (int, Gradient))]
        self._places = [_place(capture.sources[i]) for i in self._lasting]
        self._changed = [n for n, i in enumerate(self._lasting) if i in written]
        self._note([capture.inputs[i] for i in self._lasting])

    def fetch(self, arguments: Sequence[Any]) -> list[torch.Tensor] | None:
        """The tensors, None if they are not as they have to be.

        Args:
            arguments: the leaves of the call's arguments, which fit the program's conditions.
        """
        found: list[Any] = [place.tensor() for place in self._places]
        known = all(map(is_, found, self._found)) and [*map(_start, found)] == self._begins
        if not known:
            if not self._may_note(found):
                return None
            self._note(found)
        inputs, starts, extents = [*self._inputs], self.starts, []
        for i, source in self._given:
            if isinstance(source, int):
                argument = arguments[source]
                tensor = argument._data if isinstance(argument, Tensor) else argument
            else:
                tensor = arguments[source.argument].node.grad._data
                if not self._looks[i].fits(tensor):
                    return None
            inputs[i] = tensor
            starts[i] = start = tensor.data_ptr()
            extents.append((start, start + self._reaches[i]))
        if len({*map(id, inputs)}) < len(inputs):
            return None
        if self._may_overlap(extents) and overlapping(self._written, inputs):
            return None
        return inputs

    def _may_note(self, found: list[Any]) -> bool:
        """Whether tensors that last are as they have to be, and no two are one, or share memory
        that is changed."""
        for i, tensor, before, start in zip(self._lasting, found, self._found, self._begins):
            is_known = tensor is before and tensor.data_ptr() == start
            if not is_known and not self._looks[i].fits(tensor):
                return False
        return len({*map(id, found)}) == len(found) and not overlapping(self._changed, found)

    def _note(self, found: list[Any]) -> None:
        """Note tensors that last, and the memory that what a call gives must not share."""
        self._found = found
        self._begins = [*map(_start, found)]
        self._inputs: list[Any] = [None] * len(self._looks)  # with room for what is given
        for i, tensor, start in zip(self._lasting, found, self._begins):
            self._inputs[i], self.starts[i] = tensor, start
        checked = range(len(found)) if self._changes_given else self._changed
        lying = [(self._begins[n], self._reaches[self._lasting[n]]) for n in checked]
        self._borders = borders((start, start + length) for start, length in lying)

    def stay_apart(self, given: Sequence[torch.Tensor]) -> bool:
        """Whether none of what many steps are given shares memory with what one of them changes.

        Args:
            given: as `fetch` found it, but for arguments those of all steps.
        """
        extents = []
        for i, _ in self._given:
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


def _place(source: Place | torch.Tensor) -> Place:
    """Where a tensor is that lasts: one that is reachable by no path is kept here."""
    return source if isinstance(source, Place) else Place([source], 0, "")
