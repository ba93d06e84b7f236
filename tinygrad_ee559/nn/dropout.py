"""Dropout: while a network is trained, some of its activations count for nothing."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from tinygrad_ee559.nn.module import Module


class Dropout(Module):
    """Sets elements to 0 at random and scales the others by 1 / (1 - p); in evaluation, nothing.

    Args:
        p: the probability that an element becomes 0.
        inplace: change the input in place.

    Raises:
        ValueError: `p` lies outside 0 to 1.

    With the same `torch.manual_seed`, the elements are those that PyTorch drops.

    Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting, 2014.

    >>> from tinygrad_ee559 import Tensor
    >>> layer = Dropout(0.5)
    >>> layer(Tensor([1.0] * 100)).unique()
    Tensor([0., 2.])
    >>> layer.eval()(Tensor([1.0, 2.0]))
    Tensor([1., 2.])
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"a probability must be between 0 and 1, not {p}")
        self.p = p
        self.inplace = inplace

    def forward(self, x: Any) -> Any:
        return F.dropout(x, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"
