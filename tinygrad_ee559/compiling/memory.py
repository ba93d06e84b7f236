"""Memory: which inputs a graph changes, and which tensors share memory."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import fx

from tinygrad_ee559.compiling.private import declared
from tinygrad_ee559.errors import CaptureError


def written(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> list[int]:
    """Which inputs a graph changes in place, itself or through views of them.

    Raises:
        CaptureError: one of them shares memory with another input.
    """
    placeholders = graph.graph.find_nodes(op="placeholder")
    #: For each node the placeholders that it may be views of.
    bases: dict[fx.Node, set[fx.Node]] = {node: {node} for node in placeholders}
    changed: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.target is operator.getitem:  # one of several views
            bases[node] = bases[node.args[0]]
            continue
        found = bases.setdefault(node, set())
        for argument, alias in declared(node.target, node.args, node.kwargs):
            items: list[fx.Node] = []
            fx.node.map_arg(argument, items.append)
            reached = set().union(*(bases[item] for item in items))
            found |= reached
            if alias.is_write:
                changed |= reached
    numbers = [i for i, node in enumerate(placeholders) if node in changed]
    pair = overlapping(numbers, inputs)
    if pair is not None:
        one, other = (list(inputs[i].shape) for i in pair)
        raise CaptureError(
            f"a tensor of shape {one} is changed in place, and shares memory with another one, of "
            f"shape {other}, that is used too; reach both through one tensor, or copy one"
        )
    return numbers


def overlapping(
    written: Collection[int], tensors: Sequence[torch.Tensor]
) -> tuple[int, int] | None:
    """A tensor that is written, and another one that shares memory with it, if there are any."""
    for i, j in neighbors(tensors):
        if (i in written or j in written) and share(tensors[i], tensors[j]):
            return (i, j) if i in written else (j, i)
    return None


def neighbors(tensors: Sequence[torch.Tensor]) -> Iterator[tuple[int, int]]:
    """Pairs of tensors between whose first and last numbers there is memory of both."""
    starts = [(tensor.data_ptr(), i) for i, tensor in enumerate(tensors)]
    extents = sorted((start, start + reach(tensors[i]), i) for start, i in starts)
    extents = [(start, end, i) for start, end, i in extents if start < end]
    for k, (_, end, i) in enumerate(extents):
        for m in range(k + 1, len(extents)):
            start, _, j = extents[m]
            if start >= end:
                break
            yield i, j


def share(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have a number in common: where they lie by turns, as the columns of a
    matrix do, they have none."""
    start, begin = one.data_ptr(), other.data_ptr()
    if max(start, begin) >= min(start + reach(one), begin + reach(other)):
        return False
    step = math.gcd(*(s for t in (one, other) for n, s in zip(t.shape, t.stride()) if n > 1))
    if not step or one.dtype != other.dtype or (start - begin) % one.itemsize:
        return True
    if (start - begin) % (step * one.itemsize):
        return False
    if start > begin:
        return share(other, one)
    taken = _spots(one)[(begin - start) // one.itemsize :]
    count = min(len(taken), len(spots := _spots(other)))
    return bool((taken[:count] & spots[:count]).any())


def _spots(tensor: torch.Tensor) -> torch.Tensor:
    """Which of the numbers from a tensor's first to its last are its own."""
    spots = torch.zeros(reach(tensor) // tensor.itemsize, dtype=torch.bool)
    sizes = [n if stride else 1 for n, stride in zip(tensor.shape, tensor.stride())]
    spots.as_strided(sizes, tensor.stride()).fill_(True)
    return spots


def reach(tensor: torch.Tensor) -> int:
    """How many bytes there are from a tensor's first number to the end of its last."""
    if not tensor.numel():
        return 0
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride()))
    return int(last + 1) * tensor.itemsize


def folds(tensor: torch.Tensor) -> bool:
    """Whether numbers of a tensor share memory."""
    return tensor.numel() > int(_spots(tensor).sum())


def borders(extents: Iterable[tuple[int, int]]) -> list[int]:
    """Where memory begins and ends that is in any of these, by turns."""
    merged: list[int] = []
    for start, end in sorted(extents):
        if merged and start <= merged[-1]:
            merged[-1] = max(merged[-1], end)
        elif start < end:
            merged += start, end
    return merged


def are_apart(extents: Iterable[tuple[int, int]]) -> bool:
    """Whether no two share memory."""
    return all(one[1] <= other[0] for one, other in pairwise(sorted(extents)))
