"""Functions that work element by element and broadcast their operands.

Conventions at kinks and ties are PyTorch's: the derivative of |x| at 0 is 0, a tie for the maximum
is shared half and half, x ** 0 has derivative 0 everywhere.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import special

from tinygrad_ee559.rules.registry import alias, composed, pointwise, rule

# ---------------------------------------------------------------------------- arithmetic

pointwise(torch.add, lambda g, _y, _a, _b, alpha=1: g,
                     lambda g, _y, _a, _b, alpha=1: g if alpha == 1 else g * alpha,
          number=lambda a, b, alpha=1: a + b if alpha == 1 else a + alpha * b)
pointwise(torch.sub, lambda g, _y, _a, _b, alpha=1: g,
                     lambda g, _y, _a, _b, alpha=1: -g if alpha == 1 else -g * alpha,
          number=lambda a, b, alpha=1: a - b if alpha == 1 else a - alpha * b)
pointwise(torch.mul, lambda g, _y, _a, b: g * b,
                     lambda g, _y, a, _b: g * a, number=operator.mul)
# a rounded quotient is constant between its steps
pointwise(torch.div,
          lambda g, _y, _a, b, rounding_mode=None: g * 0 if rounding_mode else g / b,
          lambda g, y, _a, b, rounding_mode=None: g * 0 if rounding_mode else -g * (y / b),
          number=lambda a, b, rounding_mode=None:
              _rounded_quotient(a, b, rounding_mode) if rounding_mode else a / b)


def _rounded_quotient(a: float, b: float, rounding_mode: str) -> float:
    return torch.div(torch.tensor(a, dtype=torch.float64), b, rounding_mode=rounding_mode).item()


pointwise(torch.neg,        lambda g, _y, _x: -g,               number=operator.neg)
pointwise(torch.positive,   lambda g, _y, _x: g,                number=operator.pos)
pointwise(torch.square,     lambda g, _y, x: g * (2 * x),       number=lambda x: x * x)
pointwise(torch.reciprocal, lambda g, y, _x: -g * (y * y),      number=lambda x: 1 / x)
pointwise(torch.sqrt,       lambda g, y, _x: g / (2 * y),       number=math.sqrt)
pointwise(torch.rsqrt,      lambda g, y, _x: -0.5 * g * y**3,   number=lambda x: 1 / math.sqrt(x))

# the remainder grows with a, and falls by b as often as b goes into a
pointwise(torch.fmod,      lambda g, _y, _a, _b: g,
                           lambda g, _y, a, b: -g * torch.div(a, b, rounding_mode="trunc"),
          number=math.fmod)
pointwise(torch.remainder, lambda g, _y, _a, _b: g,
                           lambda g, _y, a, b: -g * torch.div(a, b, rounding_mode="floor"),
          number=operator.mod)

pointwise(torch.addcmul, lambda g, _y, _x, _tensor1, _tensor2, value=1: g,
                         lambda g, _y, _x, _tensor1, tensor2, value=1: g * (tensor2 * value),
                         lambda g, _y, _x, tensor1, _tensor2, value=1: g * (tensor1 * value),
          number=lambda x, a, b, value=1: x + value * a * b)
pointwise(torch.addcdiv, lambda g, _y, _x, _tensor1, _tensor2, value=1: g,
                         lambda g, _y, _x, _tensor1, tensor2, value=1: g * (value / tensor2),
                         lambda g, _y, _x, tensor1, tensor2, value=1:
                             -g * (value * tensor1 / (tensor2 * tensor2)),
          number=lambda x, a, b, value=1: x + value * a / b)
pointwise(torch.lerp, lambda g, _y, _a, _end, weight: g * (1 - weight),
                      lambda g, _y, _a, _end, weight: g * weight,
                      lambda g, _y, a, end, _weight: g * (end - a),
          number=lambda a, b, weight: a + weight * (b - a))

# ---------------------------------------------------------------------------- powers, exp, log

pointwise(torch.pow,
          # n - (n != 0) instead of n - 1, so that the derivative of x ** 0 is 0 also at x = 0
          lambda g, _y, x, n: g * (n * x ** (n - 1 * (n != 0))),
          # 0 ** n does not change with n, real and not negative; torch.where also brings x to the
          # precision of y
          lambda g, y, x, n: g * (y * torch.log(torch.where((x == 0) & (torch.abs(n) == n),
                                                            torch.ones_like(y), x))),
          number=lambda x, n: x**n if x >= 0 or n == int(n) else math.nan)

# 0.693... is log(2), 2.302... is log(10)
pointwise(torch.exp,   lambda g, y, _x: g * y,                           number=math.exp)
pointwise(torch.exp2,  lambda g, y, _x: g * y * 0.6931471805599453,      number=lambda x: 2.0**x)
pointwise(torch.expm1, lambda g, y, _x: g * (y + 1),                     number=math.expm1)
pointwise(torch.log,   lambda g, _y, x: g / x,                           number=math.log)
pointwise(torch.log2,  lambda g, _y, x: g / (x * 0.6931471805599453),    number=math.log2)
pointwise(torch.log10, lambda g, _y, x: g / (x * 2.302585092994046),     number=math.log10)
pointwise(torch.log1p, lambda g, _y, x: g / (x + 1),                     number=math.log1p)
pointwise(torch.logit, lambda g, _y, x, eps=None:
          torch.where((x < (eps or 0)) | (x > 1 - (eps or 0)), math.nan if eps is None else 0,
                      g / (x * (1 - x))))

pointwise(torch.logaddexp,  lambda g, _y, a, b: g / (1 + torch.exp(b - a)),
                            lambda g, _y, a, b: g / (1 + torch.exp(a - b)))
pointwise(torch.logaddexp2, lambda g, _y, a, b: g / (1 + torch.exp2(b - a)),
                            lambda g, _y, a, b: g / (1 + torch.exp2(a - b)))
# 0 times a logarithm is 0, also where the logarithm is infinite or not defined
pointwise(torch.xlogy,
          lambda g, _y, a, b: torch.where((a == 0) & (b <= 0), 0, torch.xlogy(g, b)),
          lambda g, _y, a, b: g * a / b)
pointwise(special.xlog1py,
          lambda g, _y, a, b: torch.where((a == 0) & (b <= -1), 0, special.xlog1py(g, b)),
          lambda g, _y, a, b: g * a / (b + 1))
composed(torch.ldexp)(lambda x, other: x * torch.pow(2.0, other))
pointwise(special.entr, lambda g, _y, x: g * (-torch.log(x) - 1))

# ---------------------------------------------------------------------------- circle and hyperbola

pointwise(torch.sin,   lambda g, _y, x: g * torch.cos(x),              number=math.sin)
pointwise(torch.cos,   lambda g, _y, x: -g * torch.sin(x),             number=math.cos)
pointwise(torch.tan,   lambda g, y, _x: g * (1 + y * y),               number=math.tan)
pointwise(torch.asin,  lambda g, _y, x: g * torch.rsqrt(1 - x * x),    number=math.asin)
pointwise(torch.acos,  lambda g, _y, x: -g * torch.rsqrt(1 - x * x),   number=math.acos)
pointwise(torch.atan,  lambda g, _y, x: g / (x * x + 1),               number=math.atan)
pointwise(torch.sinh,  lambda g, _y, x: g * torch.cosh(x),             number=math.sinh)
pointwise(torch.cosh,  lambda g, _y, x: g * torch.sinh(x),             number=math.cosh)
pointwise(torch.tanh,  lambda g, y, _x: torch.ops.aten.tanh_backward(g, y), number=math.tanh,
          holomorphic=False)
pointwise(torch.asinh, lambda g, _y, x: g * torch.rsqrt(x * x + 1),    number=math.asinh)
pointwise(torch.acosh, lambda g, _y, x: g * torch.rsqrt(x * x - 1),    number=math.acosh)
pointwise(torch.atanh, lambda g, _y, x: g / (1 - x * x),               number=math.atanh)

pointwise(torch.ops.aten.tanh_backward,  # d conj(1 - tanh ** 2)
          lambda g, _y, _d, tanh: torch.ops.aten.tanh_backward(g, torch.conj(tanh)),
          lambda g, _y, d, tanh: torch.conj(g) * d * (-2 * torch.conj(tanh)),
          number=lambda d, tanh: d * (1 - tanh * tanh), holomorphic=False)

# at the origin, which has no angle, the derivatives are 0
pointwise(torch.atan2,
          lambda g, _y, a, b: g * torch.where((a == 0) & (b == 0), 0, b / (a * a + b * b)),
          lambda g, _y, a, b: -g * torch.where((a == 0) & (b == 0), 0, a / (a * a + b * b)),
          number=math.atan2)
pointwise(torch.hypot, lambda g, y, a, _b: g * a / y,
                       lambda g, y, _a, b: g * b / y, number=math.hypot)

pointwise(torch.deg2rad, lambda g, _y, _x: g * (torch.pi / 180), number=math.radians)
pointwise(torch.rad2deg, lambda g, _y, _x: g * (180 / torch.pi), number=math.degrees)
# sin(pi x) / (pi x), and 1 at x = 0
pointwise(torch.sinc, lambda g, y, x: torch.where(x == 0, 0, g * (torch.cos(torch.pi * x) - y) / x))

# ---------------------------------------------------------------------------- special functions

pointwise(torch.erf,
          lambda g, _y, x: g * (2 / torch.pi**0.5 * torch.exp(-x * x)), number=math.erf)
pointwise(torch.erfc,
          lambda g, _y, x: g * (-2 / torch.pi**0.5 * torch.exp(-x * x)), number=math.erfc)
pointwise(torch.erfinv, lambda g, y, _x: g * (torch.pi**0.5 / 2 * torch.exp(y * y)))
pointwise(special.erfcx, lambda g, y, x: g * (2 * x * y - 2 / torch.pi**0.5))
pointwise(special.ndtr, lambda g, _y, x: g * (torch.exp(-0.5 * x * x) / (2 * torch.pi) ** 0.5))
pointwise(special.ndtri, lambda g, y, _x: g * (torch.exp(0.5 * y * y) * (2 * torch.pi) ** 0.5))
pointwise(special.log_ndtr,
          lambda g, _y, x: g * ((2 / torch.pi) ** 0.5 / special.erfcx(-x / 2**0.5)))

pointwise(torch.lgamma,    lambda g, _y, x: g * torch.digamma(x), number=math.lgamma)
pointwise(torch.digamma,   lambda g, _y, x: g * torch.polygamma(1, x))
pointwise(torch.polygamma, None, lambda g, _y, n, x: g * torch.polygamma(n + 1, x),
          number=lambda n, x: torch.polygamma(n, torch.tensor(x, dtype=torch.float64)).item())
pointwise(special.zeta,    None, lambda g, _y, x, q: g * -x * special.zeta(x + 1, q))
pointwise(torch.igamma,    None, lambda g, _y, a, x:
          g * torch.exp((a - 1) * torch.log(x) - x - torch.lgamma(a)))
pointwise(torch.igammac,   None, lambda g, _y, a, x:
          -g * torch.exp((a - 1) * torch.log(x) - x - torch.lgamma(a)))
pointwise(torch.mvlgamma,
          lambda g, _y, x, p: g * sum(torch.digamma(x - i / 2) for i in range(p)))
composed(torch.Tensor.polygamma)(lambda x, n: torch.polygamma(n, x))

# the modified Bessel functions
pointwise(torch.i0,    lambda g, _y, x: g * special.i1(x))
pointwise(special.i0e, lambda g, y, x: g * (special.i1e(x) - torch.sgn(x) * y))
pointwise(special.i1,  lambda g, y, x: g * (torch.i0(x) - _slope(y, x)))
pointwise(special.i1e, lambda g, y, x: g * (special.i0e(x) - torch.sgn(x) * y - _slope(y, x)))


def _slope(y: Any, x: Any) -> Any:
    """y / x, and at x = 0 its limit there, which for these functions is 1/2."""
    return torch.where(x == 0, 0.5, y / torch.where(x == 0, 1, x))


# ---------------------------------------------------------------------------- rounding, signs

for _step in (torch.sign, torch.floor, torch.ceil, torch.trunc):
    pointwise(_step, lambda g, _y, _x: torch.zeros_like(g))
# neither does what is drawn at random
rule(torch.bernoulli, lambda g, _y, _x, _p=None, _generator=None: torch.zeros_like(g))
rule(torch.poisson, lambda g, _y, _x, _generator=None: torch.zeros_like(g))
rule(torch.normal, lambda g, _y, _mean, _std=1.0, _generator=None: torch.zeros_like(g),
                   lambda g, _y, _mean, _std=1.0, _generator=None: torch.zeros_like(g))
pointwise(torch.nextafter, lambda g, _y, _x, _other: g,
                           lambda g, _y, _x, _other: torch.zeros_like(g), number=math.nextafter)
pointwise(torch.round, lambda g, _y, _x, decimals=0: torch.zeros_like(g),
          number=lambda x, decimals=0: round(x, decimals))
pointwise(torch.frac, lambda g, _y, _x: g)
pointwise(torch.copysign, lambda g, y, x, _other: g * torch.where(x == 0, 0, y / x),
                          lambda g, _y, _x, _other: torch.zeros_like(g), number=math.copysign)
pointwise(torch.nan_to_num, lambda g, _y, x, nan=0.0, posinf=None, neginf=None:
          g * torch.isfinite(x))
rule(torch.frexp, lambda g, y, _x: g[0] / torch.exp2(y[1]))

# ---------------------------------------------------------------------------- choosing

pointwise(torch.where, None,
          lambda g, _y, condition, _input, _other: torch.where(condition, g, 0),
          lambda g, _y, condition, _input, _other: torch.where(condition, 0, g),
          number=lambda condition, a, b: _in_common_type(a if condition else b, a, b))
composed(torch.Tensor.where)(lambda x, condition, other: torch.where(condition, x, other))

pointwise(torch.maximum,
          lambda g, _y, a, b: torch.where(a == b, g / 2, torch.where(a < b, 0, g)),
          lambda g, _y, a, b: torch.where(a == b, g / 2, torch.where(a > b, 0, g)),
          number=lambda a, b: a if a >= b or a != a else b)
pointwise(torch.minimum,
          lambda g, _y, a, b: torch.where(a == b, g / 2, torch.where(a > b, 0, g)),
          lambda g, _y, a, b: torch.where(a == b, g / 2, torch.where(a < b, 0, g)),
          number=lambda a, b: a if a <= b or a != a else b)
# these two ignore NaNs, b != b, and give a tie to a
pointwise(torch.fmax, lambda g, _y, a, b: torch.where((a >= b) | (b != b), g, 0),
                      lambda g, _y, a, b: torch.where((a >= b) | (b != b), 0, g),
          number=lambda a, b: a if a >= b or b != b else b)
pointwise(torch.fmin, lambda g, _y, a, b: torch.where((a <= b) | (b != b), g, 0),
                      lambda g, _y, a, b: torch.where((a <= b) | (b != b), 0, g),
          number=lambda a, b: a if a <= b or b != b else b)

# the bounds count as inside
pointwise(torch.clamp_min, lambda g, _y, x, min: torch.where(x >= min, g, 0),
                           lambda g, _y, x, min: torch.where(x < min, g, 0))
pointwise(torch.clamp_max, lambda g, _y, x, max: torch.where(x <= max, g, 0),
                           lambda g, _y, x, max: torch.where(x > max, g, 0))
pointwise(torch.clamp,
          lambda g, _y, x, min=None, max=None: torch.where(_inside(x, min, max), g, 0),
          lambda g, _y, x, min=None, max=None: torch.where(_below(x, min, max), g, 0),
          lambda g, _y, x, min=None, max=None: torch.where(_above(x, min, max), g, 0))


def _inside(x: Any, min: Any, max: Any) -> Any:
    if min is None or max is None:
        return x <= max if min is None else x >= min
    return (x >= min) & (x <= max)


def _below(x: Any, min: Any, max: Any) -> Any:
    return x < min if max is None else (x < min) & (min < max)


def _above(x: Any, min: Any, max: Any) -> Any:
    """Where the upper bound decides: also where it is the smaller one."""
    return x > max if min is None else (x > max) | (max < min)


def _in_common_type(chosen: Any, a: Any, b: Any) -> Any:
    return float(chosen) if float in (a.__class__, b.__class__) else chosen


# ---------------------------------------------------------------------------- further names

for _function, *_names in (
    (torch.sub, torch.subtract), (torch.mul, torch.multiply), (torch.neg, torch.negative),
    (torch.div, torch.divide, torch.true_divide),
    (torch.pow, torch.Tensor.__pow__),
    (torch.clamp, torch.clip), (torch.trunc, torch.fix), (torch.atan2, torch.arctan2),
    (torch.asin, torch.arcsin), (torch.acos, torch.arccos), (torch.atan, torch.arctan),
    (torch.asinh, torch.arcsinh), (torch.acosh, torch.arccosh), (torch.atanh, torch.arctanh),
    (torch.exp2, special.exp2), (torch.expm1, special.expm1), (torch.log1p, special.log1p),
    (torch.logit, special.logit), (torch.xlogy, special.xlogy), (torch.sinc, special.sinc),
    (torch.round, special.round), (torch.erf, special.erf), (torch.erfc, special.erfc),
    (torch.erfinv, special.erfinv), (torch.i0, special.i0), (torch.lgamma, special.gammaln),
    (torch.digamma, special.digamma, special.psi), (torch.polygamma, special.polygamma),
    (torch.mvlgamma, special.multigammaln), (torch.igamma, special.gammainc),
    (torch.igammac, special.gammaincc),
):  # fmt: skip
    alias(_function, *_names)
