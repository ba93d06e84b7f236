"""Activation functions of neural networks.

PyTorch has a fused kernel for the gradient of each, faster than any composition. The formulas call
it, and it has an entry of its own: a rule, or an expression that can be differentiated again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.rules.registry import alias, composed, pointwise, rule

_ALPHA, _SCALE = 1.6732632423543772848, 1.0507009873554804934  # of torch.selu

# ---------------------------------------------------------------------------- smooth

pointwise(torch.sigmoid, lambda g, y, _x: torch.ops.aten.sigmoid_backward(g, y),
          number=lambda x: 1 / (1 + math.exp(-x)))
pointwise(F.logsigmoid, lambda g, _y, x: g * torch.sigmoid(-x),
          number=lambda x: min(x, 0.0) - math.log1p(math.exp(-abs(x))))
pointwise(F.softplus, lambda g, _y, x, beta=1.0, threshold=20.0:
          torch.ops.aten.softplus_backward(g, x, beta, threshold))
pointwise(F.silu, lambda g, _y, x: torch.ops.aten.silu_backward(g, x))
pointwise(F.mish, lambda g, _y, x: torch.ops.aten.mish_backward(g, x))
pointwise(F.gelu, lambda g, _y, x, approximate="none":
          torch.ops.aten.gelu_backward(g, x, approximate=approximate),
          number=lambda x, approximate="none":
              F.gelu(torch.tensor(x, dtype=torch.float64), approximate=approximate).item())

composed(F.softsign)(lambda x: x / (torch.abs(x) + 1))
composed(F.tanhshrink)(lambda x: x - torch.tanh(x))
alias(torch.sigmoid, torch.special.expit)

pointwise(torch.ops.aten.sigmoid_backward,  # d conj(sigmoid (1 - sigmoid))
          lambda g, _y, _d, sigmoid: torch.ops.aten.sigmoid_backward(g, torch.conj(sigmoid)),
          lambda g, _y, d, sigmoid: torch.conj(g) * d * (1 - 2 * torch.conj(sigmoid)),
          number=lambda d, sigmoid: d * (1 - sigmoid) * sigmoid, holomorphic=False)


@composed(torch.ops.aten.softplus_backward)
def _softplus_backward(g: Any, x: Any, beta: float, threshold: float) -> Any:
    return torch.where(x * beta > threshold, g, g * torch.sigmoid(x * beta))


@composed(torch.ops.aten.silu_backward)
def _silu_backward(g: Any, x: Any) -> Any:
    sigmoid = torch.sigmoid(x)
    return g * sigmoid * (1 + x * (1 - sigmoid))


@composed(torch.ops.aten.mish_backward)
def _mish_backward(g: Any, x: Any) -> Any:
    tanh = torch.tanh(F.softplus(x))
    return g * (tanh + x * torch.sigmoid(x) * (1 - tanh * tanh))


@composed(torch.ops.aten.gelu_backward)
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

pointwise(F.elu, lambda g, _y, x, alpha=1.0:
          torch.ops.aten.elu_backward(g, alpha, 1, 1, False, x))
for _celu in (F.celu, torch.celu):
    pointwise(_celu, lambda g, _y, x, alpha=1.0:
              torch.ops.aten.elu_backward(g, alpha, 1, 1 / alpha, False, x))
for _selu in (F.selu, torch.selu):
    pointwise(_selu, lambda g, _y, x:
              torch.ops.aten.elu_backward(g, _ALPHA, _SCALE, 1, False, x))


@composed(torch.ops.aten.elu_backward)
def _elu_backward(
    g: Any, alpha: float, scale: float, input_scale: float, _is_result: bool, x: Any
) -> Any:
    # where it is not chosen, the exponential must not overflow: 0 * inf would be NaN
    left = alpha * scale * input_scale * torch.exp(torch.clamp_max(x * input_scale, 0))
    return g * torch.where(x <= 0, left, scale)


# ---------------------------------------------------------------------------- straight lines

for _relu in (torch.relu, F.relu):
    pointwise(_relu, lambda g, y, _x: torch.ops.aten.threshold_backward(g, y, 0),
              number=lambda x: 0.0 if x <= 0 else x)
for _threshold in (torch.threshold, F.threshold):
    pointwise(_threshold, lambda g, _y, x, threshold, _value:
              torch.ops.aten.threshold_backward(g, x, threshold))
pointwise(F.leaky_relu, lambda g, _y, x, negative_slope=0.01:
          torch.ops.aten.leaky_relu_backward(g, x, negative_slope, False),
          number=lambda x, negative_slope=0.01: x if x > 0 else x * negative_slope)
pointwise(F.hardtanh, lambda g, _y, x, min_val=-1.0, max_val=1.0:
          torch.ops.aten.hardtanh_backward(g, x, min_val, max_val))
pointwise(F.relu6,       lambda g, _y, x: torch.ops.aten.hardtanh_backward(g, x, 0, 6))
pointwise(F.hardsigmoid, lambda g, _y, x: torch.ops.aten.hardsigmoid_backward(g, x))
pointwise(F.hardswish,   lambda g, _y, x: torch.ops.aten.hardswish_backward(g, x))
pointwise(torch.hardshrink, lambda g, _y, x, lambd=0.5:
          torch.ops.aten.hardshrink_backward(g, x, lambd))
pointwise(F.softshrink,     lambda g, _y, x, lambd=0.5:
          torch.ops.aten.softshrink_backward(g, x, lambd))

pointwise(torch.ops.aten.threshold_backward,
          lambda g, _y, _d, x, threshold: torch.ops.aten.threshold_backward(g, x, threshold),
          lambda g, _y, _d, _x, threshold: torch.zeros_like(g),
          number=lambda d, x, threshold: 0.0 if x <= threshold else d)
pointwise(torch.ops.aten.leaky_relu_backward,
          lambda g, _y, _d, x, slope, _: torch.ops.aten.leaky_relu_backward(g, x, slope, False),
          lambda g, _y, _d, _x, slope, _: torch.zeros_like(g),
          number=lambda d, x, slope, _: d if x > 0 else d * slope)


@composed(torch.ops.aten.hardtanh_backward)
def _hardtanh_backward(g: Any, x: Any, min_val: float, max_val: float) -> Any:
    return torch.where((x > min_val) & (x < max_val), g, 0)


@composed(torch.ops.aten.hardsigmoid_backward)
def _hardsigmoid_backward(g: Any, x: Any) -> Any:
    return torch.where((x > -3) & (x < 3), g / 6, 0)


@composed(torch.ops.aten.hardswish_backward)
def _hardswish_backward(g: Any, x: Any) -> Any:
    return torch.where(x <= -3, 0, torch.where(x < 3, g * (x / 3 + 0.5), g))


@composed(torch.ops.aten.hardshrink_backward, torch.ops.aten.softshrink_backward)
def _shrink_backward(g: Any, x: Any, lambd: float) -> Any:
    return torch.where((x >= -lambd) & (x <= lambd), 0, g)


# ---------------------------------------------------------------------------- of several elements

rule(F.glu, lambda g, _y, x, dim=-1: torch.ops.aten.glu_backward(g, x, dim))


@composed(torch.ops.aten.glu_backward)
def _glu_backward(g: Any, x: Any, dim: int) -> Any:
    a, b = torch.chunk(x, 2, dim)
    sigmoid = torch.sigmoid(b)
    return torch.cat([g * sigmoid, g * a * sigmoid * (1 - sigmoid)], dim)


@composed(torch.prelu)
def _prelu(x: Any, weight: Any) -> Any:
    """One slope for all, or one for each channel, which is dimension 1."""
    slopes = weight.reshape([-1] * min(x.ndim, 1) + [1] * (x.ndim - 2))
    return torch.where(x > 0, x, slopes * x)
