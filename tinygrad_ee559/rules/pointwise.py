"""Functions that work element by element and broadcast their operands."""

from __future__ import annotations

import math
import operator

import torch

from tinygrad_ee559.rules.registry import alias, pointwise

# --------------------------------------------------------------- arithmetic

pointwise(
    torch.add,
    lambda g, _y, _a, _b, alpha=1: g,
    lambda g, _y, _a, _b, alpha=1: g if alpha == 1 else g * alpha,
    number=lambda a, b, alpha=1: a + b if alpha == 1 else a + alpha * b,
)
pointwise(
    torch.sub,
    lambda g, _y, _a, _b, alpha=1: g,
    lambda g, _y, _a, _b, alpha=1: -g if alpha == 1 else -g * alpha,
    number=lambda a, b, alpha=1: a - b if alpha == 1 else a - alpha * b,
)
pointwise(
    torch.mul,
    lambda g, _y, _a, b: g * b,
    lambda g, _y, a, _b: g * a,
    number=operator.mul,
)
pointwise(
    torch.div,
    lambda g, _y, _a, b: g / b,
    lambda g, y, _a, b: -g * (y / b),
    number=operator.truediv,
)
pointwise(torch.neg, lambda g, _y, _x: -g, number=operator.neg)
pointwise(
    torch.pow,
    # n - (n != 0) instead of n - 1, so that the derivative of x ** 0 is 0 also at x = 0
    lambda g, _y, x, n: g * (n * x ** (n - 1 * (n != 0))),
    lambda g, y, x, _n: g * (y * torch.log(x)),
    number=lambda x, n: x**n if x >= 0 or n == int(n) else math.nan,
)
pointwise(torch.exp, lambda g, y, _x: g * y, number=math.exp)
pointwise(torch.log, lambda g, _y, x: g / x, number=math.log)
pointwise(torch.tanh, lambda g, y, _x: g * (1 - y * y), number=math.tanh)
pointwise(torch.sin, lambda g, _y, x: g * torch.cos(x), number=math.sin)
pointwise(torch.cos, lambda g, _y, x: -g * torch.sin(x), number=math.cos)
pointwise(
    torch.ops.aten.threshold_backward,
    lambda g, _y, _g, x, threshold: torch.ops.aten.threshold_backward(g, x, threshold),
    None,
    number=lambda g, x, threshold: g if x > threshold else 0.0,
)
pointwise(
    torch.relu,
    lambda g, y, _x: torch.ops.aten.threshold_backward(g, y, 0),
    number=lambda x: x if x > 0 else 0.0 * x,
)
alias(torch.relu, torch.nn.functional.relu)
