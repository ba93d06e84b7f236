"""Functions that pick elements by index or mask, and those that put elements there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tinygrad_ee559.errors import RuleError
from tinygrad_ee559.rules.registry import composed, constant, rule, view

aten = torch.ops.aten

# ------------------------------------------------------------------ x[index]
#
# Picking and putting back are each other's gradients.


@torch.overrides.wrap_torch_function(lambda values, *_: (values,))
def put_back_at(values: Any, index: Any, shape: torch.Size) -> Any:
    """Zeros of `shape` with `values` added where `index` picks them from."""
    zeros = values.new_zeros(shape)
    index = _entries(index)
    if all(map(_is_basic, index)):
        zeros[index] = values
    else:
        view, picks = _split(index, len(shape))
        aten.index_put_(zeros[view], picks, values, accumulate=True)
    return zeros


view(
    torch.Tensor.__getitem__,
    lambda g, _y, x_shape, index: put_back_at(g, index, x_shape),
)
rule(put_back_at, lambda g, _y, _values, index, _shape: g[index])


@torch.overrides.wrap_torch_function(lambda x, _index, value: (x, value))
def set_at(x: Any, index: Any, value: Any) -> Any:
    """A copy of `x` in which the elements at `index` are `value`."""
    changed = x.clone()
    changed[index] = value
    return changed


def _assigned(g: Any, shape: torch.Size) -> Any:
    """The gradient of an assigned value, which may have had more dimensions than its place."""
    extra = len(shape) - g.ndim
    return g.reshape((1,) * extra + tuple(g.shape)) if extra > 0 else g


rule(
    set_at,
    lambda g, _y, _x, index, _value: set_at(g, index, 0),
    None,
    lambda g, _y, _x, index, value_shape: _assigned(g[index], value_shape),
)


def _entries(index: Any) -> tuple[Any, ...]:
    """An index as a tuple. A short list with more than numbers in it is one to torch, too."""
    if isinstance(index, tuple):
        return index
    if isinstance(index, list) and len(index) < 32 and not all(map(_is_number, index)):
        return tuple(index)
    return (index,)


def _is_number(item: Any) -> bool:
    return isinstance(item, (int, np.generic))


def _is_basic(item: Any) -> bool:
    """Whether an entry of an index picks no element twice, and alone gives a view."""
    if item is None or item is Ellipsis or isinstance(item, (slice, np.integer)):
        return True
    if isinstance(item, (torch.Tensor, np.ndarray)):
        return not item.ndim and torch.as_tensor(item).dtype not in (torch.bool, torch.uint8)
    return isinstance(item, int) and not isinstance(item, bool)


def _split(index: tuple[Any, ...], ndim: int) -> tuple[tuple[Any, ...], list[Any]]:
    """The index of a view and the tensors that pick from it: x[index] is x[view][picks].

    A mask covers as many dimensions as it has; one without any covers a new dimension of size 1.
    Among the tensors, None stands for all of a dimension.
    """
    items = [item if _is_basic(item) else _as_index(item) for item in index]
    covered = [_covers(item) for item in items]
    view: list[Any] = []
    picks: list[Any] = []
    for item, dims in zip(items, covered):
        if isinstance(item, torch.Tensor) and not _is_basic(item):
            view.extend([slice(None)] * dims or [None])
            picks.append(item if item.ndim else item.reshape(1))
            continue
        view.append(item)
        if item is Ellipsis:
            picks.extend([None] * (ndim - sum(covered)))
        elif item is None or isinstance(item, slice):
            picks.append(None)
    return tuple(view), picks


def _as_index(item: Any) -> torch.Tensor:
    """An entry as a tensor of integers or a mask; an empty list picks nothing."""
    tensor = torch.as_tensor(item)
    return tensor.long() if tensor.is_floating_point() else tensor


def _covers(item: Any) -> int:
    """How many dimensions of x an entry of an index is about."""
    if item is None or item is Ellipsis:
        return 0
    if isinstance(item, torch.Tensor) and item.dtype in (torch.bool, torch.uint8):
        return item.ndim
    return 1


# -------------------------------------------------------------- along one dimension

rule(
    torch.gather,
    lambda g, _y, x_shape, dim, index, _sparse_grad=False: (
        g.new_zeros(x_shape).scatter_add(dim, index, g)
    ),
)
rule(
    torch.index_select,
    lambda g, _y, x_shape, dim, index: g.new_zeros(x_shape).index_add(dim, index, g),
)
rule(
    torch.scatter,
    lambda g, _y, _x, dim, index, _src=None, _value=None: g.scatter(dim, index, 0),
    None,
    None,
    lambda g, _y, _x, dim, index, _src=None, _value=None: g.gather(dim, index),
)
rule(
    torch.scatter_add,
    lambda g, _y, _x, _dim, _index, _src: g,
    None,
    None,
    lambda g, _y, _x, dim, index, _src: g.gather(dim, index),
)
rule(
    torch.index_add,
    lambda g, _y, _x, _dim, _index, _source, _alpha=1: g,
    None,
    None,
    lambda g, _y, _x, dim, index, source_shape, alpha=1: (
        g.index_select(dim, index).reshape(source_shape) * alpha
    ),
)
rule(
    torch.index_copy,
    lambda g, _y, _x, dim, index, _source: g.index_fill(dim, index, 0),
    None,
    None,
    lambda g, _y, _x, dim, index, source_shape: g.index_select(dim, index).reshape(source_shape),
)
rule(
    torch.index_fill,
    lambda g, _y, _x, dim, index, _value: g.index_fill(dim, index, 0),
    None,
    None,
    lambda g, _y, _x, dim, index, _value: (g - g.index_fill(dim, index, 0)).sum(),
)


@composed(torch.take_along_dim)
def _take_along_dim(input: Any, indices: Any, dim: int | None = None) -> Any:
    """Like gather, but the other dimensions broadcast; of all elements if `dim` is None."""
    if dim is None:
        return torch.take_along_dim(input.flatten(), indices.flatten(), 0)

    from_start = indices + input.shape[dim] * (indices < 0)
    lines, picks = input.movedim(dim, -1), from_start.movedim(dim, -1)
    sizes = torch.broadcast_shapes(lines.shape[:-1], picks.shape[:-1])  # type: ignore[no-untyped-call]
    lines, picks = lines.expand(*sizes, -1), picks.expand(*sizes, -1)
    return torch.gather(lines, -1, picks).movedim(-1, dim)


# ------------------------------------------------------------- reductions at an index


def _scatter_reduce_gradients(
    g: Any, y: Any, x: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool
) -> tuple[Any, Any]:
    """Those of x and of src.

    `own` and `sent` are 1 for the elements that count in the result at their place: all in a sum
    or a mean, only those that equal it in an extreme. Except in a sum, they share the gradient.
    """
    if reduce in ("sum", "mean"):
        own, sent = torch.ones_like(x), torch.ones_like(src)
    elif reduce in ("amax", "amin"):
        own, sent = (x == y).to(y.dtype), (src == y.gather(dim, index)).to(y.dtype)
    else:
        raise RuleError(f"torch.scatter_reduce: no gradient is defined for reduce={reduce!r}")
    if not include_self:
        own = own.scatter(dim, index, 0)
    if reduce != "sum":
        g = g / own.scatter_add(dim, index, sent)
    return g * own, g.gather(dim, index) * sent


rule(
    torch.scatter_reduce,
    lambda g, y, x, dim, index, src, reduce, include_self=True: (
        _scatter_reduce_gradients(g, y, x, dim, index, src, reduce, include_self)[0]
    ),
    None,
    None,
    lambda g, y, x, dim, index, src, reduce, include_self=True: (
        _scatter_reduce_gradients(g, y, x, dim, index, src, reduce, include_self)[1]
    ),
)

# ------------------------------------------------------------ anywhere in the tensor

rule(
    torch.take,
    lambda g, _y, x_shape, index: g.new_zeros(x_shape).put(index, g, accumulate=True),
)
rule(
    torch.put,
    lambda g, _y, _x, index, _source, accumulate=False: (
        g if accumulate else g.put(index, g.new_zeros(index.shape))
    ),
    None,
    lambda g, _y, _x, index, source_shape, _accumulate=False: g.take(index).reshape(source_shape),
)
rule(
    torch.index_put,
    lambda g, _y, _x, indices, _values, accumulate=False: (
        g if accumulate else g.index_put(indices, g.new_zeros(()))
    ),
    None,
    lambda g, _y, _x, indices, _values, _accumulate=False: g[tuple(indices)],
)

# ------------------------------------------------------------------ by a mask


def _masked_select_gradient(g: Any, shape: torch.Size, mask: Any) -> Any:
    sizes = torch.broadcast_shapes(shape, mask.shape)  # type: ignore[no-untyped-call]
    return g.new_zeros(sizes).masked_scatter(mask, g)


def _masked_scatter_gradient(g: Any, mask: Any, shape: torch.Size) -> Any:
    """That of the source, which has been read from its start as far as the mask had use for it."""
    used = g.masked_select(mask)
    return F.pad(used, (0, shape.numel() - used.numel())).reshape(shape)


rule(torch.masked_select, lambda g, _y, x_shape, mask: _masked_select_gradient(g, x_shape, mask))
rule(
    torch.masked_fill,
    lambda g, _y, _x, mask, _value: g.masked_fill(mask, 0),
    None,
    lambda g, _y, _x, mask, _value: g.masked_fill(torch.logical_not(mask), 0).sum(),
)
rule(
    torch.masked_scatter,
    lambda g, _y, _x, mask, _source: g.masked_fill(mask, 0),
    None,
    lambda g, _y, _x, mask, source_shape: _masked_scatter_gradient(g, mask, source_shape),
)

# ----------------------------------------------------------------- tables of vectors


def _embedding_gradient(
    g: Any, input: Any, shape: torch.Size, padding_idx: int | None, scale_grad_by_freq: bool
) -> Any:
    """Every row of the table gets the sum of what came from its uses; that of padding gets 0."""
    rows = shape[0]
    padding = -1 if padding_idx is None else padding_idx % rows
    return aten.embedding_dense_backward(g, input, rows, padding, scale_grad_by_freq)


rule(
    F.embedding,
    None,
    lambda g, _y, input, weight_shape, padding_idx=None, _max_norm=None, _norm_type=2.0,
    scale_grad_by_freq=False, _sparse=False: (
        _embedding_gradient(g, input, weight_shape, padding_idx, scale_grad_by_freq)
    ),
)  # fmt: skip
rule(
    aten.embedding_dense_backward,
    lambda g, _y, _g, indices, _rows, padding_idx, _scale_grad_by_freq: (
        F.embedding(indices, g).masked_fill((indices == padding_idx).unsqueeze(-1), 0)
    ),
)
constant(F.one_hot)
