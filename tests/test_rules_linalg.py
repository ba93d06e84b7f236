"""Linear algebra, against torch.autograd."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compare import assert_same_gradients, op_samples

import tinygrad_ee559 as tg
from tinygrad_ee559.errors import OperandError
from tinygrad_ee559.rules import einsum, linalg
from tinygrad_ee559.rules.registry import COMPOSED, RULES

#: PyTorch would rather see the newer names of these, and a dim in cross.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using torch.cross", "ignore:torch.cholesky", "ignore:torch.chain_matmul"
)

OPERATORS = [
    "matmul", "__rmatmul__", "mm", "bmm", "mv", "dot", "vdot", "inner", "outer", "ger", "addmm",
    "addmv", "addr", "addbmm", "baddbmm", "einsum", "tensordot", "kron", "linalg.multi_dot",
    "cross", "linalg.cross", "linalg.vecdot", "linalg.matrix_power", "linalg.inv",
    "linalg.solve", "linalg.det", "linalg.slogdet", "logdet", "linalg.cholesky", "cholesky",
    "nn.functional.normalize", "nn.functional.cosine_similarity",
    "nn.functional.pairwise_distance",
]  # fmt: skip


def random(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


@pytest.mark.parametrize("operator", OPERATORS)
def test_derivatives_on_samples_of_pytorch(operator):
    if operator == "ger":  # PyTorch has samples under its other name
        function, samples = torch.ger, op_samples("outer")[1]
    else:
        function, samples = op_samples(operator)
    assert samples
    for args, kwargs in samples:
        assert_same_gradients(function, args, kwargs)


LEFT = [(4,), (1, 4), (3, 4), (2, 3, 4), (1, 3, 4), (5, 1, 3, 4), (0, 4)]
RIGHT = [(4,), (4, 1), (4, 3), (2, 4, 3), (1, 4, 3), (5, 2, 4, 3)]


@pytest.mark.parametrize("left", LEFT, ids=str)
@pytest.mark.parametrize("right", RIGHT, ids=str)
def test_matmul_of_all_dimensions(left, right):
    for function in (torch.matmul, torch.linalg.matmul, lambda a, b: a @ b):
        assert_same_gradients(function, random(left, right))


@pytest.mark.parametrize("wanted", [0, 1])
def test_matmul_keeps_only_the_other_operand(wanted):
    a, b = (tg.Tensor(x.detach(), requires_grad=i == wanted)
            for i, x in enumerate(random((2, 3, 4), (4, 5))))  # fmt: skip
    node = (a @ b).grad_fn
    assert isinstance(node.args[wanted], torch.Size)
    assert node.args[1 - wanted] is (b, a)[wanted].data


def test_matmul_with_foreign_operands_on_either_side():
    (a,) = random((3, 3))
    x = tg.Tensor(a.detach(), requires_grad=True)
    raw = torch.arange(9.0, dtype=torch.float64).reshape(3, 3)
    for other in (raw, raw.numpy()):
        for product, expected in ((x @ other, a @ raw), (other @ x, raw @ a)):
            (found,) = tg.grad(product.sum(), x)
            (true,) = torch.autograd.grad(expected.sum(), a)
            assert torch.equal(product.data, expected)
            assert torch.equal(found.data, true)
    assert isinstance(np.ones(3) @ x, tg.Tensor)
    assert torch.equal(torch.Tensor.__rmatmul__(raw, x).data, a @ raw)


EQUATIONS = [
    ("i->", [(3,)]),
    ("ij->ji", [(2, 3)]),
    ("ij", [(2, 3)]),
    ("ba", [(2, 3)]),
    ("ii", [(3, 3)]),
    ("ii->i", [(3, 3)]),
    ("iji->j", [(3, 2, 3)]),
    ("iii->i", [(3, 3, 3)]),
    ("i,i", [(3,), (3,)]),
    ("i,j", [(3,), (2,)]),
    ("ij,jk", [(2, 3), (3, 4)]),
    ("ij,jk->ki", [(2, 3), (3, 4)]),
    ("ij , kj -> ik", [(2, 3), (4, 3)]),
    ("ij,ij->ij", [(2, 3), (2, 3)]),
    ("ij,kl->", [(2, 3), (4, 5)]),
    ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("bij,bjk", [(2, 3, 4), (1, 4, 5)]),
    ("ij,jk->ik", [(2, 1), (3, 4)]),
    ("...ij,...jk->...ik", [(5, 2, 3, 4), (2, 4, 6)]),
    ("...i,...i", [(5, 1, 3), (2, 3)]),
    ("i...j,j...->...i", [(2, 3, 4), (4, 3)]),
    ("...,...->", [(2, 3), (3,)]),
    ("i...->...", [(2, 3)]),
    ("...ii->...i", [(2, 3, 3)]),
    ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
    ("i,ij,j", [(2,), (2, 3), (3,)]),
    ("bn,anm,bm->ba", [(2, 3), (5, 3, 4), (2, 4)]),
    ("Ab,bA,c", [(2, 3), (3, 2), (4,)]),
    (",i", [(), (3,)]),
    ("ij,jk->ik", [(2, 0), (0, 4)]),
]


@pytest.mark.parametrize(("equation", "shapes"), EQUATIONS)
def test_einsum(equation, shapes):
    assert_same_gradients(lambda *operands: torch.einsum(equation, *operands), random(*shapes))
    assert_same_gradients(lambda *operands: torch.einsum(equation, operands), random(*shapes))


@pytest.mark.parametrize(
    ("equation", "shapes", "complaint"),
    [
        ("ij,jk", [(2, 3)], "for 2 operands, and 1"),
        ("ij", [(2, 3, 4)], "'ij' in 'ij' do not fit 3 dimensions"),
        ("i.j", [(2, 3, 4)], "do not fit"),
        ("ij,jk", [(2, 3), (4, 5)], "sizes 3 and 4"),
        ("ij->ik", [(2, 3)], "in one of the operands"),
        ("ij->ii", [(2, 3)], "must be there once"),
    ],
)
def test_einsum_says_what_is_wrong(equation, shapes, complaint):
    operands = random(*shapes)
    with pytest.raises(RuntimeError):
        torch.einsum(equation, *operands)
    with pytest.raises(RuntimeError, match=complaint) as caught:
        torch.einsum(equation, *(tg.Tensor(x.detach()) for x in operands))
    assert isinstance(caught.value, OperandError)


@pytest.mark.parametrize(
    ("shapes", "dims"),
    [
        (((2, 3), (4, 5)), 0),
        (((2, 3), (3, 4)), 1),
        (((2, 3, 4), (3, 4, 5)), 2),
        (((2, 3), (2, 3)), ([0, 1], [0, 1])),
        (((2, 3, 4), (4, 5, 2)), ([0, -1], [-1, 0])),
        (((2, 1, 4), (3, 4)), ([1, 2], [0, 1])),
    ],
)
def test_tensordot(shapes, dims):
    assert_same_gradients(lambda a, b: torch.tensordot(a, b, dims), random(*shapes))


def test_tensordot_of_sizes_that_differ():
    with pytest.raises(OperandError, match=r"\[2, 3\] and \[2, 3\]: dimensions \[1\] .* \[0\]"):
        torch.tensordot(*(tg.Tensor(x.detach()) for x in random((2, 3), (2, 3))), 1)


@pytest.mark.parametrize(
    "shapes", [((2, 3), (4, 5)), ((3,), (2, 2)), ((2, 2, 2), (3,)), ((), (2,))], ids=str
)
def test_kron(shapes):
    assert_same_gradients(torch.kron, random(*shapes))


def test_products_of_many_matrices():
    shapes = ((2, 9), (9, 3), (3, 8), (8, 4))
    assert_same_gradients(torch.chain_matmul, random(*shapes))
    for tensors in (random(*shapes), random((9,), *shapes[1:]), random((9,), *shapes[1:], (4,))):
        assert_same_gradients(torch.linalg.multi_dot, (tensors,))


def test_multi_dot_takes_the_cheap_order():
    """(1000 x 2)(2 x 1000)(1000 x 1): from the right the matrix of 1000 x 1000 is never made."""
    tensors = [tg.Tensor(torch.ones(n, m), requires_grad=True) for n, m in
               ((1000, 2), (2, 1000), (1000, 1))]  # fmt: skip
    last = torch.linalg.multi_dot(tensors).grad_fn
    assert last[0] is tensors[0].node
    assert last[1].shape == (2, 1)


def test_cross_finds_the_dimension_of_size_3():
    assert_same_gradients(torch.cross, random((2, 3, 3), (2, 3, 3)))
    assert_same_gradients(torch.linalg.cross, random((3, 2), (3, 2)), {"dim": 0})


@pytest.mark.parametrize("rank", [3, 2, 1])
def test_determinant_of_singular_matrices(rank):
    """The gradient is that of the cofactor expansion, a polynomial: zero if two ranks are lost."""
    diagonal = torch.diag(torch.tensor([1.0] * rank + [0.0] * (4 - rank), dtype=torch.float64))
    x = tg.Tensor(diagonal, requires_grad=True)
    assert tg.gradcheck(torch.linalg.det, x)
    assert tg.gradgradcheck(torch.linalg.det, x)
    (g,) = tg.grad(torch.det(x), x)
    assert g.data.count_nonzero() == (1 if rank == 3 else 0)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, float("inf")])
def test_cdist(p):
    """PyTorch itself has no second derivative of it."""
    args = random((2, 4, 3), (5, 3))
    assert_same_gradients(lambda a, b: torch.cdist(a, b, p=p), args, order=1)
    assert tg.gradgradcheck(
        lambda a, b: torch.cdist(a, b, p), [tg.Tensor(x.detach(), requires_grad=True) for x in args]
    )


def test_solve_from_the_right():
    for shapes in (((3, 3), (2, 3)), ((4, 3, 3), (4, 2, 3))):
        assert_same_gradients(torch.linalg.solve, random(*shapes), {"left": False})


def test_other_names():
    (a,) = random((3, 3))
    positive = (a @ a.mT + torch.eye(3)).detach().requires_grad_()
    for function in (torch.inverse, torch.det, torch.slogdet, torch.logdet, torch.cholesky):
        assert_same_gradients(function, (positive,))
    assert_same_gradients(torch.matrix_power, (a, 3))
    assert_same_gradients(F.cosine_similarity, random((2, 3), (1, 3)), {"dim": 1})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(100, 2, 25), (100, 25, 25), (64, 784, 128), (7, 20, 1)])
def test_products_of_matrices_have_the_bits_of_pytorch(shape, dtype):
    n, m, k = shape
    a, b = (x.detach().to(dtype).requires_grad_() for x in random((n, m), (m, k)))
    ours = [tg.Tensor(x.detach(), requires_grad=True) for x in (a, b)]
    for function in (torch.matmul, torch.mm):
        (function(a, b) ** 2).sum().backward()
        (function(*ours) ** 2).sum().backward()
        for x, y in zip(ours, (a, b)):
            assert torch.equal(x.grad.data, y.grad)


def test_every_rule_here_is_tested():
    """What `linalg` and `einsum` register is named above or in the samples."""
    here = {linalg.__name__, einsum.__name__}
    names = {
        f.__name__
        for table in (RULES, COMPOSED)
        for f, entry in table.items()
        if getattr(getattr(entry, "formulas", [entry])[0], "__module__", "") in here
    }
    tested = {name.rpartition(".")[2] for name in OPERATORS} | {
        "chain_matmul", "inverse", "matrix_power", "det", "slogdet", "cdist",
    }  # fmt: skip
    assert {name.removeprefix("linalg_") for name in names} - {"__matmul__"} == tested
