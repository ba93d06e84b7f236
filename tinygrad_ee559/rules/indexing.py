"""Functions that pick elements by index or mask, and those that put elements there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

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


@torch.overrides.wrap_torch_function(lambda x, index, value: (x, value))
def set_at(x: Any, index: Any, value: Any) -> Any:
    """A copy of `x` in which the elements at `index` are `value`."""
    changed = x.clone()
    changed[index] = value
    return changed


def _assigned(g: Any, shape: torch.Size) -> Any:
    """The gradient of an assigned value, which may have had more dimensions than its place."""
    extra = len(shape) - g.ndim if isinstance(shape, torch.Size) else 0
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

rule(torch.gather, lambda g, _y, x_shape, dim, index, _sparse_grad=False:
     g.new_zeros(x_shape).scatter_add(dim, index, g))
rule(torch.index_select, lambda g, _y, x_shape, dim, index:
     g.new_zeros(x_shape).index_add(dim, index, g))
rule(torch.scatter,
     lambda g, _y, _x, dim, index, _src=None, _value=None: g.scatter(dim, index, 0), None, None,
     lambda g, _y, _x, dim, index, _src=None, _value=None: g.gather(dim, index))
rule(torch.scatter_add,
     lambda g, _y, _x, _dim, _index, _src: g, None, None,
     lambda g, _y, _x, dim, index, _src: g.gather(dim, index))
rule(torch.index_add,
     lambda g, _y, _x, _dim, _index, _source, _alpha=1: g, None, None,
     lambda g, _y, _x, dim, index, source_shape, alpha=1:
         g.index_select(dim, index).reshape(source_shape) * alpha)
rule(torch.index_copy,
     lambda g, _y, _x, dim, index, _source: g.index_fill(dim, index, 0), None, None,
     lambda g, _y, _x, dim, index, source_shape:
         g.index_select(dim, index).reshape(source_shape))
rule(torch.index_fill,
     lambda g, _y, _x, dim, index, _value: g.index_fill(dim, index, 0), None, None,
     lambda g, _y, _x, dim, index, _value: (g - g.index_fill(dim, index, 0)).sum())

# ------------------------------------------------------------- reductions at an index

rule(torch.scatter_reduce,
     lambda g, y, x, dim, index, src, reduce, include_self=True:
         _scatter_reduce_gradients(g, y, x, dim, index, src, reduce, include_self)[0], None, None,
     lambda g, y, x, dim, index, src, reduce, include_self=True:
         _scatter_reduce_gradients(g, y, x, dim, index, src, reduce, include_self)[1])


def _scatter_reduce_gradients(
    g: Any, y: Any, x: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool
) -> tuple[Any, Any]:
    """Those of x and of src.

    `own` and `sent` are 1 for the elements that count in the result at their place: all in a sum
    or a mean, only those that equal it in an extreme. Except in a sum, they share the gradient.
    In a product they are the product of the others there.
    """
    if reduce in ("sum", "mean"):
        own, sent = torch.ones_like(x), torch.ones_like(src)
    elif reduce == "prod":
        own, sent = _other_factors(y, x, dim, index, src, include_self)
    else:
        own, sent = (x == y).to(y.dtype), (src == y.gather(dim, index)).to(y.dtype)
    if not include_self:
        own = own.scatter(dim, index, 0)
    if reduce not in ("sum", "prod"):
        g = g / own.scatter_add(dim, index, sent)
    return g * own, g.gather(dim, index) * sent


def _other_factors(
    y: Any, x: Any, dim: int, index: Any, src: Any, include_self: bool
) -> tuple[Any, Any]:
    """Of a product at an index, what multiplies every element of x and of src.

    That is the product over the element, or with 1 instead of the only zero.
    """
    factor = torch.where(x == 0, 1, x)
    own = factor.scatter_reduce(dim, index, src, "prod") / factor
    zeros = torch.zeros_like(x).scatter_add(dim, index, (src == 0).to(x.dtype))
    alone = (src == 0) & (zeros.gather(dim, index) == 1)
    others = x.scatter_reduce(
        dim, index, torch.where(alone, 1, src), "prod", include_self=include_self
    )
    sent = y.gather(dim, index) / torch.where(src == 0, 1, src)
    return own, torch.where(alone, others.gather(dim, index), sent)


@composed(torch.index_reduce)
def _index_reduce(
    input: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True
) -> Any:
    sizes = [-1 if d == dim % input.ndim else 1 for d in range(input.ndim)]
    places = index.reshape(sizes).expand(source.shape)
    return torch.scatter_reduce(input, dim, places, source, reduce, include_self=include_self)


@composed(torch.segment_reduce)
def _segment_reduce(
    data: Any, reduce: str, *, lengths: Any = None, indices: Any = None, offsets: Any = None,
    axis: int = 0, unsafe: bool = False, initial: float | None = None,
) -> Any:  # fmt: skip
    """Reductions of successive stretches along `axis`; what is behind the last one is dropped."""
    lengths = offsets.diff() if lengths is None else lengths
    ends = lengths.cumsum(-1)
    numbers = torch.arange(data.shape[axis], device=ends.device).expand(*ends.shape[:-1], -1)
    index = torch.searchsorted(ends, numbers.contiguous(), right=True)
    trailing = (1,) * (data.ndim - axis - 1)
    name, start = _SEGMENT_REDUCTIONS[reduce]
    shape = (*data.shape[:axis], ends.shape[-1] + 1, *data.shape[axis + 1 :])
    y = torch.scatter_reduce(
        data.new_full(shape, start if initial is None else initial),
        axis, index.reshape(index.shape + trailing).expand(data.shape), data, name,
    ).narrow(axis, 0, ends.shape[-1])  # fmt: skip
    if reduce == "mean":
        y = y / lengths.clamp(min=0 if initial is None else 1).reshape(lengths.shape + trailing)
    return y


_SEGMENT_REDUCTIONS = {
    "sum": ("sum", 0.0), "mean": ("sum", 0.0), "prod": ("prod", 1.0),
    "max": ("amax", -math.inf), "min": ("amin", math.inf),
}  # fmt: skip

# ------------------------------------------------------------ anywhere in the tensor

rule(torch.take, lambda g, _y, x_shape, index:
     g.new_zeros(x_shape).put(index, g, accumulate=True))
rule(torch.put,
     lambda g, _y, _x, index, _source, accumulate=False:
         g if accumulate else g.put(index, g.new_zeros(index.shape)), None,
     lambda g, _y, _x, index, source_shape, _accumulate=False:
         g.take(index).reshape(source_shape))
for _index in (aten.index, aten._unsafe_index):
    rule(_index, lambda g, _y, x_shape, indices:
         aten.index_put(g.new_zeros(x_shape), indices, g, accumulate=True))
for _index_put in (torch.index_put, aten.index_put, aten._unsafe_index_put):
    rule(_index_put,
         lambda g, _y, _x, indices, _values, accumulate=False:
             g if accumulate else aten.index_put(g, indices, g.new_zeros(())), None,
         lambda g, _y, _x, indices, _values, _accumulate=False: aten.index(g, indices))

# ------------------------------------------------------------------ by a mask

rule(torch.masked_select, lambda g, _y, x_shape, mask: _masked_select_gradient(g, x_shape, mask))
rule(torch.masked_fill,
     lambda g, _y, _x, mask, _value: g.masked_fill(mask, 0), None,
     lambda g, _y, _x, mask, _value: g.masked_fill(torch.logical_not(mask), 0).sum())
rule(torch.masked_scatter,
     lambda g, _y, _x, mask, _source: g.masked_fill(mask, 0), None,
     lambda g, _y, _x, mask, source_shape: _masked_scatter_gradient(g, mask, source_shape))
rule(torch.fill, lambda g, _y, _x, _value: torch.zeros_like(g),
                 lambda g, _y, _x, _value: g.sum())
rule(aten.zero, lambda g, _y, _x: torch.zeros_like(g))
rule(aten.copy, lambda g, _y, _x, _src, _non_blocking=False: torch.zeros_like(g),
                lambda g, _y, _x, _src, _non_blocking=False: g)


def _masked_select_gradient(g: Any, shape: torch.Size, mask: Any) -> Any:
    sizes = torch.broadcast_shapes(shape, mask.shape)  # type: ignore[no-untyped-call]
    return g.new_zeros(sizes).masked_scatter(mask, g)


def _masked_scatter_gradient(g: Any, mask: Any, shape: torch.Size) -> Any:
    """That of the source, which has been read from its start as far as the mask had use for it."""
    used = g.masked_select(mask)
    return F.pad(used, (0, shape.numel() - used.numel())).reshape(shape)


# ----------------------------------------------------------------- tables of vectors

rule(F.embedding, None,
     lambda g, _y, input, weight_shape, padding_idx=None, _max_norm=None, _norm_type=2.0,
     scale_grad_by_freq=False, _sparse=False:
         _embedding_gradient(g, input, weight_shape, padding_idx, scale_grad_by_freq))
rule(aten.embedding_dense_backward,
     lambda g, _y, _g, indices, _rows, padding_idx, _scale_grad_by_freq:
         F.embedding(indices, g).masked_fill((indices == padding_idx).unsqueeze(-1), 0))
constant(F.one_hot)


def _embedding_gradient(
    g: Any, input: Any, shape: torch.Size, padding_idx: int | None, scale_grad_by_freq: bool
) -> Any:
    """Every row of the table gets the sum of what came from its uses; that of padding gets 0."""
    rows = shape[0]
    padding = -1 if padding_idx is None else padding_idx % rows
    return aten.embedding_dense_backward(g, input, rows, padding, scale_grad_by_freq)
