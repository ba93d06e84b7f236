"""What the members of an ensemble have to have in common: all but the values of tensors."""

from __future__ import annotations

from collections.abc import Collection
from types import CodeType
from typing import Any

from tinygrad_ee559.compiling.places import Numbers, Place, is_value, same
from tinygrad_ee559.compiling.state import State
from tinygrad_ee559.errors import CaptureError


def check_alike(first: State, other: State, member: int) -> None:
    """Raise an error that names where two members differ in more than the values of tensors.

    Args:
        first: what the step of the first member can reach.
        other: what that of another one can.
        member: the other's number.

    Raises:
        CaptureError: one has something that the other has not, a number is another one, or an
            object or function another class or other code.
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


def _check_frozen(first: State, other: State, member: int) -> None:
    for (_, ours), (place, theirs) in zip(first.wrappers, other.wrappers):
        frozen = other.frozen[id(theirs)]
        if first.frozen[id(ours)] != frozen:
            who = (f"member {member}", "the first")
            raise _differ(
                f"{place} is frozen in {who[not frozen]} and not in {who[frozen]}; freeze it in all"
            )


def _scalars(state: State) -> list[tuple[Place, Any]]:
    return [(p, value) for p, value in state.values if is_value(value) or type(value) is Numbers]


def _differ(where: str) -> CaptureError:
    return CaptureError(f"the members of an ensemble may differ in tensors only: {where}")


def _only(who: str, paths: Collection[str]) -> str:
    return f"; only {who} has {', '.join(sorted(paths)[:3])}" if paths else ""


def _in_words(kind: Any) -> str:
    """A class, or the code of a function."""
    if isinstance(kind, CodeType):
        return f"{kind.co_name} of {kind.co_filename}, line {kind.co_firstlineno},"
    return str(getattr(kind, "__name__", kind))
