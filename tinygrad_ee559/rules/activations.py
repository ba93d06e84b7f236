"""Activation functions of neural networks.

PyTorch has a fused kernel for the gradient of each, faster than any composition. The formulas call
it, and it has an entry of its own: a rule, or an expression that can be differentiated again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.rules.registry import alias, composed, ops, pointwise, rule

aten = torch.ops.aten
#: The kernels behind torch.nn.functional.
kernels: Any = torch._C._nn

# ---------------------------------------------------------------------------- smooth

# the kernel conjugates y itself
pointwise(torch.sigmoid, lambda g, y, _x: ops.sigmoid_backward(g, y), holomorphic=False,
          number=lambda x: 1 / (1 + math.exp(-x)))
pointwise(F.logsigmoid, lambda g, _y, x: g * torch.sigmoid(-x),
          number=lambda x: min(x, 0.0) - math.log1p(math.exp(-abs(x))))
pointwise(F.softplus, lambda g, _y, x, beta=1.0, threshold=20.0:
          ops.softplus_backward(g, x, beta, threshold))
pointwise(kernels.silu, lambda g, _y, x: ops.silu_backward(g, x))
pointwise(kernels.mish, lambda g, _y, x: ops.mish_backward(g, x))
pointwise(F.gelu, lambda g, _y, x, approximate="none":
          ops.gelu_backward(g, x, approximate=approximate),
          number=lambda x, approximate="none":
              F.gelu(torch.tensor(x, dtype=torch.float64), approximate=approximate).item())
alias(torch.sigmoid, torch.special.expit)

pointwise(aten.sigmoid_backward,  # d conj(sigmoid (1 - sigmoid))
          lambda g, _y, _d, sigmoid: ops.sigmoid_backward(g, torch.conj(sigmoid)),
          lambda g, _y, d, sigmoid: torch.conj(g) * d * (1 - 2 * torch.conj(sigmoid)),
          number=lambda d, sigmoid: d * (1 - sigmoid) * sigmoid, holomorphic=False)
composed(aten.softplus_backward)(lambda g, x, beta, threshold:
    torch.where(x * beta > threshold, g, g * torch.sigmoid(x * beta)))


@composed(aten.silu_backward)
def _silu_backward(g: Any, x: Any) -> Any:
    sigmoid = torch.sigmoid(x)
    return g * sigmoid * (1 + x * (1 - sigmoid))


@composed(aten.mish_backward)
def _mish_backward(g: Any, x: Any) -> Any:
    tanh = torch.tanh(F.softplus(x))
    return g * (tanh + x * torch.sigmoid(x) * (1 - tanh * tanh))


@composed(aten.gelu_backward)
def _gelu_backward(g: Any, x: Any, approximate: str = "none") -> Any:
    """Of x times the normal distribution function, or of its approximation by a tanh.

    Source: Hendrycks and Gimpel, Gaussian Error Linear Units, https://arxiv.org/abs/1606.08415
    """
    if approximate == "none":
        density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return g * (torch.special.ndtr(x) + x * density)
    c, k = math.sqrt(2 / math.pi), 0.044715
    tanh = torch.tanh(c * (x + k * x**3))
    return g * 0.5 * (1 + tanh + x * (1 - tanh * tanh) * c * (1 + 3 * k * x * x))


# ---------------------------------------------------------------------------- exponential tails

pointwise(kernels.elu, lambda g, _y, x, alpha=1.0, scale=1.0, input_scale=1.0:
          ops.elu_backward(g, alpha, scale, input_scale, False, x))
pointwise(torch.celu, lambda g, _y, x, alpha=1.0:
          ops.elu_backward(g, alpha, 1, 1 / alpha, False, x))
pointwise(torch.selu, lambda g, _y, x:  # its own constants
          ops.elu_backward(g, 1.6732632423543772848, 1.0507009873554804934, 1, False, x))


@composed(aten.elu_backward)
def _elu_backward(
    g: Any, alpha: float, scale: float, input_scale: float, _is_result: bool, x: Any
) -> Any:
    # where it is not chosen, the exponential must not overflow: 0 * inf would be NaN
    left = alpha * scale * input_scale * torch.exp(torch.clamp_max(x * input_scale, 0))
    return g * torch.where(x <= 0, left, scale)


# ---------------------------------------------------------------------------- straight lines

pointwise(torch.relu, lambda g, y, _x: ops.threshold_backward(g, y, 0),
          number=lambda x: 0.0 if x <= 0 else x)
pointwise(torch.threshold, lambda g, _y, x, threshold, _value:
          ops.threshold_backward(g, x, threshold))
pointwise(kernels.leaky_relu, lambda g, _y, x, negative_slope=0.01:
          ops.leaky_relu_backward(g, x, negative_slope, False),
          number=lambda x, negative_slope=0.01: x if x > 0 else x * negative_slope)
pointwise(kernels.hardtanh, lambda g, _y, x, min_val=-1.0, max_val=1.0:
          ops.hardtanh_backward(g, x, min_val, max_val))
pointwise(kernels.hardsigmoid, lambda g, _y, x: ops.hardsigmoid_backward(g, x))
pointwise(kernels.hardswish,   lambda g, _y, x: ops.hardswish_backward(g, x))
pointwise(torch.hardshrink, lambda g, _y, x, lambd=0.5: ops.hardshrink_backward(g, x, lambd))
pointwise(F.softshrink,     lambda g, _y, x, lambd=0.5: ops.softshrink_backward(g, x, lambd))
# the slopes left of 0 are drawn into `noise`
rule(aten.rrelu_with_noise.default, lambda g, _y, x, noise, lower=0.125, upper=1/3, training=False,
     _generator=None: ops.rrelu_with_noise_backward(g, x, noise, lower, upper, training, False))

pointwise(aten.threshold_backward,
          lambda g, _y, _d, x, threshold: ops.threshold_backward(g, x, threshold),
          lambda g, _y, _d, _x, threshold: torch.zeros_like(g),
          number=lambda d, x, threshold: 0.0 if x <= threshold else d)
pointwise(aten.leaky_relu_backward,
          lambda g, _y, _d, x, slope, _: ops.leaky_relu_backward(g, x, slope, False),
          lambda g, _y, _d, _x, slope, _: torch.zeros_like(g),
          number=lambda d, x, slope, _: d if x > 0 else d * slope)
composed(aten.hardtanh_backward)(lambda g, x, min_val, max_val:
    torch.where((x > min_val) & (x < max_val), g, 0))
composed(aten.hardsigmoid_backward)(lambda g, x: torch.where((x > -3) & (x < 3), g / 6, 0))
composed(aten.hardswish_backward)(lambda g, x:
    torch.where(x <= -3, 0, torch.where(x < 3, g * (x / 3 + 0.5), g)))
composed(aten.hardshrink_backward, aten.softshrink_backward)(
    lambda g, x, lambd: torch.where((x >= -lambd) & (x <= lambd), 0, g))

rule(F.glu, lambda g, _y, x, dim=-1: ops.glu_backward(g, x, dim))

# ---------------------------------------------------------------------------- further forms


def _functional(function: Any, kernel: Any) -> None:
    """Lead `function` straight to its kernel, unless its last option, `inplace`, is set."""

    @composed(function)
    def either(*args: Any, inplace: bool = False, **options: Any) -> Any:
        if args[-1].__class__ is bool:
            *args, inplace = args  # type: ignore[assignment]
        return NotImplemented if inplace else kernel(*args, **options)


for _space, _names in (
    (torch, "relu celu selu threshold"),
    (kernels, "elu silu mish leaky_relu hardsigmoid hardswish"),
):
    for _name in _names.split():
        _functional(getattr(F, _name), getattr(_space, _name))
