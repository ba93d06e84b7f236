"""Changes in place: `x += y`, `x[i] = y`, `x.mul_(y)`.

A change is recorded as a new version of the tensor: the memory is written to, and the tensor's
history becomes that of the function which does not work in place. Histories that need the old value
notice when they are asked for gradients. Views share memory, so the change of a view is a change of
its base, and every other view of that base reads its history from the base when next used.
"""

from __future__ import annotations

from typing import Any

import torch

from tinygrad_ee559.errors import InPlaceError
from tinygrad_ee559.private import is_batched
from tinygrad_ee559.record import call
from tinygrad_ee559.rules.registry import RULES
from tinygrad_ee559.rules.shapes import written
from tinygrad_ee559.tape import RETAIN, Leaf
from tinygrad_ee559.tensor import Tensor, View, lift


def before_change(target: Tensor, name: str) -> Tensor:
    """The old version of `target`, with a copy of its value.

    Raises:
        InPlaceError: a leaf that requires gradients would change.
    """
    for tensor in _line(target):
        if isinstance(tensor.node, Leaf):
            what = "it" if tensor is target else "the tensor that it is a view of"
            raise InPlaceError(
                f"{name} would change a tensor in place, and {what} is a leaf that requires "
                "gradients; change it inside tinygrad_ee559.no_grad(), or make a new tensor"
            )
    data = target._data
    if is_batched(data):
        raise InPlaceError(
            f"{name} would change a tensor in place inside vmap, where that cannot be recorded; "
            "make a new tensor"
        )
    return lift(data.clone() if isinstance(data, torch.Tensor) else data, target.node)


def assign(target: Tensor, result: Tensor, name: str) -> Tensor:
    """Make `result` the new version of `target`, and of what `target` is a view of."""
    data = target._data
    if not isinstance(data, torch.Tensor):
        target._data, target.node = result._data, result.node
        return target
    if result.shape != data.shape:
        raise RuntimeError(
            f"{name}: the result has shape {list(result.shape)}, which does not fit into a tensor "
            f"of shape {list(data.shape)}"
        )
    if not torch.can_cast(result.dtype, data.dtype):
        raise RuntimeError(
            f"{name}: the result is {result.dtype}, which cannot be put into a {data.dtype}"
        )
    above = [lift(tensor._data, tensor.node) for tensor in _line(target)[1:]]
    with torch.no_grad():
        data.copy_(result.as_torch())
    _move(target, result.to(data.dtype).node)
    for old in above:
        assert isinstance(target, View)
        base = target.base
        strides = base._data.stride()
        changed = lift(target._data, target.node)
        _move(base, call(RULES[written], old, changed, target.view_of, strides).node)
        target = base
    return target


def _move(tensor: Tensor, node: Any) -> None:
    """Give a tensor another history; what retains its gradient goes along."""
    hooks = getattr(tensor.node, "hooks", None) or []
    if RETAIN in hooks:
        hooks.remove(RETAIN)
        if node is not None:
            node.hooks = [*(node.hooks or ()), RETAIN]
    tensor.node = node


def _line(tensor: Tensor) -> list[Tensor]:
    """A tensor, what it is a view of, what that is a view of, and so on."""
    line = [tensor]
    while isinstance(tensor, View):
        tensor = tensor.base
        line.append(tensor)
    return line
