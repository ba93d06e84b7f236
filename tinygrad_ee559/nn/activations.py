"""Activations. Each is one torch function; what it needs beside the input are its fields.

With `inplace`, where PyTorch has it, the result takes the place of the input.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.nn import init
from tinygrad_ee559.nn.module import Module, Parameter
from tinygrad_ee559.record import recorded
from tinygrad_ee559.rules.activations import kernels

#: What the functions of F come down to when nothing is changed in place; the way there costs more
#: than they do where networks are small.
_leaky_relu = recorded(kernels.leaky_relu)
_elu = recorded(kernels.elu)
_silu = recorded(kernels.silu)
_hardtanh = recorded(kernels.hardtanh)


class ReLU(Module):
    """max(x, 0), element by element.

    Args:
        inplace: change the input in place.
    """

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def forward(self, x: Any) -> Any:
        return x.relu_() if self.inplace else x.relu()

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class LeakyReLU(Module):
    """x where x is positive, negative_slope * x elsewhere.

    Args:
        negative_slope: the slope left of 0.
        inplace: change the input in place.
    """

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, x: Any) -> Any:
        if self.inplace:
            return F.leaky_relu(x, self.negative_slope, inplace=True)
        return _leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}{_in_place(self.inplace)}"


class PReLU(Module):
    """x where x is positive, weight * x elsewhere, with a slope that is learned.

    Args:
        num_parameters: 1, or one slope per channel, the input's second dimension.
        init: the slope to begin with.
        device: where the parameter is.
        dtype: the parameter's dtype, torch's default if None.

    He et al., Delving deep into rectifiers, 2015.

    >>> from tinygrad_ee559 import Tensor
    >>> PReLU()(Tensor([-1.0, 2.0])).detach()
    Tensor([-0.2500,  2.0000])
    """

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.num_parameters = num_parameters
        self.init = init
        self.weight = Parameter(torch.empty(num_parameters, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the slopes to what they began with."""
        init.constant_(self.weight, self.init)

    def forward(self, x: Any) -> Any:
        if x.ndim < 2 or self.num_parameters not in (1, x.shape[1]):
            return F.prelu(x, self.weight)  # type: ignore[arg-type]
        weight = self.weight.reshape(-1, *(1,) * (x.ndim - 2))
        return torch.where(x > 0, x, weight * x)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class ELU(Module):
    """x where x is positive, alpha * (exp(x) - 1) elsewhere.

    Args:
        alpha: how far below 0 the function goes.
        inplace: change the input in place.

    Clevert et al., Fast and accurate deep network learning by exponential linear units, 2015.
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, x: Any) -> Any:
        return F.elu(x, self.alpha, inplace=True) if self.inplace else _elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}{_in_place(self.inplace)}"


class GELU(Module):
    """x times the standard normal distribution function of x.

    Args:
        approximate: "none", or "tanh" for an approximation by a hyperbolic tangent.

    Hendrycks and Gimpel, Gaussian error linear units, 2016.
    """

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        return F.gelu(x, approximate=self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """x * sigmoid(x), element by element.

    Args:
        inplace: change the input in place.
    """

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def forward(self, x: Any) -> Any:
        return F.silu(x, inplace=True) if self.inplace else _silu(x)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class Softplus(Module):
    """log(1 + exp(beta * x)) / beta, element by element: a smooth ReLU.

    Args:
        beta: how sharp the bend is.
        threshold: where beta * x is larger, the function is x.
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta = beta
        self.threshold = threshold

    def forward(self, x: Any) -> Any:
        return F.softplus(x, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Tanh(Module):
    """The hyperbolic tangent, element by element."""

    def forward(self, x: Any) -> Any:
        return x.tanh()


class Hardtanh(Module):
    """x where it is between min_val and max_val, the nearer of these elsewhere.

    Args:
        min_val: the smallest value.
        max_val: the largest value.
        inplace: change the input in place.

    Raises:
        ValueError: `max_val` is not larger than `min_val`.
    """

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        if max_val <= min_val:
            raise ValueError(f"max_val must be larger than min_val, not {max_val} with {min_val}")
        self.min_val = min_val
        self.max_val = max_val
        self.inplace = inplace

    def forward(self, x: Any) -> Any:
        if self.inplace:
            return F.hardtanh(x, self.min_val, self.max_val, inplace=True)
        return _hardtanh(x, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}{_in_place(self.inplace)}"


class Sigmoid(Module):
    """1 / (1 + exp(-x)), element by element."""

    def forward(self, x: Any) -> Any:
        return x.sigmoid()


class Softmax(Module):
    """exp(x) / exp(x).sum(dim): positive numbers that add up to 1 along a dimension.

    Args:
        dim: the dimension.

    >>> from tinygrad_ee559 import Tensor
    >>> Softmax(dim=0)(Tensor([0.0, 0.0]))
    Tensor([0.5000, 0.5000])
    """

    def __init__(self, dim: int | None = None) -> None:
        self.dim = dim

    def forward(self, x: Any) -> Any:
        return F.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """The logarithm of `Softmax`, computed without overflow.

    Args:
        dim: the dimension.
    """

    def __init__(self, dim: int | None = None) -> None:
        self.dim = dim

    def forward(self, x: Any) -> Any:
        return F.log_softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def _in_place(inplace: bool) -> str:
    return ", inplace=True" if inplace else ""
