"""Functions that reduce dimensions, and those that accumulate or sort along one."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.rules.registry import alias, composed, rule

aten = torch.ops.aten


def put_back(reduced: Any, shape: torch.Size, dim: Any, keepdim: bool) -> Any:
    """A result of reducing `shape`, with the reduced dimensions as ones, so that it broadcasts.

    Args:
        reduced: the result, or a gradient of it.
        shape: the shape before.
        dim: what was reduced: a dimension, several of them, or all if it is None or empty.
        keepdim: whether they are there already.
    """
    if keepdim or dim is None or dim == () or dim == [] or not shape:
        return reduced
    sizes = list(shape)
    for d in (dim,) if isinstance(dim, int) else dim:
        sizes[d] = 1
    return reduced.reshape(sizes)


def holds(condition: Any) -> bool:
    """Whether it holds everywhere, as far as one can tell: in a batch of vmap's, one cannot."""
    try:
        return bool(condition.all())
    except RuntimeError:
        return False


def count(shape: torch.Size, dim: Any) -> int:
    """How many elements went into each result."""
    if dim is None or dim == () or dim == [] or not shape:
        return shape.numel()
    return math.prod(shape[d] for d in ((dim,) if isinstance(dim, int) else dim))


# ------------------------------------------------------------ sums and means

rule(torch.sum, lambda g, _y, x_shape, dim=None, keepdim=False, _dtype=None:
     put_back(g, x_shape, dim, keepdim).expand(x_shape))
rule(torch.mean, lambda g, _y, x_shape, dim=None, keepdim=False, _dtype=None:
     _mean_gradient(g, x_shape, dim, keepdim))
rule(torch.Tensor.sum_to_size, lambda g, _y, x_shape, *_size: g.expand(x_shape))


def _mean_gradient(g: Any, shape: torch.Size, dim: Any, keepdim: bool) -> Any:
    return put_back(g, shape, dim, keepdim).expand(shape) / count(shape, dim)


rule(torch.prod, lambda g, y, x, dim=None, keepdim=False, _dtype=None:
     _prod_gradient(g, y, x, dim, keepdim))


def _prod_gradient(g: Any, y: Any, x: Any, dim: int | None, keepdim: bool) -> Any:
    """`g` times the product of all other elements, which is y / x only where no element is 0."""
    if not x.ndim:
        return g
    g, y = put_back(g, x.shape, dim, keepdim), put_back(y, x.shape, dim, keepdim)
    if holds(x != 0):
        return g * y / x
    along = x.flatten() if dim is None else x.movedim(dim, -1)
    before = F.pad(along[..., :-1], (1, 0), value=1.0).cumprod(-1)
    after = F.pad(along[..., 1:], (0, 1), value=1.0).flip(-1).cumprod(-1).flip(-1)
    others = before * after
    return g * (others.reshape(x.shape) if dim is None else others.movedim(-1, dim))


# --------------------------------------------------- variances and deviations
#
# torch.var(x, unbiased), torch.var(x, dim, unbiased, keepdim) and
# torch.var(x, dim, correction=, keepdim=) are the forms in which torch takes these.

rule(torch.var, lambda g, _y, x, dim=None, unbiased=True, keepdim=False, correction=None:
     _var_gradient(g, x, dim, unbiased, keepdim, correction))
rule(torch.std, lambda g, y, x, dim=None, unbiased=True, keepdim=False, correction=None:
     _std_gradient(g, y, x, dim, unbiased, keepdim, correction))
rule(torch.var_mean, lambda g, _y, x, dim=None, unbiased=True, keepdim=False, correction=None:
     _var_gradient(g[0], x, dim, unbiased, keepdim, correction)
     + _mean_gradient(g[1], x.shape, None if isinstance(dim, bool) else dim, keepdim),
     holomorphic=False)
rule(torch.std_mean, lambda g, y, x, dim=None, unbiased=True, keepdim=False, correction=None:
     _std_gradient(g[0], y[0], x, dim, unbiased, keepdim, correction)
     + _mean_gradient(g[1], x.shape, None if isinstance(dim, bool) else dim, keepdim),
     holomorphic=False)


def _var_gradient(
    g: Any, x: Any, dim: Any, unbiased: bool, keepdim: bool, correction: float | None
) -> Any:
    """2 (x - mean) / (n - correction)."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = int(unbiased)
    freedom = count(x.shape, dim) - correction
    scale = 2 / freedom if freedom > 0 else math.inf
    return put_back(g, x.shape, dim, keepdim) * scale * (x - x.mean(dim, keepdim=True))


def _std_gradient(g: Any, y: Any, x: Any, *options: Any) -> Any:
    """That of the variance, over 2 std; 0 where the deviation is 0."""
    return _var_gradient((g / (2 * y)).masked_fill(y == 0, 0), x, *options)


# ------------------------------------------------------------------ extremes

for _extreme in (torch.amax, torch.amin):
    rule(_extreme, lambda g, y, x, dim=(), keepdim=False: _among_ties(g, y, x, dim, keepdim))
for _of_all in (
    aten.max.default, aten.min.default, aten.median.default, aten.nanmedian.default
):  # fmt: skip
    rule(_of_all, lambda g, y, x: _among_ties(g, y, x))
for _along_dim in (aten.max.dim, aten.min.dim, aten.median.dim, aten.nanmedian.dim):
    rule(_along_dim, lambda g, y, x_shape, dim, keepdim=False:
         _to_indices(g[0], y[1], x_shape, dim, keepdim))
rule(torch.mode, lambda g, y, x_shape, dim=-1, keepdim=False:
     _to_indices(g[0], y[1], x_shape, dim, keepdim))
rule(torch.kthvalue, lambda g, y, x_shape, _k, dim=-1, keepdim=False:
     _to_indices(g[0], y[1], x_shape, dim, keepdim))
rule(torch.sort, lambda g, y, x_shape, dim=-1, _descending=False, _stable=False:
     _to_indices(g[0], y[1], x_shape, dim))
rule(torch.topk, lambda g, y, x_shape, _k, dim=-1, _largest=True, _sorted=True:
     _to_indices(g[0], y[1], x_shape, dim))


def _among_ties(g: Any, y: Any, x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """The gradient in equal parts to all elements that equal the result."""
    ties = x == put_back(y, x.shape, dim, keepdim)
    return put_back(g, x.shape, dim, keepdim) * ties / ties.sum(dim, keepdim=True)


def _to_indices(
    g: Any, indices: Any, shape: torch.Size, dim: int = -1, keepdim: bool = True
) -> Any:
    """The gradient to the elements that were picked along `dim`, none of them twice."""
    g = put_back(g, shape, dim, keepdim)
    return g.new_zeros(shape).scatter(dim, put_back(indices, shape, dim, keepdim), g)


# --------------------------------------------------------------------- norms

rule(torch.linalg.vector_norm, lambda g, y, x, ord=2, dim=None, keepdim=False, _dtype=None:
     _norm_gradient(g, y, x, ord, dim, keepdim))
rule(torch.logsumexp, lambda g, y, x, dim, keepdim=False:
     put_back(g, x.shape, dim, keepdim) * torch.exp(x - put_back(y, x.shape, dim, keepdim)))
alias(torch.logsumexp, torch.special.logsumexp)


def _norm_gradient(g: Any, y: Any, x: Any, p: float, dim: Any, keepdim: bool) -> Any:
    """sgn(x) |x / norm| ** (p - 1), and 0 where the norm has no derivative.

    The largest elements share the gradient of the norm of infinite order.
    """
    y = put_back(y, x.shape, dim, keepdim)
    g = put_back(g, x.shape, dim, keepdim)
    if p == 0:
        return x.new_zeros(x.shape)
    if p == 1:
        return g * torch.sgn(x)
    if p == 2:
        return g * (x / y).masked_fill(y == 0, 0)
    if math.isinf(p):
        return torch.sgn(x) * _among_ties(g, y, torch.abs(x), dim, keepdim=True)
    if p < 1:
        return g * torch.sgn(x) * (torch.abs(x) ** (p - 1)).masked_fill(x == 0, 0) * y ** (1 - p)
    scale = (g / y ** (p - 1)).masked_fill(y == 0, 0)
    if p < 2:
        return scale * torch.sgn(x) * torch.abs(x) ** (p - 1)
    return scale * x * torch.abs(x) ** (p - 2)


@composed(torch.pdist)
def _pdist(input: Any, p: float = 2.0) -> Any:
    """The distances of all pairs of rows."""
    i, j = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return torch.linalg.vector_norm(input[i] - input[j], p, -1)


# ------------------------------------------------------------- along one dimension

rule(torch.cumsum, lambda g, _y, _x, dim, _dtype=None: g.flip(dim).cumsum(dim).flip(dim))
rule(torch.cumprod, lambda g, y, x, dim, _dtype=None: _cumprod_gradient(g, y, x, dim))
rule(torch.logcumsumexp, lambda g, y, x, dim: _logcumsumexp_gradient(g, y, x, dim))
for _cumulative in (torch.cummax, torch.cummin):
    rule(_cumulative, lambda g, y, x_shape, dim:
         g[0].new_zeros(x_shape).scatter_add(dim, y[1], g[0]))


def _recurrence(g: Any, factor: Any) -> Any:
    """s[j] = g[j] + factor[j] * s[j + 1] along the last dimension, whose last factor is 0.

    In log2(n) steps, each of which doubles how many terms the sums hold (W. D. Hillis and
    G. L. Steele, "Data parallel algorithms", Communications of the ACM 29(12), 1986).
    """
    step = 1
    while step < g.shape[-1]:
        g = g + factor * F.pad(g[..., step:], (0, step))
        factor = factor * F.pad(factor[..., step:], (0, step))
        step *= 2
    return g


def _cumprod_gradient(g: Any, y: Any, x: Any, dim: int) -> Any:
    """Sum over k >= j of g[k] * (the product of x[i], i <= k, i != j)."""
    if not x.ndim:
        return g
    if holds(x != 0):
        return (g * y).flip(dim).cumsum(dim).flip(dim) / x
    x = x.movedim(dim, -1)
    before = F.pad(x[..., :-1], (1, 0), value=1.0).cumprod(-1)
    s = _recurrence(g.movedim(dim, -1), F.pad(x[..., 1:], (0, 1)))
    return (before * s).movedim(-1, dim)


def _logcumsumexp_gradient(g: Any, y: Any, x: Any, dim: int) -> Any:
    """Sum over k >= j of g[k] * exp(x[j] - y[k]).

    As y never falls along `dim`, no exponential is above 1.
    """
    if not x.ndim or not x.numel():
        return g
    x, y = x.movedim(dim, -1), y.movedim(dim, -1)
    s = _recurrence(g.movedim(dim, -1), F.pad(torch.exp(y[..., :-1] - y[..., 1:]), (0, 1)))
    return (torch.exp(x - y) * s).movedim(-1, dim)
