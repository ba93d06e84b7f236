"""What the members of an ensemble have to have in common: all but the values of tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from enum import Enum
from types import CodeType
from typing import Any, NamedTuple

import torch

from tinygrad_ee559.compiling.places import (
    NOTHING,
    Numbers,
    Place,
    is_value,
    kept,
    same,
)
from tinygrad_ee559.compiling.state import State
from tinygrad_ee559.errors import CaptureError
from tinygrad_ee559.tape import Leaf
from tinygrad_ee559.tensor import Tensor


def check_alike(states: Sequence[State]) -> None:
    """Raise an error that names where members differ in more than the values of tensors.

    Raises:
        CaptureError: one has something that the first has not, or has it elsewhere, by another name
            or in another order, or a number is another one, or an object or function another class
            or other code.
    """
    first = states[0]
    names, visits = [*_names(first)], _visits(first)
    for member, other in enumerate(states[1:], 1):
        others = [*_names(other)]
        _check_kinds(first.kinds, other.kinds, member)
        _check_names(names, others, member, plain=True)
        _check_visits(visits, _visits(other), member)
        _check_names(names, others, member)  # which depend on what is where
        if [kind for _, kind in first.kinds] != [kind for _, kind in other.kinds]:
            one, two = ([path for path, _ in state.kinds] for state in (first, other))
            raise _differ_in_number(one, two, member)


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


def _differ(where: str) -> CaptureError:
    return CaptureError(f"the members of an ensemble may differ in tensors only: {where}")


def _differ_in_number(ours: Collection[str], theirs: Collection[str], member: int) -> CaptureError:
    """Says what one of two members has, by its path, and the other has not."""
    more, fewer = ([x for x in a if x not in b] for a, b in ((theirs, ours), (ours, theirs)))
    only = [
        f"; only {who} has {', '.join(paths[:3])}"
        for who, paths in ((f"member {member}", more), ("the first", fewer))
        if paths
    ]
    return _differ(
        f"member {member} has {len(theirs)} things, and the first {len(ours)}{''.join(only)}"
    )


# ------------------------------------------------------- classes, and the code of functions


def _check_kinds(
    ours: Sequence[tuple[str, Any]], theirs: Sequence[tuple[str, Any]], member: int
) -> None:
    """Raise an error if an object is of another kind than in the first member, as far as both have
    the same paths.

    Args:
        ours: the paths and kinds of the first member's objects.
        theirs: those of another one.
        member: the number of that.
    """
    for (path, kind), (elsewhere, other) in zip(ours, theirs):
        if path != elsewhere:
            return
        if kind == other:
            continue
        one, two = _kind_in_words(kind), _kind_in_words(other)
        if isinstance(kind, (type, Enum)) and one == two:
            raise _differ(
                f"{path} is of another class in member {member} than in the first, though both are "
                f"called {one}; define the class once, outside of what makes a member"
            )
        raise _differ(f"{path} is {two} in member {member}, and {one} in the first")


def _kind_in_words(kind: Any) -> str:
    """A class, the code of a function, or the value of a constant."""
    if isinstance(kind, CodeType):
        return f"{kind.co_name} of {kind.co_filename}, line {kind.co_firstlineno},"
    if isinstance(kind, tuple):
        return f"{kind[1]!r:.80}"
    return str(getattr(kind, "__name__", kind))


# ------------------------------------------------------- names of entries and fields

#: The path of a list, a dict or the fields of an object, and the paths of what is in there, as far
#: as it counts, by name.
_Named = tuple[str, dict[Any, str]]


class _Found(NamedTuple):
    """What a key is called that is a tensor or an object, or the id of one: by where else that is.

    Attributes:
        kind: "tensor" or "object".
        number: the number of the place, or of the object, as they were found.
    """

    kind: str
    number: int


class _Keys:
    """What keys are called in all members."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._tensors: dict[int, int] = {}
        for i, (place, found) in enumerate(zip(state.tensors, state.found)):
            for tensor in (place.holder, found, place.tensor()):
                if isinstance(tensor, (Tensor, torch.Tensor)):
                    self._tensors.setdefault(id(tensor), i)

    def name(self, key: Any) -> Any:
        identity = key if isinstance(key, int) else id(key)
        if identity in self._tensors:
            return _Found("tensor", self._tensors[identity])
        if isinstance(key, frozenset):  # what is in there is looked at nowhere else
            return type(key), self.elements(key)
        number = self._state.number_of(identity)
        if number is not None:
            return _Found("object", number)
        if type(key) is tuple:
            return tuple(map(self.name, key))
        if isinstance(key, (int, float, complex)):  # zeros have signs, NaN is itself
            return type(key), repr(key)
        return key

    def elements(self, items: Collection[Any]) -> Any:
        """What the elements of a set are called, in their order unless that goes by ids."""
        names = tuple(map(self.name, items))
        return names if all(map(_is_plain, names)) else frozenset(names)


def _names(state: State) -> Iterator[_Named]:
    """What is in lists, dicts and the fields of objects, by name."""
    paths: dict[int, dict[Any, str]] = {}
    for place, _ in state.visited:
        paths.setdefault(id(place.holder), {})[place.key] = place.path
    keys = _Keys(state)
    for holder, _, path in state.containers:
        entries = paths.get(id(holder), {})
        inside = holder if isinstance(holder, dict) else entries
        yield path, {keys.name(key): entries[key] for key in inside if key in entries}


def _is_plain(name: Any) -> bool:
    """Whether it is no object or tensor, nor has one in it."""
    if isinstance(name, _Found):
        return False
    return not isinstance(name, (tuple, frozenset)) or all(map(_is_plain, name))


def _check_names(
    ours: Sequence[_Named], theirs: Sequence[_Named], member: int, plain: bool = False
) -> None:
    """Raise an error if one member has entries that the first has not, or by other names, or in
    another order, as far as both have the same paths.

    Args:
        ours: what the first member has.
        theirs: what another one has.
        member: the number of that.
        plain: look at names alone that do not depend on what else there is.
    """
    for (path, names), (elsewhere, others) in zip(ours, theirs):
        if path != elsewhere:
            return
        if [*names] == [*others] or plain and not all(map(_is_plain, (*names, *others))):
            continue
        more = [others[name] for name in others if name not in names]
        fewer = [names[name] for name in names if name not in others]
        if more and fewer:
            raise _differ(
                f"member {member} has {more[0]} where the first has {fewer[0]}, and steps may go "
                "by such names; call it the same in all"
            )
        if more or fewer:
            who = f"member {member}" if more else "the first"
            raise _differ(f"only {who} has {', '.join((more or fewer)[:3])}")
        raise _differ(
            f"{path} has its entries, or its fields, in another order in member {member} than in "
            "the first, and steps may go through them in that order; make them in one order"
        )


# ------------------------------------------------------- what is in places


class _Object(NamedTuple):
    """Stands for an object: the number by which a member has it, None for a number in a `Tensor`,
    and its class."""

    number: int | None
    kind: type


class _Tensor(NamedTuple):
    """Stands for a tensor: all but its numbers, and how they lie in memory."""

    kind: type
    dtype: torch.dtype
    shape: torch.Size
    device: torch.device
    requires_grad: bool

    def __repr__(self) -> str:
        name = "torch.Tensor" if self.kind is torch.Tensor else self.kind.__name__
        grad = ", requires_grad" if self.requires_grad else ""
        return f"a {name}, {self.dtype}{[*self.shape]} on {self.device}{grad}"


class _Visit(NamedTuple):
    """A place that was visited: the number of what it is in, what is there, and what that comes to
    when members are compared."""

    place: Place
    holder: int
    value: Any
    content: Any

    def __repr__(self) -> str:
        return repr(self.place)


def _visits(state: State) -> list[_Visit]:
    holders: dict[int, int] = {}
    gathering = {id(tensor) for _, tensor in state.wrappers}
    keys = _Keys(state)
    visits = []
    for place, value in state.visited:
        holder = holders.setdefault(id(place.holder), len(holders))
        content = kept(value)
        if isinstance(place.holder, Leaf):
            content = None  # of gradients, programs see for themselves whether they are there
        elif isinstance(value, torch.Tensor):
            content = _look(value, value)
        elif isinstance(value, Tensor) and id(value) not in gathering:
            number = not isinstance(value._data, torch.Tensor)
            content = _Object(None, type(value)) if number else _look(value, value._data)
        elif isinstance(value, (set, frozenset)):
            content = type(value), keys.elements(value)
        elif not (value is NOTHING or is_value(content) or isinstance(content, Numbers)):
            content = _Object(state.number_of(id(value)), type(value))
        visits.append(_Visit(place, holder, value, content))
    return visits


def _look(tensor: Any, raw: torch.Tensor) -> _Tensor:
    return _Tensor(type(tensor), raw.dtype, raw.shape, raw.device, raw.requires_grad)


def _check_visits(ours: list[_Visit], theirs: list[_Visit], member: int) -> None:
    """Raise an error if what one member has is not what the other one has there."""
    for one, other in zip(ours, theirs):
        if one.holder != other.holder:
            raise _differ(f"member {member} has {other} where the first has {one}")
        _check_frozen(one.value, other.value, other.place, member)
        if not _are_same(one.content, other.content):
            words = _in_words(other, one, theirs), _in_words(one, other, ours)
            raise _differ(
                f"{other} is {words[0]} in member {member}, and {words[1]} in the first"
                f"{_advice(other.content)}"
            )
    if len(ours) != len(theirs):
        raise _differ_in_number([*map(str, ours)], [*map(str, theirs)], member)


def _check_frozen(one: Any, other: Any, place: Place, member: int) -> None:
    """Raise an error if a tensor requires gradients in one of two members."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return
    if one.requires_grad != other.requires_grad:
        who = (f"member {member}", "the first")
        raise _differ(
            f"{place} is frozen in {who[other.requires_grad]} and not in "
            f"{who[one.requires_grad]}; freeze it in all"
        )


def _are_same(one: Any, other: Any) -> bool:
    return same(one, other) or (isinstance(one, tuple) and not is_value(one) and one == other)


def _in_words(visit: _Visit, other: _Visit, visits: list[_Visit]) -> str:
    """What was found there; of an object in place of another, where it was before."""
    if isinstance(visit.content, _Tensor):
        return repr(visit.content)
    if isinstance(visit.content, Numbers):
        return "another NumPy array"
    if not isinstance(visit.content, _Object):
        return f"{visit.value!r:.80}"
    if not isinstance(other.content, _Object) or visit.content.kind is not other.content.kind:
        return f"a {visit.content.kind.__name__}"
    first = next(v for v in visits if v.content == visit.content)
    return "another one" if first is visit else f"the same as {first}"


def _advice(content: Any) -> str:
    if isinstance(content, Numbers):
        return ". Make it a tensor: torch.from_numpy(array)"
    return f". Make it a tensor: torch.tensor({content!r})" if isinstance(content, float) else ""
