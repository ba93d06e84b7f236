"""Normalization: activations with mean 0 and variance 1, then scaled and shifted as is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.nn import init
from tinygrad_ee559.nn.module import Buffer, Module, Parameter
from tinygrad_ee559.record import recorded

aten = torch.ops.aten

#: What F.layer_norm and F.batch_norm come down to; the way there takes longer than the kernels.
_layer_norm = recorded(torch.native_layer_norm)
_batch_norm = recorded(aten._native_batch_norm_legit.default)
_batch_norm_without_memory = recorded(aten._native_batch_norm_legit.no_stats)


class _BatchNorm(Module):
    """What batch normalizations have in common."""

    #: How many dimensions an input may have.
    _dims: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats

        def empty() -> torch.Tensor:
            return torch.empty(num_features, device=device, dtype=dtype)

        self.weight = Parameter(empty()) if affine else None
        self.bias = Parameter(empty()) if affine and bias else None
        tracked = track_running_stats
        self.running_mean: Any = Buffer(empty()) if tracked else None
        self.running_var: Any = Buffer(empty()) if tracked else None
        self.num_batches_tracked: Any = Buffer(torch.tensor(0, device=device)) if tracked else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to 1 and the bias to 0, and forget the running statistics."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the running variance to 1 and the count of batches to 0."""
        if self.running_mean is not None:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def forward(self, x: Any) -> Any:
        mean, var = self.running_mean, self.running_var
        if self.training and not self.track_running_stats:
            mean = var = None
        of_batch = self.training or mean is None
        self._check(x, of_batch)
        if mean is None:
            return _batch_norm_without_memory(x, self.weight, self.bias, True, 0.0, self.eps)[0]
        momentum = self._count_batch() if self.training else 0.0
        if not x.numel():  # the kernel has no mean for it
            weight: Any = self.weight
            bias: Any = self.bias
            return F.batch_norm(x, mean, var, weight, bias, of_batch, momentum, self.eps)
        return _batch_norm(x, self.weight, self.bias, mean, var, of_batch, momentum, self.eps)[0]

    def _count_batch(self) -> float:
        """How much this batch counts for the running statistics."""
        self.num_batches_tracked.data.add_(1)
        if self.momentum is None:
            return 1 / float(self.num_batches_tracked)
        return self.momentum

    def _check(self, x: Any, of_batch: bool) -> None:
        shape = list(x.shape)
        if len(shape) not in self._dims:
            dims = " or ".join(map(str, self._dims))
            raise ValueError(
                f"{self._get_name()} takes an input of {dims} dimensions (batch, channels, ...), "
                f"not one of shape {shape}"
            )
        if shape[1] != self.num_features:  # for the kernel does not look
            raise ValueError(
                f"this {self._get_name()} takes an input of {self.num_features} channels, not one "
                f"of shape {shape}"
            )
        if of_batch and x.numel() == shape[1]:
            raise ValueError(
                "the variance of a batch needs more than one value per channel, and this input has "
                f"shape {shape}; use larger batches, or eval()"
            )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """Normalizes each channel over the batch, and over the length of sequences.

    While it is trained the layer takes mean and variance from the batch, and keeps running ones,
    with which it normalizes in evaluation.

    Args:
        num_features: the number of channels, the input's second dimension.
        eps: is added to the variance.
        momentum: how much of the running statistics the newest batch is; None for the average over
            all batches.
        affine: scale by a learned weight, and shift by a learned bias.
        track_running_stats: keep running statistics; without them evaluation takes those of the
            batch too.
        device: where parameters and statistics are.
        dtype: their dtype, torch's default if None.
        bias: have the learned bias.

    Called with an input of shape (batch, channels) or (batch, channels, length).

    Raises:
        ValueError: when called, if the input has other dimensions or channels, or is a batch of one
            value per channel.

    Ioffe and Szegedy, Batch normalization, 2015.

    >>> from tinygrad_ee559 import Tensor
    >>> layer = BatchNorm1d(1)
    >>> layer(Tensor([[1.0], [3.0]])).detach()
    Tensor([[-1.0000],
            [ 1.0000]])
    >>> layer.running_mean, layer.num_batches_tracked
    (Buffer([0.2000]), Buffer(1))
    """

    _dims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Normalizes each channel of images over batch, height and width.

    Arguments are those of `BatchNorm1d`; called with an input of shape (batch, channels, height,
    width).

    >>> layer = BatchNorm2d(3)
    >>> layer(torch.rand(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    >>> list(layer.state_dict())
    ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """

    _dims = (4,)


class LayerNorm(Module):
    """Normalizes each sample over its last dimensions.

    Args:
        normalized_shape: the sizes of these dimensions, or that of the last one.
        eps: is added to the variance.
        elementwise_affine: scale by a learned weight, and shift by a learned bias.
        bias: have the learned bias.
        device: where the parameters are.
        dtype: the parameters' dtype, torch's default if None.

    Ba et al., Layer normalization, 2016.

    >>> from tinygrad_ee559 import Tensor
    >>> LayerNorm(2)(Tensor([[1.0, 3.0], [10.0, 30.0]])).detach()
    Tensor([[-1.0000,  1.0000],
            [-1.0000,  1.0000]])
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if isinstance(normalized_shape, int):
            normalized_shape = (normalized_shape,)
        self.normalized_shape = tuple(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine

        def empty() -> torch.Tensor:
            return torch.empty(self.normalized_shape, device=device, dtype=dtype)

        self.weight = Parameter(empty()) if elementwise_affine else None
        self.bias = Parameter(empty()) if elementwise_affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to 1 and the bias to 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, x: Any) -> Any:
        return _layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)[0]

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, "
            f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        )
