"""Plain Python numbers as tensors: arithmetic without torch, with the same rules."""

import math

import pytest
import torch

import tinygrad_ee559 as tg


def micrograd_expression(a, b):
    """The test expression of micrograd's own test suite (A. Karpathy, test_more_ops)."""
    c = a + b
    d = a * b + b**3
    c = c + c + 1
    c = c + 1 + c + (-a)
    d = d + d * 2 + (b + a).relu()
    d = d + 3 * d + (b - a).relu()
    e = c - d
    f = e**2
    g = f / 2.0
    return g + 10.0 / f


def test_micrograds_expression():
    a, b = tg.Tensor(-4.0, requires_grad=True), tg.Tensor(2.0, requires_grad=True)
    g = micrograd_expression(a, b)
    g.backward()
    ta = torch.tensor(-4.0, dtype=torch.float64, requires_grad=True)
    tb = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    tg_ = micrograd_expression(ta, tb)
    tg_.backward()
    assert type(g.data) is float and type(a.grad.data) is float
    assert f"{g:.4f}" == "24.7041"  # published in micrograd's README
    assert f"{a.grad:.4f}" == "138.8338" and f"{b.grad:.4f}" == "645.5773"
    assert g.item() == pytest.approx(tg_.item(), rel=1e-15)
    assert a.grad.item() == pytest.approx(ta.grad.item(), rel=1e-14)
    assert b.grad.item() == pytest.approx(tb.grad.item(), rel=1e-14)


UNARY = [
    "exp", "log", "sqrt", "sin", "cos", "tan", "tanh", "sinh", "cosh", "asin", "acos", "atan",
    "asinh", "atanh", "sigmoid", "relu", "abs", "neg", "log1p", "expm1", "erf", "rsqrt", "square",
    "reciprocal", "digamma", "sign", "floor",
]  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_a_number_in_three_orders(name):
    x = tg.Tensor(0.37, requires_grad=True)
    t = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)
    y, ty = getattr(torch, name)(x), getattr(torch, name)(t)
    assert type(y.data) is float
    for _ in range(3):
        assert y.item() == pytest.approx(ty.item(), rel=1e-12, abs=1e-300)
        if not y.requires_grad:
            assert not ty.requires_grad or torch.autograd.grad(ty, t)[0] == 0
            break
        (y,) = tg.grad(y, x, create_graph=True)
        (ty,) = torch.autograd.grad(ty, t, create_graph=True)


@pytest.mark.parametrize("name", ["exp", "sin", "tanh", "sigmoid", "log", "relu", "sqrt"])
def test_first_derivatives_of_numbers_need_no_tensor(name, monkeypatch):
    """The formulas run on floats as they stand: nothing is wrapped on the way."""
    x = tg.Tensor(0.37, requires_grad=True)
    y = getattr(x, name)()
    monkeypatch.setattr("tinygrad_ee559.tape._pull_numbers", None)
    y.backward()
    assert type(x.grad.data) is float


def test_infinities_and_nans_where_python_raises():
    for value, expression in [
        (0.0, lambda x: x.log()),
        (0.0, lambda x: 1 / x),
        (-1.0, lambda x: x.log()),
        (-1.0, lambda x: x.sqrt()),
        (1000.0, lambda x: x.exp()),
        (-8.0, lambda x: x**0.5),
        (0.0, lambda x: x**0.5),
        (0.0, lambda x: x**0),
    ]:
        x = tg.Tensor(value, requires_grad=True)
        t = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        y, ty = expression(x), expression(t)
        y.backward()
        ty.backward()
        got, expected = (y.item(), x.grad.item()), (ty.item(), t.grad.item())
        assert got == pytest.approx(expected, nan_ok=True), (value, got, expected)


def test_whole_numbers_are_pythons():
    assert (tg.Tensor(7) // tg.Tensor(2)).data == 3
    assert (tg.Tensor(7) / tg.Tensor(2)).data == 3.5
    assert (tg.Tensor(2) ** 100).data == 2**100
    assert (tg.Tensor(3) > 2).data is True


def test_a_number_meets_a_torch_tensor_as_a_python_scalar_does():
    a = tg.Tensor(2.0, requires_grad=True)
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    for y in (a * x, x * a, x.mul(a), torch.mul(a, x)):
        assert y.dtype == torch.float32  # as 2.0 * torch.tensor([1.0, 2.0])
        a.grad = x.grad = None
        y.sum().backward()
        assert type(a.grad.data) is float and a.grad.item() == 3.0
        assert x.grad.tolist() == [2, 2]


def test_numbers_where_a_function_wants_tensors():
    a, b = tg.Tensor(1.0, requires_grad=True), tg.Tensor(2.0, requires_grad=True)
    y = torch.stack([a, b * b, a * b])
    assert y.dtype == torch.get_default_dtype()
    y.sum().backward()
    assert (a.grad.item(), b.grad.item()) == (3.0, 5.0)
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    torch.atan2(x, a).sum().backward()
    expected = sum(-v / (1 + v * v) for v in (1.0, 2.0))
    assert a.grad.item() == pytest.approx(3.0 + expected, rel=1e-6)


def test_functions_of_three_numbers():
    a, b, w = (tg.Tensor(v, requires_grad=True) for v in (1.0, 3.0, 0.25))
    y = torch.lerp(a, b, w)
    assert type(y.data) is float and y.item() == 1.5
    y.backward()
    assert [t.grad.data for t in (a, b, w)] == [0.75, 0.25, 2.0]
    x = tg.Tensor(0.5, requires_grad=True)
    x.clamp(0.0, 1.0).backward()
    assert x.grad.data == 1.0


def test_second_derivatives_mix_numbers_and_tensors():
    a = tg.Tensor(0.5, requires_grad=True)
    x = tg.Tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    (g,) = tg.grad((torch.sin(a * x) * a).sum(), a, create_graph=True)
    (h,) = tg.grad(g, a)
    expected = sum(2 * v * math.cos(0.5 * v) - 0.5 * v * v * math.sin(0.5 * v) for v in (1.0, 2.0))
    assert h.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_formula_that_gives_no_gradient_for_a_number(create_graph):
    product = tg.rule(
        lambda x, y: x * y,
        lambda g, _y, _a, b: None,
        lambda g, _y, a, _b: g * a,
        number=lambda x, y: x * y,
    )
    x, y = tg.Tensor(2.0, requires_grad=True), tg.Tensor(3.0, requires_grad=True)
    product(x * 1.0, y).backward(create_graph=create_graph)
    assert x.grad is None and y.grad.item() == 2


def test_a_number_that_has_no_gradient_there_is_named():
    x, slope = tg.Tensor(-1.0, requires_grad=True), tg.Tensor(0.1, requires_grad=True)
    with pytest.raises(tg.errors.RuleError, match="negative_slope"):
        torch.nn.functional.leaky_relu(x, slope)
