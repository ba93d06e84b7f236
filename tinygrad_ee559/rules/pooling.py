"""Pooling: averages, which are linear, and maxima, which know where they were found."""

from __future__ import annotations

from typing import Any

import torch

from tinygrad_ee559.rules.registry import rule

aten = torch.ops.aten

# ------------------------------------------------------------------------ averages


def _average(forward: Any, backward: Any) -> None:
    """Register a kernel that averages, and that of its gradient."""
    rule(
        forward,
        lambda g, _y, x_shape, kernel_size, stride=(), padding=0, ceil_mode=False,
        count_include_pad=True, divisor_override=None: backward(
            g, g.new_empty(x_shape), kernel_size, stride, padding, ceil_mode, count_include_pad,
            divisor_override,
        ),
    )  # fmt: skip
    rule(backward, lambda d, _y, _g, _x, *options: forward(d, *options))


def _adaptive_average(forward: Any, backward: Any, dims: int) -> None:
    rule(forward, lambda g, _y, x_shape, _output_size: backward(g, g.new_empty(x_shape)))
    rule(backward, lambda d, _y, g_shape, _x: forward(d, g_shape[-dims:]))


_average(aten.avg_pool2d, aten.avg_pool2d_backward)
_average(aten.avg_pool3d, aten.avg_pool3d_backward)
_adaptive_average(aten._adaptive_avg_pool2d, aten._adaptive_avg_pool2d_backward, 2)
_adaptive_average(aten._adaptive_avg_pool3d, aten._adaptive_avg_pool3d_backward, 3)

# -------------------------------------------------------------------------- maxima


def _maximum(pool: Any, dims: int) -> None:
    """Register a kernel that also gives indices, which count through the last `dims`."""
    rule(
        pool,
        lambda g, y_rest, x_shape, *_options: (
            g[0].new_zeros(x_shape).flatten(-dims)
            .scatter_add(-1, y_rest[1].flatten(-dims), g[0].flatten(-dims)).reshape(x_shape)
        ),
        first_only=True,
    )  # fmt: skip


def _maximum_backward(kernel: Any, dims: int) -> None:
    """Register the kernel of the gradient, which programs may call by itself."""
    rule(
        kernel,
        lambda d, _y, _g, _x, _kernel_size, _stride, _padding, _dilation, _ceil_mode, indices: (
            d.flatten(-dims).gather(-1, indices.flatten(-dims)).reshape(indices.shape)
        ),
        lambda d, _y, _g, _x, _kernel_size, _stride, _padding, _dilation, _ceil_mode, _indices: (
            torch.zeros_like(d)
        ),
    )


for _dims, _pools in (
    (2, (aten.max_pool2d_with_indices, aten.adaptive_max_pool2d, aten.fractional_max_pool2d)),
    (3, (aten.max_pool3d_with_indices, aten.adaptive_max_pool3d, aten.fractional_max_pool3d)),
):
    for _pool in _pools:
        _maximum(_pool, _dims)
_maximum_backward(aten.max_pool2d_with_indices_backward, 2)
_maximum_backward(aten.max_pool3d_with_indices_backward, 3)
