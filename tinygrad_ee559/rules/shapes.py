"""Functions that change the shape, the order or the type of elements, and not their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tinygrad_ee559.errors import NotDifferentiableError
from tinygrad_ee559.rules.registry import alias, composed, constant, rule, view

aten = torch.ops.aten

# ------------------------------------------------- the same elements, another shape

view(torch.reshape,   lambda g, _y, x_shape, _shape: g.reshape(x_shape))
view(torch.flatten,   lambda g, _y, x_shape, _start_dim=0, _end_dim=-1: g.reshape(x_shape))
view(torch.squeeze,   lambda g, _y, x_shape, _dim=None: g.reshape(x_shape))
view(torch.unsqueeze, lambda g, _y, x_shape, _dim: g.reshape(x_shape))
view(torch.Tensor.view,   lambda g, _y, x_shape, size: _view_gradient(g, x_shape, size))
view(torch.Tensor.expand, lambda g, _y, x_shape, *_size: g.sum_to_size(x_shape))
rule(aten._unsafe_view,   lambda g, _y, x_shape, _size: g.reshape(x_shape))


def _view_gradient(g: Any, shape: torch.Size, size: Any) -> Any:
    if isinstance(size, torch.dtype):
        raise NotDifferentiableError(
            f"view({size}) reads the same bytes as other numbers, which has no gradient; "
            f"to({size}) converts the values"
        )
    return g.reshape(shape)


# ---------------------------------------------------------------------- another order

view(torch.transpose, lambda g, _y, _x, dim0, dim1: g.transpose(dim0, dim1))
view(torch.t,         lambda g, _y, _x: g.t())
view(torch.permute,   lambda g, _y, _x, dims: g.permute(_inverse(dims)))


def _inverse(dims: Sequence[int]) -> list[int]:
    """The permutation that undoes `dims`."""
    return sorted(range(len(dims)), key=lambda i: dims[i] % len(dims))


rule(torch.flip, lambda g, _y, _x, dims: g.flip(dims))
rule(torch.roll, lambda g, _y, _x, shifts, dims=():
     g.roll(-shifts if isinstance(shifts, int) else [-shift for shift in shifts], dims))

# ------------------------------------------------------------------ joining, splitting

rule(torch.Tensor.repeat, lambda g, _y, x_shape, repeats: _repeat_gradient(g, x_shape, repeats))
rule(torch.cat,           lambda g, _y, tensors_shape, dim=0: _cat_gradient(g, tensors_shape, dim))
rule(torch.stack,         lambda g, _y, _tensors, dim=0: g.unbind(dim))
alias(torch.cat, torch.concat, torch.concatenate)

view(torch.split,            lambda g, _y, _x, _split_size_or_sections, dim=0: torch.cat(g, dim))
view(torch.split_with_sizes, lambda g, _y, _x, _split_sizes, dim=0: torch.cat(g, dim))
view(torch.unbind,           lambda g, _y, _x, dim=0: torch.stack(g, dim))
view(torch.tensor_split, lambda g, _y, _x, _indices_or_sections=None, dim=0, _indices=None,
     _sections=None: torch.cat(g, dim))


def _repeat_gradient(g: Any, shape: torch.Size, repeats: Sequence[int]) -> Any:
    """The sum over all copies, which are put on dimensions of their own."""
    sizes = (1,) * (len(repeats) - len(shape)) + shape
    pairs = [n for pair in zip(repeats, sizes) for n in pair]
    return g.reshape(pairs).sum(tuple(range(0, len(pairs), 2))).reshape(shape)


def _cat_gradient(g: Any, shapes: list[torch.Size], dim: int) -> Any:
    """A piece for every tensor. Beside matrices, torch takes an empty vector for nothing at all."""
    return g.split([shape[dim] if len(shape) == g.ndim else 0 for shape in shapes], dim)


# ------------------------------------------------------ parts, and their inverses

_LAST = torch.iinfo(torch.int64).max

view(aten.slice, lambda g, _y, x_shape, dim=0, start=None, end=None, step=1:
     aten.slice_backward(g, x_shape, dim, start or 0, _LAST if end is None else end, step))
view(torch.select, lambda g, _y, x_shape, dim, index: aten.select_backward(g, x_shape, dim, index))
view(torch.diagonal, lambda g, _y, x_shape, offset=0, dim1=0, dim2=1:
     aten.diagonal_backward(g, x_shape, offset, dim1, dim2))
view(torch.Tensor.unfold, lambda g, _y, x_shape, dimension, size, step:
     aten.unfold_backward(g, x_shape, dimension, size, step))
rule(aten.slice_backward, lambda g, _y, _g, _input_sizes, dim, start, end, step:
     aten.slice(g, dim, start, end, step))
rule(aten.select_backward, lambda g, _y, _g, _input_sizes, dim, index: g.select(dim, index))
rule(aten.diagonal_backward, lambda g, _y, _g, _input_sizes, offset, dim1, dim2:
     g.diagonal(offset, dim1, dim2))
rule(aten.unfold_backward, lambda g, _y, _g, _input_sizes, dim, size, step:
     g.unfold(dim, size, step))

rule(torch.diag_embed, lambda g, _y, _x, offset=0, dim1=-2, dim2=-1: g.diagonal(offset, dim1, dim2))
rule(torch.tril, lambda g, _y, _x, diagonal=0: g.tril(diagonal))
rule(torch.triu, lambda g, _y, _x, diagonal=0: g.triu(diagonal))

rule(torch.constant_pad_nd, lambda g, _y, _x, pad, _value=0:
     torch.constant_pad_nd(g, [-n for n in pad]))

# ------------------------------------------------------------- parts put in their place


@torch.overrides.wrap_torch_function(lambda base, part, *_: (base, part))
def written(base: Any, part: Any, take: Callable[[Any], Any], strides: Any = None) -> Any:
    """A copy of `base` in which the part that `take` gives a view of is `part`.

    The copy lies in memory as `strides` say, so that `take` gives a view of it too.
    """
    strides = torch.empty(base.shape, device="meta").stride() if strides is None else strides
    copy = base.new_empty_strided(base.shape, strides).copy_(base)
    take(copy).copy_(part)
    return copy


rule(written,
     lambda g, _y, _base, _part, take, strides=None:
         written(g, torch.zeros_like(take(torch.resolve_conj(g))), take, strides),
     lambda g, _y, _base, _part, take, _strides=None: take(torch.resolve_conj(g)),
     holomorphic=False)

for _put, _taken in (
    (torch.select_scatter, torch.select), (torch.slice_scatter, aten.slice),
    (torch.diagonal_scatter, torch.diagonal),
):  # fmt: skip
    composed(_put)(lambda input, src, *place, _taken=_taken, **options:
                   written(input, src, lambda x: _taken(x, *place, **options)))

# ---------------------------------------------------------------------- memory itself


@composed(torch.as_strided)
def _as_strided(input: Any, size: Any, stride: Any, storage_offset: int | None = None) -> Any:
    return strided(_memory(input), size, stride, _shift(input, storage_offset))


@composed(torch.as_strided_scatter)
def _as_strided_scatter(
    input: Any, src: Any, size: Any, stride: Any, storage_offset: int | None = None
) -> Any:
    shift = _shift(input, storage_offset)
    memory = written(_memory(input), src, lambda memory: strided(memory, size, stride, shift))
    return strided(memory, input.shape, input.stride(), 0)


def _shift(input: Any, storage_offset: int | None) -> int:
    return 0 if storage_offset is None else storage_offset - int(input.storage_offset())


def _memory(input: Any) -> Any:
    """A vector of the memory from the first to the last element of a tensor.

    It is a view, unless there are gaps between the elements or some lie on each other.
    """
    memory = input.permute(sorted(range(input.ndim), key=input.stride, reverse=True))
    if not memory.is_contiguous():
        places = _places(input.shape, input.stride(), input.device)
        memory = input.data.as_strided([int(places.max()) + 1], [1])
        memory = torch.scatter_reduce(
            memory, 0, places, input.reshape(-1), "mean", include_self=False
        )
    return memory.reshape(-1)


def _places(size: Any, stride: Any, device: Any) -> torch.Tensor:
    """Where in memory the elements of a tensor are, one after the other."""
    places = torch.zeros((), dtype=torch.int64, device=device)
    for n, step in zip(size, stride):
        places = places.unsqueeze(-1) + torch.arange(n, device=device) * step
    return places.flatten()


@torch.overrides.wrap_torch_function(lambda memory, *_: (memory,))
def strided(memory: Any, size: Any, stride: Any, shift: int) -> Any:
    """A view of what is in and around the memory of a vector, from `shift` elements on."""
    memory = memory.contiguous()
    return memory.as_strided(size, stride, memory.storage_offset() + shift)


def _strided_gradient(g: Any, shape: torch.Size, size: Any, stride: Any, shift: int) -> Any:
    """The sum of what came to every place in the memory; around it, nothing wants a gradient."""
    places = _places(size, stride, g.device) + shift
    inside = ((places >= 0) & (places < shape.numel())).nonzero().squeeze(-1)
    return g.new_zeros(shape).index_add(0, places[inside], g.reshape(-1)[inside])


view(strided, lambda g, _y, memory_shape, size, stride, shift:
     _strided_gradient(g, memory_shape, size, stride, shift))

# ------------------------------------------------------------- copies and conversions

rule(torch.clone, lambda g, _y, _x, _memory_format=None: g)
view(torch.Tensor.contiguous, lambda g, _y, _x, _memory_format=None: g)
view(aten.alias, lambda g, _y, _x: g)
constant(torch.detach, number=lambda x: x)

rule(aten._to_copy,
     lambda g, _y, x_like, _dtype=None, _layout=None, _device=None, _pin_memory=None,
     _non_blocking=False, _memory_format=None:
         (g if x_like.is_complex() or not g.is_complex() else torch.real(g)).to(x_like))
rule(torch.Tensor.to_sparse,   lambda g, _y, _x, *_form: g.to_dense())
rule(torch.Tensor.to_dense,    lambda g, _y, x, *_form: g.sparse_mask(x.detach()))
rule(torch.Tensor.sparse_mask, lambda g, _y, _x, _mask: g.to_dense())


@composed(torch.Tensor.to)
def _to(input: Any, *target: Any, memory_format: Any = None, **options: Any) -> Any:
    """Convert to a dtype, a device, both, or those of a tensor, given as torch takes them.

    Torch itself is asked what they come to.
    """
    like = _plain(input)
    options = {name: _plain(option) for name, option in options.items()}
    converted = like.to(*map(_plain, target), **options)
    if converted is like and memory_format is None:
        return input
    return aten._to_copy(
        input, dtype=converted.dtype, device=converted.device, memory_format=memory_format
    )


def _plain(target: Any) -> Any:
    """What torch finds in a target of `to`: of a tensor, only its dtype and device."""
    if not hasattr(target, "requires_grad"):
        return target
    return torch.empty(0, dtype=target.dtype, device=target.device)


composed(torch.Tensor.type_as)(lambda x, other: x.to(other.dtype))
composed(torch.Tensor.type)(lambda x, dtype=None: x.to(dtype) if dtype else _plain(x).type())
composed(torch.Tensor.cpu)(lambda x: x.to("cpu"))
composed(torch.Tensor.cuda)(lambda x, device=None: x.to("cuda" if device is None else device))
