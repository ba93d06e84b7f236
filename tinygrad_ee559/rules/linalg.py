"""Linear algebra: products of vectors and matrices, systems of equations, determinants.

Transposed factors are those of ordinary calculus: for Y = A B, dA = dY Bᵀ and dB = Aᵀ dY. Most
functions are not here, as torch composes them of these: einsum and kron, norms, powers.
"""

from __future__ import annotations

from typing import Any

import torch

from tinygrad_ee559.rules.reductions import holds
from tinygrad_ee559.rules.registry import alias, composed, rule

aten = torch.ops.aten

# ------------------------------------------------------- products of two operands

rule(torch.dot,  lambda g, _y, _a, tensor: g * tensor,
                 lambda g, _y, a, _tensor: g * a)
rule(torch.vdot, lambda g, _y, _a, other: torch.conj(g) * other,
                 lambda g, _y, a, _other: g * a, holomorphic=False)
rule(torch.mv,   lambda g, _y, _a, vec: torch.outer(g, vec),
                 lambda g, _y, a, _vec: a.mT @ g)
for _product in (torch.mm, torch.bmm):
    rule(_product, lambda g, _y, _a, mat2: g @ mat2.mT,
                   lambda g, _y, a, _mat2: a.mT @ g)
# of three coordinates: g . (da x b) = da . (b x g)
rule(torch.linalg.cross,
     lambda g, _y, _a, b, dim=-1: torch.linalg.cross(b, g, dim=dim),
     lambda g, _y, a, _b, dim=-1: torch.linalg.cross(g, a, dim=dim))

rule(torch.matmul, lambda g, _y, a_shape, b: _left_gradient(g, a_shape, b),
                   lambda g, _y, a, b_shape: _right_gradient(g, a, b_shape))
alias(torch.matmul, torch.linalg.matmul, torch.Tensor.__matmul__)
composed(torch.Tensor.__rmatmul__)(lambda x, other: torch.matmul(other, x))


def _left_gradient(g: Any, a_shape: torch.Size, b: Any) -> Any:
    """That of `a` in a @ b. Where b alone has batches, they are summed by the product itself."""
    if b.ndim == 1:
        return g.unsqueeze(-1) * b
    if len(a_shape) <= 2 < b.ndim:
        summed = [*range(b.ndim - 2), -1]
        return torch.tensordot(g, b.to(g.dtype), (summed, summed))  # autocast converts neither
    return g @ b.mT


def _right_gradient(g: Any, a: Any, b_shape: torch.Size) -> Any:
    """That of `b` in a @ b. Where a alone has batches, they are summed by the product itself."""
    if a.ndim == 1:
        return g * a if len(b_shape) == 1 else a.unsqueeze(-1) * g.unsqueeze(-2)
    if len(b_shape) <= 2 < a.ndim:
        summed = [*range(a.ndim - 1)]
        return torch.tensordot(a.to(g.dtype), g, (summed, summed))
    return a.mT @ g


# beta * input + alpha * (a product)
rule(torch.addmm,
     lambda g, _y, _input, _mat1, _mat2, beta=1, alpha=1: _times(g, beta),
     lambda g, _y, _input, _mat1, mat2, beta=1, alpha=1: _times(g @ mat2.mT, alpha),
     lambda g, _y, _input, mat1, _mat2, beta=1, alpha=1: _times(mat1.mT @ g, alpha))
for _sum in (torch.addbmm, torch.baddbmm):  # the first sums over the batch, so g has none
    rule(_sum,
         lambda g, _y, _input, _batch1, _batch2, beta=1, alpha=1: _times(g, beta),
         lambda g, _y, _input, _batch1, batch2, beta=1, alpha=1: _times(g @ batch2.mT, alpha),
         lambda g, _y, _input, batch1, _batch2, beta=1, alpha=1: _times(batch1.mT @ g, alpha))


def _times(g: Any, factor: Any) -> Any:
    return g if factor == 1 else g * factor


@composed(aten._trilinear)
def _trilinear(
    i1: Any, i2: Any, i3: Any, expand1: Any, expand2: Any, expand3: Any, sumdim: Any, _dim: int = 1
) -> Any:
    """What F.bilinear is: the sum of products, where each operand lacks some of the dimensions."""
    dims = range(i1.ndim + len(expand1))
    dims1, dims2, dims3, out = (
        [d for d in dims if d not in missing] for missing in (expand1, expand2, expand3, sumdim)
    )
    with torch.autocast(i1.device.type, enabled=False):  # which does not convert these
        return torch.einsum(i1, dims1, i2, dims2, i3, dims3, out)


# ------------------------------------------------ systems of equations, determinants
#
# M. B. Giles, "An extended collection of matrix derivative results for forward and reverse mode
# algorithmic differentiation", report 08/01, Oxford University Computing Laboratory, 2008.

rule(torch.linalg.inv_ex, lambda g, y, _A, _check_errors=False: -y[0].mT @ g[0] @ y[0].mT)
rule(aten._linalg_solve_ex,
     lambda g, y, A, _B, left=True, _check_errors=False:
         _system_gradient(torch.linalg.solve(A.mT, g[0], left=left), y[0], A, left),
     lambda g, _y, A, _B, left=True, _check_errors=False:
         torch.linalg.solve(A.mT, g[0], left=left))
rule(torch.linalg.solve_triangular,
     lambda g, y, A, _B, upper, left=True, unitriangular=False: _triangle(
         _system_gradient(_solve_transposed(g, A, upper, left, unitriangular), y, A, left),
         upper, unitriangular),
     lambda g, _y, A, _B, upper, left=True, unitriangular=False:
         _solve_transposed(g, A, upper, left, unitriangular))


def _system_gradient(d: Any, y: Any, a: Any, left: bool) -> Any:
    """That of A in A Y = B is -dB Yᵀ, where d = dB solves Aᵀ dB = dY; B may be a vector."""
    if y.ndim < a.ndim:
        d, y = d.unsqueeze(-1), y.unsqueeze(-1)
    return -(d @ y.mT) if left else -(y.mT @ d)


def _solve_transposed(g: Any, a: Any, upper: bool, left: bool, unitriangular: bool) -> Any:
    return torch.linalg.solve_triangular(
        a.mT, g, upper=not upper, left=left, unitriangular=unitriangular
    )


def _triangle(x: Any, upper: bool, unitriangular: bool) -> Any:
    return torch.triu(x, int(unitriangular)) if upper else torch.tril(x, -int(unitriangular))


@composed(torch.triangular_solve)
def _triangular_solve(
    input: Any, A: Any, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> Any:
    solution = torch.linalg.solve_triangular(
        A.mT if transpose else A, input, upper=upper != transpose, unitriangular=unitriangular
    )
    return torch.return_types.triangular_solve((solution, A.clone()))


rule(aten._linalg_det, lambda g, y, A: g[0][..., None, None] * _cofactors(A, y[0]))
rule(aten._linalg_slogdet, lambda g, y, A: _slogdet_gradient(g, y[0], A), holomorphic=False)


def _cofactors(a: Any, det: Any) -> Any:
    """The gradient of the determinant.

    Where no matrix is singular, det A⁻ᵀ. Otherwise the transposed adjugate, without any division
    by zero (the algorithm of Le Verrier and Faddeev: D. K. Faddeev and V. N. Faddeeva,
    "Computational Methods of Linear Algebra", 1963, section 47).
    """
    if holds(det != 0):
        return det[..., None, None] * torch.linalg.inv(a).mT
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    adjugate = eye.expand(a.shape)
    for k in range(1, a.shape[-1]):
        product = a @ adjugate
        trace = product.diagonal(0, -2, -1).sum(-1)[..., None, None]
        adjugate = trace / k * eye - product
    return adjugate.mT


def _slogdet_gradient(g: Any, sign: Any, a: Any) -> Any:
    """A complex sign turns with the imaginary part of log(det), a real one does not change."""
    turn = torch.conj(g[0]) * sign
    factor = g[1] - (turn - torch.conj(turn)) / 2
    return factor[..., None, None] * torch.linalg.inv(a).mH


# --------------------------------------------------------------------- distances

@composed(torch.cdist)
def _cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: str = "") -> Any:
    if torch.is_autocast_enabled(x1.device.type):
        x1, x2 = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (x1, x2))
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


@composed(torch.pdist)
def _pdist(input: Any, p: float = 2.0) -> Any:
    i, j = torch.triu_indices(len(input), len(input), 1)
    return torch.linalg.vector_norm(input[i] - input[j], p, -1)
