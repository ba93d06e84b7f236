"""Pointwise functions, activations and constants, against torch.autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from compare import assert_same_gradients
from torch import special

import tinygrad_ee559 as tg


def vector(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


# --------------------------------------------------------------- plain numbers

UNARY = [
    torch.neg, torch.positive, torch.abs, torch.square, torch.reciprocal, torch.sqrt, torch.rsqrt,
    torch.exp, torch.exp2, torch.expm1, torch.log, torch.log2, torch.log10, torch.log1p,
    torch.logit, torch.sin, torch.cos, torch.tan, torch.asin, torch.acos, torch.atan, torch.sinh,
    torch.cosh, torch.tanh, torch.asinh, torch.acosh, torch.atanh, torch.deg2rad, torch.rad2deg,
    torch.sinc, torch.erf, torch.erfc, torch.erfinv, torch.lgamma, torch.digamma, torch.i0,
    special.erfcx, special.ndtr, special.ndtri, special.log_ndtr, special.entr, special.i0e,
    special.i1, special.i1e, torch.sgn, torch.sign, torch.floor, torch.ceil, torch.trunc,
    torch.round, torch.frac, torch.angle, torch.nan_to_num, torch.relu, torch.sigmoid,
    F.leaky_relu, F.logsigmoid, F.softplus, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish,
    F.hardtanh, F.hardswish, F.relu6, F.softsign, F.tanhshrink, F.softshrink, F.hardshrink,
]  # fmt: skip
BINARY = [
    torch.add, torch.sub, torch.rsub, torch.mul, torch.div, torch.fmod, torch.remainder, torch.pow,
    torch.float_power, torch.logaddexp, torch.logaddexp2, torch.xlogy, special.xlog1py, torch.atan2,
    torch.hypot, torch.copysign, torch.maximum, torch.minimum, torch.fmax, torch.fmin, torch.ldexp,
    torch.clamp_min, torch.clamp_max,
]  # fmt: skip


def number(value):
    return tg.Tensor(value, requires_grad=True)


@pytest.mark.parametrize("x", [-1.7, -0.3, 0.0, 0.4, 2.5, 12.0])
@pytest.mark.parametrize("function", UNARY, ids=lambda f: f.__name__)
def test_plain_number(function, x):
    assert isinstance(function(number(x)).data, float)
    assert_same_gradients(function, [number(x)], order=2 if x else 1)


@pytest.mark.parametrize("x", [math.inf, -math.inf, math.nan, 1e300, -1e300])
@pytest.mark.parametrize("function", UNARY, ids=lambda f: f.__name__)
def test_value_of_an_extreme_number(function, x):
    expected = function(torch.tensor(x, dtype=torch.float64)).item()
    assert function(number(x)).item() == pytest.approx(expected, rel=1e-14, abs=0, nan_ok=True)


@pytest.mark.parametrize("a, b", [(1.5, 2.5), (-1.5, 0.7), (2.0, -3.0), (0.0, 2.0), (3.0, 0.0)])
@pytest.mark.parametrize("function", BINARY, ids=lambda f: f.__name__)
def test_two_plain_numbers(function, a, b):
    assert isinstance(function(number(a), number(b)).data, float)
    assert_same_gradients(function, [number(a), number(b)], order=2 if a and b else 1)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: torch.lerp(x, y, 0.3),
        lambda x, y: torch.addcmul(x, x, y, value=3),
        lambda x, y: torch.addcdiv(x, x, y, value=3),
        lambda x, y: torch.add(x, y, alpha=3),
        lambda x, y: torch.sub(x, y, alpha=3),
        lambda x, y: torch.where(x > y, x, y),
        lambda x, y: torch.where(x < y, 1.0, x * y),
        lambda x, y: torch.clamp(x, -1.0, 1.0) + torch.clamp(y, min=2.0),
        lambda x, y: torch.clamp(x, y, y + 1),
        lambda x, y: torch.div(x, y, rounding_mode="floor") * x,
        lambda x, y: torch.div(x, y, rounding_mode="trunc") * x,
        lambda x, y: F.gelu(x, approximate="tanh") * F.gelu(y),
        lambda x, y: F.elu(x, 0.7) * F.celu(y, 0.7),
        lambda x, y: F.softplus(x, 2.0, 3.5) * F.leaky_relu(y, 0.2),
        lambda x, y: F.hardtanh(x, -2.0, 0.5) * F.threshold(y, 1.0, 5.0),
        lambda x, y: F.hardshrink(x, 2.0) * F.softshrink(y, 2.0),
        lambda x, y: torch.logit(torch.sigmoid(x), 1e-3) * torch.round(y * x, decimals=1),
        lambda x, y: torch.polygamma(2, x) * torch.mvlgamma(y + 3, 2),
        lambda x, y: torch.nan_to_num(x / 0.0, posinf=3.0) * y,
        lambda x, y: 2 - x / 3 + 4 / y - 2**x + (x * x) ** 1.5 + y**3 - x % 2,
    ],
)
@pytest.mark.parametrize("a, b", [(1.5, 2.5), (-0.7, 1.2)])
def test_options_on_plain_numbers(function, a, b):
    assert isinstance(function(number(a), number(b)).data, float)
    assert_same_gradients(function, [number(a), number(b)])


def test_power_of_a_negative_number_is_nan_not_complex():
    assert_same_gradients(lambda x: x**0.5, [number(-2.0)])


# --------------------------------------------------------------- kinks, ties, scalars

KINKS = vector(-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 6.0)


@pytest.mark.parametrize("function", UNARY, ids=lambda f: f.__name__)
def test_kinks(function):
    assert_same_gradients(function, [KINKS], order=1)


@pytest.mark.parametrize("function", BINARY, ids=lambda f: f.__name__)
def test_ties_and_zeros(function):
    a, b = vector(1.0, 0.0, 0.0, -2.0, -2.0, 3.0), vector(1.0, 0.0, 2.0, -2.0, 0.0, math.inf)
    assert_same_gradients(function, [a, b], order=1)


def test_powers_of_zero():
    """To the second order: here, PyTorch's own is NaN."""
    assert_same_gradients(lambda x: 0.0**x, [vector(0.0, 2.0, -1.0)], order=1)
    x = tg.Tensor([0.0, 2.0], requires_grad=True)
    (first,) = tg.grad((0.0**x).sum(), x, create_graph=True)
    assert tg.grad(first.sum(), x)[0].tolist() == [0, 0]


def test_complex_powers_of_zero():
    z = torch.tensor([0, 1j, 1 + 2j], dtype=torch.complex128, requires_grad=True)
    n = torch.tensor([2, 1, 2 - 1j], dtype=torch.complex128, requires_grad=True)
    assert_same_gradients(torch.pow, [z, n], order=1)
    assert_same_gradients(torch.pow, [z, 3])
    assert_same_gradients(torch.float_power, [vector(1.0, 2.0, 3.0), n])


def test_reflected_operators_take_tensors():
    x, y = tg.Tensor([1.0, 2.0], requires_grad=True), tg.Tensor(3.0, requires_grad=True)
    assert x.__radd__(y).tolist() == [4, 5] and x.__rsub__(y).tolist() == [2, 1]
    (x.__rmul__(y) + x.__rtruediv__(y)).sum().backward()
    assert x.grad.tolist() == [0, 2.25] and y.grad.item() == 4.5


@pytest.mark.parametrize("function", [torch.maximum, torch.minimum, torch.fmax, torch.fmin])
def test_extrema_of_nan(function):
    a, b = vector(1.0, math.nan, math.nan), vector(math.nan, 1.0, math.nan)
    assert_same_gradients(function, [a, b], order=1)


@pytest.mark.parametrize("bounds", [(-1.0, 2.0), (None, 2.0), (-1.0, None), (2.0, -1.0)])
def test_clamp_at_its_bounds(bounds):
    assert_same_gradients(torch.clamp, [KINKS, *bounds])
    tensors = [bound if bound is None else torch.full_like(KINKS, bound) for bound in bounds]
    tensors = [bound if bound is None else bound.requires_grad_() for bound in tensors]
    assert_same_gradients(torch.clamp, [KINKS, *tensors])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 2, lambda x: 2 + x, lambda x: x - 2, lambda x: 2 - x, lambda x: x * 2,
        lambda x: 2 * x, lambda x: x / 2, lambda x: 2 / x, lambda x: x % 2,
        lambda x: x**2, lambda x: x**0, lambda x: x**-1, lambda x: 2**x,
        lambda x: torch.pow(2.5, x), lambda x: torch.float_power(x, 3),
        lambda x: torch.float_power(2, x), lambda x: torch.rsub(x, 2, alpha=3),
        lambda x: torch.add(x, 2, alpha=3), lambda x: torch.fmod(x, 2), lambda x: torch.xlogy(x, 3),
        lambda x: torch.xlogy(2, x), lambda x: torch.where(x > 0, x, 1.0), lambda x: abs(-x),
        lambda x: torch.where(x > 0, 1.0, x), lambda x: x.where(x > 0, 2 * x),
        lambda x: x.polygamma(1), lambda x: x.clip(-1, 1), lambda x: x.relu().tanh().abs(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_python_scalars(function, dtype):
    x = vector(-2.5, -0.5, 0.3, 1.0, 3.0, dtype=dtype)
    tolerance = {} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    assert_same_gradients(function, [x], **tolerance)


@pytest.mark.parametrize(
    "function",
    [
        lambda t, x: t + x, lambda t, x: t - x, lambda t, x: t * x, lambda t, x: t / x,
        lambda t, x: t % x, lambda t, x: t**x, lambda t, x: t.maximum(x), lambda t, x: t.atan2(x),
        lambda t, x: torch.Tensor.__rsub__(t, x), lambda t, x: torch.Tensor.__rtruediv__(t, x),
        lambda t, x: torch.Tensor.__rpow__(t, x), lambda t, x: torch.Tensor.__rmod__(t, x),
    ],
)  # fmt: skip
def test_torch_tensor_on_the_left(function):
    x = vector(0.5, 1.5, 2.5)
    assert_same_gradients(lambda x: function(torch.tensor([3.5, 0.25, 1.0]), x), [x])


def test_half_of_the_operands_of_other_dtypes():
    double, single = vector(0.5, 1.5, 2.5), vector(1.5, 0.25, 4.0, dtype=torch.float32)
    whole = torch.tensor([2, 3, 1])
    for function in (torch.mul, torch.div, torch.pow, torch.atan2, torch.maximum):
        assert_same_gradients(function, [double, single], rtol=1e-5, atol=1e-6)
        assert_same_gradients(function, [double, whole])
        assert_same_gradients(function, [whole, double])


# --------------------------------------------------------------- what has no samples in PyTorch

POSITIVE = vector(0.3, 0.9, 1.7, 2.6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: special.zeta(3.0, x), lambda x: torch.igamma(torch.tensor(1.5), x),
        lambda x: torch.igammac(torch.tensor(1.5), x), lambda x: torch.threshold(x, 1.0, 7.0),
        lambda x: special.gammainc(torch.tensor(2.0), x), torch.selu, torch.celu,
    ],
)  # fmt: skip
def test_without_samples(function):
    assert_same_gradients(function, [POSITIVE])


ALIASES = {
    torch.negative: torch.neg, torch.absolute: torch.abs, torch.fix: torch.trunc,
    torch.arcsin: torch.asin, torch.arccos: torch.acos, torch.arctan: torch.atan,
    torch.arcsinh: torch.asinh, torch.arccosh: torch.acosh, torch.arctanh: torch.atanh,
    special.exp2: torch.exp2, special.expm1: torch.expm1, special.log1p: torch.log1p,
    special.logit: torch.logit, special.sinc: torch.sinc, special.round: torch.round,
    special.erf: torch.erf, special.erfc: torch.erfc, special.erfinv: torch.erfinv,
    special.i0: torch.i0, special.gammaln: torch.lgamma, special.digamma: torch.digamma,
    special.psi: torch.digamma, special.expit: torch.sigmoid,
}  # fmt: skip
BINARY_ALIASES = {
    torch.subtract: torch.sub, torch.multiply: torch.mul, torch.divide: torch.div,
    torch.true_divide: torch.div, torch.arctan2: torch.atan2, torch.clip: torch.clamp,
    special.xlogy: torch.xlogy, special.gammaincc: torch.igammac,
}  # fmt: skip


@pytest.mark.parametrize("name", ALIASES, ids=lambda f: f.__name__)
def test_further_names(name):
    x = tg.Tensor(POSITIVE.detach(), requires_grad=True)
    same, (gradient,) = name(x), tg.grad(name(x).sum(), x)
    expected = POSITIVE.detach().requires_grad_()
    y = ALIASES[name](expected)
    assert torch.equal(torch.nan_to_num(same.data), torch.nan_to_num(y.detach()))
    y.sum().backward()
    torch.testing.assert_close(gradient.data, expected.grad, equal_nan=True)


@pytest.mark.parametrize("name", BINARY_ALIASES, ids=lambda f: f.__name__)
def test_further_names_of_functions_of_two(name):
    assert_same_gradients(lambda x: name(torch.full_like(x, 1.3), x), [POSITIVE])


@pytest.mark.parametrize(
    "function",
    [torch.sigmoid, torch.tanh, torch.sin, torch.exp, F.silu, F.mish, F.gelu, F.softplus, F.elu,
     F.logsigmoid, torch.logit, torch.relu, F.leaky_relu, F.hardtanh, F.softshrink],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_third_derivatives(function):
    """Against differences of PyTorch's second derivatives, as it has no third ones of some."""
    data = torch.tensor([0.2, 0.3, 0.6, 0.7], dtype=torch.float64)
    x = tg.Tensor(data, requires_grad=True)
    found = function(x)
    for _ in range(3):
        (found,) = tg.grad(found.sum() + 0 * x.sum(), x, create_graph=True)
    eps = 1e-4
    second = []
    for step in (-eps, eps):
        shifted = (data + step).requires_grad_()
        (first,) = torch.autograd.grad(function(shifted).sum(), shifted, create_graph=True)
        (derivative,) = torch.autograd.grad((first + 0 * shifted).sum(), shifted)
        second.append(derivative)
    third = (second[1] - second[0]) / (2 * eps)
    torch.testing.assert_close(found.data, third, rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------- the same bits as PyTorch

SAME_BITS = [
    torch.neg, torch.abs, torch.square, torch.reciprocal, torch.sqrt, torch.rsqrt, torch.exp,
    torch.exp2, torch.expm1, torch.log, torch.log2, torch.log10, torch.log1p, torch.sin, torch.cos,
    torch.tan, torch.asin, torch.acos, torch.atan, torch.sinh, torch.cosh, torch.tanh, torch.asinh,
    torch.atanh, torch.erf, torch.relu, torch.sigmoid, F.relu, F.leaky_relu, F.softplus, F.elu,
    F.selu, F.celu, F.gelu, F.silu, F.mish, F.hardtanh, F.hardswish, F.relu6, F.softsign,
    F.tanhshrink, F.softshrink, F.hardshrink, torch.lgamma, lambda x: x**3, lambda x: x / 3,
    lambda x: x * 0.3, lambda x: 1 - x, lambda x: torch.clamp(x, 0.2, 0.7),
]  # fmt: skip


@pytest.mark.parametrize("function", SAME_BITS, ids=lambda f: f.__name__)
def test_gradient_has_the_bits_of_pytorch(function):
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(64, generator=generator) * 0.98 + 0.01
    cotangent = torch.randn(64, generator=generator)
    here, there = tg.Tensor(data.clone(), requires_grad=True), data.clone().requires_grad_()
    function(here).backward(cotangent)
    function(there).backward(cotangent)
    assert torch.equal(here.grad.data, there.grad)


@pytest.mark.parametrize(
    "function",
    [torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.maximum, torch.hypot, torch.fmod],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_gradients_of_two_operands_have_the_bits_of_pytorch(function):
    generator = torch.Generator().manual_seed(1)
    data = [torch.rand(64, generator=generator) + 0.01 for _ in range(2)]
    cotangent = torch.randn(64, generator=generator)
    here = [tg.Tensor(d.clone(), requires_grad=True) for d in data]
    there = [d.clone().requires_grad_() for d in data]
    function(*here).backward(cotangent)
    function(*there).backward(cotangent)
    for ours, theirs in zip(here, there):
        assert torch.equal(ours.grad.data, theirs.grad)


# --------------------------------------------------------------- functions without gradients

A, B = vector(1.0, -2.0, 0.0, math.inf, math.nan), vector(1.0, 3.0, 0.0, -1.0, 2.0)
M, N = torch.tensor([6, 4, 1]), torch.tensor([4, 1, 3])
P, Q = torch.tensor([True, True, False]), torch.tensor([True, False, False])

OF_TWO = [
    torch.eq, torch.ne, torch.lt, torch.le, torch.gt, torch.ge, torch.not_equal, torch.less,
    torch.less_equal, torch.greater, torch.greater_equal, torch.logical_and, torch.logical_or,
    torch.logical_xor, torch.floor_divide, torch.heaviside,
]  # fmt: skip
OF_ONE = [
    torch.isnan, torch.isinf, torch.isfinite, torch.isposinf, torch.isneginf, torch.isreal,
    torch.signbit, torch.logical_not, torch.zeros_like, torch.ones_like,
]  # fmt: skip
OF_INTEGERS = [
    torch.bitwise_and, torch.bitwise_or, torch.bitwise_xor, torch.bitwise_left_shift,
    torch.bitwise_right_shift, torch.gcd, torch.lcm,
]  # fmt: skip
CONSTANTS = [
    *((f, (A, B)) for f in OF_TWO),
    *((f, (A, B)) for f in (
        torch.isclose, torch.allclose, torch.equal, torch.isin, torch.result_type,
        torch.is_same_size, lambda a, b: a // b, lambda a, b: a.__rfloordiv__(b),
    )),
    *((f, (A,)) for f in OF_ONE),
    *((f, (A,)) for f in (
        torch.any, torch.all, torch.count_nonzero, torch.argmax, torch.argmin, torch.argsort,
        torch.nonzero, torch.argwhere, torch.numel, torch.is_floating_point, torch.is_complex,
        torch.is_signed, torch.rand_like, torch.randn_like, lambda a: torch.full_like(a, 7),
        lambda a: torch.randint_like(a, 7), lambda a: torch.is_nonzero(a[0]),
        lambda a: a.new_zeros(2, 3), lambda a: a.new_ones((2, 3)), lambda a: a.new_full((2,), 5.0),
        lambda a: a.new_tensor([1, 2]),
    )),
    *((f, (M, N)) for f in OF_INTEGERS),
    *((f, (M, N)) for f in (
        lambda a, b: a & b, lambda a, b: a | b, lambda a, b: a ^ b, lambda a, b: a << b,
        lambda a, b: a >> b, lambda a, b: 3 << a, lambda a, b: 300 >> b,
    )),
    *((f, (P, Q)) for f in (torch.bitwise_and, torch.bitwise_or, torch.bitwise_xor)),
    (torch.bitwise_not, (M,)), (torch.bitwise_not, (P,)), (torch.bincount, (M,)),
    (torch.histc, (B, 4)), (torch.searchsorted, (M.sort().values, N)),
    (torch.bucketize, (N, M.sort().values)),
]  # fmt: skip


@pytest.mark.parametrize("function, args", CONSTANTS)
def test_constants(function, args):
    torch.manual_seed(0)
    expected = function(*(a.detach() if isinstance(a, torch.Tensor) else a for a in args))
    torch.manual_seed(0)
    found = function(*(
        tg.Tensor(a.detach(), requires_grad=a.requires_grad) if isinstance(a, torch.Tensor) else a
        for a in args
    ))  # fmt: skip
    if isinstance(expected, torch.Tensor):
        assert not found.requires_grad
        torch.testing.assert_close(found.data, expected, equal_nan=True, rtol=0, atol=0)
    else:
        assert found == expected


@pytest.mark.parametrize(
    "function, numbers",
    [
        *((f, (a, b)) for f in OF_TWO for a, b in [(1.5, -2.0), (2.0, 2.0), (-3.0, 0.0)]),
        *((f, (a,)) for f in OF_ONE for a in (2.5, -0.5, math.nan, -math.inf)),
        *((f, (6, 4)) for f in OF_INTEGERS),
        (torch.bitwise_not, (6,)), (torch.bitwise_not, (True,)), (torch.bitwise_xor, (True, True)),
        (torch.floor_divide, (7, 2)), (torch.floor_divide, (0.0, 0.0)),
    ],
)  # fmt: skip
def test_constants_of_plain_numbers(function, numbers):
    dtype = {float: torch.float64, int: torch.int64, bool: torch.bool}[type(numbers[0])]
    expected = function(*(torch.tensor(n, dtype=dtype) for n in numbers)).item()
    found = function(*map(tg.Tensor, numbers)).item()
    assert type(found) is type(expected)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_where_with_a_condition_alone():
    (rows,) = torch.where(tg.Tensor([1.0, 3.0, 2.0], requires_grad=True) > 1.5)
    assert rows.tolist() == [1, 2]
