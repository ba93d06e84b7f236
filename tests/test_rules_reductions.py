"""Reductions, norms and cumulative functions, against torch.autograd."""

import math

import pytest
import torch
from compare import assert_same_gradients
from expressions import check, random, split

import tinygrad_ee559 as tg
from tinygrad_ee559.errors import OperandError

#: Forms that functions can be called in; x has shape (2, 3, 4), z has (2, 3, 4) too.
FORMS = split("""
    x.sum() | x.sum(1) | x.sum(-1, True) | x.sum((0, -1)) | x.sum([0, 2], keepdim=True) | x.sum(())
    torch.sum(x, dim=1) | torch.sum(input=x, dim=(1,), keepdim=True) | x.sum(dtype=torch.float32)
    x.mean() | x.mean(1) | x.mean((0, -1), True) | x.mean(dim=[0]) | x.mean(-1, dtype=torch.float32)
    x.prod() | x.prod(1) | x.prod(-1, keepdim=True) | x.prod(dim=0, dtype=torch.float32)
    x.var() | x.var(1) | x.var(False) | x.var((0, 2), False, True) | x.var(unbiased=False)
    x.var(dim=None) | x.var([0, 1], correction=0) | x.var(correction=2) | x.var(1, keepdim=True)
    x.std() | x.std(1) | x.std(False) | x.std(-1, False, True) | x.std(dim=(0, 1), correction=0)
    torch.var_mean(x) | torch.var_mean(x, 1, keepdim=True) | torch.var_mean(x, False)
    torch.std_mean(x) | torch.std_mean(x, (0, 2), correction=0) | torch.std_mean(x, unbiased=False)
    torch.std_mean(x, 1)[0] | torch.std_mean(x, 1)[1] | torch.var_mean(x)[1]
    x.amax() | x.amax(1) | x.amax((0, -1), True) | x.amin(dim=[1]) | torch.amin(x, (), keepdim=True)
    x.max() | x.max(1).values | x.max(-1, True)[0] | x.max(dim=0, keepdim=True) | x.max(z)
    torch.max(x, other=z) | torch.max(input=x, dim=1)[0] | torch.max(x, 0)
    x.min() | x.min(1).values | x.min(-1, True)[0] | x.min(dim=0, keepdim=True) | x.min(z)
    torch.min(x, other=z) | x.aminmax() | x.aminmax(dim=0) | x.aminmax(dim=1, keepdim=True).max
    x.median() | x.median(1) | x.median(dim=-1, keepdim=True)[0] | x.nanmedian() | x.nanmedian(2)
    x.mode() | x.mode(1, True) | x.kthvalue(2) | x.kthvalue(k=3, dim=1, keepdim=True).values
    x.sort() | x.sort(1, True) | x.sort(dim=0, descending=True)[0] | x.sort(stable=True, dim=1)
    x.topk(2) | x.topk(1, 1, False) | x.topk(k=2, dim=-1, largest=False, sorted=True)[0] | x.msort()
    torch.norm(x) | x.norm() | x.norm(1) | x.norm(2, 1) | x.norm("fro", (0, 1)) | x.norm(math.inf)
    x.norm(p=3, dim=-1, keepdim=True) | x.norm(-math.inf, 1) | x.norm(0) | x.norm(0.5) | x.norm(-1)
    x.norm(1.5, dim=[0, 2]) | torch.norm(x.float(), p="fro", dtype=torch.float64)
    x.norm(2.0, (0, 1, 2))
    torch.linalg.vector_norm(x, ord=3, dim=(0, 2)) | torch.linalg.vector_norm(x, keepdim=True)
    torch.dist(x, z) | x.dist(z, 1) | x.dist(z[0], 3.0) | x.dist(z, math.inf) | x.dist(z, p=0.5)
    x.logsumexp(1) | x.logsumexp((0, -1), True) | torch.special.logsumexp(x, dim=[0, 1])
    x.cumsum(1) | x.cumsum(dim=-1, dtype=torch.float32) | x.cumprod(0) | x.cumprod(-1)
    x.logcumsumexp(1) | (30 * x).logcumsumexp(-1) | x.cummax(1) | x.cummin(dim=-1).values
    x.diff() | x.diff(2, 1) | x.diff(dim=0, n=3) | x.diff(1, -1, z) | x.diff(append=z[..., :1])
    x.nansum() | x.nansum(1) | x.nanmean((0, 1), True) | x[0].trace() | x[1].T.trace()
""", "|")
#: The same on x without dimensions.
SCALARS = split("""
    x.sum(0) | x.mean(-1) | x.prod() | x.prod(0) | x.prod(-1, True) | x.amax(0) | x.amin() | x.max()
    x.max(0) | x.min(-1, True) | x.median() | x.median(0) | x.mode() | x.kthvalue(1) | x.sort()
    x.topk(1) | x.norm() | x.norm(1) | x.norm(2, 0) | x.norm(3) | x.logsumexp(0) | x.cumsum(0)
    x.cumprod(-1) | x.logcumsumexp(0) | x.cummax(0) | x.cummin(0) | x.var(correction=0)
    x.dist(2 * x)
    x.std(0) | x.aminmax()
""", "|")
#: The same on x of shape (0, 3), which has no elements.
EMPTY = split("""
    x.sum() | x.sum(0) | x.mean() | x.mean(0) | x.mean(1) | x.prod() | x.prod(0) | x.prod(1)
    x.amax(1) | x.amin(1, True) | x.max(1) | x.median(1) | x.var() | x.var(0) | x.std(1) | x.norm()
    x.norm(0.5) | x.logsumexp(1) | x.logsumexp(0) | x.cumsum(0) | x.cumprod(0) | x.cumprod(1)
    x.logcumsumexp(0) | x.logcumsumexp(1) | x.cummax(1) | x.sort() | x.sort(0) | x.topk(2)
    x.diff() | x.diff(dim=0) | x.nansum(0) | x.dist(x)
""", "|")
#: Functions that share a gradient among elements that are alike, or choose one of them.
TIED = split("""
    x.amax() | x.amax(0) | x.amin(1) | x.max() | x.min() | x.max(0) | x.min(1) | x.aminmax(dim=1)
    x.max(z) | x.min(z) | x.median() | x.median(1) | x.mode(1) | x.kthvalue(2, 1) | x.sort(0)
    x.topk(2) | x.cummax(0) | x.cummin(1) | x.norm(math.inf) | x.norm(-math.inf, 1)
    x.norm(math.inf, 0)
""", "|")
ZEROS = split("""
    x.prod(0) | x.prod(1) | x.prod(1, keepdim=True) | x.prod(-1) | x.cumprod(0) | x.cumprod(1)
    x.cumprod(2)
""", "|")
NAMED = split("""
    x.max(0) | x.min(1) | x.median(0) | x.nanmedian(0) | x.mode(0) | x.kthvalue(1) | x.sort()
    x.topk(1) | x.aminmax() | x.cummax(0) | x.cummin(0)
""", "|")
NORMS = [0, 0.5, 1, 1.5, 2, 3, math.inf, -math.inf, -2]


@pytest.mark.parametrize("expression", FORMS)
def test_forms(expression):
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if "float32" in expression else {}
    check(expression, random(2, 3, 4, seed=1), random(2, 3, 4, seed=2), **tolerance)


@pytest.mark.parametrize("expression", SCALARS)
@pytest.mark.filterwarnings("ignore:(var|std).*degrees of freedom")
def test_without_dimensions(expression):
    check(expression, torch.tensor(-1.5, dtype=torch.float64))


@pytest.mark.parametrize("expression", EMPTY)
@pytest.mark.filterwarnings("ignore:(var|std).*degrees of freedom")
def test_without_elements(expression):
    order = 1 if ".var" in expression else 2  # the variance of nothing is NaN
    check(expression, random(0, 3), order=order)


@pytest.mark.parametrize("expression", TIED)
def test_ties(expression):
    x = torch.tensor([[1.0, 3.0, 3.0, 1.0], [3.0, 1.0, 3.0, 2.0]], dtype=torch.float64)
    z = torch.tensor([[1.0, 2.0, 3.0, 4.0], [3.0, 0.0, 1.0, 2.0]], dtype=torch.float64)
    check(expression, x, z)


@pytest.mark.parametrize("expression", ZEROS)
@pytest.mark.parametrize("zeros", [1, 2, 7, 24])
def test_products_with_zeros(expression, zeros):
    x = random(2, 3, 4, seed=3)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(4))
    x.view(-1)[order[:zeros]] = 0
    check(expression, x)


def test_product_of_all_with_zeros():
    """With two zeros, PyTorch loses the second derivatives, though not along a dimension."""
    one_zero = torch.tensor([2.0, 0.0, -3.0], dtype=torch.float64)
    check("x.prod()", one_zero)
    check("x.reshape(3, 1).prod()", one_zero)
    two_zeros = torch.tensor([[2.0, 0.0], [-3.0, 0.0]], dtype=torch.float64)
    check("x.prod()", two_zeros, order=1)
    x = tg.Tensor(two_zeros, requires_grad=True)
    (first,) = tg.grad(x.prod(), x, create_graph=True)
    (second,) = tg.grad(first[0, 1], x)
    assert second.tolist() == [[0, 0], [0, -6]]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9])
def test_cumulative_functions_of_any_length(n):
    x = random(2, n, seed=n)
    check("x.logcumsumexp(1)", x)
    x[:, n // 2] = 0
    check("x.cumprod(1)", x)


def test_cumulative_functions_far_apart():
    """Where exp overflows, or nearly all of it underflows."""
    check("x.logcumsumexp(0)", torch.tensor([-900.0, 5.0, 800.0, -3.0, 799.0]).double())
    check("x.logsumexp(0)", torch.tensor([-900.0, 5.0, 800.0, -3.0, 799.0]).double())


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("dim", [None, 0, 1])
def test_norms_with_zeros(p, dim):
    """The subgradient of a norm at 0 is 0. Beyond it, second derivatives may not exist."""
    x = random(3, 4, seed=5)
    x[1] = 0
    x[0, 2] = 0
    check(f"torch.norm(x, {p!r}, {dim})".replace("inf", "math.inf"), x, order=1)
    check(f"torch.norm(x, {p!r}, {dim})".replace("inf", "math.inf"), torch.zeros_like(x), order=1)


def test_deviation_of_equal_elements():
    """Its subgradient at 0 is 0."""
    x = random(3, 4, seed=7)
    x[1] = 2.5
    for expression in ("x.std(1)", "torch.std_mean(x, 1)", "x[1].std()"):
        check(expression, x, order=1)


def test_missing_values():
    x = random(3, 4, seed=6)
    x[0, 1] = x[2, 2] = math.nan
    for expression in ("x.nansum()", "x.nansum(1)", "x.nanmean(0)", "x.nanmedian(1)", "x.sum(0)"):
        check(expression, x)


def test_too_few_samples_for_a_variance():
    with pytest.warns(UserWarning, match="degrees of freedom"):
        check("x.var(1)", random(3, 1))
    with pytest.warns(UserWarning, match="degrees of freedom"):
        check("x.std(1)", random(3, 1))


@pytest.mark.parametrize("expression", NAMED)
def test_several_results_have_names(expression):
    x = random(3, 4)
    ours, theirs = (eval(expression, {"x": each}) for each in (tg.Tensor(x), x))
    assert type(ours) is type(theirs)


def test_indices_carry_no_gradient():
    values, indices = tg.Tensor(random(3, 4), requires_grad=True).max(0)
    assert values.requires_grad and not indices.requires_grad
    assert indices.dtype is torch.int64


def test_a_maximum_along_a_dimension_keeps_indices_and_not_its_operand():
    x = tg.Tensor(random(3, 4), requires_grad=True)
    for result in (x.max(0).values, x.sort().values, x.topk(2).values, x.cummax(0).values):
        (fork,) = result.node
        assert all(saved is not x.data for saved, _ in fork.guards)


def test_wrong_dimension():
    x = tg.Tensor(random(3, 4), requires_grad=True)
    with pytest.raises(OperandError, match=r"torch.sum of float64\[3, 4\], 5.*out of range"):
        x.sum(5)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, math.inf])
def test_distances_of_pairs(p):
    """To the second order, which PyTorch does not have."""
    x = random(5, 3)
    x[3] = x[1]
    assert_same_gradients(torch.pdist, [x.requires_grad_(), p], order=1)
    y = tg.Tensor(random(4, 3), requires_grad=True)
    assert tg.gradcheck(lambda y: tg.grad(torch.pdist(y, p).sum(), y, create_graph=True)[0], [y])


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, math.inf, -math.inf])
def test_norms_of_complex_numbers(p):
    z = torch.complex(random(3, 4), random(3, 4, seed=1))
    assert_same_gradients(torch.linalg.vector_norm, [z.requires_grad_(), p, 1])
    zeros = torch.zeros(2, 3, dtype=torch.complex128, requires_grad=True)
    assert_same_gradients(torch.linalg.vector_norm, [zeros, p, 1], order=1)
