"""Conditions: what a function must find again for a program to do what it would do."""

from __future__ import annotations

from collections.abc import Sequence
from types import CellType
from typing import Any

import torch

from tinygrad_ee559.compiling.capture import Capture
from tinygrad_ee559.compiling.state import SCALARS, Place, same
from tinygrad_ee559.tensor import Tensor


class Look:
    """What programs depend on in a tensor: its layout and kind, not its numbers.

    Of anything that is no tensor, the value.
    """

    __slots__ = ("shape", "strides", "dtype", "device", "needs_gradient", "value")

    def __init__(self, value: Any) -> None:
        self.needs_gradient = isinstance(value, Tensor) and value.node is not None
        raw = value._data if isinstance(value, Tensor) else value
        self.shape: torch.Size | None = None
        self.value = raw
        if isinstance(raw, torch.Tensor):
            self.value = None
            self.shape, self.strides = raw.shape, raw.stride()
            self.dtype, self.device = raw.dtype, raw.device

    def fits(self, value: Any) -> bool:
        """Whether another value looks the same."""
        if isinstance(value, Tensor):
            if (value.node is not None) != self.needs_gradient:
                return False
            value = value._data
        if self.shape is None:
            return same(self.value, value)
        return (
            isinstance(value, torch.Tensor)
            and value.shape == self.shape
            and value.dtype is self.dtype
            and value.stride() == self.strides
            and value.device == self.device
        )


class Conditions:
    """The conditions of one captured run."""

    def __init__(self, capture: Capture, arguments: Sequence[Any]) -> None:
        self._capture = capture
        self._ignored: set[Place] = set()
        #: For which gradients being missing or not the program is right.
        self._missing = {capture.missing}
        self._arguments = [Look(a) for a in arguments]
        self._twice = _repeated(arguments)
        self._holders = [holder for holder, _, _ in capture.state.sizes]
        self._sizes = [size for _, size, _ in capture.state.sizes]
        self._leaves = capture.state.leaves
        self._watch()

    def _watch(self) -> None:
        """Prepare what is compared before each run, so that it takes few steps of Python."""
        state = self._capture.state
        replaced = {effect[0] for effect in self._capture.effects if isinstance(effect, tuple)}
        watched = [
            (place, value)
            for place, value in [*state.values, *state.wrappers]
            if place not in replaced and place not in self._ignored
        ]
        entries = [(p, v) for p, v in watched if not isinstance(p.holder, CellType)]
        variables = [(p, v) for p, v in watched if isinstance(p.holder, CellType)]
        scalars = [(p, v) for p, v in entries if isinstance(v, SCALARS)]
        objects = [(p, v) for p, v in entries if not isinstance(v, SCALARS)]
        self._scalar_places = [(p.holder, p.key) for p, _ in scalars]
        self._scalars = [v for _, v in scalars]
        self._object_places = [(p.holder, p.key) for p, _ in objects]
        self._objects = [id(v) for _, v in objects]
        self._variables = [p.holder for p, _ in variables]
        self._contents = [v for _, v in variables]

    def relax(self, capture: Capture) -> None:
        """Another run did the same, so what it found differently makes no difference."""
        self._missing.add(capture.missing)
        values = dict(self._capture.state.values)
        self._ignored |= {
            place
            for place, value in capture.state.values
            if place in values and not same(values[place], value)
        }
        self._watch()

    def hold(self, arguments: Sequence[Any]) -> bool:
        """Whether the program may run."""
        if len(arguments) != len(self._arguments):
            return False
        for argument, look in zip(arguments, self._arguments):
            if not look.fits(argument):
                return False
        if self._twice and _repeated(arguments) != self._twice:
            return False
        if tuple([leaf.grad is None for leaf in self._leaves]) not in self._missing:
            return False
        try:
            return (
                [*map(len, self._holders)] == self._sizes
                and [holder[key] for holder, key in self._scalar_places] == self._scalars
                and [id(holder[key]) for holder, key in self._object_places] == self._objects
                and all(map(same, [c.cell_contents for c in self._variables], self._contents))
            )
        except (LookupError, ValueError):  # an entry, or a variable's value, is gone
            return False


def _repeated(arguments: Sequence[Any]) -> tuple[int, ...]:
    """Which arguments are the same tensor, by the number of the first; empty if none are."""
    first: dict[int, int] = {}
    raws = [a._data if isinstance(a, Tensor) else a for a in arguments]
    numbers = tuple(
        first.setdefault(id(raw), i) if isinstance(raw, torch.Tensor) else i
        for i, raw in enumerate(raws)
    )
    return () if numbers == tuple(range(len(raws))) else numbers
