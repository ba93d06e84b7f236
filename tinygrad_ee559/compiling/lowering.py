"""Lowering: from the operators that ran to a graph of simple ones, without changes in place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx

from tinygrad_ee559.compiling.lanes import widened
from tinygrad_ee559.compiling.private import (
    PRODUCT_TYPES,
    decompositions,
    force_strides,
    traced,
)
from tinygrad_ee559.compiling.products import is_large, product_of, product_of_lanes, summed
from tinygrad_ee559.rules.registry import COMPOSED

aten = torch.ops.aten
_PRODUCTS = {"aten.mm.default", "aten.bmm.default", "aten.addmm.default", "aten.baddbmm.default"}
_VIEWS = {aten.view.default, aten._unsafe_view.default}
#: Depend on how a tensor is laid out in memory.
_ON_LAYOUTS = {
    "aten.as_strided.default", "aten.as_strided_.default", "aten.as_strided_scatter.default",
    "aten.view.dtype", "aten.view_as_complex.default",
}  # fmt: skip
_LAYOUTS = {"aten.permute.default", "prims.inductor_force_stride_order.default"}
#: The operators from which on a C++ compiler takes minutes for them as one function.
LONG = 1500


def lowered(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> fx.GraphModule:
    """The graph as pure functions of the inputs; new values are copied into these at the end."""
    table = {**_foreach_table(), **_INDEXING, **_MENDED}
    return traced(torch.func.functionalize(graph, remove="mutations"), inputs, table)


def is_native(graph: fx.GraphModule, lanes: int = 1) -> bool:
    """Whether C++ of our own can do all of it, and fast."""
    nodes = graph.graph.nodes
    return (
        len(nodes) < LONG
        and all(node.meta["val"].is_cpu for node in graph.graph.find_nodes(op="placeholder"))
        and not any(
            torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) for node in nodes
        )
        and _ON_LAYOUTS.isdisjoint(str(node.target) for node in nodes)
        and all(
            lanes == 1 and a.ndim == 2 and a.dtype in PRODUCT_TYPES
            for a, b in _products(graph)
            if is_large(a, b)
        )
    )


def has_large_products(graph: fx.GraphModule) -> bool:
    return any(is_large(a, b) for a, b in _products(graph))


def _products(graph: fx.GraphModule) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The operands of all matrix products."""
    for node in graph.graph.nodes:
        if str(node.target) in _PRODUCTS:
            a, b = [n.meta["val"] for n in node.args[-2:]]
            yield a, b


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


def is_worth_compiling(
    graph: fx.GraphModule, inputs: Sequence[torch.Tensor], written: Sequence[int]
) -> bool:
    """Whether anything is computed that is seen, and of tensors, none of which is empty: for these
    some operators are not defined in terms of simpler ones."""
    computes = any(node.op == "call_function" for node in graph.graph.nodes)
    seen = bool(written or graph.graph.output_node().args[0])
    return bool(computes and seen and inputs) and all(tensor.numel() for tensor in inputs)


def in_loops(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> fx.GraphModule:
    """The graph with matrix products as sums, and taken apart as far as Inductor does."""
    return _laid_out_once(traced(_LaidOut(graph).run, inputs, _table(product_of)))


def in_loops_over_lanes(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> fx.GraphModule:
    """The same for several models, in a last dimension of all tensors."""
    return widened(traced(_LaidOut(graph).run, inputs, _table(product_of_lanes)), inputs)


class _LaidOut(fx.Interpreter):
    """Runs a graph whose products, as sums, are not laid out in memory as those of libraries."""

    def run_node(self, n: fx.Node) -> Any:
        if n.target in _VIEWS:
            tensor, shape = self.fetch_args_kwargs_from_env(n)[0]
            return tensor.reshape(shape)
        return super().run_node(n)

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Results and gradients are laid out as always: users make views of them."""
        nodes: Any = self.graph.output_node().args[0]
        return [_as_laid_out(value, node.meta["val"]) for value, node in zip(args[0], nodes)]


def _as_laid_out(value: Any, like: torch.Tensor) -> Any:
    """A tensor with the strides of another, as far as these matter."""
    long = [i for i, n in enumerate(like.shape) if n > 1]
    same = all(value.stride(i) == like.stride(i) for i in long)
    reach = 1 + sum((like.shape[i] - 1) * like.stride(i) for i in long)
    is_part = reach != like.numel()
    return value if same or is_part else force_strides(value, like.stride())


def _laid_out_once(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph in which a matrix that several products want in one layout gets it only once."""
    found: dict[str, fx.Node] = {}
    for node in list(graph.graph.nodes):
        if str(node.target) in _LAYOUTS:
            first = found.setdefault(str((node.target, node.args)), node)
            if first is not node:
                node.replace_all_uses_with(first)
                graph.graph.erase_node(node)
    graph.recompile()
    return graph


# --------------------------------------------------------------------- operators


def _table(multiply: Callable[[Any, Any], Any]) -> dict[Any, Any]:
    def added(c: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
        result = multiply(a, b)
        if alpha != 1:
            result = result * alpha
        if beta == 0:
            return result
        return result + (c if beta == 1 else c * beta)

    return {
        **decompositions(),
        aten.mm.default: multiply,
        aten.bmm.default: multiply,
        aten.addmm.default: added,
        aten.baddbmm.default: added,
        aten.mv.default: lambda a, x: summed(a * x, 1),
        aten.dot.default: lambda x, y: summed(x * y, 0),
    }


# ------------------------------------------------------- indices that may not be negative


def _index(x: Any, dim: int, index: Any) -> list[Any]:
    """The indices with which aten.index gets at entries along a dimension; negative ones, which do
    not count from the end here, are out of bounds."""
    index = torch.where(index < 0, x.shape[dim], index).reshape(-1)
    return [*[None] * (dim % x.ndim), index]


def _index_select(x: Any, dim: int, index: Any) -> Any:
    return aten.index(x, _index(x, dim, index)) if x.ndim else NotImplemented


def _index_add(x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    if not x.ndim:
        return NotImplemented
    source = source if alpha == 1 else source * alpha
    return aten.index_put(x, _index(x, dim, index), source, accumulate=True)


def _index_copy(x: Any, dim: int, index: Any, source: Any) -> Any:
    return aten.index_put(x, _index(x, dim, index), source) if x.ndim else NotImplemented


_INDEXING = {
    aten.index_select.default: _index_select,
    aten.index_add.default: _index_add,
    aten.index_copy.default: _index_copy,
}

# ------------------------------------------------- what torch takes apart in a wrong way

#: Torch counts what comes after the last target.
_MENDED = {
    aten.multilabel_margin_loss_forward.default: COMPOSED[aten.multilabel_margin_loss_forward]
}


# ------------------------------------------------------------------ lists of tensors


def _each(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of lists of tensors, from one of tensors."""

    def run(*args: Any, **kwargs: Any) -> list[Any]:
        return [
            function(*(a[i] if isinstance(a, (list, tuple)) else a for a in args), **kwargs)
            for i in range(len(args[0]))
        ]

    return run


def _quotients(a: Any, b: Any, c: Any, value: Any = 1) -> Any:
    return torch.addcdiv(a, b, c, value=value)


def _products_added(a: Any, b: Any, c: Any, value: Any = 1) -> Any:
    return torch.addcmul(a, b, c, value=value)


def _foreach_table() -> dict[Any, Callable[..., Any]]:
    """Operators on lists of tensors, with functions that do the same to one after the other."""
    names = "add", "sub", "mul", "div", "neg", "sqrt", "abs", "exp"
    functions: dict[str, Callable[..., Any]] = {name: getattr(torch, name) for name in names}
    functions |= {"addcdiv": _quotients, "addcmul": _products_added}
    return {
        getattr(operator, overload): _each(function)
        for name, function in functions.items()
        for operator in [getattr(aten, f"_foreach_{name}")]
        for overload in operator.overloads()
        if not overload.endswith("out")
    }
