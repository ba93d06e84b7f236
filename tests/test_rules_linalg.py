"""Linear algebra, against torch.autograd."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compare import assert_same_gradients, tensors

import tinygrad_ee559 as tg
from tinygrad_ee559.errors import NoRuleError

#: PyTorch would rather see the newer names of these, and a dim in cross.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using torch.cross", "ignore:torch.chain_matmul", "ignore:torch.triangular_solve"
)


def random(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


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
    assert isinstance(node.saved[1 + wanted], torch.Size)
    assert node.saved[2 - wanted] is (b, a)[wanted].data


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


@pytest.mark.parametrize(
    "shapes", [((2, 3), (4, 5)), ((3,), (2, 2)), ((2, 2, 2), (3,)), ((), (2,))], ids=str
)
def test_kron(shapes):
    assert_same_gradients(torch.kron, random(*shapes))


def test_products_of_many_matrices():
    shapes = ((2, 9), (9, 3), (3, 8), (8, 4))
    assert_same_gradients(torch.chain_matmul, random(*shapes))
    for chain in (random(*shapes), random((9,), *shapes[1:]), random((9,), *shapes[1:], (4,))):
        assert_same_gradients(torch.linalg.multi_dot, (chain,))


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


@pytest.mark.parametrize("p", [1.5, 2.0])
def test_pdist(p):
    """PyTorch itself has no second derivative of it."""
    args = random((5, 3))
    assert_same_gradients(torch.pdist, args, {"p": p}, order=1)
    x = tg.Tensor(args[0].detach(), requires_grad=True)
    assert tg.gradgradcheck(lambda x: torch.pdist(x, p), x)


def test_other_names():
    (a,) = random((3, 3))
    positive = (a @ a.mT + torch.eye(3)).detach().requires_grad_()
    for function in (torch.inverse, torch.det, torch.slogdet, torch.logdet, torch.ger):
        assert_same_gradients(function, (a[0], a[1]) if function is torch.ger else (positive,))
    assert_same_gradients(torch.matrix_power, (a, 3))
    assert_same_gradients(torch.orgqr, random((4, 3), (3,)))
    assert_same_gradients(F.cosine_similarity, random((2, 3), (1, 3)), {"dim": 1})


@pytest.mark.parametrize("values", [(1.0, 1.0, 1.0), (2.0, 2.0, 0.0), (0.0, 0.0, 0.0)], ids=str)
def test_equal_values_do_no_harm_to_the_gradient_of_values(values):
    """Of their vectors, and of second derivatives, PyTorch makes NaN too."""
    x = torch.diag(torch.tensor(values, dtype=torch.float64)).requires_grad_()
    for function in (torch.linalg.eigvalsh, torch.linalg.eigvals, torch.linalg.svdvals):
        assert_same_gradients(function, (x,), order=1)
        assert_same_gradients(lambda x, f=function: torch.abs(f(x + 1)).sum(), (x,), order=1)
    if any(values):
        for function in (torch.linalg.eigh, torch.linalg.svd):
            assert_same_gradients(lambda x, f=function: f(x)[0] * f(x)[1], (x,), order=1)


def test_qr_without_all_of_q():
    x = tg.Tensor(random((4, 2))[0].detach(), requires_grad=True)
    for mode in ("r", "complete"):
        with pytest.raises(NoRuleError, match=f"linalg.qr of mode '{mode}'"):
            torch.linalg.qr(x, mode)[1].sum().backward()


def test_arguments_by_name():
    (a,) = random((3, 3))
    for function, names in (
        (torch.linalg.solve, "A B"), (torch.addmm, "input mat1 mat2"),
        (torch.linalg.solve_triangular, "input B"), (torch.linalg.lstsq, "input b"),
        (torch.cholesky_solve, "input input2"), (torch.triangular_solve, "input A"),
        (torch.linalg.eigh, "input"), (torch.linalg.svd, "A"), (torch.linalg.pinv, "input"),
    ):  # fmt: skip
        options = {"upper": True} if function is torch.linalg.solve_triangular else {}
        named = {name: a.detach() + torch.eye(3) for name in names.split()}
        ours = {name: tg.Tensor(x, requires_grad=True) for name, x in named.items()}
        found, expected = function(**ours, **options), function(**named, **options)
        for our, their in zip(tensors(found), tensors(expected), strict=True):
            torch.testing.assert_close(our.data, their)


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
