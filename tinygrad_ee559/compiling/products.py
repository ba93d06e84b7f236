"""Matrix products as sums of products, for compilers that write loops.

A library call for each small product would take longer than the arithmetic; as loops they join
those around them, and the whole step becomes one kernel. Large ones are left to `product.h`.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch

from tinygrad_ee559.compiling.lanes import LANES
from tinygrad_ee559.compiling.private import force_strides, product

#: The multiplications in a product from which on it is worth copying its operands into blocks.
LARGE = 2**18
#: How many rows of a product are computed side by side, so that a column is loaded once for all.
ROWS = 10
#: The bytes of a vector, which holds as many numbers of four bytes as there are lanes.
VECTOR = 4 * LANES
#: How many multiplications of vectors take as long as to add up the numbers in one.
ADD_UP = 35


def is_large(a: Any, b: Any) -> bool:
    return bool(a.numel() * b.shape[-1] > LARGE)


def product_of(a: Any, b: Any) -> Any:
    """The matrix product, over the last two dimensions, as sums of products.

    Vectors of neighbors in memory run along the columns, the rows, or what is summed up. Where a
    batch is large they run along it, and the whole network is laid out by features.
    """
    if is_large(a, b):
        return product(a, b)
    a, b = _computed_once(a), _computed_once(b)
    if a.shape[-1] == 1:  # the result is larger than they are, so its layout is what counts
        return a * b
    rows, inner, columns = a.shape[-2], a.shape[-1], b.shape[-1]
    along_columns = rows * inner * _vectors(columns, b)
    along_rows = columns * inner * _vectors(rows, a)
    along_sums = rows * columns * (_vectors(inner, a) + ADD_UP) + _moved(a) + _moved(b.mT)
    if along_sums < min(along_columns + _moved(b), along_rows + _moved(a.mT)):
        return _along_sums(a, b)
    if inner > max(rows, columns):  # if not, the result is large, and its layout counts for more
        along_columns += _moved(b)
        along_rows += _moved(a.mT)
    return _along_columns(a, b) if along_columns <= along_rows else _along_rows(a, b)


def _vectors(count: int, like: Any) -> int:
    """How many vectors hold so many numbers."""
    return int(-(-count * like.itemsize // VECTOR))


def _moved(matrix: Any) -> int:
    """How many numbers have to be moved to make those of a row neighbors."""
    return 0 if matrix.stride(-1) == 1 else int(matrix.shape[-2] * matrix.shape[-1])


def _along_columns(a: Any, b: Any) -> Any:
    return _sums(a, b if a.shape[-2] == 1 else _by_rows(b))  # for one row as it lies


def _along_rows(a: Any, b: Any) -> Any:
    inner, columns = b.shape[-2:]
    if columns < min(inner, ROWS):  # few enough to go to the places that they have by rows
        a = _by_rows(a.mT)
        return torch.stack([summed(a * b[..., j : j + 1], -2) for j in range(columns)], -1)
    return _computed_once(_along_columns(b.mT, a.mT)).mT


def _along_sums(a: Any, b: Any) -> Any:
    a, b = _by_rows(a), _by_rows(b.mT)
    if a.shape[-2] <= b.shape[-2]:
        return torch.stack([summed(row.unsqueeze(-2) * b, -1) for row in a.unbind(-2)], -2)
    return torch.stack([summed(a * column.unsqueeze(-2), -1) for column in b.unbind(-2)], -1)


def product_of_lanes(a: Any, b: Any) -> Any:
    """The same where each number is a vector, so that it does not matter what is a neighbor."""
    if b.shape[-1] > a.shape[-2]:
        return product_of_lanes(b.mT, a.mT).mT
    return _sums(_computed_once(a), _computed_once(b))


def _sums(a: Any, b: Any) -> Any:
    """The product with several rows in one loop over columns, which share what they load."""
    rows, inner = a.shape[-2:]
    if inner <= 4:
        return reduce(torch.add, [a[..., k : k + 1] * b[..., k : k + 1, :] for k in range(inner)])
    count = max(n for n in range(1, ROWS + 1) if rows % n == 0)
    blocks = [summed(a[..., i::count, :].unsqueeze(-1) * b.unsqueeze(-3), -2) for i in range(count)]
    return blocks[0] if count == 1 else torch.stack(blocks, -2).flatten(-3, -2)


def summed(products: Any, dim: int) -> Any:
    """Their sum along a dimension, in their own dtype: that of integers is not int64."""
    return products.sum(dim, dtype=products.dtype)


def _computed_once(matrix: Any) -> Any:
    """A matrix that is computed before the products that it enters, however it lies: not again for
    each of them, nor in one loop with them, which might run in the wrong order."""
    if matrix.is_contiguous():
        return force_strides(matrix, matrix.stride())
    if matrix.mT.is_contiguous():
        return force_strides(matrix.mT, matrix.mT.stride()).mT
    return matrix


def _by_rows(matrix: Any) -> Any:
    """The same, with the numbers of a row as neighbors."""
    if 1 in matrix.shape:
        return matrix
    if matrix.stride(-1) != 1:
        matrix = matrix.clone(memory_format=torch.contiguous_format)
    return _computed_once(matrix)
