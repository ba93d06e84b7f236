"""Layers that change nothing but the shape."""

from __future__ import annotations

from typing import Any

from tinygrad_ee559.nn.module import Module


class Flatten(Module):
    """Makes one dimension of several neighboring ones.

    Args:
        start_dim: the first of them.
        end_dim: the last of them.

    >>> from tinygrad_ee559 import Tensor
    >>> Flatten()(Tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    Tensor([[1., 2., 3., 4.]])
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, x: Any) -> Any:
        return x.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
