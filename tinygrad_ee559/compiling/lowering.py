"""Lowering: from the operators that ran to a graph without changes in place, of simple operators.

Small matrix products are written out as sums of products. A library call for each would take longer
than the arithmetic; as loops they join those around them, and the whole step becomes one kernel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import fx

from tinygrad_ee559.compiling.lanes import widened
from tinygrad_ee559.compiling.private import (
    declared_arguments,
    decompositions,
    force_strides,
    onednn_linear,
    traced,
)
from tinygrad_ee559.errors import CaptureError

aten = torch.ops.aten
_PRODUCTS = {"aten.mm.default", "aten.bmm.default", "aten.addmm.default", "aten.baddbmm.default"}
#: The multiplications in a product from which on a library call is worth its while.
LARGE = 2**18
#: The operators from which on a C++ compiler takes minutes for them as one function.
LONG = 1500
#: How many rows of a product are computed side by side, so that a column is loaded once for all.
ROWS = 10


def lowered(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> fx.GraphModule:
    """The graph as pure functions of the inputs; new values are copied into these at the end."""
    return traced(torch.func.functionalize(graph, remove="mutations"), inputs, _foreach_table())


def is_small(graph: fx.GraphModule) -> bool:
    """Whether loops of our own are faster than a library's products, and nothing is random."""
    nodes = graph.graph.nodes
    return (
        len(nodes) < LONG
        and all(node.meta["val"].is_cpu for node in graph.graph.find_nodes(op="placeholder"))
        and not any(
            torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
            or (str(node.target) in _PRODUCTS and _multiplications(node) > LARGE)
            for node in nodes
        )
    )


def footprint(graph: fx.GraphModule) -> int:
    """The bytes of all that a graph computes."""
    values = [node.meta.get("val") for node in graph.graph.nodes if node.op == "call_function"]
    return sum(v.nbytes for v in values if isinstance(v, torch.Tensor) and not v._is_view())


def first_outputs(graph: fx.GraphModule, count: int) -> fx.GraphModule:
    """The graph with so many of its outputs, and without what only the others need."""
    graph = copy.deepcopy(graph)
    output = graph.graph.output_node()
    outputs: Any = output.args[0]
    output.args = (tuple(outputs[:count]),)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def written(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> list[int]:
    """Which inputs a graph changes in place, itself or through views of them.

    Raises:
        CaptureError: one of them shares memory with another input.
    """
    placeholders = graph.graph.find_nodes(op="placeholder")
    bases: dict[fx.Node, fx.Node] = {node: node for node in placeholders}
    changed = set()
    for node in graph.graph.nodes:
        for argument, declared in zip(node.args, declared_arguments(node.target)):
            if declared.alias_info is None:
                continue
            for item in argument if isinstance(argument, (list, tuple)) else [argument]:
                if item in bases:
                    bases.setdefault(node, bases[item])
                    if declared.alias_info.is_write:
                        changed.add(bases[item])
    found = [i for i, node in enumerate(placeholders) if node in changed]
    for i in found:
        for j, other in enumerate(inputs):
            if i != j and _overlap(inputs[i], other):
                raise CaptureError(
                    f"a tensor of shape {list(inputs[i].shape)} is changed in place, and shares "
                    f"memory with another one, of shape {list(other.shape)}, that is used too; "
                    "reach both through one tensor, or copy one"
                )
    return found


def with_onednn(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> fx.GraphModule:
    """The graph with large products done by oneDNN, whose are faster than those of MKL."""
    linear = onednn_linear()
    if linear is None:
        return graph

    def product(a: Any, b: Any, c: Any = None) -> Any:
        # By rows: Inductor's way to transpose is faster than that of the operator.
        return linear(_in_memory(a, True), b.t(), c, "none", [], "")

    def multiply(a: Any, b: Any) -> Any:
        return product(a, b) if _is_large(a, b) else NotImplemented

    def add(c: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
        if beta == alpha == 1 and c.ndim == 1 and _is_large(a, b):
            return product(a, b, c)
        return NotImplemented

    return traced(graph, inputs, {aten.mm.default: multiply, aten.addmm.default: add})


def _is_large(a: Any, b: Any) -> bool:
    return bool(a.dtype is torch.float32 and a.is_cpu and a.numel() * b.shape[-1] > LARGE)


def in_loops(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> fx.GraphModule:
    """The graph with matrix products as sums, and taken apart as far as Inductor does."""
    return traced(graph, inputs, _table(_product))


def in_loops_over_lanes(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> fx.GraphModule:
    """The same for several models, in a last dimension of all tensors."""
    return widened(traced(graph, inputs, _table(_product_of_lanes)), inputs)


def _multiplications(node: fx.Node) -> int:
    a, b = [n.meta["val"] for n in node.args[-2:]]  # type: ignore[union-attr]
    return int(a.numel() * b.shape[-1])


def _overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors may share memory."""
    if one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr():
        return False
    (start, end), (begin, stop) = map(_extent, (one, other))
    return start < stop and begin < end


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    first = int(tensor.storage_offset())
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride()))
    return first, first + reach + 1 if tensor.numel() else first


# ---------------------------------------------------------------- matrix products


def _table(product: Callable[[Any, Any], Any]) -> dict[Any, Any]:
    def added(c: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
        result = product(a, b)
        if alpha != 1:
            result = result * alpha
        if beta == 0:
            return result
        return result + (c if beta == 1 else c * beta)

    return {
        **decompositions(),
        aten.alias.default: lambda x: x,
        aten.mm.default: product,
        aten.bmm.default: product,
        aten.addmm.default: added,
        aten.baddbmm.default: added,
        aten.mv.default: lambda a, x: (a * x).sum(1),
        aten.dot.default: lambda x, y: (x * y).sum(),
    }


def _product(a: Any, b: Any) -> Any:
    """The matrix product, over the last two dimensions, as sums of products.

    The loop over columns is the one that runs over neighbors in memory, vector by vector.
    """
    rows, columns = a.shape[-2], b.shape[-1]
    if columns < 8 <= rows:
        a = _in_memory(a.mT, True)
        return torch.stack([(a * b[..., j : j + 1]).sum(-2) for j in range(columns)], -1)
    if rows > 1:
        a, b = _in_memory(a, a.stride(-1) == 1), _in_memory(b, True)
    return _sums(a, b)


def _product_of_lanes(a: Any, b: Any) -> Any:
    """The same where each number is a vector, so that it does not matter what is a neighbor."""
    if b.shape[-1] > a.shape[-2]:
        return _product_of_lanes(b.mT, a.mT).mT
    return _sums(_computed_once(a), _computed_once(b))


def _sums(a: Any, b: Any) -> Any:
    """The product with several rows in one loop over columns, which share what they load."""
    rows, inner = a.shape[-2:]
    if inner <= 4:
        return reduce(torch.add, [a[..., k : k + 1] * b[..., k : k + 1, :] for k in range(inner)])
    count = max(n for n in range(1, ROWS + 1) if rows % n == 0)
    blocks = [
        (a[..., i::count, :].unsqueeze(-1) * b.unsqueeze(-3)).sum(-2) for i in range(count)
    ]
    return blocks[0] if count == 1 else torch.stack(blocks, -2).flatten(-3, -2)


def _computed_once(matrix: Any) -> Any:
    """A matrix that is not computed again for each product that it enters, however it lies."""
    if matrix.is_contiguous():
        return force_strides(matrix, matrix.stride())
    if matrix.mT.is_contiguous():
        return force_strides(matrix.mT, matrix.mT.stride()).mT
    return matrix


def _in_memory(matrix: Any, by_rows: bool) -> Any:
    """A matrix that is computed once, and not again for each product that it enters."""
    if 1 in matrix.shape or matrix.ndim > 2:
        return matrix
    if by_rows and matrix.stride(-1) != 1:
        matrix = matrix.clone(memory_format=torch.contiguous_format)
    return force_strides(matrix, (matrix.shape[1], 1) if by_rows else (1, matrix.shape[0]))


# ------------------------------------------------------------------ lists of tensors


def _each(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of lists of tensors, from one of tensors."""

    def run(*args: Any, **kwargs: Any) -> list[Any]:
        return [
            function(*(a[i] if isinstance(a, (list, tuple)) else a for a in args), **kwargs)
            for i in range(len(args[0]))
        ]

    return run


def _foreach_table() -> dict[Any, Callable[..., Any]]:
    """Operators on lists of tensors, with functions that do the same to one after the other."""
    return {
        getattr(operator, overload): _each(getattr(torch, name))
        for name in ("add", "sub", "mul", "div", "neg", "sqrt", "abs", "exp", "addcmul", "addcdiv")
        for operator in [getattr(aten, f"_foreach_{name}")]
        for overload in operator.overloads()
        if not overload.endswith("out")
    }
