"""Functions whose results carry no gradient: comparisons, logic, new tensors."""

from __future__ import annotations

import math
import operator

import torch

from tinygrad_ee559.rules.registry import alias, composed, constant

# ---------------------------------------------------------------------------- comparisons

constant(torch.eq, operator.eq)
constant(torch.ne, operator.ne)
constant(torch.lt, operator.lt)
constant(torch.le, operator.le)
constant(torch.gt, operator.gt)
constant(torch.ge, operator.ge)
alias(torch.ne, torch.not_equal)
alias(torch.lt, torch.less)
alias(torch.le, torch.less_equal)
alias(torch.gt, torch.greater)
alias(torch.ge, torch.greater_equal)

constant(torch.isnan, math.isnan)
constant(torch.isinf, math.isinf)
constant(torch.isfinite, math.isfinite)
constant(torch.signbit, lambda x: math.copysign(1, x) < 0)

# ---------------------------------------------------------------------------- logic, bits, integers

constant(torch.logical_not, operator.not_)
constant(torch.logical_and, lambda a, b: bool(a and b))
constant(torch.logical_or,  lambda a, b: bool(a or b))
constant(torch.logical_xor, lambda a, b: bool(a) != bool(b))

constant(torch.bitwise_not, lambda a: not a if isinstance(a, bool) else ~a)
constant(torch.bitwise_and, operator.and_)
constant(torch.bitwise_or,  operator.or_)
constant(torch.bitwise_xor, operator.xor)
constant(torch.bitwise_left_shift,  operator.lshift)
constant(torch.bitwise_right_shift, operator.rshift)
alias(torch.bitwise_and, torch.Tensor.__and__)
alias(torch.bitwise_or,  torch.Tensor.__or__)
alias(torch.bitwise_xor, torch.Tensor.__xor__)
alias(torch.bitwise_left_shift,  torch.Tensor.__lshift__)
alias(torch.bitwise_right_shift, torch.Tensor.__rshift__)
composed(torch.Tensor.__rlshift__)(lambda x, other: torch.bitwise_left_shift(other, x))
composed(torch.Tensor.__rrshift__)(lambda x, other: torch.bitwise_right_shift(other, x))

constant(torch.gcd, math.gcd)
constant(torch.lcm, math.lcm)
# infinities and NaN, where Python raises, as in torch
constant(torch.floor_divide, lambda a, b: a // b if b else a * math.inf)
constant(torch.heaviside, lambda x, at_zero: at_zero if x == 0 else float(x > 0))
alias(torch.floor_divide, torch.Tensor.__floordiv__)

# ---------------------------------------------------------------------------- new tensors

constant(torch.zeros_like, lambda x: x.__class__(0))
constant(torch.ones_like,  lambda x: x.__class__(1))
constant(torch.full_like,  lambda x, fill_value: x.__class__(fill_value))
for _creation in (
    torch.empty_like, torch.rand_like, torch.randn_like, torch.randint_like, torch.histc,
    torch.Tensor.new_tensor, torch.Tensor.new_empty, torch.Tensor.new_zeros,
    torch.Tensor.new_ones, torch.Tensor.new_full,
):  # fmt: skip
    constant(_creation)
