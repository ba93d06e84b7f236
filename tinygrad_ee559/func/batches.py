"""`vmap`: a function of one example as a function of a batch; torch does the batching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch

from tinygrad_ee559.private import spread, tree_flatten
from tinygrad_ee559.recompute import flattened, segment
from tinygrad_ee559.tensor import Tensor


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """A function that applies `func` to every example of a batch at once.

    Args:
        func: takes and gives tensors, nested in lists, tuples and dicts in any way.
        in_dims: along which dimension the examples of the arguments lie: a number for all, or
            numbers nested as the arguments are; None for what is the same for all examples.
            Keyword arguments are the same for all.
        out_dims: along which dimension those of the results are to lie.
        randomness: "error", "different" or "same" random numbers for the examples.
        chunk_size: how many examples are computed at once, all of them if None.

    Raises:
        RuntimeError: torch cannot batch a function that `func` calls; the message names it.

    >>> x = Tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> vmap(lambda row: row.sum())(x)
    Tensor([3., 7.])
    """

    @wraps(func)
    def batched(*args: Any, **kwargs: Any) -> Any:
        tensors, flat = flattened(func, (args, kwargs))
        leaves, structure = tree_flatten(args)
        dims = [
            dim
            for dim, leaf in zip(spread(in_dims, structure), leaves)
            if isinstance(leaf, (Tensor, torch.Tensor))
        ]
        dims += [None] * (len(tensors) - len(dims))
        return segment(func, flat, tensors, Batches(dims, out_dims, randomness, chunk_size))

    return batched


class Batches:
    """How a segment is run: for all examples at once."""

    def __init__(
        self,
        in_dims: Sequence[int | None],
        out_dims: Any,
        randomness: str,
        chunk_size: int | None,
        summed: Sequence[int] = (),
    ) -> None:
        self.in_dims = tuple(in_dims)
        self.out_dims = out_dims
        self.randomness = randomness
        self.chunk_size = chunk_size
        #: The results of which only the sum over all examples is wanted.
        self.summed = summed

    def run(self, function: Callable[..., Any], raws: Sequence[Any]) -> Any:
        run = torch.func.vmap(
            function, self.in_dims, self.out_dims, self.randomness, chunk_size=self.chunk_size
        )
        result = run(*raws)
        structure = tree_flatten(result)[1]
        self.dims_of_results: list[Any] = spread(self.out_dims, structure)
        return result

    def backwards(self, wanted: Sequence[int], results: Sequence[int], captured: int) -> Batches:
        dims = [self.in_dims[i] for i in wanted] + [None] * captured
        return Batches(
            [*self.in_dims, *(self.dims_of_results[i] for i in results)],
            [dim or 0 for dim in dims] + [self.dims_of_results[i] for i in results],
            self.randomness,
            self.chunk_size,
            [i for i, dim in enumerate(dims) if dim is None],
        )

    def settled(self, gradients: list[Tensor]) -> list[Tensor]:
        return [g.sum(0) if i in self.summed else g for i, g in enumerate(gradients)]
