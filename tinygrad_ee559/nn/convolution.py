"""Convolutions: learned filters that move over sequences and images."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F

from tinygrad_ee559.nn import init
from tinygrad_ee559.nn.module import Module, Parameter
from tinygrad_ee559.record import recorded

Sizes = int | tuple[int, ...]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

#: What F.conv1d and F.conv2d come down to for batches; the way there takes as long again.
_convolution = recorded(torch.ops.aten.convolution)


class _Convolution(Module):
    """What convolutions of any number of dimensions have in common."""

    #: The number of dimensions that a filter moves in, and torch's function for them.
    _dims: int
    _function: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | Literal["valid", "same"] = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide in_channels and out_channels, and {groups} does not divide "
                f"{in_channels} and {out_channels}"
            )
        if padding_mode not in PADDING_MODES:
            raise ValueError(
                f"padding_mode must be one of {', '.join(PADDING_MODES)}, not {padding_mode!r}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = self._sizes("kernel_size", kernel_size)
        self.stride = self._sizes("stride", stride)
        self.padding = padding if isinstance(padding, str) else self._sizes("padding", padding)
        self.dilation = self._sizes("dilation", dilation)
        self.groups = groups
        self.padding_mode = padding_mode
        self._margins = self._find_margins()
        size = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(torch.empty(size, device=device, dtype=dtype))
        self.bias = None
        if bias:
            self.bias = Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        self.reset_parameters()

    def _sizes(self, name: str, given: Sizes) -> tuple[int, ...]:
        """One size per dimension."""
        sizes = (given,) * self._dims if isinstance(given, int) else tuple(given)
        if len(sizes) != self._dims:
            raise ValueError(f"{name} must be a number or {self._dims} of them, not {given}")
        return sizes

    def _find_margins(self) -> list[int]:
        """What is added before and after each dimension, the last dimension first."""
        if not isinstance(self.padding, str):
            return [p for p in reversed(self.padding) for _ in range(2)]
        if self.padding == "valid":
            return [0] * (2 * self._dims)
        if self.padding != "same":
            raise ValueError(
                f"padding must be 'same', 'valid', a number or a tuple, not {self.padding!r}"
            )
        if any(step != 1 for step in self.stride):
            raise ValueError(f"padding 'same' needs a stride of 1, not {self.stride}")
        wide = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size)]
        return [margin for w in reversed(wide) for margin in (w // 2, w - w // 2)]

    def reset_parameters(self) -> None:
        """Draw the weight and the bias anew."""
        # The gain of a leaky ReLU of slope sqrt(5) is 1/sqrt(3), so the bound is 1/sqrt(fan_in).
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init.fans(self.weight)
            bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Any) -> Any:
        padding = self.padding
        if self.padding_mode != "zeros":
            x = F.pad(x, self._margins, self.padding_mode)
            padding = (0,) * self._dims
        options = self.stride, padding, self.dilation
        if isinstance(padding, str) or x.ndim != self._dims + 2:
            function = type(self)._function
            return function(x, self.weight, self.bias, *options, self.groups)
        return _convolution(
            x, self.weight, self.bias, *options, False, (0,) * self._dims, self.groups
        )

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        one, zero = (1,) * self._dims, (0,) * self._dims
        text += f", padding={self.padding}" if self.padding != zero else ""
        text += f", dilation={self.dilation}" if self.dilation != one else ""
        text += f", groups={self.groups}" if self.groups != 1 else ""
        text += ", bias=False" if self.bias is None else ""
        text += f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else ""
        return text


class Conv1d(_Convolution):
    """A convolution of sequences, of shape (batch, channels, length) or (channels, length).

    Args:
        in_channels: the number of channels of the input.
        out_channels: the number of filters, each of which gives a channel of the output.
        kernel_size: the size of the filters.
        stride: how far a filter moves.
        padding: how much is added at both ends; "valid" for nothing, "same" for as much as gives an
            output of the input's size.
        dilation: the distance between the inputs that a filter looks at.
        groups: cut the channels into so many groups that do not see each other.
        bias: add a learned bias to each channel.
        padding_mode: what is added: "zeros", or what "reflect", "replicate" and "circular" take
            from the input.
        device: where the parameters are.
        dtype: the parameters' dtype, torch's default if None.

    Sizes are one number for all dimensions, or a tuple. The parameters begin as those of PyTorch's
    layer: uniform between -1/sqrt(n) and 1/sqrt(n) for filters of n numbers.

    Raises:
        ValueError: `groups` does not divide the channels, a size has too many dimensions or too
            few, a padding or its mode is another word, or "same" goes with a stride.

    >>> Conv1d(2, 5, kernel_size=3, padding=1)(torch.ones(4, 2, 10)).shape
    torch.Size([4, 5, 10])
    """

    _dims = 1
    _function = F.conv1d


class Conv2d(_Convolution):
    """A convolution of images, of shape (batch, channels, height, width), or without the batch.

    Arguments are those of `Conv1d`.

    >>> layer = Conv2d(3, 8, kernel_size=(3, 5), stride=2)
    >>> layer.weight.shape
    torch.Size([8, 3, 3, 5])
    >>> layer(torch.ones(1, 3, 32, 32)).shape
    torch.Size([1, 8, 15, 14])
    """

    _dims = 2
    _function = F.conv2d
