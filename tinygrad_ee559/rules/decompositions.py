"""Decompositions of matrices, and what is defined by them.

The formulas are those of complex matrices, where mH stands for what is mT of real ones. Vectors
are unique only up to a sign, or a phase; the gradients are right for what does not depend on it,
which is not checked. The papers named are mostly those of PyTorch's FunctionsManual.cpp.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.errors import NoRuleError
from tinygrad_ee559.rules.registry import composed, rule

aten = torch.ops.aten

# ---------------------------------------------------------------------- Cholesky: A = L Lᴴ

rule(torch.linalg.cholesky_ex,
     lambda g, y, _A, upper=False, _check_errors=False: _cholesky_gradient(g[0], y[0], upper),
     holomorphic=False)
rule(torch.cholesky, lambda g, y, _A, upper=False: _cholesky_gradient(g, y, upper),
     holomorphic=False)


def _cholesky_gradient(g: Any, y: Any, upper: bool) -> Any:
    """L⁻ᴴ P L⁻¹, where P is half the Hermitian matrix with the lower triangle of Lᴴ dL.

    I. Murray, "Differentiation of the Cholesky decomposition", 2016, eq. 10.
    """
    g, y = (g.mH, y.mH) if upper else (g, y)
    p = torch.tril(y.mH @ g)
    p = (p + torch.tril(p, -1).mH) / 2
    p = torch.linalg.solve_triangular(y.mH, p, upper=True)
    return torch.linalg.solve_triangular(y, p, upper=False, left=False)


rule(torch.cholesky_inverse,
     lambda g, y, L, upper=False: _product_gradient(-y @ g @ y, L, upper), holomorphic=False)
rule(torch.cholesky_solve,
     lambda g, _y, _b, input2, upper=False: torch.cholesky_solve(g, input2, upper),
     lambda g, y, _b, input2, upper=False:
         _product_gradient(-torch.cholesky_solve(g, input2, upper) @ y.mH, input2, upper),
     holomorphic=False)


def _product_gradient(g: Any, factor: Any, upper: bool) -> Any:
    """That of L in L Lᴴ, or of U in Uᴴ U."""
    return factor @ (g + g.mH) if upper else (g + g.mH) @ factor


# ------------------------------------------------------------------------------ LU: A = P L U

rule(torch.linalg.lu_factor_ex,
     lambda g, y, _A, _pivot=True, _check_errors=False: _lu_gradient(g[0], y[0], y[1]))
rule(aten.lu_unpack,
     lambda g, _y, LU_data_shape, _LU_pivots, _unpack_data=True, _unpack_pivots=True:
         _padded(torch.tril(g[1], -1), LU_data_shape) + _padded(torch.triu(g[2]), LU_data_shape))


def _lu_gradient(g: Any, lu: Any, pivots: Any) -> Any:
    """P L⁻ᵀ (tril(Lᵀ dL, -1) + triu(dU Uᵀ)) U⁻ᵀ, of a square matrix (Walter and Lehmann, below).

    Any other is made square by rows or columns of the identity, which do not change its factors.
    """
    *_, rows, columns = lu.shape
    square = [max(rows, columns)] * 2
    eye = torch.eye(square[0], dtype=lu.dtype, device=lu.device)
    lower = torch.tril(_padded(lu, square), -1) + eye
    upper = torch.triu(_padded(lu, square)) + eye - _padded(eye[: min(rows, columns)], square)
    g = _padded(g, square)
    h = torch.tril(lower.mT @ torch.tril(g, -1), -1) + torch.triu(torch.triu(g) @ upper.mT)
    h = torch.linalg.solve_triangular(lower.mT, h, upper=True)
    h = torch.linalg.solve_triangular(upper.mT, h, upper=False, left=False)
    return torch.lu_unpack(lu, pivots, unpack_data=False)[0] @ h[..., :rows, :columns]


def _padded(x: Any, shape: Any) -> Any:
    """With zeros to the right and below."""
    return F.pad(x, (0, shape[-1] - x.shape[-1], 0, shape[-2] - x.shape[-2]))


@composed(torch.lu_unpack)
def _lu_unpack(LU_data: Any, LU_pivots: Any, *options: bool, **named: bool) -> Any:
    """Without gradients of the permutation."""
    permutation, *factors = aten.lu_unpack(LU_data, LU_pivots, *options, **named)
    return torch.return_types.lu_unpack((permutation.detach(), *factors))


@composed(torch.linalg.lu)
def _lu(A: Any, *, pivot: bool = True) -> Any:
    factors, pivots, _ = torch.linalg.lu_factor_ex(A, pivot=pivot)
    return torch.lu_unpack(factors, pivots, unpack_pivots=pivot)


@composed(torch.linalg.lu_solve)
def _lu_solve(LU: Any, pivots: Any, B: Any, *, left: bool = True, adjoint: bool = False) -> Any:
    if not left:
        return torch.linalg.lu_solve(LU, pivots, B.mH, adjoint=not adjoint).mH
    solve = torch.linalg.solve_triangular
    permutation, lower, upper = torch.lu_unpack(LU, pivots)
    if adjoint:
        return permutation @ solve(lower.mH, solve(upper.mH, B, upper=False), upper=True)
    return solve(upper, solve(lower, permutation.mT @ B, upper=False), upper=True)


# ------------------------------------------------------------------------------- QR: A = Q R

rule(torch.linalg.qr, lambda g, y, _A, mode="reduced": _qr_gradient(g, y, mode),
     holomorphic=False)


def _qr_gradient(g: Any, y: Any, mode: str) -> Any:
    """(dQ + Q H) R⁻ᴴ, where H is Hermitian with the upper triangle of dR Rᴴ - Qᴴ dQ.

    The further columns of a wide matrix are Q times those of R. S. F. Walter and L. Lehmann,
    "Algorithmic differentiation of linear algebra functions", arXiv:1001.1654, 2010.
    """
    (gq, gr), (q, r) = g, y
    size = r.shape[-2]
    if mode == "r" or size > r.shape[-1]:
        raise NoRuleError(
            f"linalg.qr of mode {mode!r} has no gradient for more rows than columns, as some of Q "
            "is arbitrary or missing; use mode='reduced'"
        )
    square, wide = r[..., :size], r[..., size:]
    gsquare, gwide = gr[..., :size], gr[..., size:]
    gq = gq + q @ wide @ gwide.mH
    h = gsquare @ square.mH - q.mH @ gq
    diagonal = torch.diag_embed(torch.real(h.diagonal(0, -2, -1)))
    h = torch.triu(h, 1)
    h = gq + q @ (h + h.mH + diagonal)
    h = torch.linalg.solve_triangular(square.mH, h, upper=False, left=False)
    return torch.cat([h, q @ gwide], -1)


@composed(torch.ormqr)
def _ormqr(input: Any, tau: Any, other: Any, left: bool = True, transpose: bool = False) -> Any:
    torch.ormqr(input.detach(), tau.detach(), other.detach(), left, transpose)  # checks the shapes
    if left:
        return _reflected(input, tau, other, transpose)
    return _reflected(input, tau, other.mH, not transpose).mH


@composed(torch.linalg.householder_product, torch.orgqr)
def _householder_product(input: Any, tau: Any) -> Any:
    eye = torch.eye(*input.shape[-2:], dtype=input.dtype, device=input.device)
    start = torch.where(eye == eye, eye, input)  # has all batches, and a history
    return _reflected(input, tau, start, transpose=False)


def _reflected(input: Any, tau: Any, other: Any, transpose: bool) -> Any:
    """One reflection 1 - τ v vᴴ after another; below a 1, v is a column of `input`."""
    eye = torch.eye(*input.shape[-2:], dtype=input.dtype, device=input.device)
    columns = torch.tril(input, -1) + eye
    factors = torch.conj(tau) if transpose else tau
    order = range(tau.shape[-1])
    for i in order if transpose else reversed(order):
        v = columns[..., i : i + 1]
        other = other - factors[..., i, None, None] * v @ (v.mH @ other)
    return other


# ------------------------------------------------------------ eigenvalues, singular values

rule(torch.linalg.eigh, lambda g, y, _A, _UPLO="L": _eigh_gradient(g, y), holomorphic=False)
rule(torch.linalg.eig, lambda g, y, _A: _eig_gradient(g, y), holomorphic=False)
rule(torch.linalg.svd,
     lambda g, y, _A, _full_matrices=True, _driver=None: _svd_gradient(g, y), holomorphic=False)
# by these names torch leaves out vectors, which the gradients of values need
composed(aten._linalg_eigh)(lambda A, UPLO="L", _vectors=True: torch.linalg.eigh(A, UPLO))
composed(aten._linalg_eigvals)(lambda A: torch.linalg.eig(A)[0])
composed(aten._linalg_svd)(
    lambda A, full_matrices=False, compute_uv=True, driver=None:
        torch.linalg.svd(A, full_matrices, driver=driver))


def _eigh_gradient(g: Any, y: Any) -> Any:
    """V (diag(dw) + H) Vᴴ, where H is (Vᴴ dV) / (w[j] - w[i]), made Hermitian (Giles)."""
    (gw, gv), (w, v) = g, y
    h = v.mH @ gv
    h = _over((h - h.mH) / 2, w.unsqueeze(-2) - w.unsqueeze(-1), _any(gv), pairs=True)
    return v @ (torch.diag_embed(gw) + h) @ v.mH


def _eig_gradient(g: Any, y: Any) -> Any:
    """V⁻ᴴ (diag(dw) + H / conj(w[j] - w[i])) Vᴴ, where H = Vᴴ dV - Vᴴ V diag(Re(Vᴴ dV)).

    The lengths of the vectors are 1, and do not change. C. Boeddeker et al., "On the computation
    of complex-valued gradients", arXiv:1701.00392, 2017.
    """
    (gw, gv), (w, v) = g, y
    h = v.mH @ gv
    h = h - v.mH @ v * torch.real(h.diagonal(0, -2, -1)).unsqueeze(-2)
    h = _over(h, torch.conj(w.unsqueeze(-2) - w.unsqueeze(-1)), _any(gv), pairs=True)
    return torch.linalg.solve(v.mH, (torch.diag_embed(gw) + h) @ v.mH)


def _svd_gradient(g: Any, y: Any) -> Any:
    """U H Vᴴ, and what turns the columns of U and V out of the space that they span.

    H = diag(ds) + (X + Z) / (s[j] - s[i]) + (X - Z) / (s[j] + s[i]), where 2 X and 2 Z are the
    anti-Hermitian parts of Uᴴ dU and Vᴴ dV. J. Townsend, "Differentiating the singular value
    decomposition", 2016, has the sum of the two quotients; complex numbers add the diagonal.
    """
    (u, s, v), (gu, gs, gv) = ((t[0], t[1], t[2].mH) for t in (y, g))
    size = s.shape[-1]
    u, v, gu, gv = (t[..., :size] for t in (u, v, gu, gv))
    row, column = s.unsqueeze(-2), s.unsqueeze(-1)
    x, z = u.mH @ gu, v.mH @ gv
    out_u, out_v = gu - u @ x, gv - v @ z
    x, z = (x - x.mH) / 2, (z - z.mH) / 2
    some = _any(gu) | _any(gv)
    h = _over(x + z, row - column, some, pairs=True) + _over(x - z, row + column, some, pairs=True)
    h = h + torch.diag_embed(gs)
    if x.is_complex():
        h = h + torch.diag_embed(_over(x.diagonal(0, -2, -1), s, some))
    h = u @ h
    if u.shape[-2] > size:
        h = h + _over(out_u, row, _any(gu))
    h = h @ v.mH
    return h + u @ _over(out_v, row, _any(gv)).mH if v.shape[-2] > size else h


def _any(g: Any) -> Any:
    return (g != 0).any()


def _over(x: Any, d: Any, some: Any, pairs: bool = False) -> Any:
    """x / d; 0 where d = 0 if no gradient of vectors arrived, so that equal values do no harm.

    In a matrix for all pairs of vectors, the diagonal does not count.
    """
    none = (d == 0) & ~some
    if pairs:
        none = none | torch.eye(d.shape[-1], dtype=torch.bool, device=d.device)
    return torch.where(none, 0, x / torch.where(none, 1, d))


# ------------------------------------------------------- pseudoinverse, least squares, exponential

rule(aten.linalg_pinv.atol_rtol_tensor,
     lambda g, y, A, _atol=None, _rtol=None, _hermitian=False: _pinv_gradient(g, y, A),
     holomorphic=False)


def _pinv_gradient(g: Any, p: Any, a: Any) -> Any:
    """G. H. Golub and V. Pereyra, "The differentiation of pseudo-inverses", 1973, eq. 4.12."""
    h, q = g.mH, p.mH
    return (h - a @ (p @ h)) @ p @ q + q @ p @ (h - (h @ p) @ a) - q @ g @ q


rule(aten.linalg_lstsq,
     lambda g, y, A, B, _rcond=None, _driver=None: _lstsq_gradients(g, y, A, B)[0],
     lambda g, y, A, B, _rcond=None, _driver=None: _lstsq_gradients(g, y, A, B)[1],
     holomorphic=False)


@composed(torch.linalg.lstsq)
def _lstsq(input: Any, b: Any, rcond: Any = None, *, driver: str | None = None) -> Any:
    """Without gradients of the singular values."""
    *found, singular_values = aten.linalg_lstsq(input, b, rcond, driver=driver)
    return torch.return_types.linalg_lstsq(  # type: ignore[attr-defined]
        [*found, singular_values.detach()]
    )


def _lstsq_gradients(g: Any, y: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Those of A⁺ B and, where there are some, of the squared lengths of the columns of A X - B."""
    vector = b.ndim < a.ndim
    a, b = a.to(y[0].dtype), b.to(y[0].dtype)  # as autocast has converted them
    x, b, gx = (t.unsqueeze(-1) if vector else t for t in (y[0], b, g[0]))
    p = torch.linalg.pinv(a)
    ga, gb = _pinv_gradient(gx @ b.mH, p, a), p.mH @ gx
    if g[1].numel():
        r = 2 * g[1].unsqueeze(-2) * (a @ x - b)
        ga, gb = ga + r @ x.mH, gb - r
    return ga, gb.squeeze(-1) if vector else gb


rule(torch.linalg.matrix_exp, lambda g, _y, A: _exp_gradient(g, A))


def _exp_gradient(g: Any, a: Any) -> Any:
    """The upper right block of exp([[Aᵀ, dY], [0, Aᵀ]]).

    R. Mathias, "A chain rule for matrix functions and applications", 1996.
    """
    n = a.shape[-1]
    blocks = torch.cat([torch.cat([a.mT, g], -1), F.pad(a.mT, (n, 0))], -2)
    return torch.linalg.matrix_exp(blocks)[..., :n, n:]
