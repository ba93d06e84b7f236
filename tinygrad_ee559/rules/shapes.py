"""Functions that change the shape, the order or the type of elements, and not their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.errors import NotDifferentiableError
from tinygrad_ee559.rules.registry import alias, composed, constant, rule, view

aten = torch.ops.aten
#: What torch calls, of some functions, if it is given a list of tensors.
_in_a_list: Any = torch._C._VariableFunctions

# ------------------------------------------------- the same elements, another shape

view(torch.reshape,   lambda g, _y, x_shape, _shape: g.reshape(x_shape))
view(torch.ravel,     lambda g, _y, x_shape: g.reshape(x_shape))
view(torch.flatten,   lambda g, _y, x_shape, _start_dim=0, _end_dim=-1: g.reshape(x_shape))
view(torch.unflatten, lambda g, _y, x_shape, _dim, _sizes: g.reshape(x_shape))
view(torch.squeeze,   lambda g, _y, x_shape, _dim=None: g.reshape(x_shape))
view(torch.unsqueeze, lambda g, _y, x_shape, _dim: g.reshape(x_shape))


def _view_gradient(g: Any, shape: torch.Size, size: Any) -> Any:
    if isinstance(size, torch.dtype):
        raise NotDifferentiableError(
            f"view({size}) reads the same bytes as other numbers, which has no gradient; "
            f"to({size}) converts the values"
        )
    return g.reshape(shape)


view(torch.Tensor.view, lambda g, _y, x_shape, size: _view_gradient(g, x_shape, size))


@composed(torch.Tensor.view_as, torch.Tensor.reshape_as)
def _reshape_as(input: Any, other: Any) -> Any:
    return input.reshape(other.shape)


@composed(torch.atleast_1d, _in_a_list.atleast_1d)
def _atleast_1d(*tensors: Any) -> Any:
    return _each(lambda x: x if x.ndim else x.reshape(1), tensors)


@composed(torch.atleast_2d, _in_a_list.atleast_2d)
def _atleast_2d(*tensors: Any) -> Any:
    return _each(lambda x: x if x.ndim > 1 else x.reshape(1, -1), tensors)


@composed(torch.atleast_3d, _in_a_list.atleast_3d)
def _atleast_3d(*tensors: Any) -> Any:
    return _each(lambda x: x if x.ndim > 2 else _atleast_2d(x).unsqueeze(-1), tensors)


def _each(change: Any, tensors: Any) -> Any:
    """One tensor changed; or all those in a list, or of several arguments, as a tuple."""
    if len(tensors) == 1:
        if not isinstance(tensors[0], (list, tuple)):
            return change(tensors[0])
        (tensors,) = tensors
    return tuple(change(tensor) for tensor in tensors)


# ----------------------------------------------------------------- broadcasting

view(torch.Tensor.expand, lambda g, _y, x_shape, *_size: g.sum_to_size(x_shape))


@composed(torch.broadcast_to)
def _broadcast_to(input: Any, size: Any) -> Any:
    return input.expand(size)


@composed(torch.Tensor.expand_as)
def _expand_as(input: Any, other: Any) -> Any:
    return input.expand(other.shape)


@composed(torch.broadcast_tensors)
def _broadcast_tensors(*tensors: Any) -> Any:
    shape = torch.broadcast_shapes(*(x.shape for x in tensors))  # type: ignore[no-untyped-call]
    return tuple(tensor.expand(shape) for tensor in tensors)


@composed(torch.meshgrid, _in_a_list.meshgrid)
def _meshgrid(*tensors: Any, indexing: str | None = None) -> Any:
    """Every vector along a dimension of its own; with indexing="xy", the first two swap theirs."""
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        (tensors,) = tensors
    if indexing == "xy" and len(tensors) > 1:
        y, x, *rest = torch.meshgrid(tensors[1], tensors[0], *tensors[2:], indexing="ij")
        return (x, y, *rest)
    sizes = [tensor.numel() for tensor in tensors]
    ones = [1] * len(tensors)
    return tuple(
        tensor.reshape([*ones[:i], -1, *ones[i + 1 :]]).expand(sizes)
        for i, tensor in enumerate(tensors)
    )


@composed(torch.cartesian_prod)
def _cartesian_prod(*tensors: Any) -> Any:
    if len(tensors) == 1:
        return tensors[0]
    grids = torch.meshgrid(*tensors, indexing="ij")
    return torch.stack([grid.flatten() for grid in grids], dim=1)


# ------------------------------------------------------------- the order of dimensions

view(torch.transpose, lambda g, _y, _x, dim0, dim1: g.transpose(dim0, dim1))
view(torch.t,         lambda g, _y, _x: g.t())
view(torch.movedim,   lambda g, _y, _x, source, destination: g.movedim(destination, source))
view(torch.permute,   lambda g, _y, _x, dims: g.permute(_inverse(dims)))
alias(torch.transpose, torch.swapdims)
alias(torch.movedim, torch.moveaxis)


@composed(torch.swapaxes)
def _swapaxes(input: Any, axis0: int, axis1: int) -> Any:
    return input.transpose(axis0, axis1)


def _inverse(dims: Sequence[int]) -> list[int]:
    """The permutation that undoes `dims`."""
    return sorted(range(len(dims)), key=lambda i: dims[i] % len(dims))


# --------------------------------------------------------------- the order of elements

rule(torch.flip,   lambda g, _y, _x, dims: g.flip(dims))
rule(torch.fliplr, lambda g, _y, _x: g.fliplr())
rule(torch.flipud, lambda g, _y, _x: g.flipud())
rule(torch.rot90,  lambda g, _y, _x, k=1, dims=(0, 1): g.rot90(-k, dims))
rule(
    torch.roll,
    lambda g, _y, _x, shifts, dims=(): (
        g.roll(-shifts if isinstance(shifts, int) else [-shift for shift in shifts], dims)
    ),
)

# --------------------------------------------------------------------- repetition


def _repeat_gradient(g: Any, shape: torch.Size, repeats: Sequence[int]) -> Any:
    """The sum over all copies, which are put on dimensions of their own."""
    sizes = (1,) * (len(repeats) - len(shape)) + shape
    pairs = [n for pair in zip(repeats, sizes) for n in pair]
    return g.reshape(pairs).sum(tuple(range(0, len(pairs), 2))).reshape(shape)


def _repeat_interleave_gradient(g: Any, shape: torch.Size, repeats: Any, dim: int | None) -> Any:
    """The sum over all copies, each of which knows which element it is of."""
    if dim is None:
        flat = torch.Size([shape.numel()])
        return _repeat_interleave_gradient(g, flat, repeats, 0).reshape(shape)
    source = torch.repeat_interleave(torch.arange(shape[dim], device=g.device), repeats)
    return g.new_zeros(shape).index_add(dim, source, g)


rule(torch.Tensor.repeat, lambda g, _y, x_shape, repeats: _repeat_gradient(g, x_shape, repeats))
rule(
    torch.repeat_interleave,
    lambda g, _y, x_shape, repeats, dim=None, _output_size=None: (
        _repeat_interleave_gradient(g, x_shape, repeats, dim)
    ),
)


@composed(torch.tile)
def _tile(input: Any, dims: Sequence[int]) -> Any:
    return input.repeat((1,) * (input.ndim - len(dims)) + tuple(dims))


# ------------------------------------------------------------------ joining


def _cat_gradient(g: Any, shapes: list[torch.Size], dim: int) -> Any:
    """A piece for every tensor. Beside matrices, torch takes an empty vector for nothing at all."""
    return g.split([shape[dim] if len(shape) == g.ndim else 0 for shape in shapes], dim)


rule(torch.cat,   lambda g, _y, tensors_shape, dim=0: _cat_gradient(g, tensors_shape, dim))
rule(torch.stack, lambda g, _y, _tensors, dim=0: g.unbind(dim))
alias(torch.cat, torch.concat, torch.concatenate)


@composed(torch.hstack)
def _hstack(tensors: Any) -> Any:
    tensors = _atleast_1d(tensors)
    return torch.cat(tensors, 0 if tensors[0].ndim == 1 else 1)


@composed(torch.vstack, torch.row_stack)
def _vstack(tensors: Any) -> Any:
    return torch.cat(_atleast_2d(tensors), 0)


@composed(torch.dstack)
def _dstack(tensors: Any) -> Any:
    return torch.cat(_atleast_3d(tensors), 2)


@composed(torch.column_stack)
def _column_stack(tensors: Any) -> Any:
    return torch.hstack([x if x.ndim > 1 else x.reshape(-1, 1) for x in tensors])


@composed(torch.block_diag)
def _block_diag(*tensors: Any) -> Any:
    blocks = _atleast_2d(tensors)
    width = sum(block.shape[1] for block in blocks)
    rows = []
    left = 0
    for block in blocks:
        right = left + block.shape[1]
        rows.append(F.pad(block, (left, width - right)))
        left = right
    return torch.cat(rows)


# ----------------------------------------------------------------- splitting

view(torch.split,            lambda g, _y, _x, _split_size_or_sections, dim=0: torch.cat(g, dim))
view(torch.split_with_sizes, lambda g, _y, _x, _split_sizes, dim=0: torch.cat(g, dim))
view(torch.chunk,            lambda g, _y, _x, _chunks, dim=0: torch.cat(g, dim))
view(torch.unbind,           lambda g, _y, _x, dim=0: torch.stack(g, dim))
view(
    torch.tensor_split,
    lambda g, _y, _x, _indices_or_sections=None, dim=0, _indices=None, _sections=None: (
        torch.cat(g, dim)
    ),
)


@composed(torch.hsplit)
def _hsplit(input: Any, indices_or_sections: Any) -> Any:
    return torch.tensor_split(input, indices_or_sections, 0 if input.ndim == 1 else 1)


@composed(torch.vsplit)
def _vsplit(input: Any, indices_or_sections: Any) -> Any:
    return torch.tensor_split(input, indices_or_sections, 0)


@composed(torch.dsplit)
def _dsplit(input: Any, indices_or_sections: Any) -> Any:
    return torch.tensor_split(input, indices_or_sections, 2)


# ------------------------------------------------------ parts, and their inverses


def _narrow_gradient(g: Any, shape: torch.Size, dim: int, start: Any, length: int) -> Any:
    start = int(start)
    start += shape[dim] if start < 0 else 0
    return aten.slice_backward(g, shape, dim, start, start + length, 1)


view(
    torch.narrow,
    lambda g, _y, x_shape, dim, start, length: _narrow_gradient(g, x_shape, dim, start, length),
)
view(
    torch.select,
    lambda g, _y, x_shape, dim, index: aten.select_backward(g, x_shape, dim, index),
)
view(
    torch.diagonal,
    lambda g, _y, x_shape, offset=0, dim1=0, dim2=1: (
        aten.diagonal_backward(g, x_shape, offset, dim1, dim2)
    ),
)
view(
    torch.Tensor.unfold,
    lambda g, _y, x_shape, dimension, size, step: (
        aten.unfold_backward(g, x_shape, dimension, size, step)
    ),
)
rule(
    torch.diag,
    lambda g, _y, x_shape, diagonal=0: (
        g.diagonal(diagonal)
        if len(x_shape) == 1
        else aten.diagonal_backward(g, x_shape, diagonal, 0, 1)
    ),
)
rule(
    torch.diag_embed,
    lambda g, _y, _x, offset=0, dim1=-2, dim2=-1: g.diagonal(offset, dim1, dim2),
)
rule(torch.tril, lambda g, _y, _x, diagonal=0: g.tril(diagonal))
rule(torch.triu, lambda g, _y, _x, diagonal=0: g.triu(diagonal))

rule(
    aten.slice_backward,
    lambda g, _y, _g, _input_sizes, dim, start, end, _step: g.narrow(dim, start, end - start),
)
rule(
    aten.select_backward,
    lambda g, _y, _g, _input_sizes, dim, index: g.select(dim, index),
)
rule(
    aten.diagonal_backward,
    lambda g, _y, _g, _input_sizes, offset, dim1, dim2: g.diagonal(offset, dim1, dim2),
)
rule(
    aten.unfold_backward,
    lambda g, _y, _g, _input_sizes, dim, size, step: g.unfold(dim, size, step),
)


@composed(torch.linalg.diagonal)
def _matrix_diagonal(input: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    return torch.diagonal(input, offset, dim1, dim2)


@composed(torch.diagflat)
def _diagflat(input: Any, offset: int = 0) -> Any:
    return torch.diag(input.flatten(), offset)


# --------------------------------------------------------------------- padding


def _pad_gradient(g: Any, shape: torch.Size, pad: Sequence[int], mode: str) -> Any:
    """Zeros are cut off again; copies are added to what they are copies of.

    Which element is copied where is found by padding the numbers 0, 1, 2, ... in the same way.
    """
    if mode == "constant":
        return F.pad(g, [-n for n in pad])
    numbers = torch.arange(shape.numel(), dtype=torch.float64, device=g.device)
    source = F.pad(numbers.reshape(shape), pad, mode).long()
    flat = g.new_zeros(shape.numel()).index_add(0, source.flatten(), g.flatten())
    return flat.reshape(shape)


rule(
    F.pad,
    lambda g, _y, x_shape, pad, mode="constant", _value=None: _pad_gradient(g, x_shape, pad, mode),
)

# ------------------------------------------------------------- copies and conversions

rule(torch.clone, lambda g, _y, _x, _memory_format=None: g)
view(torch.Tensor.contiguous, lambda g, _y, _x, _memory_format=None: g)
constant(torch.detach, number=lambda x: x)

rule(
    aten._to_copy,
    lambda g, _y, x_like, _dtype=None, _device=None, _memory_format=None: g.to(x_like),
)


@composed(torch.Tensor.to)
def _to(input: Any, *target: Any, memory_format: Any = None, **options: Any) -> Any:
    """Convert to a dtype, a device, both, or those of a tensor, given as torch takes them.

    Torch itself is asked what they come to. What is no longer a floating-point number no longer
    carries a gradient.
    """
    like = _empty_like(input)
    options = {name: _plain(option) for name, option in options.items()}
    converted = like.to(*map(_plain, target), **options)
    if converted is like and memory_format is None:
        return input
    if not converted.is_floating_point():
        input = input.detach()
    return aten._to_copy(
        input, dtype=converted.dtype, device=converted.device, memory_format=memory_format
    )


def _plain(target: Any) -> Any:
    """What torch finds in a target of `to`: of a tensor, only its dtype and device."""
    return _empty_like(target) if hasattr(target, "requires_grad") else target


def _empty_like(tensor: Any) -> torch.Tensor:
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device)


@composed(torch.Tensor.type_as)
def _type_as(input: Any, other: Any) -> Any:
    return input.to(other.dtype)


@composed(torch.Tensor.type)
def _type(input: Any, dtype: torch.dtype | None = None) -> Any:
    """Converted to `dtype`; without one, the name of the tensor's type."""
    return _empty_like(input).type() if dtype is None else input.to(dtype)


@composed(torch.Tensor.cpu)
def _cpu(input: Any) -> Any:
    return input.to("cpu")


@composed(torch.Tensor.cuda)
def _cuda(input: Any, device: Any = None) -> Any:
    return input.to("cuda" if device is None else device)
