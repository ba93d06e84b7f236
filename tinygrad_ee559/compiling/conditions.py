"""Conditions: what a function must find again for a program to do what it would do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import is_
from types import CellType
from typing import Any

import torch

from tinygrad_ee559.compiling.places import (
    NOTHING,
    Gradient,
    Look,
    Numbers,
    Place,
    kept,
    same,
)
from tinygrad_ee559.compiling.private import any_autocast
from tinygrad_ee559.compiling.state import State
from tinygrad_ee559.tape import Leaf, overridden
from tinygrad_ee559.tensor import Tensor, leaf_of


def mode() -> tuple[Any, ...]:
    """What decides over all that torch and the tape do, and may differ from call to call."""
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        any_autocast() and (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        overridden(),
    )


class Conditions:
    """The conditions of a captured run: all that it found, but for the values of tensors.

    Args:
        state: what it found.
        looks: how the tensors looked that it found.
        inputs: the places of tensors that it computed with.
        replaced: the places in which it left other tensors.
        shared: pairs of sources that had the same tensor: places, arguments by their numbers, or
            the gradients of these.
        missing: the ids of the leaves that had no gradient.
        tapes: places of tensors through whose history gradients went, with their nodes.
        arguments: the leaves of its arguments.
        given: how these looked.
        structure: how these were nested.

    Attributes:
        lasting: whether a run leaves what the next one has to find.
    """

    lasting = False

    def __init__(
        self,
        state: State,
        looks: Sequence[Look],
        inputs: Collection[Place],
        replaced: Collection[Place],
        shared: Sequence[tuple[Any, Any]],
        missing: Collection[int],
        tapes: Sequence[tuple[Place, Any]],
        arguments: Sequence[Any] = (),
        given: Sequence[Look] = (),
        structure: Any = None,
    ) -> None:
        self._mode = mode()
        self._structure = structure
        self._arguments = given
        self._twice = _repeated(arguments)
        self._holders = [holder for holder, _, _ in state.containers]
        self._lengths = [length for _, length, _ in state.containers]
        # What is compared before each run is prepared, so that it takes few steps of Python.
        gathering = [i for i, look in enumerate(given) if look.kind is Leaf]
        owned = {id(arguments[i].node) for i in gathering}
        self._leaf_arguments = gathering
        self._leaves = [leaf for leaf in state.leaves if id(leaf) not in owned]
        leaves = [*self._leaves, *(arguments[i].node for i in gathering)]
        self._missing = [id(leaf) in missing for leaf in leaves]
        self._hooks = [[*leaf.hooks] if leaf.hooks else None for leaf in leaves]
        # Of tensors that are no inputs Python may have asked for the shape, or whether they exist.
        holders = {id(argument) for argument in arguments}
        kept_there = [
            (place, look)
            for place, look in zip(state.tensors, looks)
            if place.holder.__class__ is not Leaf and id(place.holder) not in holders
        ]
        others = [(place, look) for place, look in kept_there if place not in inputs]
        self._others = [(place, look) for place, look in others if place not in replaced]
        # What a program leaves there may lie in memory otherwise.
        self._replaced = [(place, look) for place, look in others if place in replaced]
        bare = [
            (place, look)
            for place, look in kept_there
            if place in inputs and not isinstance(place.holder, Tensor)
        ]
        self._inputs = [place for place, _ in bare]
        self._wrapped = [look.is_wrapped for _, look in bare]
        self._shared = shared
        self._tapes = tapes
        self._tensors = list({id(tensor): tensor for _, tensor in state.wrappers}.values())
        self._leaves_of = [None if state.frozen[id(t)] else leaf_of(t) for t in self._tensors]
        watched = [*state.values, *state.wrappers]
        # Of which most functions have none.
        self._uncommon = [(p, v) for p, v in watched if _is_uncommon(p, v)]
        watched = [(p, v) for p, v in watched if not _is_uncommon(p, v)]
        numbers = [(p, v) for p, v in watched if isinstance(p.holder, (Tensor, Leaf))]
        watched = [(p, v) for p, v in watched if not isinstance(p.holder, (Tensor, Leaf))]
        entries = [(p, v) for p, v in watched if not isinstance(p.holder, CellType)]
        variables = [(p, v) for p, v in watched if isinstance(p.holder, CellType)]
        self._number_places = [p for p, _ in numbers]
        self._numbers = [v for _, v in numbers]
        self._entry_places = [(p.holder, p.key) for p, _ in entries]
        self._entries = [v for _, v in entries]
        self._variables = [p.holder for p, _ in variables]
        self._contents = [v for _, v in variables]

    def hold(self, arguments: Sequence[Any] = (), structure: Any = None) -> bool:
        """Whether all is as it was."""
        if len(arguments) != len(self._arguments) or mode() != self._mode:
            return False
        if structure != self._structure:
            return False
        for argument, look in zip(arguments, self._arguments):
            if not look.fits(argument):
                return False
        if self._twice and _repeated(arguments) != self._twice:
            return False
        if [tensor.node for tensor in self._tensors] != self._leaves_of:
            return False
        leaves = self._leaves
        if self._leaf_arguments:
            leaves = [*leaves, *(arguments[i].node for i in self._leaf_arguments)]
        if [leaf.grad is None for leaf in leaves] != self._missing:
            return False
        if [leaf.hooks or None for leaf in leaves] != self._hooks:
            return False
        if [*map(len, self._holders)] != self._lengths:
            return False
        try:
            for place, look in self._others:
                if not look.fits(place.get()):
                    return False
            for place, look in self._replaced:
                if not look.outlines(place.get()):
                    return False
            for one, other in self._shared:
                if _tensor(one, arguments) is not _tensor(other, arguments):
                    return False
            for place, known in self._uncommon:
                if not same(kept(place.get()), known):
                    return False
            for place, node in self._tapes:
                if getattr(place.get(), "node", None) is not node:
                    return False
            return (
                _all_same([holder[key] for holder, key in self._entry_places], self._entries)
                and _all_same([cell.cell_contents for cell in self._variables], self._contents)
                and _all_same([place.number() for place in self._number_places], self._numbers)
                and [isinstance(p.get(), Tensor) for p in self._inputs] == self._wrapped
            )
        except (LookupError, ValueError):  # an entry, or a variable's value, is gone
            return False


def _all_same(found: Sequence[Any], known: Sequence[Any]) -> bool:
    """Whether programs may take values for others, which are nearly always the same objects."""
    return all(map(is_, found, known)) or all(map(same, found, known))


def _is_uncommon(place: Place, value: Any) -> bool:
    """Whether it takes longer to get there, or to compare."""
    kind: Any = type(place.holder)
    own = issubclass(kind, dict) and (
        kind.__getitem__ is not dict.__getitem__ or hasattr(kind, "__missing__")
    )
    return own or isinstance(value, Numbers) or value is NOTHING or place.is_slot()


def _tensor(source: Place | Gradient | int, arguments: Sequence[Any]) -> torch.Tensor | None:
    if isinstance(source, Place):
        return source.tensor()
    if isinstance(source, Gradient):
        return _raw(arguments[source.argument].node.grad)  # type: ignore[no-any-return]
    return _raw(arguments[source])  # type: ignore[no-any-return]


def _raw(value: Any) -> Any:
    return value._data if isinstance(value, Tensor) else value


def _repeated(arguments: Sequence[Any]) -> tuple[int, ...]:
    """Which arguments are the same tensor, by the number of the first; empty if none are."""
    first: dict[int, int] = {}
    raws = [*map(_raw, arguments)]
    numbers = tuple(
        first.setdefault(id(raw), i) if isinstance(raw, torch.Tensor) else i
        for i, raw in enumerate(raws)
    )
    return () if numbers == tuple(range(len(raws))) else numbers
