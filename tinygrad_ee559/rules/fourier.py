"""Fourier transforms: the three kernels of which torch makes all of `torch.fft`, stft and istft.

A transform is a symmetric matrix F. A gradient in PyTorch's convention goes back through its
conjugate, which is the transform in the other direction with the same factor in front.
"""

from __future__ import annotations

from typing import Any

import torch

from tinygrad_ee559.rules.registry import rule

aten = torch.ops.aten


def _with_mirrored_half(g: Any, shape: torch.Size, dim: int) -> Any:
    """Zeros in the place of the half that a transform of real numbers leaves out."""
    return aten.slice_backward(g, shape, dim, 0, g.shape[dim], 1)


def _of_both_halves(g: Any, dim: int, size: int) -> Any:
    """Twice what stands for itself and for its mirror image, of all `size` frequencies."""
    end = 1 + size - g.shape[dim]
    mirrored = g.narrow(dim, 1, end - 1)
    return g + aten.slice_backward(mirrored, g.shape, dim, 1, end, 1)


rule(
    aten._fft_c2c,
    lambda g, _y, _z, dim, normalization, forward: aten._fft_c2c(
        g, dim, normalization, not forward
    ),
    holomorphic=False,
)
rule(
    aten._fft_r2c,
    lambda g, _y, x_shape, dim, normalization, _onesided: aten._fft_c2c(
        _with_mirrored_half(g, x_shape, dim[-1]), dim, normalization, False
    ),
    holomorphic=False,
)
rule(
    aten._fft_c2r,
    lambda g, _y, _z, dim, normalization, last_dim_size: _of_both_halves(
        aten._fft_r2c(g, dim, normalization, True), dim[-1], last_dim_size
    ),
    holomorphic=False,
)
# a conjugate in memory of its own, with which ihfftn ends
rule(aten._conj_physical, lambda g, _y, _z: torch.conj(g), holomorphic=False)
