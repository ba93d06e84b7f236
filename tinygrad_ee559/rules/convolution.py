"""Convolutions of every kind: strided, dilated, grouped, transposed; and the columns of an image.

A convolution is linear in the input and in the weight, so that with its two gradients it makes up
three functions, and the gradients of each are the other two.
"""

from __future__ import annotations

from typing import Any

import torch

from tinygrad_ee559.rules.registry import composed, rule

aten = torch.ops.aten


@torch.overrides.wrap_torch_function(lambda g, weight, *_: (g, weight))
def input_gradient(g: Any, weight: Any, shape: torch.Size, *options: Any) -> Any:
    """That of an input of `shape`, whose values do not matter."""
    x = g.new_empty(shape)
    return aten.convolution_backward(g, x, weight, None, *options, [True, False, False])[0]


@torch.overrides.wrap_torch_function(lambda g, x, *_: (g, x))
def weight_gradient(g: Any, x: Any, shape: torch.Size, *options: Any) -> Any:
    """That of a weight of `shape`."""
    weight = g.new_empty(shape)
    return aten.convolution_backward(g, x, weight, None, *options, [False, True, False])[1]


def _bias_gradient(g: Any) -> Any:
    return g.sum([0, *range(2, g.ndim)])


rule(
    aten.convolution,
    lambda g, _y, x_shape, weight, _bias, *options: input_gradient(g, weight, x_shape, *options),
    lambda g, _y, x, weight_shape, _bias, *options: weight_gradient(g, x, weight_shape, *options),
    lambda g, _y, _x, _weight, _bias, *_options: _bias_gradient(g),
)
rule(
    input_gradient,
    lambda d, _y, _g, weight, _shape, *options: aten.convolution(d, weight, None, *options),
    lambda d, _y, g, weight_shape, _shape, *options: weight_gradient(g, d, weight_shape, *options),
)
rule(
    weight_gradient,
    lambda d, _y, _g, x, _shape, *options: aten.convolution(x, d, None, *options),
    lambda d, _y, g, x_shape, _shape, *options: input_gradient(g, d, x_shape, *options),
)


@composed(aten.convolution_backward)
def _convolution_backward(g: Any, x: Any, weight: Any, _bias_sizes: Any, *options: Any) -> Any:
    """All three, of which the last of the options says which are wanted."""
    *options, wanted = options  # type: ignore[assignment]
    return (
        input_gradient(g, weight, x.shape, *options) if wanted[0] else None,
        weight_gradient(g, x, weight.shape, *options) if wanted[1] else None,
        _bias_gradient(g) if wanted[2] else None,
    )


@composed(torch.conv_tbc)
def _conv_tbc(input: Any, weight: Any, bias: Any, pad: int = 0) -> Any:
    """Over time, batch and channels in this order."""
    y = torch.conv1d(input.permute(1, 2, 0), weight.permute(2, 1, 0), bias, padding=pad)
    return y.permute(2, 0, 1)


# the columns that a filter meets, and their sum in the places that they came from
rule(aten.im2col, lambda g, _y, x_shape, *options: aten.col2im(g, x_shape[-2:], *options))
rule(aten.col2im, lambda g, _y, _x, _output_size, *options: aten.im2col(g, *options))
