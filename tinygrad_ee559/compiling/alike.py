"""What the members of an ensemble have to have in common: all but the values of tensors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import CodeType
from typing import Any

from tinygrad_ee559.compiling.places import SCALARS, Numbers, Place, is_value, same
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
            f"{_only('the first', paths[0] - paths[1])}"
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
    ours, theirs = _placed(first), _placed(other)
    for (place, key, earlier), (elsewhere, name, before) in zip(ours, theirs):
        if key != name:
            raise _differ(
                f"{elsewhere} of member {member} stands where the first has {place}; fill dicts in "
                "the same order"
            )
        if earlier != before:
            one, two = (
                "another one" if i is None else f"the same as {placed[i][0]}"
                for placed, i in ((theirs, before), (ours, earlier))
            )
            raise _differ(f"{elsewhere} is {one} in member {member}, and {two} in the first")


def _placed(state: State) -> list[tuple[Place, Any, int | None]]:
    """All places of a member, with what they are called there and the number of an earlier one that
    has the same object, None if none has."""
    contents = [*state.wrappers, *state.values]
    objects = [(place, value) for place, value in contents if not _is_value(value)]
    placed: list[tuple[Place, Any, int | None]] = []
    firsts: dict[int, int] = {}
    for i, (place, value) in enumerate(objects):
        earlier = firsts.setdefault(id(value), i)
        placed.append((place, _key(place, state), None if earlier == i else earlier))
    others = [place for place, value in contents if _is_value(value)]
    return placed + [(place, _key(place, state), None) for place in (*others, *state.tensors)]


def _key(place: Place, state: State) -> Any:
    """The key of a place; that of an object, or its id, stands for the how manieth it is."""
    key = place.key
    number = state.number_of(key if isinstance(key, int) else id(key))
    if number is not None:
        return "object", number
    return key if isinstance(key, SCALARS) else getattr(key, "__name__", type(key))


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


def _in_words(kind: Any) -> str:
    """A class, or the code of a function."""
    if isinstance(kind, CodeType):
        return f"{kind.co_name} of {kind.co_filename}, line {kind.co_firstlineno},"
    return str(getattr(kind, "__name__", kind))
