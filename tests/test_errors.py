"""What users are told when something is wrong: the operation, the operands, what to do."""

import pytest
import torch
import torch.nn.functional as F

import tinygrad_ee559 as tg
from tinygrad_ee559 import errors


def tensor(*shape, dtype=torch.float32):
    return tg.Tensor(torch.ones(*shape, dtype=dtype), requires_grad=dtype.is_floating_point)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: tensor(2, 3) + tensor(4, 5), ["torch.add", "[2, 3]", "[4, 5]", "must match"]),
        (lambda: tensor(2, 3) @ tensor(2, 3), ["torch.matmul", "[2, 3]", "cannot be multiplied"]),
        (
            lambda: tensor(2, 3) @ tensor(3, 2, dtype=torch.float64),
            ["torch.matmul", "float32[2, 3]", "float64[3, 2]", "same dtype"],
        ),
        (
            lambda: F.linear(tensor(4, 3), tensor(2, 5)),
            ["linear", "[4, 3]", "[2, 5]", "cannot be multiplied"],
        ),
        (
            lambda: tensor(2, 3) + tg.Tensor(torch.ones(2, 3, device="meta")),
            ["torch.add", "float32[2, 3] on meta", "device"],
        ),
        (lambda: tensor(2, 3).reshape(4, 2), ["reshape", "[2, 3]", "invalid for input of size 6"]),
        (lambda: torch.cat([tensor(2, 3), tensor(3, 2)]), ["torch.cat", "[2, 3]", "[3, 2]"]),
    ],
    ids=["add", "matmul", "dtype", "linear", "device", "reshape", "cat"],
)
def test_wrong_operands_are_named(call, parts):
    with pytest.raises(errors.OperandError) as caught:
        call()
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value.__cause__, RuntimeError)  # torch's own words
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda x: x.sum(dim=7), IndexError),
        (lambda x: x.add("text"), TypeError),
        (lambda x: x[5], IndexError),
    ],
)
def test_errors_are_of_the_class_that_torch_raises(call, kind):
    with pytest.raises(kind) as caught:
        call(tensor(2, 3))
    assert isinstance(caught.value, errors.OperandError)
    with pytest.raises(kind):
        call(torch.ones(2, 3))


def test_a_function_without_a_rule_names_itself_and_the_remedy():
    with pytest.raises(errors.NoRuleError, match=r"bessel_j0.*tinygrad_ee559\.rule\("):
        torch.special.bessel_j0(tensor(2))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'$"):
        tensor(2).nonsense()


@pytest.mark.parametrize(
    "call", [lambda x: torch.autograd.grad(x * x, x), lambda x: torch.autograd.backward(x * x)]
)
def test_torch_s_own_gradients_say_where_ours_are(call):
    with pytest.raises(errors.NotDifferentiableError, match=r"call tinygrad_ee559\.grad, or back"):
        call(tg.Tensor(torch.ones(()), requires_grad=True))


def test_an_option_unknown_to_the_rule_is_named():
    with pytest.raises(errors.RuleError, match=r"torch\.tanh.*out="):
        torch.tanh(tensor(2), out=torch.empty(2))


def test_an_argument_without_a_formula_is_named():
    registered = tg.rule(lambda x, weight: x * weight, lambda g, _y, _x, weight: g * weight, None)
    with pytest.raises(errors.RuleError, match="argument weight"):
        registered(tensor(2), tensor(2))


def test_formulas_that_disagree_are_refused_at_once():
    with pytest.raises(errors.RuleError, match=r"disagree.*\(a, b\).*\(a, c\)"):
        tg.rule(lambda a, b: a + b, lambda g, _y, a, _b: g, lambda g, _y, a, _c: g)


def test_a_rule_that_gives_a_wrong_shape_is_named():
    wrong = tg.rule(lambda x: x * 2, lambda g, _y, _x: torch.ones(5, 7))
    with pytest.raises(errors.GradientShapeError, match=r"\[5, 7\].*\[2\]"):
        wrong(tensor(2)).sum().backward()


def test_a_missing_argument_is_named():
    with pytest.raises(TypeError, match="dim0"):
        torch.transpose(tensor(2, 3), dim1=0)


def test_assigned_gradients_are_checked():
    x = tensor(2)
    with pytest.raises(errors.GradientShapeError, match=r"\(3,\).*\(2,\)"):
        x.grad = torch.ones(3)
    with pytest.raises(errors.GradientDtypeError, match="torch.int64 .* torch.float32; convert"):
        x.grad = torch.ones(2, dtype=torch.int64)
    with pytest.raises(errors.NotDifferentiableError):
        tg.Tensor([1.0]).grad = torch.ones(1)
    x.grad = torch.ones(2)
    assert isinstance(x.grad, tg.Tensor)
    x.grad = None
    tg.Tensor([1.0]).grad = None


def test_gradcheck_finds_a_wrong_rule():
    wrong = tg.rule(lambda x: x**2, lambda g, _y, x: g * x)
    x = tensor(2, dtype=torch.float64)
    with pytest.raises(errors.GradcheckError, match="result 0.*input 0"):
        tg.gradcheck(wrong, x)
    assert not tg.gradcheck(wrong, x, raise_exception=False)
    wrong_twice = tg.rule(lambda x: x**3, lambda g, _y, x: g * 3 * x.detach() ** 2)
    assert tg.gradcheck(wrong_twice, x)
    with pytest.raises(errors.GradcheckError):
        tg.gradgradcheck(wrong_twice, x)
    with pytest.raises(ValueError, match="requires gradients"):
        tg.gradcheck(torch.sin, tg.Tensor([1.0]))
