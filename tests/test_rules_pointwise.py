"""Pointwise functions, activations and constants, against torch.autograd."""

import math
import operator

import pytest
import torch
import torch.nn.functional as F
from compare import assert_same_gradients, op_samples
from torch import special

import tinygrad_ee559 as tg
from tinygrad_ee559.rules import activations, constants, pointwise
from tinygrad_ee559.rules.registry import COMPOSED, CONSTANT, RULES

# --------------------------------------------------------------- PyTorch's own samples

OPERATORS = """
    add sub rsub mul div:no_rounding_mode div:trunc_rounding div:floor_rounding true_divide
    __rsub__ __rdiv__ __rmod__ __rpow__
    fmod remainder pow float_power square sqrt rsqrt reciprocal neg positive abs sign sgn floor ceil
    round round:decimals_0 round:decimals_3 round:decimals_neg_3 trunc frac angle
    addcmul addcdiv lerp exp exp2 expm1 log log2 log10 log1p logaddexp logaddexp2 xlogy logit ldexp
    sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh atan2 hypot sinc deg2rad rad2deg
    erf erfc erfinv lgamma digamma polygamma:polygamma_n_0 polygamma:polygamma_n_1
    polygamma:polygamma_n_2 polygamma:polygamma_n_3 polygamma:polygamma_n_4
    mvlgamma:mvlgamma_p_1 mvlgamma:mvlgamma_p_3 mvlgamma:mvlgamma_p_5 i0 frexp
    special.xlog1py special.entr special.ndtr special.ndtri special.log_ndtr special.erfcx
    special.i0e special.i1 special.i1e special.polygamma:special_polygamma_n_0
    clamp clamp_min clamp_max maximum minimum fmin fmax where copysign nan_to_num
    sigmoid nn.functional.relu nn.functional.leaky_relu nn.functional.logsigmoid
    nn.functional.softplus nn.functional.elu nn.functional.selu nn.functional.celu
    nn.functional.gelu nn.functional.silu nn.functional.mish nn.functional.hardtanh
    nn.functional.hardswish nn.functional.hardsigmoid nn.functional.relu6 nn.functional.softsign
    nn.functional.tanhshrink nn.functional.softshrink nn.functional.hardshrink
    nn.functional.threshold nn.functional.prelu nn.functional.glu
""".split()


@pytest.mark.parametrize("operator", OPERATORS)
def test_derivatives_on_samples_of_pytorch(operator):
    function, samples = op_samples(*operator.split(":"))
    assert samples
    order = 1 if operator == "nn.functional.hardsigmoid" else 2  # as in PyTorch
    for args, kwargs in samples:
        if not kwargs.pop("inplace", False):
            assert_same_gradients(function, args, kwargs, order)
