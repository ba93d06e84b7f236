"""Lanes: several models in one graph, side by side in an innermost dimension.

Where batches are small, a model alone cannot fill the processor's vectors. So each number becomes a
vector, with an entry for each of `LANES` models, and every operator works on a dimension more. No
operator mixes lanes; all there is to do is to keep arguments that name dimensions or shapes in
their sense.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from tinygrad_ee559.compiling.layout import dense
from tinygrad_ee559.compiling.private import traced

#: How many models go side by side: as many single-precision numbers as a 512-bit register holds.
LANES = 16

#: Operators whose second argument names dimensions.
_ALONG = {
    "aten.sum.dim_IntList", "aten.mean.dim", "aten.amax.default", "aten.amin.default",
    "aten.squeeze.dim", "aten.squeeze.dims", "aten.slice.Tensor", "aten.select.int",
    "aten.cat.default", "aten.gather.default", "aten.scatter.src", "aten.scatter.value",
    "aten.cumsum.default",
}  # fmt: skip
#: Those of which all operands have to be of one size, apart from these dimensions.
_TOGETHER = {
    "aten.cat.default", "aten.gather.default", "aten.scatter.src", "aten.scatter.value",
}  # fmt: skip
_VIEWS = {"aten.view.default", "aten.reshape.default", "aten._unsafe_view.default"}
#: Operators for which lanes are like any dimension.
_ALIKE = {
    "aten.copy_.default", "aten.full_like.default", "aten.zeros_like.default",
    "aten.ones_like.default",
}  # fmt: skip


class NoLanesError(NotImplementedError):
    """An operator is used of which it is not known what lanes mean to it."""


def widened(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> fx.GraphModule:
    """The graph for `LANES` models at once; its inputs have a further, last dimension.

    Raises:
        NoLanesError: an operator cannot be widened.
    """
    wide = [dense(t, LANES) for t in inputs]
    try:
        return traced(_Widened(graph).run, wide, {})
    except NoLanesError:
        raise
    except Exception as error:  # an operator minds the dimension more
        raise NoLanesError(str(error)) from error


class _Widened(fx.Interpreter):
    """Runs a graph on tensors with a dimension of lanes at the end."""

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "output":
            return fx.node.map_aggregate(super().run_node(n), _wide)
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        target: Any = n.target
        name = str(target)
        if not n.all_input_nodes:
            return target(*args, **kwargs).unsqueeze(-1)  # a constant, the same in all lanes
        rank = n.all_input_nodes[0].meta["val"].ndim
        first, *rest = args
        if name in ("aten.clone.default", "aten.alias.default"):
            return first
        if name in ("aten.sum.default", "aten.mean.default"):
            reduction = getattr(first, target.overloadpacket.__name__)
            return (
                reduction(list(range(rank)), **kwargs)
                if rank
                else _converted(first, n.meta["val"].dtype)
            )
        if name in _ALONG:
            if not rank:
                return _converted(first, n.meta["val"].dtype)
            dims, *others = rest or [0 if name == "aten.cat.default" else []]
            if name in _TOGETHER:
                first, *others = fx.node.map_aggregate((first, *others), _wide)
            return target(first, _counted(dims, rank), *others, **kwargs)
        if name == "aten.unsqueeze.default":
            return first.unsqueeze(rest[0] % (rank + 1))
        if name == "aten.permute.default":
            return first.permute(*_counted(rest[0], rank), rank)
        if name in _VIEWS:
            return first.reshape([*rest[0], first.shape[-1]])
        if name == "aten.expand.default":
            return first.expand([*rest[0], first.shape[-1]])
        if name == "prims.inductor_force_stride_order.default":
            return target(first, [*(LANES * stride for stride in rest[0]), 1])
        if name in _ALIKE or torch.Tag.pointwise in target.tags:
            # Operands are aligned at the end, where the lanes are.
            return target(*_without_say(n.args, args), **kwargs)
        raise NoLanesError(name)


def _wide(value: Any) -> Any:
    """A tensor that is the same for all lanes, once for each."""
    if not isinstance(value, torch.Tensor) or value.shape[-1] == LANES:
        return value
    return value.expand(*value.shape[:-1], LANES)


def _without_say(nodes: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """Operands, of which those that have no dimensions of their own have no say in the result's
    dtype, unless they are of another kind."""
    dtypes = [n.meta["val"].dtype for n in nodes if isinstance(n, fx.Node) and n.meta["val"].ndim]
    if not dtypes:
        return [*values]
    common = functools.reduce(torch.promote_types, dtypes)
    alone = [isinstance(n, fx.Node) and not n.meta["val"].ndim for n in nodes]
    return [
        _converted(v, common) if is_alone and 0 < _kind(v.dtype) <= _kind(common) else v
        for v, is_alone in zip(values, alone)
    ]


def _kind(dtype: torch.dtype) -> int:
    """0 for booleans, 1 for integers, 2 for real and 3 for complex numbers."""
    return 0 if dtype is torch.bool else 1 + dtype.is_floating_point + 2 * dtype.is_complex


def _converted(value: Any, dtype: torch.dtype) -> Any:
    """A number in a dtype."""
    convert = torch.ops.prims.convert_element_type.default
    return value if value.dtype == dtype else convert(value, dtype)


def _counted(dims: Any, rank: int) -> Any:
    """Dimensions counted from the front; all of them where none is named."""
    if isinstance(dims, int):
        return dims % rank if rank else dims
    return [d % rank for d in dims or ()] or list(range(rank))
