"""Sampling of images and volumes: on a finer or coarser grid (`interpolate`), and anywhere."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_ee559.rules.registry import composed, rule

aten = torch.ops.aten

# ------------------------------------------------------------------- on another grid


def _resampling(forward: Any, backward: Any) -> None:
    """Register a kernel that is linear, and that of its gradient."""
    rule(
        forward,
        lambda g, _y, x_shape, output_size, *options: backward(g, output_size, x_shape, *options),
    )
    rule(
        backward,
        lambda d, _y, _g, output_size, _input_size, *options: forward(d, output_size, *options),
    )


for _name in (
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa",
):  # fmt: skip
    # its further overload has other arguments; torch itself brings it down to this one
    _resampling(getattr(aten, _name).default, getattr(aten, f"{_name}_backward").default)

# ---------------------------------------------------------------------- at any place
#
# PyTorch's kernel of the gradient has no derivative, so the sum is written out.

_LINEAR, _NEAREST, _CUBIC = 0, 1, 2
_ZEROS, _BORDER, _REFLECTION = 0, 1, 2


@composed(aten.grid_sampler_2d, aten.grid_sampler_3d)
def _grid_sampler(
    input: Any, grid: Any, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Any:
    """The pixels or voxels around each place, weighted by how near they are."""
    sizes = input.shape[:1:-1]  # a grid gives x first, which counts through the last dimension
    around = [
        _neighbors(grid[..., i], size, interpolation_mode, padding_mode, align_corners)
        for i, size in enumerate(sizes)
    ]
    indices: list[Any] = []
    weights: list[Any] = []
    for corner in product(*around):
        index: Any = 0
        weight: Any = 1
        step = 1
        for (position, nearness), size in zip(corner, sizes):
            inside = (position >= 0) & (position < size)
            index = index + torch.where(inside, position, 0).long() * step
            weight = weight * torch.where(inside, nearness, 0)
            step *= size
        indices.append(index)
        weights.append(weight)
    picks = torch.stack(indices, 1).flatten(1).unsqueeze(1).expand(-1, input.shape[1], -1)
    corners = input.flatten(2).gather(2, picks).unflatten(2, (len(indices), *grid.shape[1:-1]))
    return (corners * torch.stack(weights, 1).unsqueeze(1)).sum(2)


def _neighbors(
    x: Any, size: int, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> list[tuple[Any, Any]]:
    """Positions along one dimension, each with its weight, for places from -1 to 1."""
    # from the middle of the first pixel to that of the last, or from edge to edge
    place = (x + 1) * (size - 1) / 2 if align_corners else ((x + 1) * size - 1) / 2
    if interpolation_mode != _CUBIC:
        place = _padded(place, size, padding_mode, align_corners)
    if interpolation_mode == _NEAREST:
        return [(torch.round(place), torch.ones_like(place))]
    below = torch.floor(place)
    t = place - below
    if interpolation_mode == _LINEAR:
        return [(below, 1 - t), (below + 1, t)]
    return [
        (_padded(below + k, size, padding_mode, align_corners), weight)
        for k, weight in zip((-1, 0, 1, 2), (_far(1 + t), _near(t), _near(1 - t), _far(2 - t)))
    ]


def _padded(place: Any, size: int, padding_mode: int, align_corners: bool) -> Any:
    """The place inside where the number that belongs to a place outside is found."""
    if padding_mode == _ZEROS:
        return place
    if padding_mode == _REFLECTION:
        low, width = (0, max(size - 1, 1)) if align_corners else (-0.5, size)
        place = low + width - torch.abs(torch.remainder(place - low, 2 * width) - width)
    return F.hardtanh(place, 0, size - 1)  # which has no slope at the bounds


def _near(d: Any) -> Any:
    """The weight of cubic interpolation at a distance up to 1 (Keys, 1981; a = -0.75)."""
    return (1.25 * d - 2.25) * d * d + 1


def _far(d: Any) -> Any:
    """The same at a distance from 1 to 2."""
    return -0.75 * (((d - 5) * d + 8) * d - 4)
