"""What the members of an ensemble have to have in common: all but the values of tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from types import CodeType
from typing import Any

import torch

from tinygrad_ee559.compiling.places import Numbers, Place, is_value, same
from tinygrad_ee559.compiling.state import State
from tinygrad_ee559.errors import CaptureError


def check_alike(states: Sequence[State]) -> None:
    """Raise an error that names where members differ in more than the values of tensors.

    Raises:
        CaptureError: one has something that the first has not, or has it in another order, or a
            number is another one, or an object or function another class or other code.
    """
    for member, state in enumerate(states):
        _check_alike(states[0], state, member)


def most_apart(states: Sequence[State]) -> int:
    """The member of which most places have tensors of their own.

    What it reads, and where, is right for one in which some of these are the same too. It is not so
    the other way round: nobody knows in which of two places a step has looked for what is in both.
    """
    return max(range(len(states)), key=lambda i: len(states[i].by_tensor()))


def check_apart(states: Sequence[State], most: int) -> None:
    """Raise an error if a member has two tensors where the one that is `most_apart` has one."""
    firsts = states[most].by_tensor()
    positions = {place: i for i, place in enumerate(states[most].tensors)}
    for i, place in enumerate(states[most].tensors):
        first = firsts.get(id(place.tensor()), place)
        for member, state in enumerate(states):
            one, other = state.tensors[i], state.tensors[positions[first]]
            if one.tensor() is not other.tensor():
                raise _differ(
                    f"{place} and {first} are one tensor in member {most}, and two in member "
                    f"{member}"
                )


def _check_alike(first: State, other: State, member: int) -> None:
    """Raise an error that names where two members differ in more than the values of tensors.

    Args:
        first: what the step of the first member can reach.
        other: what that of another one can.
        member: the other's number.
    """
    for (path, kind), (elsewhere, differing) in zip(first.kinds, other.kinds):
        if path != elsewhere:
            break
        if kind != differing:
            ours, theirs = _in_words(kind), _in_words(differing)
            if isinstance(kind, type) and ours == theirs:
                raise _differ(
                    f"{path} is of another class in member {member} than in the first, though both "
                    f"are called {ours}; define the class once, outside of what makes a member"
                )
            raise _differ(f"{path} is {theirs} in member {member}, and {ours} in the first")
    values, others = _scalars(first), _scalars(other)
    counts = [(len(s.tensors), len(v)) for s, v in ((first, values), (other, others))]
    kinds = [[kind for _, kind in state.kinds] for state in (first, other)]
    if counts[0] != counts[1] or kinds[0] != kinds[1]:
        paths = [
            {*map(str, state.tensors), *(str(place) for place, _ in state.values)}
            for state in (first, other)
        ]
        raise CaptureError(
            f"the members of an ensemble have to be alike, and member {member} holds "
            f"{counts[1][0]} tensors and {counts[1][1]} values, the first one {counts[0][0]} and "
            f"{counts[0][1]}{_only(f'member {member}', paths[1] - paths[0])}"
            f"{_only('the first', paths[0] - paths[1])}{_parting(first, other)}"
        )
    _check_order(first, other, member)
    _check_frozen(first, other, member)
    for (_, value), (place, otherwise) in zip(values, others):
        if not same(value, otherwise):
            if isinstance(otherwise, Numbers):
                raise _differ(
                    f"{place} is another NumPy array in member {member} than in the first. Make it "
                    "a tensor: torch.from_numpy(array)"
                )
            advice = f". Make it a tensor: torch.tensor({otherwise!r})"
            raise _differ(
                f"{place} is {otherwise!r} in member {member}, and {value!r} in the first"
                f"{advice if isinstance(otherwise, float) else ''}"
            )


def _check_order(first: State, other: State, member: int) -> None:
    """Raise an error if what one has stands in other places than what the other has."""
    for (path, keys), (_, others) in zip(_orders(first), _orders(other)):
        if keys != others and Counter(keys) == Counter(others):
            raise _differ(
                f"{path} has its entries, or its fields, in another order in member {member} than "
                "in the first, and steps may go through them in that order; make them in one order"
            )
    ours, theirs = _objects(first), _objects(other)
    for (_, earlier), (place, before) in zip(ours, theirs):
        if earlier != before:
            one, two = (
                "another one" if i is None else f"the same as {objects[i][0]}"
                for objects, i in ((theirs, before), (ours, earlier))
            )
            raise _differ(f"{place} is {one} in member {member}, and {two} in the first")


def _orders(state: State) -> Iterator[tuple[str, list[Any]]]:
    """What the entries of each dict are called, and an object's fields, as far as they count."""
    counting: dict[int, set[Any]] = {}
    places = [place for place, _ in (*state.wrappers, *state.values)]
    for place in (*places, *state.tensors):
        counting.setdefault(id(place.holder), set()).add(place.key)
    for holder, _, path in state.containers:
        if isinstance(holder, dict):
            counted = counting.get(id(holder), ())
            yield path, [_name(key, state) for key in holder if key in counted]


def _name(key: Any, state: State) -> Any:
    """A key as it is called in all members: that of an object, or its id, by the number of that."""
    number = state.number_of(key if isinstance(key, int) else id(key))
    if number is not None:
        return "object", number
    return type(key) if isinstance(key, torch.Tensor) else key


def _objects(state: State) -> list[tuple[Place, int | None]]:
    """The places of objects, with the number of an earlier one that has the same, if one has."""
    firsts: dict[int, int] = {}
    contents = [*state.wrappers, *state.values]
    objects = [(place, value) for place, value in contents if not _is_value(value)]
    found = [(place, firsts.setdefault(id(value), i)) for i, (place, value) in enumerate(objects)]
    return [(place, None if earlier == i else earlier) for i, (place, earlier) in enumerate(found)]


def _check_frozen(first: State, other: State, member: int) -> None:
    for (_, ours), (place, theirs) in zip(first.wrappers, other.wrappers):
        frozen = other.frozen[id(theirs)]
        if first.frozen[id(ours)] != frozen:
            who = (f"member {member}", "the first")
            raise _differ(
                f"{place} is frozen in {who[not frozen]} and not in {who[frozen]}; freeze it in all"
            )


def _scalars(state: State) -> list[tuple[Place, Any]]:
    return [(place, value) for place, value in state.values if _is_value(value)]


def _is_value(value: Any) -> bool:
    return is_value(value) or type(value) is Numbers


def _differ(where: str) -> CaptureError:
    return CaptureError(f"the members of an ensemble may differ in tensors only: {where}")


def _only(who: str, paths: Collection[str]) -> str:
    return f"; only {who} has {', '.join(sorted(paths)[:3])}" if paths else ""


def _parting(first: State, other: State) -> str:
    """The first two objects that are others, if there are any."""
    for (path, kind), (elsewhere, other_kind) in zip(first.kinds, other.kinds):
        if kind != other_kind:
            return f"; where the first has {path}, this one has {elsewhere}"
    return ""


def _in_words(kind: Any) -> str:
    """A class, or the code of a function."""
    if isinstance(kind, CodeType):
        return f"{kind.co_name} of {kind.co_filename}, line {kind.co_firstlineno},"
    return str(getattr(kind, "__name__", kind))
