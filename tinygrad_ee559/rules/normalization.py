"""Normalizations: the kernels behind layer, group, instance and batch normalization.

Each gives (x - mean) / std, scaled and shifted, and also the mean and 1 / std of what it normalized
together, from which another kernel makes the gradients of x, weight and bias.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tinygrad_ee559.rules.registry import rule

aten = torch.ops.aten


def _three(gradient: Callable[..., Any]) -> list[Callable[..., Any]]:
    """The formulas of x, weight and bias, given the one of them all and which one is wanted."""
    return [partial(gradient, [i == wanted for i in range(3)]) for wanted in range(3)]


def _statistics(y_rest: Any, x: Any, dim: Any, eps: float) -> Any:
    """The mean and 1 / std of x: as the kernel gave them, or as functions of x if recorded."""
    if isinstance(x, torch.Tensor):
        return y_rest[1], y_rest[2]
    rstd = torch.rsqrt(x.var(dim, correction=0) + eps)
    return x.mean(dim).reshape(y_rest[1].shape), rstd.reshape(y_rest[2].shape)


def _layer_norm(
    mask: Any, g: Any, y_rest: Any, x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: Any
) -> Any:
    mean, rstd = _statistics(y_rest, x, tuple(range(-len(normalized_shape), 0)), eps)
    return aten.native_layer_norm_backward(
        g[0], x, normalized_shape, mean, rstd, weight, bias, mask
    )[mask.index(True)]


def _group_norm(
    mask: Any, g: Any, y_rest: Any, x: Any, weight: Any, _bias: Any,
    N: int, C: int, HxW: int, group: int, eps: float,
) -> Any:  # fmt: skip
    groups = x.reshape(N, group, C // group * HxW)
    mean, rstd = _statistics(y_rest, groups, -1, eps)
    x, d = x.contiguous(), g[0].contiguous()
    d = aten.native_group_norm_backward(d, x, mean, rstd, weight, N, C, HxW, group, mask)
    if not mask[0]:
        return d[mask.index(True)]
    centered = groups - mean.unsqueeze(-1)
    of_statistics = (g[1] - g[2] * rstd**3 * centered.movedim(-1, 0)).movedim(0, -1)
    return d[0] + of_statistics.reshape(x.shape) / groups.shape[-1]


def _batch_norm(
    mask: Any, g: Any, y_rest: Any, x: Any, weight: Any, _bias: Any,
    running_mean: Any, running_var: Any, training: bool, _momentum: float, eps: float,
) -> Any:  # fmt: skip
    mean, rstd = y_rest[1:3]
    if training:
        mean, rstd = _statistics(y_rest, x, [i for i in range(x.ndim) if i != 1], eps)
    if weight is not None:
        weight = weight.contiguous()  # torch's kernel takes it for that
    return aten.native_batch_norm_backward(
        g[0], x, weight, running_mean, running_var, mean, rstd, training, eps, mask
    )[mask.index(True)]


def _batch_norm_of_batch(
    mask: Any, g: Any, y_rest: Any, x: Any, weight: Any, _bias: Any,
    _running_mean: Any, _running_var: Any, _momentum: float, eps: float,
) -> Any:  # fmt: skip
    return _batch_norm(mask, g, y_rest, x, weight, None, None, None, True, 0, eps)


def _batch_norm_without_memory(
    mask: Any, g: Any, y_rest: Any, x: Any, weight: Any, _bias: Any,
    training: bool, _momentum: float, eps: float,
) -> Any:  # fmt: skip
    return _batch_norm(mask, g, y_rest, x, weight, None, None, None, training, 0, eps)


_x, _weight, _bias = _three(_layer_norm)
rule(torch.native_layer_norm, _x, None, _weight, _bias, first_only=True)
rule(torch.native_group_norm, *_three(_group_norm))
rule(torch.native_batch_norm, *_three(_batch_norm), first_only=True)
rule(aten._native_batch_norm_legit.default, *_three(_batch_norm), first_only=True)
rule(aten._native_batch_norm_legit.no_stats, *_three(_batch_norm_without_memory), first_only=True)
rule(aten._batch_norm_with_update.default, *_three(_batch_norm_of_batch), first_only=True)
