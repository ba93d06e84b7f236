"""Histories: what tensors were computed from, as far as programs have to know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tinygrad_ee559.tape import Leaf, Node, topological
from tinygrad_ee559.tensor import Tensor


def has_tape(value: Any) -> bool:
    """Whether it is a tensor that was computed."""
    return isinstance(value, Tensor) and value.node is not None and not isinstance(value.node, Leaf)


def can_go_backward(result: Tensor) -> bool:
    """Whether gradients can be asked of a result: something saved for that is still there."""
    if result.node is None or isinstance(result.node, Leaf):
        return False
    keeping = [n for n in topological([result.node]) if isinstance(n, Node) and n.plan.keeps]
    if keeping:
        return any(node.saved is not None for node in keeping)
    return not hasattr(result.node, "flow")  # which a backward pass leaves in a result


def has_new_history(tensor: Tensor, start: int) -> bool:
    """Whether gradients could go through a history that a tensor got after that node."""
    return has_tape(tensor) and tensor.node.order < start and can_go_backward(tensor)


@contextmanager
def noting(nodes: Iterable[Any], arrived: set[int]) -> Iterator[None]:
    """Inside, it is noted to which nodes gradients come, by their ids."""
    hooks = [(node, lambda _g, node=node: arrived.add(id(node))) for node in nodes]
    for node, hook in hooks:
        if node.hooks is None:
            node.hooks = []
        node.hooks.append(hook)
    try:
        yield
    finally:
        for node, hook in hooks:
            node.hooks.remove(hook)
            node.hooks = node.hooks or None
