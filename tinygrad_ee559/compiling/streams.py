"""Streams: arguments of many calls, stacked, and the results of many calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tinygrad_ee559.compiling.memory import folds
from tinygrad_ee559.errors import CaptureError
from tinygrad_ee559.private import tree_flatten, tree_map, tree_unflatten
from tinygrad_ee559.tensor import Tensor, lift


def as_tensors(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments, however nested, with tensors for arrays.

    Raises:
        CaptureError: something in them cannot be a stack, such as a number.
    """

    def tensor(value: Any, argument: int) -> Any:
        if isinstance(value, (Tensor, torch.Tensor)):
            return value
        try:
            found = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            found = None
        if found is None or not found.ndim:
            raise CaptureError(
                f"argument {argument} of many calls at once is {args[argument]!r:.80}, and has to "
                "be a tensor, or a list, tuple or dict of tensors, in which the first dimension "
                "counts the calls; stack what is different in each of them, and have the function "
                "itself hold what is not"
            )
        return found

    if _are_tensors(args):
        return args
    return tuple(tree_map(lambda v, i=i: tensor(v, i), a) for i, a in enumerate(args))


def _are_tensors(args: Any) -> bool:
    """Whether arguments, or results, are tensors and nothing more, as most are; torch's functions
    for what is nested take ten times as long."""
    return type(args) is tuple and all(isinstance(a, (Tensor, torch.Tensor)) for a in args)


def _leaves(args: Any) -> Sequence[Any]:
    return args if _are_tensors(args) else tree_flatten(args)[0]


def _raw(leaf: Any) -> torch.Tensor:
    return leaf.as_torch() if isinstance(leaf, Tensor) else leaf


def _mapped(function: Callable[[Any], Any], args: Any) -> Any:
    """A function of each tensor among arguments."""
    return tuple(map(function, args)) if _are_tensors(args) else tree_map(function, args)


def streams_of(args: Any, lead: tuple[str, ...]) -> list[torch.Tensor]:
    """The torch tensors among the arguments.

    Args:
        args: tensors, however nested.
        lead: what the first dimensions stand for, which have to be alike.

    Raises:
        ValueError: they are not.
        CaptureError: one of them requires gradients.
    """
    leaves = _leaves(args)
    streams = [*map(_raw, leaves)]
    if any(isinstance(leaf, Tensor) and leaf.node is not None for leaf in leaves):
        raise CaptureError(
            "stacked arguments cannot require gradients or have a history, as their parts would "
            "not pass gradients on; pass tensor.detach()"
        )
    leads = {tuple(stream.shape[: len(lead)]) for stream in streams}
    if len(leads) != 1 or len(leads.pop()) != len(lead):
        raise ValueError(
            f"tensors are expected whose first dimensions are those of the {' and '.join(lead)}, "
            f"the same for all; these have the shapes {[list(s.shape) for s in streams]}"
        )
    if 0 in streams[0].shape[: len(lead)]:
        shapes = [list(stream.shape) for stream in streams]
        raise ValueError(f"there are no {' or '.join(lead)} in tensors of the shapes {shapes}")
    return streams


def contiguous(args: Any) -> Any:
    """The same arguments, of which those that do not lie in memory step after step are copied."""

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            return lift(value.as_torch().contiguous(), None)
        return value.contiguous()

    if all(_raw(leaf).is_contiguous() for leaf in _leaves(args)):
        return args
    with torch.inference_mode(False):  # in which copies do not count their changes
        return _mapped(copied, args)


def give_back(originals: Sequence[torch.Tensor], copies: Sequence[torch.Tensor]) -> None:
    """Copy back what was changed in place, if it is a copy."""
    for original, copy in zip(originals, copies):
        if copy is not original and copy._version:
            if folds(original):
                raise hidden_by_copies()
            original.copy_(copy)


def hidden_by_copies() -> CaptureError:
    """Says that steps would not see what others change, as they are given parts of a copy."""
    return CaptureError(
        "a loop was given a tensor that does not lie in memory step after step, and its steps "
        "change memory that it shares with another one, or that several steps share; give it a "
        "copy: tensor.clone()"
    )


def entry(args: Any, *index: int) -> Any:
    """The part of stacked arguments that one call gets."""

    def part(value: Any) -> Any:
        if isinstance(value, Tensor):
            return lift(value._data[index], None)
        return value[index] if isinstance(value, torch.Tensor) else value

    return _mapped(part, args)


def as_stack(results: Any, dims: int = 1) -> Any:
    """Results as a stack of one call, with so many dimensions more; histories are left behind."""

    def stack(value: Any) -> Any:
        if isinstance(value, Tensor):
            return lift(stack(value._data), None)
        if not isinstance(value, torch.Tensor):
            return value
        return value.reshape(*[1] * dims, *value.shape)

    return tree_map(stack, results)


def joined(parts: list[Any], dim: int = 0) -> Any:
    """Stacks of results, one after the other along a dimension: that of steps, or of members.

    Raises:
        CaptureError: they are not alike.
    """
    if _are_tensors((*parts,)):
        return _along(0, parts, dim)
    flat = [tree_flatten(part) for part in parts]
    for i, (_, structure) in enumerate(flat):
        if structure != flat[0][1]:
            raise _differ("they are nested", f"{flat[0][1]}", f"{structure}", i, dim)
    columns = zip(*(leaves for leaves, _ in flat))
    return tree_unflatten([_along(k, column, dim) for k, column in enumerate(columns)], flat[0][1])


def _along(k: int, column: Sequence[Any], dim: int) -> Any:
    looks = [_look(part, dim) for part in column]
    for i, look in enumerate(looks):
        if look != looks[0]:
            raise _differ(f"result {k} is", looks[0], look, i, dim)
    first = column[0]
    if isinstance(first, Tensor):
        raws = [part._data for part in column]
        return lift(torch.cat(raws, dim) if _is_stack(first) else raws[0], None)
    return torch.cat([*column], dim) if _is_stack(first) else first


def _is_stack(value: Any) -> bool:
    """Whether it is a tensor, and no number, be it a wrapped one."""
    return isinstance(value._data if isinstance(value, Tensor) else value, torch.Tensor)


def _look(part: Any, dim: int) -> str:
    """What one entry of a stack is, in words."""
    kind = "Tensor" if isinstance(part, Tensor) else "torch.Tensor"
    if _is_stack(part):
        return f"a {kind} of shape {list(part.shape[dim + 1 :])}"
    return f"a number in a {kind}" if isinstance(part, Tensor) else "no tensor"


def _differ(what: str, first: str, other: str, i: int, dim: int) -> CaptureError:
    """Says which result differs where."""
    which = ("step", "member")[dim]
    return CaptureError(
        f"results are stacked, and have to be alike for all {which}s; {what} {first} in {which} 0 "
        f"and {other} in {which} {i}. Return tensors of one shape, or call the function in a loop "
        "of your own"
    )
