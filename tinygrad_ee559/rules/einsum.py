"""torch.einsum, written with permute, diagonal, sum, bmm and reshape.

Operands are contracted in pairs from left to right. A dimension's label is a letter of the
equation, or a negative number for one that an ellipsis stands for, counted from the last.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any

import torch

from tinygrad_ee559.errors import operand_error
from tinygrad_ee559.rules.registry import composed

Label = str | int


@composed(torch.einsum)
def _einsum(equation: str, *operands: Any) -> Any:
    labels, output = _parse(equation, operands)
    sizes = _sizes(equation, operands, labels)
    terms = [_simplified(x, names, sizes) for x, names in zip(operands, labels)]
    x, names = terms[0]
    for i, (other, other_names) in enumerate(terms[1:], start=2):
        later = {label for _, rest in terms[i:] for label in rest}
        x, names = _contract(x, names, other, other_names, later.union(output))
    x, names = _summed(x, names, output)
    return x.permute([names.index(label) for label in output])


def _parse(equation: str, operands: Any) -> tuple[list[list[Label]], list[Label]]:
    """The labels of every operand's dimensions, and those of the result's."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    subscripts = inputs.split(",")
    if len(subscripts) != len(operands):
        raise operand_error(
            RuntimeError(),
            f"torch.einsum: {equation!r} has subscripts for {len(subscripts)} operands, "
            f"and {len(operands)} were given"
        )
    labels = [_labels(text, x.ndim, equation) for text, x in zip(subscripts, operands)]
    hidden = max(sum(isinstance(label, int) for label in names) for names in labels)
    if arrow:
        ndim = len(output.replace("...", "")) + hidden * ("..." in output)
        result = _labels(output, ndim, equation)
    else:
        letters = inputs.replace(",", "").replace("...", "")
        result = [*range(-hidden, 0), *sorted(c for c in letters if letters.count(c) == 1)]
    unknown = [label for label in result if not any(label in names for names in labels)]
    if unknown or len(set(result)) < len(result):
        raise operand_error(
            RuntimeError(),
            f"torch.einsum: every subscript of the result of {equation!r} must be there once, "
            "and in one of the operands"
        )
    return labels, result


def _labels(text: str, ndim: int, equation: str) -> list[Label]:
    before, dots, after = text.partition("...")
    hidden = ndim - len(before) - len(after)
    if hidden < 0 or (hidden and not dots) or not (before + after + "a").isalpha():
        raise operand_error(
            RuntimeError(),
            f"torch.einsum: the subscripts {text!r} in {equation!r} do not fit {ndim} dimensions"
        )
    return [*before, *range(-hidden, 0), *after]


def _sizes(equation: str, operands: Any, labels: list[list[Label]]) -> dict[Label, int]:
    """The size of every label; a dimension of size 1 takes on that of the others."""
    sizes: dict[Label, int] = {}
    for x, names in zip(operands, labels):
        for label, size in zip(names, x.shape):
            if sizes.setdefault(label, size) == 1:
                sizes[label] = size
            if size not in (1, sizes[label]):
                shapes = ", ".join(str(list(operand.shape)) for operand in operands)
                raise operand_error(
                    RuntimeError(),
                    f"torch.einsum of shapes {shapes}: a subscript of {equation!r} stands for "
                    f"dimensions of sizes {sizes[label]} and {size}"
                )
    return sizes


def _simplified(x: Any, names: list[Label], sizes: dict[Label, int]) -> tuple[Any, list[Label]]:
    """An operand without repeated labels, and without dimensions that are only broadcast."""
    for label in dict.fromkeys(names):
        while names.count(label) > 1:
            first = names.index(label)
            second = names.index(label, first + 1)
            x = x.diagonal(0, first, second)
            names = [*(n for i, n in enumerate(names) if i not in (first, second)), label]
    for label in list(names):
        position = names.index(label)
        if x.shape[position] == 1 != sizes[label]:
            x = x.select(position, 0)
            names = [n for n in names if n != label]
    return x, names


def _summed(x: Any, names: list[Label], wanted: Container[Label]) -> tuple[Any, list[Label]]:
    """The sum over all dimensions that nobody wants."""
    dims = [i for i, label in enumerate(names) if label not in wanted]
    if not dims:
        return x, names
    return x.sum(dims), [label for label in names if label in wanted]


def _contract(
    x: Any, x_names: list[Label], y: Any, y_names: list[Label], wanted: set[Label]
) -> tuple[Any, list[Label]]:
    """The product of two operands, summed over what both have and nobody wants: bmm of batches."""
    x, x_names = _summed(x, x_names, wanted.union(y_names))
    y, y_names = _summed(y, y_names, wanted.union(x_names))
    batch = [label for label in x_names if label in y_names and label in wanted]
    summed = [label for label in x_names if label in y_names and label not in wanted]
    rows = [label for label in x_names if label not in y_names]
    columns = [label for label in y_names if label not in x_names]
    sizes = dict(zip(x_names + y_names, [*x.shape, *y.shape]))

    def arranged(t: Any, names: list[Label], *groups: list[Label]) -> Any:
        """With the dimensions of every group as one."""
        t = t.permute([names.index(label) for group in groups for label in group])
        return t.reshape([math.prod(sizes[label] for label in group) for group in groups])

    left = arranged(x, x_names, batch, rows, summed)
    right = arranged(y, y_names, batch, summed, columns)
    product = left.bmm(right) if summed else left * right
    names = batch + rows + columns
    return product.reshape([sizes[label] for label in names]), names
