"""Pooling: of all values in a window that moves over the input, the largest or the average.

Inputs have the shape (batch, channels, length) or (batch, channels, height, width), or the same
without the batch. Sizes are one number for all dimensions, or a tuple.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.nn.convolution import Sizes
from tinygrad_ee559.nn.module import Module
from tinygrad_ee559.record import recorded

aten = torch.ops.aten

#: What F.max_pool2d and F.avg_pool2d come down to; the way there takes longer than the kernels.
_max_pool2d = recorded(aten.max_pool2d_with_indices)
_avg_pool2d = recorded(aten.avg_pool2d)


class _MaxPool(Module):
    """What maxima over windows have in common."""

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """The largest value in each window of a sequence.

    Args:
        kernel_size: the size of the window.
        stride: how far it moves, its size if None.
        padding: how much it reaches over both ends, where nothing counts.
        dilation: the distance between values that it looks at.
        return_indices: give the places of the largest values too, counted in the input.
        ceil_mode: have a window at the end too where not all of it has a place.

    >>> from tinygrad_ee559 import Tensor
    >>> MaxPool1d(2)(Tensor([[1.0, 3.0, 2.0, 0.0]]))
    Tensor([[3., 2.]])
    """

    def forward(self, x: Any) -> Any:
        y, indices = _max_pool2d(
            x.unsqueeze(-2),
            (1, *_single(self.kernel_size)),
            (1, *_single(self.stride)),
            (0, *_single(self.padding)),
            (1, *_single(self.dilation)),
            self.ceil_mode,
        )
        return (y.squeeze(-2), indices.squeeze(-2)) if self.return_indices else y.squeeze(-2)


class MaxPool2d(_MaxPool):
    """The largest value in each window of an image.

    Arguments are those of `MaxPool1d`.

    >>> MaxPool2d(2)(torch.ones(1, 3, 8, 6)).shape
    torch.Size([1, 3, 4, 3])
    """

    def forward(self, x: Any) -> Any:
        y, indices = _max_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )
        return (y, indices) if self.return_indices else y


class AvgPool1d(Module):
    """The average of each window of a sequence.

    Args:
        kernel_size: the size of the window.
        stride: how far it moves, its size if None.
        padding: how many zeros there are at both ends.
        ceil_mode: have a window at the end too where not all of it has a place.
        count_include_pad: count the zeros too.

    >>> from tinygrad_ee559 import Tensor
    >>> AvgPool1d(2)(Tensor([[1.0, 3.0, 2.0, 0.0]]))
    Tensor([[2., 1.]])
    """

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size = _single(kernel_size)
        self.stride = self.kernel_size if stride is None else _single(stride)
        self.padding = _single(padding)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, x: Any) -> Any:
        return _avg_pool2d(
            x.unsqueeze(-2),
            (1, *self.kernel_size),
            (1, *self.stride),
            (0, *self.padding),
            self.ceil_mode,
            self.count_include_pad,
        ).squeeze(-2)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(Module):
    """The average of each window of an image.

    Args:
        kernel_size, stride, padding, ceil_mode, count_include_pad: as for `AvgPool1d`.
        divisor_override: divide the sum by this number, and not by how many values there are.

    >>> AvgPool2d(2)(torch.ones(1, 3, 8, 6)).shape
    torch.Size([1, 3, 4, 3])
    """

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Any) -> Any:
        return _avg_pool2d(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Averages over windows that are such that the output has a given size.

    Args:
        output_size: the height and width of the output, or one number for both; a None in the
            tuple stands for the size of the input.

    >>> AdaptiveAvgPool2d((1, 2))(torch.ones(1, 3, 8, 6)).shape
    torch.Size([1, 3, 1, 2])
    """

    def __init__(self, output_size: int | tuple[int | None, int | None] | None) -> None:
        self.output_size = output_size

    def forward(self, x: Any) -> Any:
        return F.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


def _single(size: Sizes) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else size
