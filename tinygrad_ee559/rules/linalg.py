"""Linear algebra: products of vectors and matrices, inverses, determinants, distances.

Transposed factors are those of ordinary calculus: for Y = A B, dA = dY Bᵀ and dB = Aᵀ dY.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.errors import operand_error
from tinygrad_ee559.rules.registry import alias, composed, rule

# ------------------------------------------------------- products of two operands

rule(torch.dot, lambda g, _y, _a, tensor: g * tensor, lambda g, _y, a, _tensor: g * a)
rule(
    torch.mv,
    lambda g, _y, _a, vec: torch.outer(g, vec),
    lambda g, _y, a, _vec: a.mT @ g,
)
for _function in (torch.mm, torch.bmm):
    rule(
        _function,
        lambda g, _y, _a, mat2: g @ mat2.mT,
        lambda g, _y, a, _mat2: a.mT @ g,
    )


def _left_gradient(g: Any, a_shape: torch.Size, b: Any) -> Any:
    """That of `a` in a @ b. Where b alone has batches, they are summed by the product itself."""
    if b.ndim == 1:
        return g.unsqueeze(-1) * b
    if len(a_shape) <= 2 < b.ndim:
        summed = [*range(b.ndim - 2), -1]
        return torch.tensordot(g, b, (summed, summed))
    return g @ b.mT


def _right_gradient(g: Any, a: Any, b_shape: torch.Size) -> Any:
    """That of `b` in a @ b. Where a alone has batches, they are summed by the product itself."""
    if a.ndim == 1:
        return g * a if len(b_shape) == 1 else a.unsqueeze(-1) * g.unsqueeze(-2)
    if len(b_shape) <= 2 < a.ndim:
        summed = [*range(a.ndim - 1)]
        return torch.tensordot(a, g, (summed, summed))
    return a.mT @ g


rule(
    torch.matmul,
    lambda g, _y, a_shape, b: _left_gradient(g, a_shape, b),
    lambda g, _y, a, b_shape: _right_gradient(g, a, b_shape),
)
alias(torch.dot, torch.vdot)  # without complex numbers they are the same
alias(torch.matmul, torch.linalg.matmul, torch.Tensor.__matmul__)


@composed(torch.Tensor.__rmatmul__)
def _reflected_matmul(input: Any, other: Any) -> Any:
    return torch.matmul(other, input)


@composed(torch.outer, torch.ger)
def _outer(input: Any, vec2: Any) -> Any:
    return input.unsqueeze(-1) * vec2


@composed(torch.inner)
def _inner(input: Any, other: Any) -> Any:
    if not input.ndim or not other.ndim:
        return input * other
    return torch.tensordot(input, other, ([-1], [-1]))


@composed(torch.linalg.vecdot)
def _vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    return (x * y).sum(dim)


@composed(torch.tensordot)
def _tensordot(a: Any, b: Any, dims: Any = 2, out: None = None) -> Any:
    """The sum over `dims` of a and of b; over the last of a and the first of b if a number."""
    if isinstance(dims, int):
        dims = (range(-dims, 0), range(dims))
    a_dims, b_dims = ([d % t.ndim for d in ds] for t, ds in zip((a, b), dims))
    for i, j in zip(a_dims, b_dims):  # a dimension of size 1 is broadcast
        if b.shape[j] == 1:
            a = a.sum(i, keepdim=True)
        elif a.shape[i] == 1:
            b = b.sum(j, keepdim=True)
    a_free = [d for d in range(a.ndim) if d not in a_dims]
    b_free = [d for d in range(b.ndim) if d not in b_dims]
    sizes = [a.shape[d] for d in a_dims]
    if sizes != [b.shape[d] for d in b_dims]:
        raise operand_error(
            RuntimeError(),
            f"torch.tensordot of shapes {list(a.shape)} and {list(b.shape)}: dimensions {a_dims} "
            f"of the first and {b_dims} of the second must have the same sizes"
        )
    a_sizes, b_sizes = [a.shape[d] for d in a_free], [b.shape[d] for d in b_free]
    left = a.permute(a_free + a_dims).reshape(math.prod(a_sizes), math.prod(sizes))
    right = b.permute(b_dims + b_free).reshape(math.prod(sizes), math.prod(b_sizes))
    return torch.mm(left, right).reshape(a_sizes + b_sizes)


@composed(torch.kron)
def _kron(input: Any, other: Any) -> Any:
    """Every element of `input` times all of `other`, in place of the element."""
    ndim = max(input.ndim, other.ndim)
    outer = (1,) * (ndim - input.ndim) + input.shape
    inner = (1,) * (ndim - other.ndim) + other.shape
    left = input.reshape(list(chain.from_iterable((n, 1) for n in outer)))
    right = other.reshape(list(chain.from_iterable((1, n) for n in inner)))
    return (left * right).reshape([n * m for n, m in zip(outer, inner)])


# On three coordinates, g . (da x b) = da . (b x g).
rule(
    torch.linalg.cross,
    lambda g, _y, _a, b, dim=-1: torch.linalg.cross(b, g, dim=dim),
    lambda g, _y, a, _b, dim=-1: torch.linalg.cross(g, a, dim=dim),
)


@composed(torch.cross)
def _cross(input: Any, other: Any, dim: int | None = None) -> Any:
    """By default along the first dimension of size 3."""
    return torch.linalg.cross(input, other, dim=input.shape.index(3) if dim is None else dim)


# -------------------------------------------- beta * input + alpha * (a product)


def _times(g: Any, factor: float) -> Any:
    return g if factor == 1 else g * factor


rule(
    torch.addmm,
    lambda g, _y, _input, _mat1, _mat2, beta=1, alpha=1: _times(g, beta),
    lambda g, _y, _input, _mat1, mat2, beta=1, alpha=1: _times(g @ mat2.mT, alpha),
    lambda g, _y, _input, mat1, _mat2, beta=1, alpha=1: _times(mat1.mT @ g, alpha),
)
rule(
    torch.addmv,
    lambda g, _y, _input, _mat, _vec, beta=1, alpha=1: _times(g, beta),
    lambda g, _y, _input, _mat, vec, beta=1, alpha=1: _times(torch.outer(g, vec), alpha),
    lambda g, _y, _input, mat, _vec, beta=1, alpha=1: _times(mat.mT @ g, alpha),
)
rule(
    torch.addr,
    lambda g, _y, _input, _vec1, _vec2, beta=1, alpha=1: _times(g, beta),
    lambda g, _y, _input, _vec1, vec2, beta=1, alpha=1: _times(g @ vec2, alpha),
    lambda g, _y, _input, vec1, _vec2, beta=1, alpha=1: _times(g.mT @ vec1, alpha),
)
for _batched in (torch.addbmm, torch.baddbmm):  # the first sums over the batch, so g has none
    rule(
        _batched,
        lambda g, _y, _input, _batch1, _batch2, beta=1, alpha=1: _times(g, beta),
        lambda g, _y, _input, _batch1, batch2, beta=1, alpha=1: _times(g @ batch2.mT, alpha),
        lambda g, _y, _input, batch1, _batch2, beta=1, alpha=1: _times(batch1.mT @ g, alpha),
    )

# ------------------------------------------------------ products of many matrices


@composed(torch.linalg.multi_dot)
def _multi_dot(tensors: Sequence[Any]) -> Any:
    """The product of all, in the order that takes the fewest multiplications.

    The order is found by dynamic programming (T. H. Cormen et al., "Introduction to Algorithms",
    "Matrix-chain multiplication").
    """
    first, last = tensors[0], tensors[-1]  # these two may be vectors: a row and a column
    sizes = [first.shape[0] if first.ndim > 1 else 1, *(t.shape[0] for t in tensors[1:])]
    sizes.append(last.shape[1] if last.ndim > 1 else 1)

    @cache
    def plan(i: int, j: int) -> tuple[int, int]:
        """How many multiplications the product of i...j takes, and after which one to split it."""
        return min(
            (
                (plan(i, k)[0] + plan(k + 1, j)[0] + sizes[i] * sizes[k + 1] * sizes[j + 1], k)
                for k in range(i, j)
            ),
            default=(0, i),
        )

    def product(i: int, j: int) -> Any:
        k = plan(i, j)[1]
        return tensors[i] if i == j else product(i, k) @ product(k + 1, j)

    return product(0, len(tensors) - 1)


@composed(torch.chain_matmul)
def _chain_matmul(*matrices: Any) -> Any:
    return torch.linalg.multi_dot(matrices)


@composed(torch.linalg.matrix_power, torch.matrix_power)
def _matrix_power(input: Any, n: int) -> Any:
    """By repeated squaring; a negative power is that of the inverse."""
    if n == 0:
        return torch.where(torch.tensor(True), _eye(input), input)
    if n < 0:
        return torch.linalg.matrix_power(torch.linalg.inv(input), -n)
    power = None
    for digit in reversed(f"{n:b}"):
        if digit == "1":
            power = input if power is None else power @ input
        n >>= 1
        if n:
            input = input @ input
    return power


# ------------------------------------------ inverses, determinants, decompositions
#
# M. B. Giles, "An extended collection of matrix derivative results for forward and reverse mode
# algorithmic differentiation", report 08/01, Oxford University Computing Laboratory, 2008.

rule(torch.linalg.inv, lambda g, y, _x: -y.mT @ g @ y.mT)
alias(torch.linalg.inv, torch.inverse)


def _solve_gradient(g: Any, y: Any, a: Any, left: bool) -> Any:
    """That of A: -dB Yᵀ, where dB solves Aᵀ dB = dY. The right-hand sides may be vectors."""
    d = torch.linalg.solve(a.mT, g, left=left)
    if y.ndim < a.ndim:
        d, y = d.unsqueeze(-1), y.unsqueeze(-1)
    return -(d @ y.mT) if left else -(y.mT @ d)


rule(
    torch.linalg.solve,
    lambda g, y, a, _b, left=True: _solve_gradient(g, y, a, left),
    lambda g, _y, a, _b, left=True: torch.linalg.solve(a.mT, g, left=left),
)


def _eye(x: Any) -> torch.Tensor:
    return torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def _cofactors(x: Any, y: Any) -> Any:
    """The gradient of the determinant y of x.

    Where no matrix is singular, yX⁻ᵀ. Otherwise the transposed adjugate, without any division by
    zero (the algorithm of Le Verrier and Faddeev: D. K. Faddeev and V. N. Faddeeva,
    "Computational Methods of Linear Algebra", 1963, section 47).
    """
    if (y != 0).all():
        return y[..., None, None] * torch.linalg.inv(x).mT
    eye = _eye(x)
    adjugate = eye.expand(x.shape)
    for k in range(1, x.shape[-1]):
        product = x @ adjugate
        trace = product.diagonal(0, -2, -1).sum(-1)[..., None, None]
        adjugate = trace / k * eye - product
    return adjugate.mT


rule(torch.linalg.det, lambda g, y, x: g[..., None, None] * _cofactors(x, y))
rule(torch.linalg.slogdet, lambda g, _y, x: g[1][..., None, None] * torch.linalg.inv(x).mT)
alias(torch.linalg.det, torch.det)
alias(torch.linalg.slogdet, torch.slogdet)


@composed(torch.logdet)
def _logdet(input: Any) -> Any:
    """NaN for a negative determinant."""
    sign, logabsdet = torch.linalg.slogdet(input)
    return logabsdet + torch.log(sign.detach())


def _cholesky_gradient(g: Any, y: Any, upper: bool) -> Any:
    """L⁻ᵀ P L⁻¹, where P is half the symmetric matrix with the lower triangle of Lᵀ dL.

    I. Murray, "Differentiation of the Cholesky decomposition", arXiv:1602.07527, 2016, eq. 10.
    """
    g, y = (g.mT, y.mT) if upper else (g, y)
    p = y.mT @ g
    inverse = torch.linalg.inv(y)
    return inverse.mT @ (torch.tril(p) + torch.tril(p, -1).mT) @ inverse / 2


rule(torch.linalg.cholesky, lambda g, y, _x, upper=False: _cholesky_gradient(g, y, upper))
alias(torch.linalg.cholesky, torch.cholesky)

# ------------------------------------------------------------ lengths and angles


@composed(F.normalize)
def _normalize(
    input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Any:
    return input / torch.linalg.vector_norm(input, p, dim, keepdim=True).clamp_min(eps)


@composed(F.cosine_similarity)
def _cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    x1, x2 = torch.broadcast_tensors(x1, x2)  # type: ignore[no-untyped-call]
    return (F.normalize(x1, dim=dim, eps=eps) * F.normalize(x2, dim=dim, eps=eps)).sum(dim)


@composed(F.pairwise_distance)
def _pairwise_distance(
    x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Any:
    return torch.linalg.vector_norm(x1 - x2 + eps, p, -1, keepdim)


@composed(torch.cdist)
def _cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: str = "") -> Any:
    """The distances between all rows of x1 and all rows of x2."""
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)
