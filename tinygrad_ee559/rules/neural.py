"""Functions of neural networks: linear maps, softmax, dropout. The losses are in `losses.py`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.errors import InPlaceError
from tinygrad_ee559.rules.registry import alias, composed, rule

aten = torch.ops.aten

# -------------------------------------------------------------------- linear maps


def _weight_gradient(g: Any, x: Any) -> Any:
    """The sum over all samples, however they are laid out."""
    return torch.outer(g, x) if x.ndim == 1 else g.flatten(0, -2).t() @ x.flatten(0, -2)


rule(
    F.linear,
    lambda g, _y, _x, weight, _bias=None: g @ weight,
    # in the order of PyTorch's kernel, to have the same bits
    lambda g, _y, x, _weight, _bias=None: g.T.mm(x) if x.ndim == 2 else _weight_gradient(g, x),
    lambda g, _y, _x, _weight, _bias=None: g.sum(0) if g.ndim == 2 else g,
)


@composed(F.bilinear)
def _bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    """y[k] = x1ᵀ weight[k] x2 + bias[k]."""
    y = torch.einsum("...i,kij,...j->...k", input1, weight, input2)
    return y if bias is None else y + bias


# ------------------------------------------------------------------------ softmax
#
# Their gradients are kernels of their own, linear in the gradient that they are given. That of
# softmax, whose Jacobian is symmetric, is by this one its own derivative.

rule(
    torch.softmax,
    lambda g, y, _x, dim, _dtype=None: aten._softmax_backward_data(g, y, dim, y.dtype),
)
rule(
    torch.log_softmax,
    lambda g, y, _x, dim, _dtype=None: aten._log_softmax_backward_data(g, y, dim, y.dtype),
)
# z = output (g - sum(g output))
rule(
    aten._softmax_backward_data,
    lambda d, _z, _g, output, dim, input_dtype: (
        aten._softmax_backward_data(d, output, dim, input_dtype)
    ),
    lambda d, _z, g, output, dim, _input_dtype: (
        d * (g - (g * output).sum(dim, keepdim=True)) - g * (d * output).sum(dim, keepdim=True)
    ),
)
# z = g - exp(output) sum(g)
rule(
    aten._log_softmax_backward_data,
    lambda d, _z, _g, output, dim, _input_dtype: (
        d - (d * torch.exp(output)).sum(dim, keepdim=True)
    ),
    lambda d, _z, g, output, dim, _input_dtype: (
        -d * torch.exp(output) * g.sum(dim, keepdim=True)
    ),
)


def _default_dim(input: Any, dim: int | None) -> int:
    """PyTorch's choice where no dimension is given."""
    if dim is not None:
        return dim
    return 0 if input.ndim in (0, 1, 3) else 1


@composed(F.softmax)
def _softmax(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    return torch.softmax(input, _default_dim(input, dim), dtype=dtype)


@composed(F.log_softmax)
def _log_softmax(
    input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Any:
    return torch.log_softmax(input, _default_dim(input, dim), dtype=dtype)


@composed(F.softmin)
def _softmin(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    return torch.softmax(-input, _default_dim(input, dim), dtype=dtype)


alias(torch.softmax, torch.special.softmax)
alias(torch.log_softmax, torch.special.log_softmax)

# ------------------------------------------------------------------------ dropout


@composed(torch.dropout)
def _dropout(input: Any, p: float, train: bool) -> Any:
    """Times what torch makes of ones, 0 or 1 / (1 - p); on a CPU, with its own random numbers."""
    if not train or p == 0:
        return input
    return input * torch.dropout_(torch.ones_like(input).data, p, True)


@composed(F.dropout)
def _functional_dropout(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    if inplace:
        raise InPlaceError("dropout(inplace=True) would change a tensor whose history is recorded")
    if not 0 <= p <= 1:
        raise ValueError(f"the probability of dropout must be between 0 and 1, not {p}")
    return torch.dropout(input, p, training)
