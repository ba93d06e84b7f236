"""Embedding: a learned vector for each of a number of things."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.nn import init
from tinygrad_ee559.nn.module import Module, Parameter
from tinygrad_ee559.record import recorded

_embedding = recorded(F.embedding)


class Embedding(Module):
    """The rows of a learned table, looked up by their numbers.

    Args:
        num_embeddings: how many rows the table has.
        embedding_dim: the size of a row.
        padding_idx: a row that begins with zeros and gets no gradient; negative ones count from
            the end.
        device: where the table is.
        dtype: the table's dtype, torch's default if None.

    Called with integers of any shape; gives that shape with a last dimension of `embedding_dim`.
    The table begins as that of `torch.nn.Embedding`, with numbers from the standard normal
    distribution.

    Raises:
        ValueError: there is no row `padding_idx`.

    >>> layer = Embedding(10, 3, padding_idx=0)
    >>> layer(torch.tensor([[1, 2, 0, 0]])).shape
    torch.Size([1, 4, 3])
    >>> layer(torch.tensor(0)).tolist()
    [0.0, 0.0, 0.0]
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(
                    f"padding_idx must be one of {num_embeddings} rows, not {padding_idx}"
                )
            padding_idx %= num_embeddings
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        size = (num_embeddings, embedding_dim)
        self.weight = Parameter(torch.empty(size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table anew."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0

    def forward(self, indices: Any) -> Any:
        return _embedding(indices, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
