"""Linear layers: the affine map, and none at all."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.nn import init
from tinygrad_ee559.nn.module import Module, Parameter
from tinygrad_ee559.record import recorded

_linear = recorded(F.linear)


class Linear(Module):
    """An affine map of the last dimension: x @ weight.T + bias.

    Args:
        in_features: the size of the input's last dimension.
        out_features: the size of the output's last dimension.
        bias: add a learned bias.
        device: where the parameters are.
        dtype: the parameters' dtype, torch's default if None.

    The parameters begin as those of `torch.nn.Linear`: with the same `torch.manual_seed`, the same
    numbers, uniform between -1/sqrt(in_features) and 1/sqrt(in_features).

    >>> layer = Linear(3, 2)
    >>> layer.weight.shape, layer.bias.shape
    (torch.Size([2, 3]), torch.Size([2]))
    >>> layer(torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.in_features = in_features
        self.out_features = out_features
        size = (out_features, in_features)
        self.weight = Parameter(torch.empty(size, device=device, dtype=dtype))
        self.bias = None
        if bias:
            self.bias = Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight and the bias anew."""
        # The gain of a leaky ReLU of slope sqrt(5) is 1/sqrt(3), so the bound is 1/sqrt(fan_in).
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Any) -> Any:
        return _linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Identity(Module):
    """Gives its input as it is; any arguments are taken, and not used.

    >>> Identity()(3)
    3
    """

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def forward(self, x: Any) -> Any:
        return x
